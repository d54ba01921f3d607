"""What a data source says of itself to a config that leaves it open: classes, image size, crop."""

import logging
from dataclasses import dataclass

import numpy as np

from imgen.data.source import Source
from imgen.errors import UserError

log = logging.getLogger("imgen.data")
SIZES = (16, 32, 64)  # larger ones cost hours: a config names them
MULTIPLE = 4  # of an image size: the patch of a small tokenizer


@dataclass(frozen=True)
class Found:
    """image_size: in pixels a side. crop: of `preprocess.CROPS`. num_classes, class_names: of the source."""

    image_size: int
    crop: str
    num_classes: int | None
    class_names: tuple[str, ...] | None


def look_at(source: Source) -> Found:
    """Finds out what a source of images holds, and logs it.

    The image size is that of all images if they are squares of one size up to the largest of SIZES; then the
    crop is the centre's, which leaves them as they are. Otherwise it is the largest of SIZES that nine tenths
    of the images reach, and crops are random. Raises UserError where no image can be read.
    """
    if not source.stores_images:
        raise UserError(
            f"{source.name} stores latents: name image_size and num_classes in the config"
        )
    sizes = source.image_sizes()
    if not sizes:
        raise UserError(f"{source.name}: none of its images can be read")
    least, most = np.min(sizes, axis=0), np.max(sizes, axis=0)
    side = int(least[0])
    if set(least) | set(most) == {side} and side <= SIZES[-1] and side % MULTIPLE == 0:
        size, crop = side, "center"
    else:
        short = np.quantile(np.min(sizes, axis=1), 0.1)
        size, crop = max([s for s in SIZES if s <= short], default=SIZES[0]), "random"
    log.info(
        "%s: %d images, %dx%d to %dx%d; image_size %d, crop %s, %s", source.name, len(source),
        least[1], least[0], most[1], most[0], size, crop,
        f"{source.num_classes} classes" if source.num_classes else "no classes: unconditional",
    )  # fmt: skip
    return Found(size, crop, source.num_classes, source.class_names)
