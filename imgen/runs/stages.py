"""From a config to the stages that `imgen.train` runs.

A config holds `data`, `tokenizer`, `generator` and, under `train`, the settings of each stage: how long it
trains, with what optimiser, how often it reports. Stages run in the order of `STAGES`; one that the config
doesn't mention under `train` isn't run.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import jax

from imgen.config import plain
from imgen.config.construct import construct
from imgen.data import make_source, preprocess
from imgen.data.loader import eval_batches, train_batches
from imgen.data.teacher import WithTeacher
from imgen.decoding import Filters, Guidance
from imgen.errors import UserError
from imgen.evaluation.images.image_set import ImageSet, of_source, open_images
from imgen.interop import lpips
from imgen.params import paths
from imgen.runs.trained import (
    build_generator,
    build_tokenizer,
    check_tokenizer,
    fingerprint,
    load_carried_tokenizer,
    load_generator,
    load_tokenizer,
)
from imgen.tokenizers.losses.adversary import Adversary
from imgen.tokenizers.losses.discriminators import DISCRIMINATORS
from imgen.training.best import KeepBest
from imgen.training.evaluator import Evaluator
from imgen.training.feature_metrics import EVALS
from imgen.training.generator_task import GeneratorTask
from imgen.training.sample_metrics import SAMPLE_METRICS
from imgen.training.stage import Stage, checkpoint_dir
from imgen.training.tokenizer_task import TokenizerTask

STAGES = ("tokenizer", "generator")
LOOP_KEYS = {f.name for f in dataclasses.fields(Stage)} - {
    "name",
    "task",
    "make_train",
    "make_eval",
    "make_pictures",
    "evaluators",
}
MEASURING = ("sample_metrics", "sample_eval")  # what `evaluators` reads


def build_stages(settings, workdir: str | Path) -> Iterator[Stage]:
    """The stages in order; each is built when the one before has been trained."""
    for name in STAGES:
        if name in settings.train:
            yield {"tokenizer": tokenizer_stage, "generator": generator_stage}[name](
                settings, workdir
            )


def tokenizer_stage(settings, workdir: str | Path) -> Stage:
    """Stage 1: a tokenizer on images.

    It starts from the tokenizer of the run named in `init.tokenizer`, where there is one, and its parts
    from those of `init.parts`. A stage that has a checkpoint needs these runs no more.
    """
    loop, arguments = _split("tokenizer", settings)
    task = _tokenizer_task(settings, loop, arguments)
    init = settings.get("init", {})
    if not has_checkpoint(workdir, "tokenizer"):
        trained = {}
        if run := init.get("tokenizer"):
            trained |= paths.flatten(load_tokenizer(run).params)
        for part, run in init.get("parts", {}).items():
            found = paths.flatten(load_tokenizer(run).params) if run else {}
            trained |= {f"{part}/{path}": leaf for path, leaf in found.items()}
        task.trained = trained or None
    loop["evaluators"] = evaluators("tokenizer", settings, task, workdir)
    return _stage("tokenizer", task, settings, loop)


def generator_stage(settings, workdir: str | Path) -> Stage:
    """Stage 2: a generator on the codes of stage 1, or of the run named in `init.tokenizer`.

    It starts from the generator of the run named in `init.generator`, where there is one. A stage that
    has a checkpoint needs neither run any more.
    """
    loop, arguments = _split("generator", settings)
    tokenizer, _ = build_tokenizer(settings)
    source = open_source(settings, "eval")
    init = settings.get("init", {})
    resumes = has_checkpoint(workdir, "generator")
    trained = load_carried_tokenizer(workdir) if resumes else None
    run = workdir if "tokenizer" in settings.train else init.get("tokenizer")
    if run and trained is None:
        trained = load_tokenizer(run)
    if trained is None and settings.data.source.name != "latents":
        raise UserError(
            "the generator needs codes: set init.tokenizer to a trained tokenizer's run, or data.source "
            "to latents that imgen.encode wrote"
        )
    if trained:
        check_tokenizer(trained.module, tokenizer, run)
    if trained and getattr(source, "tokenizer_hash", None) not in (
        None,
        fingerprint(trained.params),
    ):
        raise UserError(
            f"the codes in {source.name} are not of the tokenizer in {run}: encode them again"
        )
    task = _generator_task(
        settings, loop, arguments, trained and trained.module, trained and trained.params
    )
    if init.get("generator") and not resumes:
        # Host arrays: no device should hold a copy beside its shards.
        task.trained = paths.flatten(jax.device_get(load_generator(init.generator).params))
    loop["evaluators"] = evaluators("generator", settings, task, workdir)
    return _stage("generator", task, settings, loop)


def has_checkpoint(workdir: str | Path, stage: str) -> bool:
    """Whether a stage has a checkpoint to go on from. One whose writing was cut short is none: Orbax gives it
    the name of its step when it is whole."""
    return any(path.name.isdigit() for path in checkpoint_dir(workdir, stage).glob("*"))


def evaluators(
    name: str, settings, task: GeneratorTask | TokenizerTask, workdir: str | Path
) -> tuple[Evaluator, ...]:
    """What a stage's `sample_metrics` and `sample_eval` measure of what it makes."""
    found = []
    arguments, where = _measuring(name, settings, "sample_metrics", ("generator",))
    if arguments:
        metric = arguments.pop("name", None)
        if metric not in SAMPLE_METRICS:
            raise UserError(f"{where}.name {metric!r} is none of {', '.join(SAMPLE_METRICS)}")
        found.append(Evaluator(construct(SAMPLE_METRICS[metric], arguments, where, task=task)))
    arguments, where = _measuring(name, settings, "sample_eval", STAGES)
    if arguments:
        size = settings.data.image_size
        images = functools.partial(images_of, settings)
        kept = Path(workdir) / "references"
        given = dict(task=task, size=size, open_images=images, kept=kept)
        found.append(construct(EVALS[name], arguments, where, **given))
    return tuple(found)


def _measuring(name: str, settings, key: str, stages: Sequence[str]) -> tuple[dict, str]:
    """The settings under a key of a stage that measures pictures, and where they are."""
    where = f"train.{name}.{key}"
    arguments = plain(settings.train[name]).get(key)
    if arguments and name not in stages:
        raise UserError(f"{where} is of the stage {' or '.join(stages)}")
    if arguments and not (
        settings.get("init", {}).get("tokenizer") or "tokenizer" in settings.train
    ):
        raise UserError(f"{where} needs pictures, and so a tokenizer: set init.tokenizer")
    return dict(arguments or {}), where


def images_of(settings, where: str, num: int | None = None) -> ImageSet:
    """The first `num` images of "train" or "eval", a run's own data, or of what `open_images` opens."""
    size = settings.data.image_size
    if where not in ("train", "eval"):
        crop = size if where.startswith("tfds:") else None
        data_dir = settings.data.source.get("data_dir")
        return open_images(where, num=num, size=crop, data_dir=data_dir)
    if settings.data.source.name == "latents":
        raise UserError(
            "this run was trained on stored codes: name FILE.npz, a folder or tfds:NAME:SPLIT as the "
            "reference"
        )
    source = open_source(settings, where)
    limit = settings.data[where].get("num_examples")
    num = min(limit or len(source), len(source)) if num is None else num
    return of_source(source, eval_transform(settings), size, num, **reading(settings))


def evaluation_task(name: str, settings):
    """The task of a stage, to evaluate a trained state with."""
    loop, arguments = _split(name, settings)
    if name == "tokenizer":
        return _tokenizer_task(settings, loop, arguments)
    tokenizer, _ = build_tokenizer(settings)
    return _generator_task(settings, loop, arguments, tokenizer, None)


def _tokenizer_task(settings, loop: dict, arguments: dict) -> TokenizerTask:
    tokenizer, _ = build_tokenizer(settings)
    where = "train.tokenizer"
    weights = arguments.pop("lpips_weights", None)
    adversary = arguments.pop("adversary", None)
    if adversary:
        network = _discriminator(adversary.pop("discriminator"), tokenizer.dtype, where)
        adversary = construct(Adversary, adversary, f"{where}.adversary", discriminator=network)
    return construct(
        TokenizerTask,
        arguments,
        where,
        tokenizer=tokenizer,
        total_steps=loop["steps"],
        lpips_params=lpips.load(weights) if weights else None,
        adversary=adversary,
    )


def _discriminator(which: str | dict, dtype, where: str):
    """A discriminator by its name, or {"name": ..., further arguments}."""
    where = f"config.{where}.adversary.discriminator"
    arguments = {"name": which} if isinstance(which, str) else dict(which)
    name = arguments.pop("name", None)
    if name not in DISCRIMINATORS:
        raise UserError(f"{where} {name!r} is none of {', '.join(DISCRIMINATORS)}")
    return construct(DISCRIMINATORS[name], arguments, where, dtype=dtype)


def _generator_task(settings, loop: dict, arguments: dict, tokenizer, params) -> GeneratorTask:
    _, spec = build_tokenizer(settings)
    where = "train.generator"
    guidance = construct(Guidance, arguments.pop("guidance", {}), f"{where}.guidance")
    filters = construct(Filters, arguments.pop("filters", {}), f"{where}.filters")
    return construct(
        GeneratorTask,
        arguments,
        where,
        generator=build_generator(settings, spec),
        tokenizer=tokenizer,
        tokenizer_params=params,
        total_steps=loop["steps"],
        guidance=guidance,
        filters=filters,
    )


def open_source(settings, which: str):
    """The data source of `data.train` or `data.eval`."""
    data = plain(settings.data)
    source, part = data["source"], data[which]
    part = {k: v for k, v in part.items() if k not in ("num_examples", "teacher")}
    opened = make_source(**{**source, **part})
    teacher = data[which].get("teacher")
    return WithTeacher(opened, teacher) if teacher else opened


def open_split(settings, split: str):
    """A split of a run's images, with the options that the run gives it. Raises UserError for a run that was
    trained on stored latents."""
    if settings.data.source.name == "latents":
        raise UserError("this run was trained on stored codes: name the images with --dataset")
    for which in ("train", "eval"):
        if settings.data[which].split == split:
            return open_source(settings, which)
    return make_source(**plain(settings.data.source), split=split)


def reading(settings) -> dict:
    """How a data source is read: arguments of the loader."""
    data = settings.data
    return {name: data[name] for name in ("num_workers", "max_bad_share") if name in data}


def eval_transform(settings) -> Callable:
    """What is done to an example of the held-out data: no augmentation."""
    if settings.data.source.name == "latents":
        return preprocess.EvalCodes()
    crop = "none" if settings.data.get("crop") == "none" else "center"
    return preprocess.EvalImages(settings.data.image_size, crop)


def _split(name: str, settings) -> tuple[dict, dict]:
    """A stage's settings: those of the loop, and those of the task."""
    settings = plain(settings.train[name])
    loop = {k: v for k, v in settings.items() if k in LOOP_KEYS}
    if keep_best := loop.pop("keep_best", None):
        loop["keep_best"] = construct(KeepBest, keep_best, f"train.{name}.keep_best")
    apart = LOOP_KEYS.union(MEASURING)
    return loop, {k: v for k, v in settings.items() if k not in apart}


def _stage(name: str, task, settings, loop: dict) -> Stage:
    data = settings.data
    train, held_out = open_source(settings, "train"), open_source(settings, "eval")
    if settings.data.source.name == "latents":
        train_transform = preprocess.TrainCodes()
    else:
        train_transform = preprocess.TrainImages(
            data.image_size, data.get("crop", "random"), data.get("flip", True)
        )
    hosts = dict(process_index=jax.process_index(), process_count=jax.process_count())

    def make_train(step: int):
        return train_batches(
            train,
            train_transform,
            batch_size=loop["batch_size"],
            seed=settings.seed,
            start_step=step,
            **reading(settings),
            **hosts,
        )

    def make_eval(**how):
        return eval_batches(
            held_out,
            eval_transform(settings),
            batch_size=loop["batch_size"],
            num_examples=data.eval.get("num_examples"),
            **{**reading(settings), **how},
            **hosts,
        )

    return Stage(
        name=name,
        task=task,
        make_train=make_train,
        make_eval=make_eval,
        make_pictures=lambda: make_eval(num_workers=0),  # one batch: not worth starting processes
        **loop,
    )
