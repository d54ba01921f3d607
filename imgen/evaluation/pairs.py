"""Likeness of images and their originals, pair by pair: PSNR, SSIM in its variants, LPIPS."""

import functools
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from imgen.errors import UserError
from imgen.evaluation.features import gather_rows
from imgen.evaluation.image_sets import ImageSet
from imgen.evaluation.reconstruction import psnr, ssim_gauss11, ssim_uniform7
from imgen.tokenizers import lpips

# By the name that is asked for: the name of the result, and the measure of images [B, H, W, 3] in [0, 1].
PAIRED: dict[str, tuple[str, Callable]] = {
    "psnr": ("psnr", psnr),
    "ssim": ("ssim_gauss11", ssim_gauss11),
    "ssim_uniform7": ("ssim_uniform7", ssim_uniform7),
    "ssim_uniform7_range2": (
        "ssim_uniform7_range2",
        functools.partial(ssim_uniform7, data_range=2.0),
    ),
}


def pair_means(
    images: ImageSet,
    originals: ImageSet,
    metrics: Iterable[str],
    batch_size: int,
    sharding: NamedSharding,
    lpips_params: lpips.Params | None = None,
) -> dict[str, float]:
    """Means over all pairs of the metrics (keys of PAIRED, and "lpips").

    lpips_params: of LPIPS by VGG-16's features, where that is asked for.

    Raises UserError for sets of unlike number or size, and for pairs that could not be read.
    """
    if images.num != originals.num or images.size != originals.size:
        raise UserError(
            f"{images.name} has {images.num} images of {images.size}, {originals.name} {originals.num} of "
            f"{originals.size}: {', '.join(metrics)} need pairs of one size; see --num and --image_size"
        )
    if min(images.size) < 11 and any(metric.startswith("ssim") for metric in metrics):
        raise UserError(f"SSIM needs images of at least 11x11 pixels, not {images.size}")
    measures: dict[str, Callable] = {PAIRED[m][0]: PAIRED[m][1] for m in metrics if m != "lpips"}

    everywhere = NamedSharding(sharding.mesh, PartitionSpec())
    params = jax.device_put(lpips_params, everywhere)

    @functools.partial(jax.jit, out_shardings=everywhere)
    def sums(params, first, second, mask) -> dict[str, Any]:
        x, y = first / 255.0, second / 255.0
        found = {name: jnp.sum(mask * measure(x, y)) for name, measure in measures.items()}
        if "lpips" in metrics:
            found["lpips_vgg"] = jnp.sum(mask * lpips.lpips(params, 2 * x - 1, 2 * y - 1))
        return found

    totals: dict[str, float] = {}
    count = 0
    for (x, mask), (y, other) in zip(
        images.read(batch_size), originals.read(batch_size), strict=True
    ):
        mask = mask * other
        placed = [
            jax.make_array_from_process_local_data(sharding, v, (batch_size, *v.shape[1:]))
            for v in (x, y, mask)
        ]
        count += int(mask.sum())
        for name, value in jax.device_get(sums(params, *placed)).items():
            totals[name] = totals.get(name, 0.0) + float(value)
    count = int(sum(rows[0] for rows in gather_rows(np.array([count], np.int32))))
    if count != images.num:
        raise UserError(
            f"{images.num - count} of {images.num} pairs of {images.name} and {originals.name} could not be "
            "read: mend or remove them"
        )
    return {name: total / count for name, total in totals.items()}
