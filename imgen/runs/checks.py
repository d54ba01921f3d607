"""What is wrong with a config, found before anything is trained.

What is wrong with the last stage's settings should not come out after hours of the first.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp

from imgen.config import plain, read_config
from imgen.errors import UserError, did_you_mean
from imgen.parallel.mesh import check_batch_size
from imgen.params import paths
from imgen.runs.stages import STAGES, evaluation_task, evaluators, has_checkpoint, open_source
from imgen.runs.trained import (
    PARTS,
    SILENT,
    build_generator,
    build_tokenizer,
    differences,
    saved_shapes,
    tokenizer_shapes,
)
from imgen.training.warm_start import check_warm_start

GROUPS = ("seed", "mesh", "data", "tokenizer", "init", "generator", "train")
DATA = ("source", "train", "eval", "image_size", "crop", "flip", "num_workers", "max_bad_share")
INIT = ("tokenizer", "generator", "parts")


def check(settings, workdir: str | Path, mesh) -> None:
    """Builds every stage's task and traces its initialisation. Raises UserError."""
    check_keys(settings)
    check_init(settings, workdir)
    size = settings.data.image_size
    for name in settings.train:
        stage = settings.train[name]
        task = evaluation_task(name, settings)
        check_batch_size(stage.batch_size, mesh)
        if task.microbatches < 1 or stage.batch_size % task.microbatches:
            raise UserError(
                f"train.{name}.batch_size {stage.batch_size} is not a multiple of its "
                f"{task.microbatches} microbatches"
            )
        batch = {"image": jnp.zeros((1, size, size, 3), jnp.uint8)}
        if name == "tokenizer" and settings.data.train.get("teacher"):
            shape = open_source(settings, "train").teacher_shape
            batch["teacher"] = jnp.zeros((1, *shape))
        if name == "generator":
            batch = task.generator.conditioner.example(1)
            check_data(settings, task.generator)
        evaluators(name, settings, task, workdir)
        jax.eval_shape(task.init, jax.random.key(0), batch)


def check_keys(settings) -> None:
    """Names and ranges of what no constructor sees."""
    _known(settings, GROUPS, "config", needed=("seed", "data", "tokenizer", "train"))
    _known(settings.data, DATA, "config.data", needed=DATA[:4])
    _known(settings.get("init", {}), INIT, "config.init")
    _known(settings.train, STAGES, "config.train")
    for which in ("source", "train", "eval"):
        key = "name" if which == "source" else "split"
        if not plain(settings.data[which]).get(key):
            raise UserError(f"config.data.{which} lacks {key!r}")
    for name, stage in settings.train.items():
        for field in ("steps", "batch_size"):
            if not isinstance(stage.get(field), int) or stage[field] < 1:
                raise UserError(f"config.train.{name}.{field}: a whole number above 0 is needed")
    if settings.data.train.get("teacher") and (
        settings.data.get("flip", True) or settings.data.get("crop", "random") == "random"
    ):
        raise UserError(
            "data.train.teacher holds features of the images as they are stored: set data.flip=False and "
            "data.crop to none or center"
        )
    if settings.data.train.get("teacher") and "tokenizer" not in settings.train:
        raise UserError(
            "data.train.teacher is for the training of a tokenizer, which config.train has not: leave it out"
        )
    if settings.data.source.name == "latents" and "generator" in settings.train:
        if settings.train.generator.get("sample_latents"):
            raise UserError(
                "sample_latents draws latents from images, but data.source holds stored ones: read the "
                "images, or set it to False"
            )
    for group, field, least in (
        (settings, "seed", 0), (settings.data, "image_size", 1), (settings.data, "num_workers", 0)
    ):  # fmt: skip
        if group.get(field, least) < least:
            raise UserError(f"{field} {group[field]}: it must be at least {least}")


def _known(group, known: Sequence[str], where: str, needed: Sequence[str] = ()) -> None:
    for key in group:
        if key not in known:
            hint = did_you_mean(key, known) or f"there are {', '.join(known)}"
            raise UserError(f"{where} has no {key!r}; {hint}")
    for key in needed:
        if key not in group:
            raise UserError(f"{where} lacks {key!r}")


def check_init(settings, workdir: str | Path) -> None:
    """The runs that the stages start from must be there and fit."""
    init = settings.get("init", {})
    tokenizer, spec = build_tokenizer(settings)
    trains_tokenizer = "tokenizer" in settings.train
    if trains_tokenizer and not has_checkpoint(workdir, "tokenizer"):
        check_tokenizer_start(tokenizer, settings, init)
    if "generator" not in settings.train or has_checkpoint(workdir, "generator"):
        return
    if (run := init.get("tokenizer")) and not trains_tokenizer:
        saved_shapes(run, "tokenizer", tokenizer, "init.tokenizer")
    if run := init.get("generator"):
        ours = jax.eval_shape(build_generator(settings, spec).init_params, jax.random.key(0))
        where = "init.generator"
        check_warm_start(ours, saved_shapes(run, "generator", where=where), run, where)


def check_tokenizer_start(tokenizer, settings, init) -> None:
    """What a tokenizer starts from must fit, and bring everything that is never trained here."""
    ours, given = paths.flatten(tokenizer_shapes(tokenizer, settings)), set()
    if run := init.get("tokenizer"):
        theirs = paths.flatten(saved_shapes(run, "tokenizer", where="init.tokenizer"))
        check_warm_start(ours, theirs, run, "init.tokenizer")
        _check_meaning(tokenizer, run, "init.tokenizer", SILENT)
        given |= theirs.keys()
    for part, run in plain(init.get("parts", {})).items():
        if not run:
            continue
        where = f"init.parts.{part}"
        inside = {
            k.removeprefix(f"{part}/"): v for k, v in ours.items() if k.startswith(f"{part}/")
        }
        if part not in PARTS or not inside:
            raise UserError(f"{where}: the tokenizer has no such part")
        theirs = paths.flatten(saved_shapes(run, "tokenizer", where=where))
        if missing := [path for path in inside if path not in theirs]:
            raise UserError(
                f"{where}: the tokenizer of {run} has no {missing[0]}: make tokenizer.{part} its settings"
            )
        check_warm_start(inside, theirs, run, where)
        _check_meaning(getattr(tokenizer, part), run, where)
        given |= {f"{part}/{path}" for path in theirs}
    lacking = [k for k in ours if any(re.search(p, k) for p in tokenizer.frozen) and k not in given]
    if lacking:
        part = lacking[0].split("/")[0]
        key = f"init.parts.{part}" if part in PARTS else "init.tokenizer"
        raise UserError(
            f"tokenizer.{part} is never trained here: name the run that trained it in {key}"
        )


def _check_meaning(module, run: str, where: str, fields: Sequence[str] | None = None) -> None:
    """Raises UserError where a run's parameters would mean something else here, though their shapes fit.
    fields: those that are looked at, all by default."""
    trained, _ = build_tokenizer(read_config(run, where))
    for found in differences(module, trained):
        if fields is None or found.split(" ")[0].split(".")[-1] in fields:
            raise UserError(f"{where}: the tokenizer here and that of {run} differ: {found}")


def check_data(settings, generator) -> None:
    """The data's latents and classes must be those that the model is built for, in both splits."""
    _, spec = build_tokenizer(settings)
    train, held_out = open_source(settings, "train"), open_source(settings, "eval")
    for source in (train, held_out):
        stored = getattr(source, "spec", spec)  # of stored codes
        if stored != spec:
            raise UserError(
                f"the codes in {source.name} are {stored}, config.tokenizer makes {spec}"
            )
    if train.class_names != held_out.class_names:
        raise UserError(f"{train.name} and {held_out.name} have unlike classes: mend the folders")
    classes = getattr(generator.conditioner, "num_classes", None)
    for source in (train, held_out):
        if classes is not None and source.num_classes != classes:
            raise UserError(
                f"{source.name} has {source.num_classes or 'no'} classes, the generator {classes}: "
                f"set config.generator.conditioning.num_classes={source.num_classes}"
            )
    if "text" in generator.conditioner.inputs or "tokens" in generator.conditioner.inputs:
        raise UserError("no data source gives text yet: condition on classes")
