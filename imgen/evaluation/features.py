"""A set of images through a feature network, on all devices and processes, and what metrics keep of it.

The network runs on batches that are sharded over the devices. Statistics are float64 on the hosts, each of
which takes in its own rows; what the hosts have is merged at the end (`moments.merge`), as bytes, because JAX
would gather float64 as float32. So the result depends on neither the devices nor the hosts, up to rounding.
"""

import dataclasses
import time
from collections.abc import Iterable, Iterator

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec

from imgen.errors import UserError
from imgen.evaluation.image_sets import ImageSet
from imgen.evaluation.moments import Gaussian, Moments, merge
from imgen.evaluation.networks import FeatureNetwork

# What metrics may need -> the network's output that it is of.
NEEDS = {
    "pool": "pool3",
    "spatial": "spatial",
    "features": "pool3",
    "logits": "logits",
    "embeddings": "embedding",
}
ROWS = ("features", "logits", "embeddings")  # kept as they are; of the others, their moments


@dataclasses.dataclass(frozen=True)
class Features:
    """What is known of a set of images under a network; None for what was not asked for.

    name: of the set. num: images. pool, spatial: Gaussians of pool3 and of the spatial features. features:
    pool3 of some or all images, float32 [M, D], in their order. logits: float32 [N, C]. embeddings: CLIP's,
    float32 [N, D]. seconds: that reading or drawing the images and the network took.
    """

    name: str
    num: int | None
    pool: Gaussian | None = None
    spatial: Gaussian | None = None
    features: np.ndarray | None = None
    logits: np.ndarray | None = None
    embeddings: np.ndarray | None = None
    seconds: float = 0.0


def check_served(network: FeatureNetwork, needs: Iterable[str], where: str = "") -> None:
    """Raises UserError where a network lacks one of these keys of NEEDS. where: that named it, such as
    "evaluators.fid.features: "."""
    for need in needs:
        if NEEDS[need] not in network.widths:
            raise UserError(
                f"{where}{network.name} gives no {NEEDS[need]} features: choose other metrics or features"
            )


def check_number(images: ImageSet, needs: Iterable[str]) -> None:
    """Raises UserError for a single image where a covariance is needed."""
    if images.num < 2 and not set(needs) <= set(ROWS):
        raise UserError(f"{images.name} has 1 image: Frechet distances (fid, sfid) need at least 2")


class Extractor:
    """A feature network with its weights on every device and one program for each size of images.

    sharding: of batches, over the mesh's data axes.
    """

    def __init__(self, network: FeatureNetwork, sharding: NamedSharding):
        self.network, self.sharding = network, sharding
        self._params = None
        self._apply = jax.jit(self._wanted, static_argnums=2, out_shardings=sharding)

    def _wanted(self, params, images, outputs: tuple[str, ...]) -> dict[str, jax.Array]:
        found = self.network.apply(params, images)
        return {name: found[name].reshape(len(images), -1) for name in outputs}

    def __call__(
        self,
        images: ImageSet,
        needs: Iterable[str],
        batch_size: int,
        most_features: int | None = None,
    ) -> Features:
        """Takes all images of a set through the network.

        needs: keys of NEEDS. batch_size: of all devices together. most_features: keeps the features of at
        most so many images, evenly over the set.

        Raises UserError for features that are not finite, for needs that the network doesn't serve, for a
        single image where a covariance is needed, and where some images of the set could not be read.
        """
        began, needs = time.monotonic(), tuple(needs)
        check_served(self.network, needs)
        check_number(images, needs)
        width = self.network.widths
        moments = {n: Moments(width[NEEDS[n]]) for n in needs if n not in ROWS}
        kept = _Kept([n for n in needs if n in ROWS], images.num, most_features)
        counted = 0
        for index, mask, found in self._run(images, batch_size, sorted({NEEDS[n] for n in needs})):
            self._check(found, mask, index, images.name)
            counted += int(mask.sum())
            for need, statistic in moments.items():
                statistic.add(found[NEEDS[need]], mask)
            kept.add(found, mask, index)
        counted = int(sum(rows[0] for rows in gather_rows(np.array([counted], np.int32))))
        if counted != images.num:
            raise UserError(
                f"{images.name}: {images.num - counted} of {images.num} images could not be read: mend or "
                "remove them, so that their number is what the result says"
            )
        merged = {
            need: merge([Moments.unpack(part) for part in gather_rows(m.pack())]).gaussian(
                images.num
            )
            for need, m in moments.items()
        }
        seconds = time.monotonic() - began
        return Features(images.name, images.num, **merged, **kept.gathered(), seconds=seconds)

    def _run(self, images: ImageSet, batch_size: int, outputs: list[str]) -> Iterator[tuple]:
        """(numbers of the images [B], mask [B], outputs {name: [B, D]}) of this process, batch by batch; the
        devices work on the next one while the caller uses this one."""
        if self._params is None:
            everywhere = NamedSharding(self.sharding.mesh, PartitionSpec())
            self._params = jax.device_put(self.network.params, everywhere)
        ahead = None
        for number, (pixels, mask) in enumerate(images.read(batch_size)):
            if pixels.dtype != np.uint8:
                raise UserError(
                    f"{images.name}: images are {pixels.dtype}, not uint8: round to 0..255"
                )
            if self.network.prepare:
                pixels = np.stack([self.network.prepare(image) for image in pixels])
            first = number * batch_size + jax.process_index() * len(pixels)
            shape = (batch_size, *pixels.shape[1:])
            batch = jax.make_array_from_process_local_data(self.sharding, pixels, shape)
            found = self._apply(self._params, batch, tuple(outputs))
            ready, ahead = ahead, (first + np.arange(len(pixels)), mask, found)
            if ready:
                yield *ready[:2], jax.tree.map(local_rows, ready[2])
        if ahead:
            yield *ahead[:2], jax.tree.map(local_rows, ahead[2])

    def _check(self, found: dict, mask: np.ndarray, index: np.ndarray, name: str) -> None:
        for output, rows in found.items():
            bad = (mask > 0) & ~np.isfinite(rows).all(axis=1)
            if bad.any():
                raise UserError(
                    f"{name}: the {output} features of image {index[bad][0]} are not finite: look for NaN in "
                    f"the weights of {self.network.name}"
                )


class _Kept:
    """Rows of some outputs, with the numbers of their images, as their order between hosts must be known."""

    def __init__(self, needs: list[str], num: int, most: int | None):
        self._rows: dict[str, list[np.ndarray]] = {need: [] for need in needs}
        self._numbers: dict[str, list[np.ndarray]] = {need: [] for need in needs}
        self._wanted = np.ones(num, bool)
        if most is not None and most < num:
            self._wanted[:] = False
            self._wanted[np.arange(most) * num // most] = True

    def add(self, found: dict[str, np.ndarray], mask: np.ndarray, index: np.ndarray) -> None:
        for need, rows in self._rows.items():
            take = mask > 0
            if need == "features":
                take[take] = self._wanted[index[take]]
            rows.append(found[NEEDS[need]][take])
            self._numbers[need].append(index[take].astype(np.int32))

    def gathered(self) -> dict[str, np.ndarray]:
        """Of all processes, in the order of the images."""
        result = {}
        for need, rows in self._rows.items():
            numbers = np.concatenate(gather_rows(np.concatenate(self._numbers[need])))
            parts = gather_rows(np.concatenate(rows))
            rows.clear()
            # One process has them in order, and need not copy what may be half a gigabyte.
            one = len(parts) == 1
            result[need] = parts[0] if one else np.concatenate(parts)[np.argsort(numbers)]
        return result


def local_rows(x: jax.Array) -> np.ndarray:
    """This process's rows of an array that is sharded by rows, in their order: those that
    `make_array_from_process_local_data` takes, wherever the mesh has this process's devices.

    Raises ValueError unless every process has equally many rows to itself.
    """
    shards = {shard.index[0].start or 0: shard.data for shard in x.addressable_shards}
    rows = np.concatenate([np.asarray(shards[start]) for start in sorted(shards)])
    if len(rows) * jax.process_count() != len(x):
        raise ValueError(f"{len(rows)} of {len(x)} rows are here, sharded by {x.sharding}")
    return rows


def gather_rows(rows: np.ndarray) -> list[np.ndarray]:
    """The rows [N, ...] of every process, on every process; of 4 bytes at most, and N may differ."""
    if jax.process_count() == 1:
        return [rows]
    counts = multihost_utils.process_allgather(np.int32(len(rows)))
    padded = np.zeros((counts.max(), *rows.shape[1:]), rows.dtype)
    padded[: len(rows)] = rows
    found = multihost_utils.process_allgather(padded)
    return [part[:count] for part, count in zip(found, counts, strict=True)]
