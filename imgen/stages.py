"""From a config to the stages that `imgen.train` runs.

A config holds `data`, `tokenizer`, `generator` and, under `train`, the settings of each stage: how long it
trains, with what optimiser, how often it reports. Stages run in the order of `STAGES`; one that the config
doesn't mention under `train` isn't run.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp

from imgen import paths
from imgen.config import plain
from imgen.construct import construct
from imgen.data import make_source, preprocess
from imgen.data.loader import eval_batches, train_batches
from imgen.decoding import Filters, Guidance
from imgen.errors import UserError
from imgen.interop import lpips
from imgen.runs import (
    build_generator,
    build_tokenizer,
    fingerprint,
    load_generator,
    load_tokenizer,
)
from imgen.tokenizers.adversary import Adversary
from imgen.tokenizers.discriminators import DISCRIMINATORS
from imgen.training.generator_task import GeneratorTask
from imgen.training.loop import Stage
from imgen.training.sample_metrics import SAMPLE_METRICS
from imgen.training.sharding import check_batch_size
from imgen.training.tokenizer_task import TokenizerTask
from imgen.training.warm_start import check_warm_start

STAGES = ("tokenizer", "generator")
LOOP_KEYS = {f.name for f in dataclasses.fields(Stage)} - {
    "name",
    "task",
    "make_train",
    "make_eval",
}


def build_stages(settings, workdir: str | Path, mesh) -> Iterator[Stage]:
    """The stages in order; each is built when the one before has been trained."""
    for name in STAGES:
        if name in settings.train:
            yield {"tokenizer": tokenizer_stage, "generator": generator_stage}[name](
                settings, workdir
            )


def check(settings, mesh) -> None:
    """Builds every stage's task and traces its initialisation: what is wrong with the last stage's settings
    should not come out after hours of the first."""
    unknown = set(settings.train) - set(STAGES)
    if unknown:
        raise UserError(f"config.train.{unknown.pop()}: the stages are {', '.join(STAGES)}")
    size = settings.data.image_size
    for name in settings.train:
        task = evaluation_task(name, settings)
        check_batch_size(settings.train[name].batch_size, mesh)
        if settings.train[name].batch_size % task.microbatches:
            raise UserError(
                f"train.{name}.batch_size {settings.train[name].batch_size} is not a multiple of its "
                f"{task.microbatches} microbatches"
            )
        batch = {"image": jnp.zeros((1, size, size, 3), jnp.uint8)}
        if name == "generator":
            batch = task.generator.conditioner.example(1)
            _check_data(settings, task.generator)
            measure = settings.train.generator.get("sample_metrics")
            if measure and measure.name not in SAMPLE_METRICS:
                raise UserError(
                    f"train.generator.sample_metrics.name {measure.name!r} is none of "
                    f"{', '.join(SAMPLE_METRICS)}"
                )
        jax.eval_shape(task.init, jax.random.key(0), batch)


def tokenizer_stage(settings, workdir: str | Path) -> Stage:
    """Stage 1: a tokenizer on images."""
    loop, arguments = _split(settings.train.tokenizer)
    return _stage("tokenizer", _tokenizer_task(settings, loop, arguments), settings, loop)


def generator_stage(settings, workdir: str | Path) -> Stage:
    """Stage 2: a generator on the codes of stage 1, or of the run named in `init.tokenizer`.

    It starts from the generator of the run named in `init.generator`, where there is one.
    """
    loop, arguments = _split(settings.train.generator)
    tokenizer, _ = build_tokenizer(settings)
    source = open_source(settings, "eval")
    trained = None
    run = settings.get("init", {}).get("tokenizer") or ("tokenizer" in settings.train and workdir)
    if run:
        trained = load_tokenizer(run)
        if trained.module != tokenizer:
            raise UserError(
                f"config.tokenizer is not the tokenizer that was trained in {run}: copy its settings"
            )
        if getattr(source, "tokenizer_hash", None) not in (None, fingerprint(trained.params)):
            raise UserError(
                f"the codes in {source.name} are not of the tokenizer in {run}: encode them again"
            )
    elif settings.data.source.name != "latents":
        raise UserError(
            "the generator needs codes: set init.tokenizer to a trained tokenizer's run, or data.source "
            "to latents that imgen.encode wrote"
        )
    measure = arguments.pop("sample_metrics", None)
    task = _generator_task(
        settings, loop, arguments, trained and trained.module, trained and trained.params
    )
    if start := settings.get("init", {}).get("generator"):
        task.trained = _trained_parameters(start, task.generator)
    if measure:
        name = measure.pop("name")
        loop["evaluators"] = (functools.partial(SAMPLE_METRICS[name], task, **measure),)
    return _stage("generator", task, settings, loop)


def _trained_parameters(run: str, generator) -> dict:
    """Parameters by path of the generator in `run`, to start `generator` from."""
    shapes = jax.eval_shape(generator.init_params, jax.random.key(0))
    trained = paths.flatten(load_generator(run).params)
    check_warm_start(shapes, trained, run)
    return trained


def evaluation_task(name: str, settings):
    """The task of a stage, to evaluate a trained state with."""
    loop, arguments = _split(settings.train[name])
    if name == "tokenizer":
        return _tokenizer_task(settings, loop, arguments)
    arguments.pop("sample_metrics", None)
    tokenizer, _ = build_tokenizer(settings)
    return _generator_task(settings, loop, arguments, tokenizer, None)


def _tokenizer_task(settings, loop: dict, arguments: dict) -> TokenizerTask:
    tokenizer, _ = build_tokenizer(settings)
    where = "train.tokenizer"
    weights = arguments.pop("lpips_weights", None)
    adversary = arguments.pop("adversary", None)
    if adversary:
        name = adversary.pop("discriminator")
        if name not in DISCRIMINATORS:
            raise UserError(
                f"config.{where}.adversary.discriminator {name!r} is none of {', '.join(DISCRIMINATORS)}"
            )
        network = DISCRIMINATORS[name](dtype=tokenizer.dtype)
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


def _check_data(settings, generator) -> None:
    """The data's latents and classes must be those that the model is built for, in both splits."""
    _, spec = build_tokenizer(settings)
    train, held_out = open_source(settings, "train"), open_source(settings, "eval")
    classes = getattr(generator.conditioner, "num_classes", None)
    for source in (train, held_out):
        stored = getattr(source, "spec", spec)  # of stored codes
        if stored != spec:
            raise UserError(
                f"the codes in {source.name} are {stored}, config.tokenizer makes {spec}"
            )
        if classes is not None and source.num_classes != classes:
            raise UserError(
                f"{source.name} has {source.num_classes or 'no'} classes, the generator {classes}: "
                f"set config.generator.conditioning.num_classes={source.num_classes}"
            )
    if train.class_names != held_out.class_names:
        raise UserError(f"{train.name} and {held_out.name} have unlike classes: mend the folders")
    if "text" in generator.conditioner.inputs:
        raise UserError("no data source gives text features yet: condition on classes")


def open_source(settings, which: str):
    """The data source of `data.train` or `data.eval`."""
    data = plain(settings.data)
    source, part = data["source"], data[which]
    return make_source(**{**source, **{k: v for k, v in part.items() if k != "num_examples"}})


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


def _split(settings) -> tuple[dict, dict]:
    """A stage's settings: those of the loop, and those of the task."""
    settings = plain(settings)
    loop = {k: v for k, v in settings.items() if k in LOOP_KEYS}
    return loop, {k: v for k, v in settings.items() if k not in LOOP_KEYS}


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

    def make_eval():
        return eval_batches(
            held_out,
            eval_transform(settings),
            batch_size=loop["batch_size"],
            num_examples=data.eval.get("num_examples"),
            **reading(settings),
            **hosts,
        )

    return Stage(name=name, task=task, make_train=make_train, make_eval=make_eval, **loop)
