"""The images that `imgen.evaluate` measures, each set with what results must say of it.

That of a run is drawn or decoded whenever it is read, on all devices and processes; the images of files are
read.
"""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from jax.sharding import NamedSharding

from imgen import config
from imgen.conditioning import conditions_for
from imgen.errors import UserError
from imgen.evaluation.images import bicubic, sample_files
from imgen.evaluation.images.image_set import Fit, ImageSet, open_images
from imgen.evaluation.prompts.clip_score import PERCENT
from imgen.parallel.mesh import replicated
from imgen.runs import sampling as drawing
from imgen.runs.stages import images_of
from imgen.runs.trained import load_tokenizer
from imgen.training.generator_task import sampler
from imgen.training.reconstructions import reconstructed, reconstructor
from imgen.training.sampling import sample_set

SPLITS = ("train", "eval")  # of a run's data, as references


@dataclasses.dataclass(frozen=True)
class Request:
    """What is measured and how: as the flags of `imgen.evaluate` that have the same names.

    metrics: of images, in an order of ours. choices: how samples are drawn.
    """

    metrics: tuple[str, ...]
    workdir: str | None = None
    samples: str | None = None
    num: int | None = None
    batch_size: int = 128
    seed: int = 0
    checkpoint: str = "latest"
    choices: drawing.Choices = drawing.Choices()
    class_balance: str = "balanced"
    reference: str | None = None
    reference_num: int | None = None
    write_reference: str | None = None
    features: str = "adm"
    features_weights: str | None = None
    lpips_weights: str | None = None
    clip_weights: str | None = None
    clip_vocab: str | None = None
    prompts: str | None = None
    clip_prefix: str = ""
    clip_scale: float = PERCENT
    image_size: int | None = None
    resize_to: int | None = None
    data_dir: str | None = None


@dataclasses.dataclass(frozen=True)
class Subject:
    """Images to be measured.

    reference: the images that they are measured against where nothing else is given; originals: the images
    that they are of, in the same order. protocol: fields of their results' Protocol; resized: what was done
    to them before the network's own resize ("torch_bicubic_256", or ""). about: what results say of them
    besides.
    """

    images: ImageSet
    reference: Callable[[], ImageSet] | None = None
    originals: ImageSet | None = None
    protocol: dict[str, Any] = dataclasses.field(default_factory=dict)
    resized: str = ""
    about: dict[str, Any] = dataclasses.field(default_factory=dict)

    def resize(self, network_resize: str) -> str:
        """As `Protocol.resize`, where a network resizes in its own way too."""
        return f"{self.resized}+{network_resize}" if self.resized else network_resize


def samples(request: Request, sharding: NamedSharding) -> Subject:
    """Drawn from the run's generator: `num` of them, label and random numbers by their number."""
    settings = config.read_config(request.workdir)
    run, sampling = drawing.open_generator(request.workdir, request.checkpoint, request.choices)
    conditions = conditions_for(
        run.module.conditioner, request.num or 50_000, request.class_balance, request.seed
    )
    images = sample_set(
        sampler(run.module, run.tokenizer, sampling),
        *_everywhere((run.params, run.tokenizer_params), sharding), conditions,
        jax.random.key(request.seed), name=f"samples of {request.workdir}",
        size=(settings.data.image_size,) * 2, sharding=sharding,
    )  # fmt: skip
    protocol = drawing.protocol(run, sampling, request.class_balance)
    about = drawing.describe(run, sampling) | {"seed": request.seed}
    reference = functools.partial(images_of, settings, "train", request.reference_num)
    return _sized(Subject(images, reference, protocol=protocol, about=about), request.resize_to)


def reconstructions(request: Request, sharding: NamedSharding) -> Subject:
    """Held-out images of the run through its tokenizer; what its decoding draws is of the seed and an image's
    number."""
    if request.resize_to:
        raise UserError("--resize_to is of samples, not of reconstructions: leave it out")
    settings = config.read_config(request.workdir)
    run = load_tokenizer(request.workdir, request.checkpoint)
    originals = images_of(settings, "eval", request.num)
    params, key = _everywhere(run.params, sharding), jax.random.key(request.seed)
    images = reconstructed(originals, reconstructor(run.module), params, sharding, key)
    about = {"step": run.step, "split": originals.name}
    return _sized(Subject(images, lambda: originals, originals, about=about))


def files(request: Request, fit: Fit | None = None) -> Subject:
    """The images of --samples; fit: how a network takes those of a folder or a data set, unless they are
    resized before. A file of imgen.sample tells how they were drawn."""
    where, protocol, about = request.samples, {}, {}
    fit = None if request.resize_to else fit
    cropped = where.startswith("tfds:") or Path(where).expanduser().is_dir()
    size = request.image_size if cropped else None
    images = open_images(where, num=request.num, size=size, data_dir=request.data_dir, fit=fit)
    if not cropped:
        protocol, about = sample_files.drawn_by(where)
    as_stored = not (fit and size is None and cropped)
    return _sized(Subject(images, protocol=protocol, about=about), request.resize_to, as_stored)


def reference(request: Request, subject: Subject, num: int | None, fit: Fit | None) -> ImageSet:
    """The images of --reference, or those that the subject is measured against by itself. Data sets and
    folders are cropped to --image_size, otherwise left to `fit`; data sets without one are cropped to the
    subject's size."""
    where, crop = request.reference, request.image_size
    if where is None:
        if subject.reference is None:
            raise UserError("--reference is needed: FILE.npz, a folder or tfds:NAME:SPLIT")
        return subject.reference()
    if where in SPLITS and request.workdir:
        return images_of(config.read_config(request.workdir), where, num)
    if where.startswith("tfds:"):
        crop = crop or (None if fit else subject.images.size[0])
    elif not Path(where).expanduser().is_dir():
        crop = None
    return open_images(where, num=num, size=crop, data_dir=request.data_dir, fit=fit)


def _sized(subject: Subject, resize_to: int | None = None, known: bool = True) -> Subject:
    """With the size of the images in the protocol, where it is known, and then resized."""
    height, width = subject.images.size
    protocol = dict(subject.protocol)
    if known:
        protocol["size"] = width if width == height else f"{width}x{height}"
    subject = dataclasses.replace(subject, protocol=protocol)
    if resize_to is None:
        return subject
    images = bicubic.resized(subject.images, resize_to)
    return dataclasses.replace(subject, images=images, resized=f"torch_bicubic_{resize_to}")


def _everywhere(params: Any, sharding: NamedSharding) -> Any:
    return jax.device_put(jax.device_get(params), replicated(sharding.mesh))
