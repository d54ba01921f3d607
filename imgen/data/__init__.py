"""Images and stored latents: sources of examples, published augmentation, and the loader."""

import logging
import os
from typing import Any

from imgen.config.construct import construct
from imgen.data.folder import Folder
from imgen.data.scenes import Scenes
from imgen.data.shapes import Shapes
from imgen.data.source import Source
from imgen.data.stored import Latents
from imgen.data.tfds import Tfds
from imgen.errors import UserError

log = logging.getLogger("imgen.data")
SOURCES = {"tfds": Tfds, "folder": Folder, "shapes": Shapes, "scenes": Scenes, "latents": Latents}


def make_source(name: str, split: str, **kwargs: Any) -> Source:
    """Returns the data source `name` of SOURCES; `kwargs` are its constructor's. Raises UserError.

    Where latents are stored, and their images are still there but changed, it says so in the log.
    """
    source = construct(source_class(name), {"split": split, **kwargs}, f"data source {name!r}")
    paths = {
        key: os.path.abspath(os.path.expanduser(value))
        for key, value in kwargs.items()
        if key in ("path", "data_dir") and isinstance(value, str)
    }
    source.settings = {"name": name, "split": split, **kwargs, **paths}
    for origin in source.made_of:
        if change := _change_of(origin):
            log.warning(
                "%s was encoded from other images: %s. Encode them again", source.name, change
            )
    return source


def source_class(name: str) -> type[Source]:
    """Returns the class of SOURCES of that name. Raises UserError."""
    if name not in SOURCES:
        raise UserError(f"unknown data source {name!r}; there are {', '.join(SOURCES)}")
    return SOURCES[name]


def _change_of(origin: dict[str, Any]) -> str:
    """How the images that `Source.about` told of differ now; "" where they don't or are no longer there."""
    arguments = origin.get("settings")
    if not isinstance(arguments, dict) or not origin.get("hash"):
        return ""
    try:
        if not source_class(arguments["name"]).stores_images:
            return ""
        now = make_source(**arguments)
    except (
        UserError,
        TypeError,
        ValueError,
        KeyError,
        OSError,
    ):  # moved away; spec.json is a file of a user
        return ""
    if len(now) != origin.get("count"):
        return f"{now.name} had {origin.get('count')} images and has {len(now)}"
    return f"{now.name} has other images" if now.fingerprint() != origin["hash"] else ""
