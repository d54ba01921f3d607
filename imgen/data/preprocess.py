"""Crops and flips as published, on uint8 arrays through PIL, and the transforms made of them.

Sources: guided-diffusion `image_datasets.py` (center_crop_arr, random_crop_arr), LlamaGen
`dataset/augmentation.py` and `extract_codes_c2i.py`, torchvision's ten_crop.
A transform is a picklable callable (example, rng) -> dict of arrays that the loader stacks.
"""

import dataclasses
import math

import numpy as np
from PIL import Image

from imgen.errors import UserError


def resize_shorter_side(image: np.ndarray, side: int) -> np.ndarray:
    """Scales [H, W, 3] to the shorter side `side`: BOX halvings while >= 2x, then BICUBIC."""
    picture = Image.fromarray(image)
    while min(picture.size) >= 2 * side:
        picture = picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.BOX)
    scale = side / min(picture.size)
    new_size = (round(picture.width * scale), round(picture.height * scale))
    return np.asarray(picture.resize(new_size, Image.Resampling.BICUBIC))


def center_crop(image: np.ndarray, size: int) -> np.ndarray:
    """ADM's centre crop: the shorter side scaled to `size`, then the middle [size, size, 3]."""
    if image.shape[:2] == (size, size):
        return image
    image = resize_shorter_side(image, size)
    y, x = (image.shape[0] - size) // 2, (image.shape[1] - size) // 2
    return image[y : y + size, x : x + size]


def random_crop(
    image: np.ndarray, size: int, rng: np.random.Generator, min_share: float = 0.8
) -> np.ndarray:
    """ADM's random crop: shorter side uniform in [size, ceil(size / min_share)], window uniform."""
    image = resize_shorter_side(image, int(rng.integers(size, math.ceil(size / min_share) + 1)))
    y = int(rng.integers(image.shape[0] - size + 1))
    x = int(rng.integers(image.shape[1] - size + 1))
    return image[y : y + size, x : x + size]


def ten_crop(image: np.ndarray, size: int, crop_range: float = 1.1) -> np.ndarray:
    """[10, size, size, 3] from the centre crop of side int(size * crop_range).

    Top left, top right, bottom left, bottom right and centre, then the same five of the mirror
    image. Published codes come in two sets, of range 1.1 and 1.05.
    """
    square = center_crop(image, int(size * crop_range))
    end = square.shape[0] - size
    middle = round(end / 2)
    corners = [(0, 0), (0, end), (end, 0), (end, end), (middle, middle)]
    return np.stack(
        [view[y : y + size, x : x + size] for view in (square, square[:, ::-1]) for y, x in corners]
    )


def _of_size(image: np.ndarray, size: int, example: dict) -> np.ndarray:
    if image.shape[:2] != (size, size):
        height, width = image.shape[:2]
        raise UserError(
            f"{example.get('name', 'an image')} is {width}x{height} where the config asks for {size}x{size}; "
            "set the size, or crop to it with crop='center' or 'random'"
        )
    return image


def _label(example: dict) -> np.int32:
    return np.int32(example["label"])


def _teacher(example: dict) -> dict:
    return {"teacher": example["teacher"]} if "teacher" in example else {}


CROPS = ("random", "center", "none")


def _check_crop(crop: str, allowed: tuple[str, ...]) -> None:
    if crop not in allowed:
        raise UserError(f"crop {crop!r} is none of {', '.join(allowed)}")


@dataclasses.dataclass(frozen=True)
class TrainImages:
    """{"image": uint8 [size, size, 3], "label": int32}, cropped and mirrored (p = 0.5) by the rng.

    crop: "random", "center", or "none", where an image of another size is a UserError.
    """

    size: int
    crop: str = "random"
    flip: bool = True

    def __post_init__(self):
        _check_crop(self.crop, CROPS)

    def __call__(self, example: dict, rng: np.random.Generator) -> dict:
        image = example["image"]
        if self.crop == "random":
            image = random_crop(image, self.size, rng)
        elif self.crop == "center":
            image = center_crop(image, self.size)
        image = _of_size(image, self.size, example)
        if self.flip and rng.random() < 0.5:
            image = image[:, ::-1]
        return {"image": image, "label": _label(example), **_teacher(example)}


@dataclasses.dataclass(frozen=True)
class EvalImages:
    """{"image": uint8 [size, size, 3], "label": int32}: ADM's centre crop, or "none" as above."""

    size: int
    crop: str = "center"

    def __post_init__(self):
        _check_crop(self.crop, CROPS[1:])

    def __call__(self, example: dict, rng: np.random.Generator | None) -> dict:
        image = example["image"]
        if self.crop == "center":
            image = center_crop(image, self.size)
        image = _of_size(image, self.size, example)
        return {"image": image, "label": _label(example), **_teacher(example)}


@dataclasses.dataclass(frozen=True)
class StoredViews:
    """{"image": uint8 [V, size, size, 3], "label": int32}: the views whose codes are stored.

    ten_crop: the ten crops within `crop_range` (V = 10); otherwise centre crop and mirror (V = 2).
    """

    size: int
    ten_crop: bool = True
    crop_range: float = 1.1

    @property
    def variants(self) -> int:
        return 10 if self.ten_crop else 2

    def __call__(self, example: dict, rng: np.random.Generator | None) -> dict:
        if self.ten_crop:
            views = ten_crop(example["image"], self.size, self.crop_range)
        else:
            image = center_crop(example["image"], self.size)
            views = np.stack([image, image[:, ::-1]])
        return {"image": views, "label": _label(example)}


@dataclasses.dataclass(frozen=True)
class TrainCodes:
    """{"codes": [*grid, ...], "label": int32}: one stored variant, uniformly drawn; of moments, latents
    drawn from them anew each time (LTH14/mar: the posterior is sampled when it is used)."""

    def __call__(self, example: dict, rng: np.random.Generator) -> dict:
        stored = example["moments"] if "moments" in example else example["codes"]
        codes = stored[rng.integers(len(stored))]
        if "moments" in example:
            mean, log_variance = np.split(codes, 2, axis=-1)
            noise = rng.standard_normal(mean.shape, np.float32)
            codes = mean + np.exp(0.5 * log_variance) * noise
        return {"codes": codes, "label": _label(example)}


@dataclasses.dataclass(frozen=True)
class EvalCodes:
    """{"codes": [*grid, ...], "label": int32}: the centre crop, which is the fifth of ten crops; of moments
    the mean."""

    def __call__(self, example: dict, rng: np.random.Generator | None) -> dict:
        stored = example["moments"] if "moments" in example else example["codes"]
        codes = stored[4 if len(stored) >= 10 else 0]
        if "moments" in example:
            codes, _ = np.split(codes, 2, axis=-1)
        return {"codes": codes, "label": _label(example)}
