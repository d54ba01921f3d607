"""Metrics of sets of images for `imgen.evaluate`: FID and its kin, and metrics of pairs.

A subject is a set of images with what results must say of it. That of a run is drawn or decoded while it is
measured, on all devices and processes; the images of files are read.
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from imgen import config, drawing
from imgen.errors import UserError
from imgen.evaluation import records, reference, references
from imgen.evaluation.distances import DISTANCES, needs_of_reference, needs_of_samples
from imgen.evaluation.feature_networks import load_network
from imgen.evaluation.features import Extractor, Features
from imgen.evaluation.image_sets import Batches, ImageSet, open_images
from imgen.evaluation.pairs import PAIRED, pair_means
from imgen.evaluation.records import Protocol
from imgen.interop import lpips
from imgen.runs import load_tokenizer
from imgen.stages import images_of
from imgen.tokenizers.lpips import lpips as lpips_distance
from imgen.training.generator_task import sampler
from imgen.training.progress import Progress
from imgen.training.reconstructions import draws, reconstructed, reconstructor
from imgen.training.sampling import num_classes, sample_labels, sample_set
from imgen.training.sharding import batch_sharding, make_mesh, whole_batch

OF_SAMPLES = tuple(DISTANCES)
OF_RECONSTRUCTIONS = tuple("r" + name for name in DISTANCES)
OF_PAIRS = (*PAIRED, "lpips")
SPLITS = ("train", "eval")  # of a run's data, as references


@dataclasses.dataclass(frozen=True)
class Subject:
    """Images to be measured.

    reference: the images that they are measured against where nothing else is given; originals: the images
    that they are of, in the same order. protocol: fields of their results' Protocol. about: what results say
    of them besides.
    """

    images: ImageSet
    reference: Callable[[], ImageSet] | None = None
    originals: ImageSet | None = None
    protocol: dict[str, Any] = dataclasses.field(default_factory=dict)
    about: dict[str, Any] = dataclasses.field(default_factory=dict)


def metrics_of_run(settings) -> tuple[str, ...]:
    """The metrics of this module that make sense for a run."""
    samples = OF_SAMPLES if "generator" in settings.train else ()
    images = settings.data.source.name != "latents"
    return samples + (OF_RECONSTRUCTIONS + OF_PAIRS if images else ())


def measure(args, metrics: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Results by name (`records.result`). args: flags of `imgen.evaluate`, metrics in an order of ours."""
    if args.write_reference and not any(
        DISTANCES[m.removeprefix("r")].reference for m in metrics if m not in OF_PAIRS
    ):
        raise UserError("--write_reference goes with metrics that need a reference, e.g. fid")
    if args.write_reference and len({m in OF_SAMPLES for m in metrics if m not in OF_PAIRS}) > 1:
        raise UserError(
            "--write_reference: measure samples and reconstructions one after the other"
        )
    job = _Job(args)
    results: dict[str, dict[str, Any]] = {}
    with jax.set_mesh(job.mesh):
        if of_samples := [m for m in metrics if m in OF_SAMPLES]:
            subject = job.samples() if args.workdir else job.files()
            results |= job.distances(subject, of_samples, {"fid": "gfid"})
        decoded = [m for m in metrics if m in OF_RECONSTRUCTIONS]
        pairs = [m for m in metrics if m in OF_PAIRS]
        if decoded or pairs:
            subject = job.reconstructions() if args.workdir else job.files()
        if decoded:
            names = {n: "r" + n for distance in DISTANCES.values() for n in distance.names}
            results |= job.distances(subject, [m.removeprefix("r") for m in decoded], names)
        if pairs:
            results |= job.pairs(subject, pairs)
    return results


class _Job:
    """One call of the command: its mesh, its network, the sets that it opens."""

    def __init__(self, args):
        self.args, self.mesh = args, make_mesh()
        self.sharding = batch_sharding(self.mesh)
        self.settings = config.read_config(args.workdir) if args.workdir else None
        # Of each device: the same program for any number of them, and so the same images to the bit.
        self.batch_size = args.batch_size * whole_batch(1, self.mesh)
        self._extractor: Extractor | None = None

    @property
    def extractor(self) -> Extractor:
        if self._extractor is None:
            network = load_network(self.args.features, self.args.features_weights)
            self._extractor = Extractor(network, self.sharding)
        return self._extractor

    def samples(self) -> Subject:
        """Drawn from the run's generator: num of them, label and random numbers by their number."""
        args = self.args
        run, guidance, filters = drawing.open_generator(args)
        labels = sample_labels(
            args.num or 50_000, num_classes(run.module.conditioner), args.labels_of, args.seed
        )
        params = jax.device_put(
            jax.device_get((run.params, run.tokenizer_params)), _everywhere(self.mesh)
        )
        images = sample_set(
            sampler(run.module, run.tokenizer, guidance, filters), *params, labels,
            jax.random.key(args.seed), name=f"samples of {args.workdir}",
            size=(self.settings.data.image_size,) * 2, sharding=self.sharding,
        )  # fmt: skip
        protocol = {
            "class_balance": args.labels_of,
            "guidance": "none" if guidance.scale == 1 else "cfg",
            "steps": drawing.forward_passes(run.module),
        }
        about = drawing.describe(run, guidance, filters) | {"seed": args.seed}
        reference = functools.partial(images_of, self.settings, "train", args.reference_num)
        return Subject(images, reference, protocol=protocol, about=about)

    def reconstructions(self) -> Subject:
        """Held-out images of the run through its tokenizer."""
        args = self.args
        run = load_tokenizer(args.workdir, args.checkpoint)
        originals = images_of(self.settings, "eval", args.num)
        key = jax.random.key(args.seed) if draws(run.module) else None
        params = jax.device_put(jax.device_get(run.params), _everywhere(self.mesh))
        images = reconstructed(originals, reconstructor(run.module), params, self.sharding, key)
        about = {"step": run.step, "split": originals.name}
        return Subject(images, lambda: originals, originals, about=about)

    def files(self) -> Subject:
        """The images of --samples."""
        args = self.args
        cropped = args.samples.startswith("tfds:") or Path(args.samples).is_dir()
        size = args.image_size if cropped else None
        return Subject(open_images(args.samples, num=args.num, size=size, data_dir=args.data_dir))

    def against(self, subject: Subject, num: int | None) -> ImageSet:
        """The images of --reference, or those that the subject is measured against by itself. Data sets and
        folders are cropped to --image_size, data sets otherwise to the subject's size."""
        where, crop = self.args.reference, self.args.image_size
        if where is None:
            if subject.reference is None:
                raise UserError("--reference is needed: FILE.npz, a folder or tfds:NAME:SPLIT")
            return subject.reference()
        if where in SPLITS and self.settings is not None:
            return images_of(self.settings, where, num)
        if where.startswith("tfds:"):
            crop = crop or subject.images.size[0]
        elif not Path(where).expanduser().is_dir():
            crop = None
        return open_images(where, num=num, size=crop, data_dir=self.args.data_dir)

    def distances(self, subject: Subject, metrics: Sequence[str], names: dict[str, str]) -> dict:
        """Results of metrics of DISTANCES; names: what they are called here where it is another name."""
        network, against = self.extractor.network, None
        if needs := needs_of_reference(metrics):
            against = self._against(subject, needs)
        found = self.extractor(
            with_progress(subject.images), needs_of_samples(metrics), self.batch_size
        )
        results = {}
        for metric in metrics:
            distance, began = DISTANCES[metric], time.monotonic()
            compared = against if distance.reference else None
            values = distance.measure(found, compared)
            protocol = Protocol(
                network=network.name, resize=network.resize, dtype=network.dtype, n=found.num,
                reference=against and against.name, **subject.protocol,
            )  # fmt: skip
            seconds = found.seconds + time.monotonic() - began
            about = dict(subject.about, network_hash=network.hash)
            if compared:
                about["reference_images"] = compared.num
            for name, value in values.items():
                result = records.result(
                    names.get(name, name), value, protocol, seconds, found.num / found.seconds
                )
                results[result["name"]] = {**result, "settings": about}
        return results

    def _against(self, subject: Subject, needs: tuple[str, ...]) -> Features:
        """The reference's features; written to a file too where --write_reference asks for it."""
        written = self.args.write_reference
        if written:
            needs = references.needs_of_file(self.extractor.network)
        found = references.reference_features(
            self.args.reference,
            lambda: with_progress(self.against(subject, self.args.reference_num)),
            needs, self.extractor, self.batch_size,
        )  # fmt: skip
        if written and jax.process_index() == 0:
            reference.write(written, references.stored(found, self.extractor.network))
        return found

    def pairs(self, subject: Subject, metrics: Sequence[str]) -> dict:
        """Results of metrics of pairs: images and their originals in the same order."""
        originals = subject.originals or self.against(subject, self.args.num)
        distance, about = None, dict(subject.about)
        if "lpips" in metrics:
            if not self.args.lpips_weights:
                raise UserError(
                    "lpips needs --lpips_weights FILE (safetensors of its VGG or AlexNet)"
                )
            weights = jax.tree.map(jnp.asarray, lpips.load(self.args.lpips_weights))
            distance, about["lpips_weights"] = (
                lambda x, y: lpips_distance(weights, x, y),
                (self.args.lpips_weights),
            )
        began = time.monotonic()
        means = pair_means(
            with_progress(subject.images),
            originals,
            metrics,
            self.batch_size,
            self.sharding,
            distance,
        )
        seconds = time.monotonic() - began
        protocol = Protocol(reference=originals.name, n=originals.num, **subject.protocol)
        results = {}
        for name, value in means.items():
            result = records.result(name, value, protocol, seconds, originals.num / seconds)
            results[result["name"]] = {**result, "settings": about}
        return results


def with_progress(images: ImageSet) -> ImageSet:
    """The same images, with a line or bar of progress while they are read."""

    def read(batch_size: int) -> Batches:
        progress = Progress(
            images.name, images.num, noun="images", enabled=jax.process_index() == 0
        )
        try:
            yield from _counted(images.read(batch_size), batch_size, images.num, progress)
        finally:
            progress.close()

    return dataclasses.replace(images, read=read)


def _counted(batches: Batches, batch_size: int, num: int, progress: Progress) -> Iterator:
    for done, batch in enumerate(batches, 1):
        yield batch
        progress.update(min(done * batch_size, num))


def _everywhere(mesh):
    return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
