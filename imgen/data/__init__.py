"""Images and stored latents: sources of examples, published augmentation, and the loader."""

from imgen.config.construct import construct
from imgen.data.folder import Folder
from imgen.data.shapes import Shapes
from imgen.data.source import Source
from imgen.data.stored import Latents
from imgen.data.tfds import Tfds
from imgen.errors import UserError

SOURCES = {"tfds": Tfds, "folder": Folder, "shapes": Shapes, "latents": Latents}


def make_source(name: str, split: str, **kwargs) -> Source:
    """The data source `name` of SOURCES; `kwargs` are its constructor's. Raises UserError."""
    return construct(source_class(name), kwargs, f"data source {name!r}", split=split)


def source_class(name: str) -> type[Source]:
    """The class of SOURCES of that name. Raises UserError."""
    if name not in SOURCES:
        raise UserError(f"unknown data source {name!r}; there are {', '.join(SOURCES)}")
    return SOURCES[name]
