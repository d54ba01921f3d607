"""Metrics of sets of images for `imgen.evaluate`: FID and its kin, metrics of pairs, of images and prompts.

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

from imgen import config, drawing
from imgen.conditioning import clip_bpe
from imgen.errors import UserError
from imgen.evaluation import records, reference, references
from imgen.evaluation.clip_embed import image_network, text_embeddings
from imgen.evaluation.clip_images import resize_then_square, square_then_resize
from imgen.evaluation.clip_score import clip_score, score_name
from imgen.evaluation.distances import DISTANCES, Distance, needs_of_reference, needs_of_samples
from imgen.evaluation.feature_networks import load_network
from imgen.evaluation.features import ROWS, Extractor
from imgen.evaluation.image_sets import Batches, ImageSet, open_images
from imgen.evaluation.pairs import PAIRED, pair_means
from imgen.evaluation.records import Protocol
from imgen.evaluation.references import ReferenceFeatures
from imgen.interop import clip, lpips
from imgen.runs import load_tokenizer
from imgen.stages import images_of
from imgen.training.generator_task import sampler
from imgen.training.progress import Progress
from imgen.training.reconstructions import draws, reconstructed, reconstructor
from imgen.training.sampling import num_classes, sample_labels, sample_set
from imgen.training.sharding import batch_sharding, make_mesh, whole_batch

OF_SAMPLES = tuple(DISTANCES)
OF_RECONSTRUCTIONS = tuple("r" + name for name in DISTANCES)
OF_PAIRS = (*PAIRED, "lpips")
OF_PROMPTS = ("clipscore",)
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
    of_sets = [m for m in metrics if m not in OF_PAIRS + OF_PROMPTS]
    if args.write_reference and not any(
        DISTANCES[m.removeprefix("r")].reference for m in of_sets if not _by_clip(m)
    ):
        raise UserError("--write_reference goes with metrics that need a reference, e.g. fid")
    if args.write_reference and len({m in OF_SAMPLES for m in of_sets}) > 1:
        raise UserError(
            "--write_reference: measure samples and reconstructions one after the other"
        )
    job = _Job(args, metrics)
    results: dict[str, dict[str, Any]] = {}
    with jax.set_mesh(job.mesh):
        if "clipscore" in metrics:
            results |= job.clip_score()
        for extractor, own in job.by_network([m for m in metrics if m in OF_SAMPLES]):
            subject = job.samples if args.workdir else job.files(extractor)
            results |= job.distances(extractor, subject, own, {"fid": "gfid"})
        decoded = [m.removeprefix("r") for m in metrics if m in OF_RECONSTRUCTIONS]
        names = {n: "r" + n for distance in DISTANCES.values() for n in distance.names}
        for extractor, own in job.by_network(decoded):
            results |= job.distances(extractor, job.reconstructions, own, names)
        if pairs := [m for m in metrics if m in OF_PAIRS]:
            results |= job.pairs(job.reconstructions if args.workdir else job.files(), pairs)
    return results


def _by_clip(metric: str) -> bool:
    return metric in ("cmmd", "rcmmd", "clipscore")


class _Job:
    """One call of the command: its mesh, its network, the sets that it opens."""

    def __init__(self, args, metrics: Sequence[str]):
        self.args, self.mesh = args, make_mesh()
        self.sharding = batch_sharding(self.mesh)
        self.settings = config.read_config(args.workdir) if args.workdir else None
        # Of each device: the same program for any number of them, and so the same images to the bit.
        self.batch_size = args.batch_size * whole_batch(1, self.mesh)
        self.clip = clip.load(args.clip_weights) if any(map(_by_clip, metrics)) else None

    def by_network(self, metrics: Sequence[str]) -> Iterator[tuple[Extractor, list[str]]]:
        """Metrics of DISTANCES with the network that they look at images with, each used once."""
        by_clip = [metric for metric in metrics if _by_clip(metric)]
        if by_clip:
            yield Extractor(image_network(*self.clip, square_then_resize), self.sharding), by_clip
        if others := [metric for metric in metrics if metric not in by_clip]:
            yield self._extractor, others

    @functools.cached_property
    def _extractor(self) -> Extractor:
        network = load_network(self.args.features, self.args.features_weights)
        return Extractor(network, self.sharding)

    @functools.cached_property
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

    @functools.cached_property
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

    def files(self, extractor: Extractor | None = None) -> Subject:
        """The images of --samples, as a network takes them."""
        args = self.args
        cropped = args.samples.startswith("tfds:") or Path(args.samples).is_dir()
        size = args.image_size if cropped else None
        fit = extractor and extractor.network.prepare
        images = open_images(args.samples, num=args.num, size=size, data_dir=args.data_dir, fit=fit)
        return Subject(images)

    def against(
        self, subject: Subject, num: int | None, extractor: Extractor | None = None
    ) -> ImageSet:
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
        fit = extractor and extractor.network.prepare
        return open_images(where, num=num, size=crop, data_dir=self.args.data_dir, fit=fit)

    def distances(
        self, extractor: Extractor, subject: Subject, metrics: list[str], names: dict[str, str]
    ) -> dict:
        """Results of metrics of DISTANCES; names: what they are called here where it is another name."""
        network, against = extractor.network, None
        if needs := needs_of_reference(metrics):
            against = self._against(extractor, subject, needs)
        found = extractor(with_progress(subject.images), needs_of_samples(metrics), self.batch_size)
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
            about = subject.about | {"network_hash": network.hash}
            about |= distance.settings(found, compared)
            if compared:
                about |= _about_reference(compared, distance)
            for name, value in values.items():
                result = records.result(
                    names.get(name, name), value, protocol, seconds, found.num / found.seconds
                )
                results[result["name"]] = {**result, "settings": about}
        return results

    def _against(self, extractor: Extractor, subject: Subject, needs: tuple[str, ...]) -> ReferenceFeatures:
        """The reference's features; written to a file too where --write_reference asks for it."""
        written, stored = self.args.write_reference, references.needs_of_file(extractor.network)
        if written and stored:
            needs = stored
        found = references.reference_features(
            self.args.reference,
            lambda: with_progress(self.against(subject, self.args.reference_num, extractor)),
            needs, extractor, self.batch_size,
        )  # fmt: skip
        if written and stored and jax.process_index() == 0:
            reference.write(written, references.stored(found, extractor.network))
        return found

    def clip_score(self) -> dict:
        """The result of CLIPScore: --samples and --prompts in the same order."""
        args, began = self.args, time.monotonic()
        model, params = self.clip
        extractor = Extractor(image_network(model, params, resize_then_square), self.sharding)
        network, images = extractor.network, self.files(extractor).images
        prompts, tokenizer = read_prompts(args.prompts, args.num), clip_bpe.load(args.clip_vocab)
        if len(prompts) != images.num:
            raise UserError(
                f"{args.prompts} has {len(prompts)} prompts, {images.name} {images.num} images: each image "
                "needs its own; see --num"
            )
        texts = [f"{args.clip_prefix} {prompt}" for prompt in prompts]
        texts = text_embeddings(model, params, tokenizer, texts, self.sharding, self.batch_size)
        found = extractor(with_progress(images), ["embeddings"], self.batch_size)
        score = float(clip_score(found.embeddings, texts, args.clip_scale).mean())
        seconds = time.monotonic() - began
        protocol = Protocol(
            network=network.name, resize=network.resize, dtype=network.dtype, n=found.num,
            reference=Path(args.prompts).name,
        )  # fmt: skip
        name = score_name(args.clip_prefix, args.clip_scale)
        result = records.result(name, score, protocol, seconds, found.num / seconds)
        about = {"network_hash": network.hash, "prefix": args.clip_prefix, "scale": args.clip_scale}
        return {result["name"]: {**result, "settings": about}}

    def pairs(self, subject: Subject, metrics: Sequence[str]) -> dict:
        """Results of metrics of pairs: images and their originals in the same order."""
        originals = subject.originals or self.against(subject, self.args.num)
        weights, about = None, dict(subject.about)
        if "lpips" in metrics:
            if not self.args.lpips_weights:
                raise UserError("lpips needs --lpips_weights FILE (safetensors of its VGG)")
            weights = lpips.load(self.args.lpips_weights)
            about["lpips_weights"] = self.args.lpips_weights
        began = time.monotonic()
        means = pair_means(
            with_progress(subject.images),
            originals,
            metrics,
            self.batch_size,
            self.sharding,
            weights,
        )
        seconds = time.monotonic() - began
        protocol = Protocol(reference=originals.name, n=originals.num, **subject.protocol)
        results = {}
        for name, value in means.items():
            result = records.result(name, value, protocol, seconds, originals.num / seconds)
            results[result["name"]] = {**result, "settings": about}
        return results


def _about_reference(compared: ReferenceFeatures, distance: Distance) -> dict[str, Any]:
    """How many images of the reference were used, which of statistics a file may not tell, and their network
    where that isn't known."""
    rows = [getattr(compared, need) for need in distance.reference if need in ROWS]
    about: dict[str, Any] = {"reference_images": len(rows[0]) if rows else compared.num}
    return about if compared.network else about | {"reference_network": "unknown"}


def read_prompts(path: str | None, num: int | None = None) -> list[str]:
    """The first `num` lines of a file. Raises UserError where it can't be read or a line is empty."""
    if path is None:
        raise UserError("clipscore needs --prompts FILE, a line for each image, in their order")
    try:
        lines = Path(path).expanduser().read_text("utf-8").splitlines()[:num]
    except (OSError, UnicodeDecodeError) as e:
        raise UserError(f"--prompts {path}: not a readable text file ({e})") from e
    empty = [number for number, line in enumerate(lines, 1) if not line.strip()]
    if empty or not lines:
        raise UserError(f"{path}: line {(empty or [1])[0]} holds no prompt; each image needs one")
    return lines


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
