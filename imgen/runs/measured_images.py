"""The images that `imgen.evaluate` measures, each set with what results must say of it.

Those of a run are drawn or decoded whenever they are read, on all devices and processes; the images of files
are read.
"""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from jax.sharding import NamedSharding

from imgen.conditioning import conditions_for
from imgen.errors import UserError
from imgen.evaluation.images import bicubic, sample_files
from imgen.evaluation.images.image_set import Fit, ImageSet, open_images
from imgen.evaluation.prompts.clip_score import PERCENT
from imgen.parallel.mesh import replicated
from imgen.runs import sampling
from imgen.runs.data import SPLITS
from imgen.runs.run import Run
from imgen.training.generator_task import sampler
from imgen.training.reconstructions import reconstructed, reconstructor
from imgen.training.sampling import sample_set


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
    choices: sampling.Choices = sampling.Choices()
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
class MeasuredImages:
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


def drawn(request: Request, run: Run, sharding: NamedSharding) -> MeasuredImages:
    """Draws `num` images from the run's generator, label and random numbers by their number."""
    trained, how = sampling.open_generator(request.workdir, request.checkpoint, request.choices)
    data, num = run.experiment.data, request.num or 50_000
    conditions = conditions_for(
        trained.module.conditioner, num, request.class_balance, request.seed
    )
    images = sample_set(
        sampler(trained.module, trained.tokenizer, how),
        *_everywhere((trained.params, trained.tokenizer_params), sharding), conditions,
        jax.random.key(request.seed), name=f"samples of {request.workdir}",
        size=(data.image_size,) * 2, sharding=sharding,
    )  # fmt: skip
    protocol = sampling.protocol(trained, how, request.class_balance)
    about = sampling.describe(trained, how) | {"seed": request.seed}
    reference = functools.partial(data.images, "train", request.reference_num)
    found = MeasuredImages(images, reference, protocol=protocol, about=about)
    return _sized(found, request.resize_to)


def reconstructions(request: Request, run: Run, sharding: NamedSharding) -> MeasuredImages:
    """Decodes the latents of held-out images; what decoding draws is of the seed and an image's number."""
    if request.resize_to:
        raise UserError("--resize_to is of samples, not of reconstructions: leave it out")
    trained, originals = run.tokenizer(), run.experiment.data.images("eval", request.num)
    params, key = _everywhere(trained.params, sharding), jax.random.key(request.seed)
    images = reconstructed(originals, reconstructor(trained.module), params, sharding, key)
    about = {"step": trained.step, "split": originals.name}
    return _sized(MeasuredImages(images, lambda: originals, originals, about=about))


def files(request: Request, fit: Fit | None = None) -> MeasuredImages:
    """Opens the images of --samples; fit: how a network takes those of a folder or a data set, unless they
    are resized before. A file of imgen.sample tells how they were drawn."""
    where, protocol, about = request.samples, {}, {}
    fit = None if request.resize_to else fit
    cropped = where.startswith("tfds:") or Path(where).expanduser().is_dir()
    size = request.image_size if cropped else None
    images = open_images(where, num=request.num, size=size, data_dir=request.data_dir, fit=fit)
    if not cropped:
        protocol, about = sample_files.drawn_by(where)
    if lossy := sample_files.lossy(images.files):
        about = about | {"lossy_files": lossy}
    as_stored = not (fit and size is None and cropped)
    found = MeasuredImages(images, protocol=protocol, about=about)
    return _sized(found, request.resize_to, as_stored)


def reference_images(
    request: Request, run: Run | None, measured: MeasuredImages, num: int | None, fit: Fit | None
) -> ImageSet:
    """Opens the images of --reference, or those that others are measured against by themselves. Data sets and
    folders are cropped to --image_size, otherwise left to `fit`; data sets without one are cropped to the
    measured images' size."""
    where, crop = request.reference, request.image_size
    if where is None:
        if measured.reference is None:
            raise UserError("--reference is needed: FILE.npz, a folder or tfds:NAME:SPLIT")
        return measured.reference()
    if where in SPLITS and run:
        return run.experiment.data.images(where, num)
    if where.startswith("tfds:"):
        crop = crop or (None if fit else measured.images.size[0])
    elif not Path(where).expanduser().is_dir():
        crop = None
    return open_images(where, num=num, size=crop, data_dir=request.data_dir, fit=fit)


def _sized(
    found: MeasuredImages, resize_to: int | None = None, known: bool = True
) -> MeasuredImages:
    """With the size of the images in the protocol, where it is known, and then resized."""
    height, width = found.images.size
    protocol = dict(found.protocol)
    if known:
        protocol["size"] = width if width == height else f"{width}x{height}"
    found = dataclasses.replace(found, protocol=protocol)
    if resize_to is None:
        return found
    images = bicubic.resized(found.images, resize_to)
    return dataclasses.replace(found, images=images, resized=f"torch_bicubic_{resize_to}")


def _everywhere(params: Any, sharding: NamedSharding) -> Any:
    return jax.device_put(jax.device_get(params), replicated(sharding.mesh))
