"""FID and its kin of what a model makes, measured every so many steps of its training.

Both the samples and the reference go through a feature network; the reference does so once in a run, before
training, and its statistics stay in RUN/references. Nothing of it is in the training step.
"""

import contextlib
import dataclasses
import hashlib
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding

from imgen.conditioning import conditions_for
from imgen.config.construct import construct
from imgen.evaluation.images.image_set import ImageSet
from imgen.evaluation.images.progress import with_progress
from imgen.evaluation.metrics import check_metrics, measure, needs_of, of_kind
from imgen.evaluation.networks.extractor import Extractor, check_served
from imgen.evaluation.networks.registry import load_network
from imgen.evaluation.results.records import Protocol
from imgen.evaluation.results.reference_names import SPLIT_OF, result_name
from imgen.evaluation.sets.reference import Reference, write
from imgen.parallel.mesh import batch_sharding, whole_batch
from imgen.training.evaluator import Evaluator, Poll
from imgen.training.generator_task import GeneratorTask, averaged
from imgen.training.reconstructions import reconstructed, reconstructor
from imgen.training.sampling import sample_set
from imgen.training.task import State
from imgen.training.tokenizer_task import TokenizerTask

OpenImages = Callable[[str, int | None], ImageSet]  # (where, the first so many) -> images


@dataclasses.dataclass
class FeatureMetrics:
    """(state, poll) -> metrics, named as results are ("gfd/fd_cifar/1k"); see `Evaluator`.

    make: the images that a state makes, on a mesh's devices. metrics: keys of METRICS, of reconstructions
    without their "r". open_images, reference, reference_num: what they are measured against, a file of
    statistics or what `open_images` opens. features, weights: see `load_network`. batch_size: of each
    device. group: the config's, for errors. kept: the folder of what is known of references. prefix: "r" of
    reconstructions.
    """

    make: Callable[[State, NamedSharding], ImageSet]
    open_images: OpenImages
    group: str
    kept: Path
    metrics: Sequence[str] = ("fid",)
    features: str = "random_inception"
    weights: str | None = None
    reference: str = "eval"
    reference_num: int | None = None
    batch_size: int = 32
    prefix: str = ""

    def __post_init__(self):
        check_metrics(self.metrics, of_kind("samples"), f"{self.group}.metrics")
        self._names = [self.prefix + name for name in self.metrics]
        self._network = load_network(self.features, self.weights)
        check_served(self._network, needs_of(self._names), f"{self.group}: ")
        if needs_of(self._names, reference=True):
            Reference(self.reference, lambda network: self._open_reference()).check(self._network)
        self._extractor: Extractor | None = None
        self._against: Reference | None = None
        self._warned: set[str] = set()

    def prepare(self, mesh: Mesh, poll: Poll) -> None:
        """Sets up the network and takes the reference through it, unless that is known from before."""
        self._extractor = Extractor(self._network, batch_sharding(mesh))
        self._whole_batch = self.batch_size * whole_batch(1, mesh)
        if needs := needs_of(self._names, reference=True):
            self._against = self._measured_reference(needs, poll)

    def __call__(self, state: State, poll: Poll) -> dict[str, float]:
        images, values = with_progress(self.make(state, self._extractor.sharding), poll), {}
        with _said_once(self._warned):
            measured = measure(
                images, self._against, self._names, [self._extractor], self._whole_batch
            )
        for found in measured:
            protocol = Protocol(network=self._network.name, n=found.samples.num)
            against = found.reference and found.reference.name
            if against and self.reference in SPLIT_OF:
                against = self.reference
            for name, value in found.values.items():
                values[protocol.name(result_name(name, found.metric.of, against))] = value
        return values

    def _measured_reference(self, needs: tuple[str, ...], poll: Poll) -> Reference:
        """The reference, whose features are written when they are measured and read when the run goes on."""
        needs = tuple(dict.fromkeys(("pool", *needs)))  # pool: what a file of statistics always has
        found = Reference(
            self.reference, lambda network: with_progress(self._open_reference(), poll)
        )
        kept = None
        if found.statistics() is None:
            kept = self._kept_file(self._open_reference(), needs)
            if _is_file(kept):
                found, kept = Reference(str(kept), found.open_images), None
        features = found.features(self._extractor, needs, self._whole_batch)
        if kept and jax.process_index() == 0:
            kept.parent.mkdir(parents=True, exist_ok=True)
            write(kept, features)
        return found

    def _kept_file(self, images: ImageSet, needs: tuple[str, ...]) -> Path:
        """Named by the network's weights, the images and what is kept of them. Files that have changed are
        other images."""
        what = [images.name, images.num, images.size, sorted(needs), *_stamps(images.files)]
        digest = np.uint32(int(hashlib.sha256(repr(what).encode()).hexdigest()[:8], 16))
        if jax.process_count() > 1:  # the first's: the hosts' copies may be of unlike times
            digest = multihost_utils.broadcast_one_to_all(digest)
        return self.kept / f"{self._network.name}_{self._network.hash}_{int(digest):08x}.npz"

    def _open_reference(self) -> ImageSet:
        return self.open_images(self.reference, self.reference_num)


def _stamps(files: Iterable[str | Path]) -> Iterator[tuple[str, int, int] | str]:
    """(path, bytes, time of the last change in ns) of each file; the path alone of one that is not there."""
    for file in files:
        try:
            found = os.stat(file)
        except OSError:
            yield str(file)
        else:
            yield str(file), found.st_size, found.st_mtime_ns


def _is_file(path: Path) -> bool:
    """As the first process sees it: all have to do the same."""
    there = np.array(path.is_file())
    return bool(multihost_utils.broadcast_one_to_all(there) if jax.process_count() > 1 else there)


@contextlib.contextmanager
def _said_once(said: set[str]) -> Iterator[None]:
    """Lets a warning of the metrics (too few samples) pass once and not at every measurement."""

    def is_new(record: logging.LogRecord) -> bool:
        new = record.getMessage() not in said
        said.add(record.getMessage())
        return new

    log = logging.getLogger("imgen.evaluate")
    log.addFilter(is_new)
    try:
        yield
    finally:
        log.removeFilter(is_new)


def of_samples(
    task: GeneratorTask, size: int, open_images: OpenImages, kept: Path, *,
    num: int, every: int = 0, seed: int = 0, labels: str = "balanced", **how: Any,
) -> Evaluator:  # fmt: skip
    """Measures `num` samples of a generator, the same labels and random numbers every time; how: fields of
    FeatureMetrics."""
    drawn = conditions_for(task.generator.conditioner, num, labels, seed)

    def make(state: State, sharding: NamedSharding) -> ImageSet:
        return sample_set(
            task.draw, averaged(state), state["tokenizer"], drawn, jax.random.key(seed),
            name="samples", size=(size, size), sharding=sharding,
        )  # fmt: skip

    where = "train.generator.sample_eval"
    given = dict(make=make, open_images=open_images, group=where, kept=kept)
    return _evaluator(construct(FeatureMetrics, how, where, **given), every)


def of_reconstructions(
    task: TokenizerTask, size: int, open_images: OpenImages, kept: Path, *,
    num: int | None = None, every: int = 0, seed: int = 0, **how: Any,
) -> Evaluator:  # fmt: skip
    """Measures a tokenizer's reconstructions of the first `num` held-out images, against those unless
    `reference` says otherwise. seed: of what decoding draws, as that of imgen.evaluate; how: fields of
    FeatureMetrics."""
    reconstruct = reconstructor(task.tokenizer)

    def make(state: State, sharding: NamedSharding) -> ImageSet:
        originals, key = open_images("eval", num), jax.random.key(seed)
        return reconstructed(originals, reconstruct, averaged(state), sharding, key)

    where = "train.tokenizer.sample_eval"
    given = dict(make=make, open_images=open_images, group=where, kept=kept, prefix="r")
    return _evaluator(
        construct(FeatureMetrics, {"reference_num": num, **how}, where, **given), every
    )


def _evaluator(metrics: FeatureMetrics, every: int) -> Evaluator:
    return Evaluator(metrics, every, metrics.prepare)


EVALS = {"generator": of_samples, "tokenizer": of_reconstructions}
