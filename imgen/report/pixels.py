"""Pixels: the library's float images in [-1, 1], uint8 images outside, and picture grids."""

import math
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from PIL import Image


def to_float(images: jnp.ndarray) -> jnp.ndarray:
    """uint8 [..., H, W, C] -> float32 in [-1, 1] (x / 127.5 - 1)."""
    return images.astype(jnp.float32) / 127.5 - 1.0


def to_uint8(images: jnp.ndarray) -> jnp.ndarray:
    """float [-1, 1] -> uint8, rounded. LlamaGen's and ADM's scripts do the same: 127.5 x + 128 cut to a whole
    number is 127.5 (x + 1) rounded, but for ties."""
    return jnp.round(jnp.clip(127.5 * (images + 1.0), 0.0, 255.0)).astype(jnp.uint8)


def grid(images: np.ndarray, columns: int | None = None, gap: int = 2) -> np.ndarray:
    """Tiles uint8 [N, H, W, 3] into one picture, row by row, on white."""
    images = np.asarray(images)
    n, h, w, c = images.shape
    columns = columns or math.ceil(math.sqrt(n))
    rows = math.ceil(n / columns)
    canvas = np.full((rows * (h + gap) + gap, columns * (w + gap) + gap, c), 255, np.uint8)
    for i, image in enumerate(images):
        y, x = gap + (i // columns) * (h + gap), gap + (i % columns) * (w + gap)
        canvas[y : y + h, x : x + w] = image
    return canvas


def enlarge(picture: np.ndarray, at_least: int = 512) -> np.ndarray:
    """Repeats pixels by a whole factor until the picture is `at_least` wide: tiny images show."""
    factor = math.ceil(at_least / picture.shape[1])
    return picture.repeat(factor, 0).repeat(factor, 1)


def save_png(path: str | Path, picture: np.ndarray) -> None:
    """Writes uint8 [H, W, 3]; the folder is made if it is missing."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(picture)).save(path)
