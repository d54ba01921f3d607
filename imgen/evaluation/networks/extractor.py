"""A set of images through a feature network, on all devices and processes, and what metrics keep of it.

The network runs on batches that are sharded over the devices. Statistics are float64 on the hosts, each of
which takes in its own rows; what the hosts have is merged at the end (`moments.merge`), as bytes, because JAX
would gather float64 as float32. So the result depends on neither the devices nor the hosts, up to rounding.
"""

import dataclasses
import time
from collections.abc import Iterable, Sequence

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from imgen.errors import UserError
from imgen.evaluation.images.image_set import ImageSet
from imgen.evaluation.networks.feature_network import FeatureNetwork
from imgen.evaluation.sets.moments import Gaussian, Moments, merge
from imgen.parallel.hosts import gather_rows, local_rows

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
    float32 [N, D]. seconds: that reading or drawing the images and the network took. network,
    network_hash: what looked at the images; "" where a file of statistics doesn't tell.
    """

    name: str
    num: int | None
    pool: Gaussian | None = None
    spatial: Gaussian | None = None
    features: np.ndarray | None = None
    logits: np.ndarray | None = None
    embeddings: np.ndarray | None = None
    seconds: float = 0.0
    network: str = ""
    network_hash: str = ""


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
        return one_pass(images, [(self, needs)], batch_size, most_features)[0]

    def start(self, pixels: np.ndarray, batch_size: int, outputs: Iterable[str]) -> dict:
        """This process's images of a batch -> outputs {name: [B, D]} on the devices, perhaps not done yet."""
        if self._params is None:
            everywhere = NamedSharding(self.sharding.mesh, PartitionSpec())
            self._params = jax.device_put(self.network.params, everywhere)
        if self.network.prepare:
            pixels = np.stack([self.network.prepare(image) for image in pixels])
        shape = (batch_size, *pixels.shape[1:])
        batch = jax.make_array_from_process_local_data(self.sharding, pixels, shape)
        return self._apply(self._params, batch, tuple(outputs))


def one_pass(
    images: ImageSet,
    wanted: Sequence[tuple[Extractor, Iterable[str]]],
    batch_size: int,
    most_features: int | None = None,
) -> list[Features]:
    """Takes a set through several networks at once: its images are read, or drawn, a single time.

    wanted: networks, and for each keys of NEEDS. Otherwise as `Extractor.__call__`; seconds are those of the
    whole pass.
    """
    began = time.monotonic()
    passes = [_Pass(extractor, images, needs, most_features) for extractor, needs in wanted]
    for number, (pixels, mask) in enumerate(images.read(batch_size)):
        if pixels.dtype != np.uint8:
            raise UserError(f"{images.name}: images are {pixels.dtype}, not uint8: round to 0..255")
        first = number * batch_size + jax.process_index() * len(pixels)
        for one in passes:
            one.add(first + np.arange(len(pixels)), pixels, mask, batch_size)
    found = [one.finish() for one in passes]
    seconds = time.monotonic() - began
    return [dataclasses.replace(features, seconds=seconds) for features in found]


class _Pass:
    """What is kept of one set under one network, batch by batch; the devices work on the next one while the
    host takes in this one."""

    def __init__(
        self, extractor: Extractor, images: ImageSet, needs: Iterable[str], most: int | None
    ):
        needs, widths = tuple(needs), extractor.network.widths
        check_served(extractor.network, needs)
        check_number(images, needs)
        self._extractor, self._images = extractor, images
        self._outputs = sorted({NEEDS[need] for need in needs})
        self._moments = {n: Moments(widths[NEEDS[n]]) for n in needs if n not in ROWS}
        self._kept = _Kept([n for n in needs if n in ROWS], images.num, most)
        self._counted, self._ahead = 0, None

    def add(self, index: np.ndarray, pixels: np.ndarray, mask: np.ndarray, batch_size: int) -> None:
        """index: numbers of the images [B]."""
        found = self._extractor.start(pixels, batch_size, self._outputs)
        ready, self._ahead = self._ahead, (index, mask, found)
        if ready:
            self._take(*ready)

    def finish(self) -> Features:
        """Of all processes together."""
        if self._ahead:
            self._take(*self._ahead)
        images = self._images
        parts = gather_rows(np.array([self._counted], np.int32))
        if (counted := int(sum(rows[0] for rows in parts))) != images.num:
            raise UserError(
                f"{images.name}: {images.num - counted} of {images.num} images could not be read: mend or "
                "remove them, so that their number is what the result says"
            )
        merged = {
            need: merge([Moments.unpack(part) for part in gather_rows(m.pack())]).gaussian(
                images.num
            )
            for need, m in self._moments.items()
        }
        network = self._extractor.network
        return Features(
            images.name, images.num, **merged, **self._kept.gathered(),
            network=network.name, network_hash=network.hash,
        )  # fmt: skip

    def _take(self, index: np.ndarray, mask: np.ndarray, found: dict[str, jax.Array]) -> None:
        rows = jax.tree.map(local_rows, found)
        self._check(rows, mask, index)
        self._counted += int(mask.sum())
        for need, statistic in self._moments.items():
            statistic.add(rows[NEEDS[need]], mask)
        self._kept.add(rows, mask, index)

    def _check(self, found: dict, mask: np.ndarray, index: np.ndarray) -> None:
        for output, rows in found.items():
            bad = (mask > 0) & ~np.isfinite(rows).all(axis=1)
            if bad.any():
                raise UserError(
                    f"{self._images.name}: the {output} features of image {index[bad][0]} are not finite: "
                    f"look for NaN in the weights of {self._extractor.network.name}"
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
