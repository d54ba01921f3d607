"""How images come to CLIP's size: on the host and on uint8, as PIL's bicubic filter (antialiased) rounds.

Sources: google-research/cmmd, io_util.py; openai/CLIP, clip.py, whose transforms are torchvision's.
"""

import numpy as np
from PIL import Image

from imgen.errors import UserError

BICUBIC = Image.Resampling.BICUBIC


def square_then_resize(image: np.ndarray, size: int) -> np.ndarray:
    """CMMD's: the middle square of uint8 [H, W, 3], scaled to [size, size, 3]. Grey [H, W] becomes RGB."""
    picture = _picture(image)
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    picture = picture.crop((left, top, left + side, top + side))
    return np.asarray(picture.resize((size, size), BICUBIC))


def resize_then_square(image: np.ndarray, size: int) -> np.ndarray:
    """CLIP's own: the shorter side of uint8 [H, W, 3] scaled to `size`, then the middle square. The longer
    side is cut to whole pixels; a corner between two pixels goes to the even one, as Python rounds."""
    picture = _picture(image)
    short = min(picture.size)
    width, height = (size * side // short for side in picture.size)
    picture = picture.resize((width, height), BICUBIC)
    left, top = round((width - size) / 2), round((height - size) / 2)
    return np.asarray(picture.crop((left, top, left + size, top + size)))


# What results call them (`Protocol.resize`).
RESIZES = {square_then_resize: "square+pil_bicubic", resize_then_square: "pil_bicubic+square"}


def _picture(image: np.ndarray) -> Image.Image:
    image = np.asarray(image)
    grey = image.ndim == 2 or image.ndim == 3 and image.shape[2] == 1
    if image.dtype != np.uint8 or not (grey or image.ndim == 3 and image.shape[2] == 3):
        raise UserError(
            f"an image is {image.dtype} {image.shape}, not uint8 [H, W, 3]: round to 0..255 first"
        )
    return Image.fromarray(image.reshape(image.shape[:2]) if grey else image).convert("RGB")
