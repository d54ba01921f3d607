"""PSNR and SSIM of image pairs, each image on its own. Images are [B, H, W, C] in [0, 1].

Sources: Wang et al. 2004, "Image quality assessment: from error visibility to structural similarity";
scikit-image, metrics/_structural_similarity.py; LlamaGen, tokenizer_image/reconstruction_vq_ddp.py.
"""

import jax
import jax.numpy as jnp
import numpy as np

from imgen.evaluation.definition import PAIRS, Metric

MAX_PSNR = 98.0  # of equal images, whose PSNR is infinite


def psnr(first: jax.Array, second: jax.Array) -> jax.Array:
    """-10 log10 of the mean squared difference of each image, in dB, at most MAX_PSNR: [B]."""
    error = jnp.mean(jnp.square(first - second), axis=(1, 2, 3))
    return -10.0 * jnp.log10(jnp.maximum(error, 10.0 ** (-MAX_PSNR / 10)))


def likeness(images: jax.Array, recon: jax.Array, mask: jax.Array) -> dict[str, jax.Array]:
    """Gives sums of psnr and, where the window fits, ssim_gauss11 over the images that count.

    images, recon: uint8 [B, H, W, 3].   mask: [B].
    """
    pair = images / 255.0, recon / 255.0
    sums = {"psnr": jnp.sum(mask * psnr(*pair))}
    if min(images.shape[1:3]) >= 11:
        sums["ssim_gauss11"] = jnp.sum(mask * ssim_gauss11(*pair))
    return sums


def ssim_gauss11(first: jax.Array, second: jax.Array) -> jax.Array:
    """SSIM as published: 11x11 Gaussian window of deviation 1.5, population covariance, range 1: [B].

    Over the positions whose window is inside; images must be at least 11 pixels wide.
    """
    window = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    return _ssim(first, second, window / window.sum(), 1.0, 1.0)


def ssim_uniform7(first: jax.Array, second: jax.Array, data_range: float = 1.0) -> jax.Array:
    """scikit-image's default: 7x7 mean, sample covariance: [B].

    LlamaGen's scripts, and those of PAR and NAR after them, give data_range 2 for images in [0, 1], which
    makes the figure larger.
    """
    return _ssim(first, second, np.full(7, 1 / 7), 49 / 48, data_range)


def _ssim(x, y, window: np.ndarray, correction: float, data_range: float) -> jax.Array:
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    mean_x, mean_y = _filter(x, window), _filter(y, window)
    var_x = correction * (_filter(x * x, window) - mean_x**2)
    var_y = correction * (_filter(y * y, window) - mean_y**2)
    covariance = correction * (_filter(x * y, window) - mean_x * mean_y)
    likeness = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    likeness /= (mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2)
    return jnp.mean(likeness, axis=(1, 2, 3))


def _filter(x: jax.Array, window: np.ndarray) -> jax.Array:
    """Weighted mean over a separable window, where it is inside: [B, H, W, C] -> [B, H - n + 1, ..., C].

    Sums of shifted images: exact float32 on every backend, where a convolution may use fewer bits.
    """
    for axis in (1, 2):
        size = x.shape[axis] - len(window) + 1
        slices = (jax.lax.slice_in_dim(x, i, i + size, axis=axis) for i in range(len(window)))
        x = sum(float(w) * part for w, part in zip(window, slices, strict=True))
    return x


PSNR = Metric(PAIRS, lambda x, y, weights: {"psnr": psnr(x, y)}, of="pairs")
SSIM = Metric(PAIRS, lambda x, y, weights: {"ssim_gauss11": ssim_gauss11(x, y)}, of="pairs")
SSIM_UNIFORM7 = Metric(
    PAIRS, lambda x, y, weights: {"ssim_uniform7": ssim_uniform7(x, y)}, of="pairs"
)
SSIM_UNIFORM7_RANGE2 = Metric(
    PAIRS, lambda x, y, weights: {"ssim_uniform7_range2": ssim_uniform7(x, y, 2.0)}, of="pairs"
)
