"""How images come to Inception: the two dialects, which give other features of the same images.

adm          TensorFlow 1's bilinear resize, whose pixels have their values at their upper left corners, then
             (x - 128) / 128
pytorch_fid  PyTorch's, whose pixels have them at their centres, then 2 x / 255 - 1

Both take the two nearest pixels of each axis also where they shrink an image (no antialiasing), and round
nothing. Sources: openai/guided-diffusion, evaluations/evaluator.py; toshas/torch-fidelity,
interpolate_compat_tensorflow.py; mseitzer/pytorch-fid, inception.py.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from imgen.errors import UserError, did_you_mean
from imgen.evaluation.networks.inception import SIZE


def corners(n: int, size: int) -> np.ndarray:
    """TensorFlow 1: where `size` pixels lie among n, float32 [size]."""
    return np.arange(size, dtype=np.float32) * np.float32(n / size)


def centres(n: int, size: int) -> np.ndarray:
    """PyTorch without align_corners: where `size` pixels lie among n, float32 [size]."""
    at = (np.arange(size, dtype=np.float32) + 0.5) * np.float32(n / size) - 0.5
    return np.maximum(at, np.float32(0))


@dataclasses.dataclass(frozen=True)
class Dialect:
    """resize: the name of the resize in protocols. positions: n, size -> float32 [size]; scale: of 0..255."""

    resize: str
    positions: Callable[[int, int], np.ndarray]
    scale: Callable[[jax.Array], jax.Array]


DIALECTS = {
    "adm": Dialect("tf1_bilinear", corners, lambda x: (x - 128.0) / 128.0),
    "pytorch_fid": Dialect("torch_bilinear", centres, lambda x: x / 255.0 * 2.0 - 1.0),
}


def find(name: str) -> Dialect:
    """Raises UserError for a dialect that is not there."""
    if name not in DIALECTS:
        hint = did_you_mean(name, list(DIALECTS))
        raise UserError(f"Inception has the dialects {', '.join(DIALECTS)}, not {name!r} {hint}")
    return DIALECTS[name]


def interpolation(positions: np.ndarray, n: int) -> np.ndarray:
    """Linear interpolation at float32 [size] positions among n pixels, as a matrix float32 [size, n].

    Beyond the last pixel its value goes on.
    """
    low = np.minimum(np.floor(positions).astype(int), n - 1)
    share = positions - low
    rows = np.arange(len(positions))
    matrix = np.zeros((len(positions), n), np.float32)
    matrix[rows, low] += 1 - share
    matrix[rows, np.minimum(low + 1, n - 1)] += share
    return matrix


def resize(images: jax.Array, dialect: Dialect, size: int = SIZE) -> jax.Array:
    """[B, H, W, 3] in 0..255 -> float32 [B, size, size, 3] in 0..255, not rounded."""
    height, width = images.shape[1:3]
    across = interpolation(dialect.positions(width, size), width)
    down = interpolation(dialect.positions(height, size), height)
    x = images.astype(jnp.float32)
    x = jnp.einsum("vw,bhwc->bhvc", across, x, precision="highest")
    return jnp.einsum("uh,bhvc->buvc", down, x, precision="highest")


def pixels(images: jax.Array, dialect: Dialect) -> jax.Array:
    """uint8 [B, H, W, 3] -> what the network takes, float32 [B, 299, 299, 3].

    Raises ValueError for other than uint8: metrics are of images as they are saved.
    """
    if images.dtype != jnp.uint8:
        raise ValueError(f"images are {images.dtype}, not uint8")
    return dialect.scale(resize(images, dialect))
