"""What results call references (published files and data sets by one name), and values by them."""

import re
from pathlib import Path

from imgen.evaluation.images.image_set import ImageSet

# Files of statistics that publications measure against: as records.json calls them, and the network that they
# are of, which they don't name themselves. Nothing but the file's name tells them: no hash of them is known.
PUBLISHED_FILES = {
    "VIRTUAL_imagenet64_labeled": ("adm_imagenet64", "adm"),
    "VIRTUAL_imagenet128_labeled": ("adm_imagenet128", "adm"),
    "VIRTUAL_imagenet256_labeled": ("adm_imagenet256", "adm"),
    "VIRTUAL_imagenet512": ("adm_imagenet512", "adm"),
    "adm_in256_stats": ("adm_imagenet256", "adm"),
}
PUBLISHED_SETS = {"imagenet2012/validation at 256x256": "imagenet_val_256"}
VERSION = re.compile(r":\d+(\.\d+)*(?=/)")  # of a TFDS data set, "imagenet2012:5.1.0/validation"
# A run's own split or a published reference -> what metrics of reconstructions are called by it.
SPLIT_OF = {
    "eval": "val",
    "imagenet_val_256": "val",
    "train": "train",
    "adm_imagenet256": "train",
}


def of_file(path: Path) -> tuple[str, str]:
    """Gives the name and the network of a file of statistics that says neither. A published file is known by
    its name alone: whoever gives other statistics that name is believed. Of others the network is ""."""
    return PUBLISHED_FILES.get(path.stem, (path.name, ""))


def of_images(images: ImageSet) -> str:
    """Gives the name of images as a reference; a published data set has its name in any TFDS version."""
    height, width = images.size
    unversioned = VERSION.sub("", images.name)
    return PUBLISHED_SETS.get(f"{unversioned} at {width}x{height}", images.name)


def result_name(name: str, of: str, reference: str | None) -> str:
    """Gives the name of a metric's value (`Metric.of`) in results: "fid" of samples is "gfid", of
    reconstructions "rfid_val" or "rfid_train", two numbers that don't compare; "rfid" for other references,
    and None for metrics without one."""
    if of != "reconstructions":
        return {"fid": "gfid"}.get(name, name)
    which = SPLIT_OF.get(reference)
    return f"r{name}_{which}" if which else f"r{name}"
