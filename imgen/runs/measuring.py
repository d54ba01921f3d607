"""Metrics of images for `imgen.evaluate`: FID and its kin, metrics of pairs, of images and prompts."""

import dataclasses
import functools
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax

from imgen.conditioning import clip_bpe
from imgen.errors import UserError
from imgen.evaluation.images.image_set import ImageSet
from imgen.evaluation.images.progress import with_progress
from imgen.evaluation.networks.clip_embeddings import image_network, text_embeddings
from imgen.evaluation.networks.clip_input import resize_then_square, square_then_resize
from imgen.evaluation.networks.extractor import (
    ROWS,
    Extractor,
    Features,
    check_number,
    check_served,
    one_pass,
)
from imgen.evaluation.networks.registry import load_network
from imgen.evaluation.pairs.means import PAIRED, check_pairs, pair_means
from imgen.evaluation.prompts.clip_score import clip_score, score_name
from imgen.evaluation.results import records
from imgen.evaluation.results.records import Protocol
from imgen.evaluation.sets import distances
from imgen.evaluation.sets import reference as references
from imgen.evaluation.sets import statistics_file as reference
from imgen.evaluation.sets.distances import (
    DISTANCES,
    Distance,
    needs_of_reference,
    needs_of_samples,
)
from imgen.evaluation.sets.reference import ReferenceFeatures
from imgen.interop import clip, lpips
from imgen.parallel.mesh import batch_sharding, make_mesh, whole_batch
from imgen.params import files as weights
from imgen.runs import measured_images as subjects
from imgen.runs.measured_images import SPLITS, Request, Subject

OF_SAMPLES = tuple(DISTANCES)
OF_RECONSTRUCTIONS = tuple("r" + name for name in DISTANCES)
OF_PAIRS = (*PAIRED, "lpips")
OF_PROMPTS = ("clipscore",)


def metrics_of_run(settings) -> tuple[str, ...]:
    """The metrics of this module that make sense for a run."""
    samples = OF_SAMPLES if "generator" in settings.train else ()
    images = settings.data.source.name != "latents"
    return samples + (OF_RECONSTRUCTIONS + OF_PAIRS if images else ())


def _by_clip(metric: str) -> bool:
    return metric in ("cmmd", "rcmmd", "clipscore")


@dataclasses.dataclass(frozen=True)
class _Group:
    """Metrics of one subject by one network. reference: its name, "" without one."""

    metrics: list[str]
    distances: Mapping[str, Distance]
    extractor: Extractor
    subject: Subject
    decoded: bool
    reference: str


class Measurement:
    """One call of the command: its mesh, its networks, the sets that it opens.

    All that is needed is opened at once, so that a mistake shows before anything is measured. Raises
    UserError.
    """

    def __init__(self, request: Request):
        self.request, self.mesh = request, make_mesh()
        self.sharding = batch_sharding(self.mesh)
        # Of each device: the same program for any number of them, and so the same images to the bit.
        self.batch_size = request.batch_size * whole_batch(1, self.mesh)
        metrics = request.metrics
        _check_written(request)
        self._clip = clip.load(request.clip_weights) if any(map(_by_clip, metrics)) else None
        with jax.set_mesh(self.mesh):
            self._groups = [
                *self._grouped([m for m in metrics if m in OF_SAMPLES], DISTANCES, False),
                *self._grouped(
                    [m.removeprefix("r") for m in metrics if m in OF_RECONSTRUCTIONS],
                    distances.OF_RECONSTRUCTIONS,
                    True,
                ),
            ]
            self._pairs = self._open_pairs() if any(m in OF_PAIRS for m in metrics) else None
            self._prompts = self._open_prompts() if "clipscore" in metrics else None

    def __call__(self) -> dict[str, dict[str, Any]]:
        """Results by name (`records.result`)."""
        results: dict[str, dict[str, Any]] = {}
        with jax.set_mesh(self.mesh):
            if self._prompts:
                results |= self._clip_score(*self._prompts)
            passes: dict[int, list[_Group]] = {}
            for group in self._groups:
                passes.setdefault(id(group.subject), []).append(group)
            for groups in passes.values():
                results |= self._distances(groups)
            if self._pairs:
                results |= self._of_pairs(*self._pairs)
        return results

    @functools.cached_property
    def _samples(self) -> Subject:
        return subjects.samples(self.request, self.sharding)

    @functools.cached_property
    def _reconstructions(self) -> Subject:
        return subjects.reconstructions(self.request, self.sharding)

    @functools.cached_property
    def _by_features(self) -> Extractor:
        return Extractor(
            load_network(self.request.features, self.request.features_weights), self.sharding
        )

    @functools.cached_property
    def _by_image_tower(self) -> Extractor:
        return Extractor(image_network(*self._clip, square_then_resize), self.sharding)

    def _grouped(
        self, metrics: list[str], known: Mapping[str, Distance], decoded: bool
    ) -> Iterator[_Group]:
        """Metrics by the network that they look at images with; their sets are opened."""
        for by_clip in (True, False):
            own = [metric for metric in metrics if _by_clip(metric) == by_clip]
            if not own:
                continue
            extractor = self._by_image_tower if by_clip else self._by_features
            network = extractor.network
            needs = needs_of_reference(own)
            check_served(network, (*needs_of_samples(own), *needs))
            if self.request.workdir:
                subject = self._reconstructions if decoded else self._samples
            else:
                subject = subjects.files(self.request, network.prepare)
            check_number(subject.images, needs_of_samples(own))
            name = ""
            if needs or self.request.reference:
                opened = functools.partial(self._reference_images, subject, extractor)
                name = references.check_reference(
                    self.request.reference, opened, network, needs, self.request.reference_num
                )
            yield _Group(own, known, extractor, subject, decoded, name)

    def _reference_images(self, subject: Subject, extractor: Extractor) -> ImageSet:
        fit = extractor.network.prepare
        return subjects.reference(self.request, subject, self.request.reference_num, fit)

    def _distances(self, groups: list[_Group]) -> dict:
        """Results of metrics of DISTANCES on one subject, whose images are read or drawn once."""
        against = [
            self._against(group, needs) if (needs := needs_of_reference(group.metrics)) else None
            for group in groups
        ]
        wanted = [(group.extractor, needs_of_samples(group.metrics)) for group in groups]
        found = one_pass(with_progress(groups[0].subject.images), wanted, self.batch_size)
        results: dict[str, dict[str, Any]] = {}
        for each in zip(groups, found, against, strict=True):
            results |= self._compared(*each)
        return results

    def _compared(
        self, group: _Group, found: Features, against: ReferenceFeatures | None
    ) -> dict[str, dict[str, Any]]:
        network, subject, results = group.extractor.network, group.subject, {}
        for metric in group.metrics:
            distance, began = group.distances[metric], time.monotonic()
            compared = against if distance.reference else None
            values = distance.measure(found, compared)
            protocol = Protocol(
                network=network.name, resize=subject.resize(network.resize), dtype=network.dtype,
                n=found.num, reference=self._reference_name(group, compared), **subject.protocol,
            )  # fmt: skip
            seconds = found.seconds + time.monotonic() - began
            about = subject.about | {"network_hash": network.hash}
            about |= distance.settings(found, compared)
            if compared:
                about |= _about_reference(compared, distance, network.name)
            for name, value in values.items():
                result = records.result(
                    self._name(name, group, compared),
                    value, protocol, seconds, found.num / found.seconds,
                )  # fmt: skip
                results[result["name"]] = {**result, "settings": about}
        return results

    def _reference_name(self, group: _Group, compared: ReferenceFeatures | None) -> str | None:
        """Of a metric without reference: the one that was asked for, whatever else is measured."""
        if compared:
            return compared.name
        return group.reference if self.request.reference else None

    def _name(self, metric: str, group: _Group, compared: ReferenceFeatures | None) -> str:
        if not group.decoded:
            return {"fid": "gfid"}.get(metric, metric)
        where = self.request.reference or "eval"
        known = where if where in SPLITS else compared and compared.name
        return references.reconstruction_name(metric, known if compared else None)

    def _against(self, group: _Group, needs: tuple[str, ...]) -> ReferenceFeatures:
        """The reference's features; written to a file too where --write_reference asks for it."""
        network, written = group.extractor.network, self.request.write_reference
        stored = references.needs_of_file(network)
        if written and stored:
            needs = stored
        found = references.reference_features(
            self.request.reference,
            lambda: with_progress(self._reference_images(group.subject, group.extractor)),
            needs, group.extractor, self.batch_size,
        )  # fmt: skip
        if written and stored and jax.process_index() == 0:
            reference.write(written, references.stored(found, network))
        return found

    def _open_prompts(self) -> tuple[Extractor, Subject, list[str], clip_bpe.Tokenizer]:
        """Of CLIPScore: --samples and --prompts in the same order."""
        request = self.request
        extractor = Extractor(image_network(*self._clip, resize_then_square), self.sharding)
        subject = subjects.files(request, extractor.network.prepare)
        prompts, tokenizer = (
            read_prompts(request.prompts, request.num),
            clip_bpe.load(request.clip_vocab),
        )
        if len(prompts) != subject.images.num:
            raise UserError(
                f"{request.prompts} has {len(prompts)} prompts, {subject.images.name} {subject.images.num} "
                "images: each image needs its own; see --num"
            )
        return extractor, subject, prompts, tokenizer

    def _clip_score(self, extractor, subject, prompts, tokenizer) -> dict:
        """The result of CLIPScore."""
        request, began, network = self.request, time.monotonic(), extractor.network
        texts = [f"{request.clip_prefix} {prompt}" for prompt in prompts]
        texts = text_embeddings(*self._clip, tokenizer, texts, self.sharding, self.batch_size)
        found = extractor(with_progress(subject.images), ["embeddings"], self.batch_size)
        score = float(clip_score(found.embeddings, texts, request.clip_scale).mean())
        seconds = time.monotonic() - began
        protocol = Protocol(
            network=network.name, resize=subject.resize(network.resize), dtype=network.dtype,
            n=found.num, reference=Path(request.prompts).name, **subject.protocol,
        )  # fmt: skip
        name = score_name(request.clip_prefix, request.clip_scale)
        result = records.result(name, score, protocol, seconds, found.num / seconds)
        about = {"network_hash": network.hash, "prefix": request.clip_prefix}
        about |= {"scale": request.clip_scale} | subject.about
        return {result["name"]: {**result, "settings": about}}

    def _open_pairs(self) -> tuple[Subject, ImageSet, list[str], tuple | None]:
        """Images and their originals in the same order, and LPIPS' weights."""
        metrics = [m for m in self.request.metrics if m in OF_PAIRS]
        subject = self._reconstructions if self.request.workdir else subjects.files(self.request)
        originals = subject.originals or subjects.reference(
            self.request, subject, self.request.num, None
        )
        found = None
        if "lpips" in metrics:
            if not self.request.lpips_weights:
                raise UserError(f"lpips needs --lpips_weights FILE: {lpips.HOW}")
            found = lpips.load_any(self.request.lpips_weights)
        check_pairs(subject.images, originals, metrics, found and found[0])
        return subject, originals, metrics, found

    def _of_pairs(self, subject, originals, metrics, lpips_weights) -> dict:
        """Results of metrics of pairs."""
        began, about = time.monotonic(), dict(subject.about)
        means, same = pair_means(
            with_progress(subject.images),
            originals,
            metrics,
            self.batch_size,
            self.sharding,
            lpips_weights,
        )
        seconds = time.monotonic() - began
        protocol = Protocol(
            resize=subject.resized or None, n=originals.num,
            reference=references.published_name(originals), **subject.protocol,
        )  # fmt: skip
        about["identical_pairs"] = same
        results = {}
        for name, value in means.items():
            result = records.result(name, value, protocol, seconds, originals.num / seconds)
            own = {}
            if name.startswith("lpips"):
                own = {"weights_hash": weights.fingerprint(lpips_weights[1])}
            results[result["name"]] = {**result, "settings": about | own}
        return results


def _check_written(request: Request) -> None:
    """That --write_reference has something to write, and a place for it."""
    if not request.write_reference:
        return
    of_sets = [m for m in request.metrics if m not in OF_PAIRS + OF_PROMPTS]
    if not any(DISTANCES[m.removeprefix("r")].reference for m in of_sets if not _by_clip(m)):
        raise UserError("--write_reference goes with metrics that need a reference, e.g. fid")
    if len({m in OF_SAMPLES for m in of_sets}) > 1:
        raise UserError(
            "--write_reference: measure samples and reconstructions one after the other"
        )
    if jax.process_index() == 0:
        check_writable(Path(request.write_reference).expanduser(), "--write_reference")


def check_writable(path: Path, flag: str) -> None:
    """Raises UserError where a file could not be written."""
    try:
        if path.is_dir():
            raise IsADirectoryError(21, "it is a folder")
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise UserError(f"{flag}: cannot write {path} ({error.strerror})") from error


def _about_reference(
    compared: ReferenceFeatures, distance: Distance, network: str
) -> dict[str, Any]:
    """How many images of the reference were used, which of statistics a file may not tell, and which network
    they are taken to be of where the file doesn't tell."""
    rows = [getattr(compared, need) for need in distance.reference if need in ROWS]
    about: dict[str, Any] = {"reference_images": len(rows[0]) if rows else compared.num}
    if not compared.network:
        about["reference_network"] = f"unknown, taken for {network}"
    return about


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
