"""What finds objects in images: `detector` says how, one file a detector."""
