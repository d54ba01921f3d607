"""Means of metrics of pairs (PSNR, SSIM, LPIPS) over sets of images and their originals."""

import functools
from collections.abc import Iterable, Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from imgen.errors import UserError
from imgen.evaluation.definition import Metric
from imgen.evaluation.images.image_set import ImageSet
from imgen.parallel.hosts import gather_rows, local_rows
from imgen.tokenizers.losses import lpips

COUNT, IDENTICAL = "count", "identical"


def check_pairs(
    images: ImageSet, originals: ImageSet, metrics: Iterable[str], trunk: str | None = None
) -> None:
    """Raises UserError for sets of unlike number or size, for folders whose files have unlike names, and for
    images too small for a metric. trunk: of "lpips"."""
    if images.num != originals.num or images.size != originals.size:
        raise UserError(
            f"{images.name} has {images.num} images of {images.size}, {originals.name} {originals.num} of "
            f"{originals.size}: {', '.join(metrics)} need pairs of one size; see --num and --image_size"
        )
    for mine, other in zip(images.stems or (), originals.stems or (), strict=False):
        if mine != other:
            raise UserError(
                f"{images.name} has {mine} where {originals.name} has {other}: files of a pair must have the "
                "same name, but for the suffix"
            )
    least = {"SSIM": 11} if any(metric.startswith("ssim") for metric in metrics) else {}
    if trunk:
        least[f"LPIPS by {trunk}"] = lpips.least_size(lpips.TRUNKS[trunk])
    for name, size in least.items():
        if min(images.size) < size:
            raise UserError(
                f"{name} needs images of at least {size}x{size} pixels, not {images.size}"
            )


def pair_means(
    images: ImageSet,
    originals: ImageSet,
    metrics: Mapping[str, Metric],
    batch_size: int,
    sharding: NamedSharding,
    lpips_weights: Mapping[str, lpips.Params] | None = None,
) -> tuple[dict[str, float], int]:
    """Gives the means over all pairs of metrics of pairs, and how many pairs are identical, whose PSNR is
    capped.

    lpips_weights: {trunk: params}, where LPIPS is asked for.

    Raises UserError for sets that `check_pairs` refuses, for measures that are not finite, and for pairs that
    could not be read.
    """
    weights = dict(lpips_weights or {})
    check_pairs(images, originals, metrics, next(iter(weights), None))
    weights = jax.device_put(weights, NamedSharding(sharding.mesh, PartitionSpec()))

    @functools.partial(jax.jit, out_shardings=sharding)
    def measured(weights, first, second) -> dict[str, jax.Array]:
        """By name [B]."""
        found = {IDENTICAL: jnp.all(first == second, axis=(1, 2, 3)).astype(jnp.float32)}
        for metric in metrics.values():
            found |= metric.run(first / 255.0, second / 255.0, weights)
        return found

    def batches() -> Iterator[tuple[np.ndarray, dict[str, jax.Array]]]:
        both = zip(images.read(batch_size), originals.read(batch_size), strict=True)
        for (x, mask), (y, other) in both:
            placed = [
                jax.make_array_from_process_local_data(sharding, v, (batch_size, *v.shape[1:]))
                for v in (x, y)
            ]
            yield mask * other, measured(weights, *placed)

    pair = f"{images.name} and {originals.name}"
    totals = _over_processes(_sums(batches(), batch_size, pair))
    count, same = int(totals.pop(COUNT)), int(totals.pop(IDENTICAL))
    if count != images.num:
        raise UserError(
            f"{images.num - count} of {images.num} pairs of {pair} could not be "
            "read: mend or remove them"
        )
    return {name: total / count for name, total in totals.items()}, same


def _sums(batches: Iterator, batch_size: int, sets: str) -> dict[str, float]:
    """Of this process's pairs, of masks [B] and measures {name: [B]}."""
    totals: dict[str, float] = {COUNT: 0.0}
    for number, (mask, found) in enumerate(_one_ahead(batches)):
        there = mask > 0
        totals[COUNT] += float(there.sum())
        for name, rows in found.items():
            rows = local_rows(rows)
            if (bad := there & ~np.isfinite(rows)).any():
                pair = number * batch_size + jax.process_index() * len(rows) + np.argmax(bad)
                raise UserError(
                    f"{name} of pair {pair} of {sets} is not finite: look for NaN in the weights"
                )
            totals[name] = totals.get(name, 0.0) + rows[there].sum(dtype=np.float64)
    return totals


def _one_ahead(items: Iterator) -> Iterator:
    """The same, each after the next was asked for: the devices work on it while the caller uses this one."""
    ahead = None
    for item in items:
        if ahead is not None:
            yield ahead
        ahead = item
    if ahead is not None:
        yield ahead


def _over_processes(sums: dict[str, float]) -> dict[str, float]:
    """Sums of all processes, in float64, which JAX would gather as float32 if it weren't for the bytes."""
    rows = np.array(list(sums.values()), np.float64).view(np.uint32)[None]
    parts = [part.view(np.float64)[0] for part in gather_rows(rows)]
    return dict(zip(sums, np.sum(parts, axis=0).tolist(), strict=True))
