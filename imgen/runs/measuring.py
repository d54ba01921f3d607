"""Metrics of images for `imgen.evaluate`: FID and its kin, metrics of pairs, of images and prompts."""

import dataclasses
import functools
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from imgen.conditioning import clip_bpe
from imgen.errors import UserError
from imgen.evaluation.images.image_set import ImageSet
from imgen.evaluation.images.progress import with_progress
from imgen.evaluation.metrics import (
    METRICS,
    HasFeatures,
    Measured,
    by_extractor,
    measure,
    needs_of,
    of_kind,
)
from imgen.evaluation.networks.clip_embeddings import image_network
from imgen.evaluation.networks.clip_input import resize_then_square, square_then_resize
from imgen.evaluation.networks.extractor import ROWS, Extractor, check_number
from imgen.evaluation.networks.feature_network import FeatureNetwork
from imgen.evaluation.networks.registry import load_network
from imgen.evaluation.pairs.means import check_pairs, pair_means
from imgen.evaluation.prompts.prompt_file import Prompts, read_prompts
from imgen.evaluation.results import records, reference_names
from imgen.evaluation.results.records import Protocol
from imgen.evaluation.sets.reference import Reference, needs_of_file, write
from imgen.interop import clip, lpips
from imgen.parallel.mesh import batch_sharding, make_mesh, whole_batch
from imgen.params import files as weights
from imgen.runs import measured_images
from imgen.runs.data import SPLITS
from imgen.runs.experiment import Experiment
from imgen.runs.measured_images import MeasuredImages, Request
from imgen.runs.run import Run

Results = dict[str, dict[str, Any]]  # by name, see `records.result`
OF_SETS = ("samples", "reconstructions")  # kinds of metrics


def metrics_of_run(experiment: Experiment) -> tuple[str, ...]:
    """Gives the metrics of images that make sense for a run."""
    kinds = ["samples"] if "generator" in experiment.stages else []
    if experiment.data.stores_images:
        kinds += ["reconstructions", "pairs"]
    return of_kind(*kinds)


@dataclasses.dataclass(frozen=True)
class _Comparison:
    """Images, which are read or drawn once, their metrics by some networks, and what they are compared with.
    names: of the reference, by the network that looks at it."""

    images: MeasuredImages
    metrics: list[str]
    extractors: list[Extractor]
    against: HasFeatures
    names: dict[Extractor, str]


@dataclasses.dataclass(frozen=True)
class _Pairs:
    """Images and their originals in the same order, and LPIPS' weights."""

    images: MeasuredImages
    originals: ImageSet
    metrics: list[str]
    lpips: dict[str, lpips.Params]


class Measurement:
    """One call of the command: its mesh, its networks, the sets that it opens.

    All that is needed is opened at once, so that a mistake shows before anything is measured. run: None of
    --samples. Raises UserError.
    """

    def __init__(self, request: Request, run: Run | None = None):
        self.request, self.run, self.mesh = request, run, make_mesh()
        self.sharding = batch_sharding(self.mesh)
        # Of each device: the same program for any number of them, and so the same images to the bit.
        self.batch_size = request.batch_size * whole_batch(1, self.mesh)
        _check_written(request)
        by_clip = any("embeddings" in METRICS[name].needs for name in request.metrics)
        self._clip = clip.load(request.clip_weights) if by_clip else None
        with jax.set_mesh(self.mesh):
            self._comparisons = [c for kind in OF_SETS for c in self._open_sets(kind)]
            self._pairs = self._open_pairs()
            self._comparisons += self._open_prompts()

    def __call__(self) -> Results:
        """Measures all of it."""
        results: Results = {}
        with jax.set_mesh(self.mesh):
            for comparison in self._comparisons:
                results |= self._compared(comparison)
            if self._pairs:
                results |= self._of_pairs(self._pairs)
        return results

    def _asked(self, *kinds: str) -> list[str]:
        return [name for name in self.request.metrics if METRICS[name].of in kinds]

    @functools.cached_property
    def _reconstructions(self) -> MeasuredImages:
        return measured_images.reconstructions(self.request, self.run, self.sharding)

    @functools.cached_property
    def _by_features(self) -> Extractor:
        network = load_network(self.request.features, self.request.features_weights)
        return Extractor(network, self.sharding)

    @functools.cached_property
    def _by_clip(self) -> Extractor:
        return Extractor(image_network(*self._clip, square_then_resize), self.sharding)

    def _open_sets(self, kind: str) -> Iterator[_Comparison]:
        """The metrics of a kind of OF_SETS. All networks look at the same images of a run, but at those of
        files as each of them takes them."""
        metrics = self._asked(kind)
        if not metrics:
            return
        extractors = [self._by_features] if set(needs_of(metrics)) != {"embeddings"} else []
        extractors += [self._by_clip] if "embeddings" in needs_of(metrics) else []
        looks = by_extractor(metrics, extractors)
        for group in [looks] if self.run else [[look] for look in looks]:
            images = self._images(kind, group[0][0].network)
            against = Reference(
                self.request.reference,
                functools.partial(self._reference_images, images),
                self.request.reference_num,
            )
            names = {}
            for extractor, own in group:
                check_number(images.images, needs_of(own))
                needs = needs_of(own, reference=True)
                if needs or self.request.reference:
                    names[extractor] = against.check(extractor.network, needs)
            own = [name for _, names_of in group for name in names_of]
            yield _Comparison(images, own, [e for e, _ in group], against, names)

    def _images(self, kind: str, network: FeatureNetwork) -> MeasuredImages:
        if not self.run:
            return measured_images.files(self.request, network.prepare)
        if kind == "reconstructions":
            return self._reconstructions
        return measured_images.drawn(self.request, self.run, self.sharding)

    def _reference_images(self, images: MeasuredImages, network: FeatureNetwork) -> ImageSet:
        num = self.request.reference_num
        return with_progress(
            measured_images.reference_images(self.request, self.run, images, num, network.prepare)
        )

    def _open_prompts(self) -> Iterator[_Comparison]:
        """CLIPScore: --samples and --prompts in the same order."""
        request, metrics = self.request, self._asked("prompts")
        if not metrics:
            return
        extractor = Extractor(image_network(*self._clip, resize_then_square), self.sharding)
        images = measured_images.files(request, extractor.network.prepare)
        prompts = read_prompts(request.prompts, request.num)
        tokenizer = clip_bpe.load(request.clip_vocab)
        if len(prompts) != images.images.num:
            raise UserError(
                f"{request.prompts} has {len(prompts)} prompts, {images.images.name} {images.images.num} "
                "images: each image needs its own; see --num"
            )
        name, how = Path(request.prompts).name, (request.clip_prefix, request.clip_scale)
        texts = Prompts(name, prompts, self._clip, tokenizer, *how)
        yield _Comparison(images, metrics, [extractor], texts, {extractor: name})

    def _compared(self, comparison: _Comparison) -> Results:
        """Results of one comparison."""
        if self.request.write_reference:
            self._write_reference(comparison)
        measured = measure(
            with_progress(comparison.images.images), comparison.against, comparison.metrics,
            comparison.extractors, self.batch_size,
        )  # fmt: skip
        results: Results = {}
        for found in measured:
            results |= self._records(comparison, found)
        return results

    def _records(self, comparison: _Comparison, found: Measured) -> Results:
        network, images, samples = found.extractor.network, comparison.images, found.samples
        reference = found.reference and found.reference.name
        if not reference and self.request.reference:  # which data the samples imitate
            reference = comparison.names[found.extractor]
        protocol = Protocol(
            network=network.name, resize=images.resize(network.resize), dtype=network.dtype,
            n=samples.num, reference=reference, **images.protocol,
        )  # fmt: skip
        about = images.about | {"network_hash": network.hash} | found.settings
        if found.reference and found.metric.of != "prompts":
            about |= _about_reference(found)
        where = self.request.reference or "eval"
        known = where if where in SPLITS else reference
        results: Results = {}
        for name, value in found.values.items():
            name = reference_names.result_name(
                name, found.metric.of, known if found.reference else None
            )
            result = records.result(
                name, value, protocol, found.seconds, samples.num / samples.seconds
            )
            results[result["name"]] = {**result, "settings": about}
        return results

    def _write_reference(self, comparison: _Comparison) -> None:
        """All that a file can hold of the reference of metrics that need one."""
        for extractor, names in by_extractor(comparison.metrics, comparison.extractors):
            stored = needs_of_file(extractor.network)
            if stored and needs_of(names, reference=True):
                found = comparison.against.features(extractor, stored, self.batch_size)
                if jax.process_index() == 0:
                    write(self.request.write_reference, found)

    def _open_pairs(self) -> _Pairs | None:
        request, metrics = self.request, self._asked("pairs")
        if not metrics:
            return None
        images = self._reconstructions if self.run else measured_images.files(request)
        originals = images.originals or measured_images.reference_images(
            request, self.run, images, request.num, None
        )
        found = {}
        if "lpips" in metrics:
            if not request.lpips_weights:
                raise UserError(f"lpips needs --lpips_weights FILE: {lpips.HOW}")
            trunk, params = lpips.load_any(request.lpips_weights)
            found = {trunk: params}
        check_pairs(images.images, originals, metrics, next(iter(found), None))
        return _Pairs(images, originals, metrics, found)

    def _of_pairs(self, pairs: _Pairs) -> Results:
        began, images = time.monotonic(), pairs.images
        means, same = pair_means(
            with_progress(images.images), pairs.originals, {n: METRICS[n] for n in pairs.metrics},
            self.batch_size, self.sharding, pairs.lpips,
        )  # fmt: skip
        seconds, num = time.monotonic() - began, pairs.originals.num
        protocol = Protocol(
            resize=images.resized or None, n=num,
            reference=reference_names.of_images(pairs.originals), **images.protocol,
        )  # fmt: skip
        results: Results = {}
        for name, value in means.items():
            about = images.about | {"identical_pairs": same}
            if name.startswith("lpips"):
                [params] = pairs.lpips.values()
                about |= {"weights_hash": weights.fingerprint(params)}
            result = records.result(name, value, protocol, seconds, num / seconds)
            results[result["name"]] = {**result, "settings": about}
        return results


def _check_written(request: Request) -> None:
    """That --write_reference has something to write, and a place for it."""
    if not request.write_reference:
        return
    metrics = [METRICS[name] for name in request.metrics]
    of_sets = [metric for metric in metrics if metric.of in OF_SETS]
    if not any(metric.compares and "embeddings" not in metric.needs for metric in of_sets):
        raise UserError("--write_reference goes with metrics that need a reference, e.g. fid")
    if len({metric.of for metric in of_sets}) > 1:
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


def _about_reference(found: Measured) -> dict[str, Any]:
    """How many images of the reference were used, which of statistics a file may not tell, and which network
    they are taken to be of where the file doesn't tell."""
    rows = [getattr(found.reference, need) for need in found.metric.needs if need in ROWS]
    about: dict[str, Any] = {"reference_images": len(rows[0]) if rows else found.reference.num}
    if not found.reference.network:
        about["reference_network"] = f"unknown, taken for {found.extractor.network.name}"
    return about
