"""From an experiment to the stages that `imgen.train` runs, and what has to hold before any of them does.

What is wrong with the last stage's settings should not come out after hours of the first.
"""

import logging
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import FrozenConfigDict

from imgen import config
from imgen.config.construct import construct
from imgen.errors import UserError
from imgen.parallel.mesh import check_batch_size
from imgen.params import paths
from imgen.params.fields import differences
from imgen.runs.experiment import STAGES, Experiment
from imgen.runs.run import Run, TrainedTokenizer
from imgen.tokenizers import Tokenizer
from imgen.training.checkpoint import Checkpointer
from imgen.training.evaluator import Evaluator
from imgen.training.feature_metrics import EVALS
from imgen.training.sample_metrics import SAMPLE_METRICS
from imgen.training.stage import Stage, checkpoint_dir
from imgen.training.task import Task
from imgen.training.warm_start import check_warm_start

log = logging.getLogger("imgen.train")

# Of a stage that is trained: how it is sampled from and shown.
FREE_WHEN_TRAINED = ("guidance", "filters", "sampling", "num_samples", "num_pictures")


def stages_to_train(experiment: Experiment, workdir: str | Path) -> Iterator[Stage]:
    """The stages in order; each is made when the one before has been trained."""
    for name in experiment.stages:
        yield {"tokenizer": tokenizer_stage, "generator": generator_stage}[name](
            experiment, workdir
        )


def tokenizer_stage(experiment: Experiment, workdir: str | Path) -> Stage:
    """Stage 1: a tokenizer on images.

    It starts from the tokenizer of the run named in `init.tokenizer`, where there is one, and its parts
    from those of `init.parts`. A stage that has a checkpoint needs these runs no more.
    """
    init, trained = experiment.init, {}
    if not Run(workdir).has_checkpoint("tokenizer"):
        if init.tokenizer:
            trained |= paths.flatten(Run(init.tokenizer).tokenizer().params)
        for part, run in init.parts.items():
            found = paths.flatten(Run(run).tokenizer().params) if run else {}
            trained |= {f"{part}/{path}": leaf for path, leaf in found.items()}
    task = experiment.task("tokenizer", trained=trained or None)
    return _stage("tokenizer", task, experiment, workdir)


def generator_stage(experiment: Experiment, workdir: str | Path) -> Stage:
    """Stage 2: a generator on the codes of stage 1, or of the run named in `init.tokenizer`.

    It starts from the generator of the run named in `init.generator`, where there is one. A stage that
    has a checkpoint needs neither run any more.
    """
    init = experiment.init
    resumes = Run(workdir).has_checkpoint("generator")
    tokenizer = _tokenizer_of_generator(experiment, workdir, resumes)
    given = dict(tokenizer=None, tokenizer_params=None)
    if tokenizer:
        given = dict(tokenizer=tokenizer.module, tokenizer_params=tokenizer.params)
    if init.generator and not resumes:
        # Host arrays: no device should hold a copy beside its shards.
        given["trained"] = paths.flatten(jax.device_get(Run(init.generator).generator().params))
    return _stage("generator", experiment.task("generator", **given), experiment, workdir)


def _tokenizer_of_generator(
    experiment: Experiment, workdir: str | Path, resumes: bool
) -> TrainedTokenizer | None:
    """The tokenizer whose codes a generator is trained on; None where stored codes are all there is."""
    run = None
    if "tokenizer" in experiment.stages:
        run = Run(workdir)
    elif experiment.init.tokenizer:
        run = Run(experiment.init.tokenizer)
    trained = Run(workdir).carried_tokenizer() if resumes else None
    if trained is None and run:
        run.check_tokenizer(experiment.tokenizer)
        trained = run.tokenizer()
    if trained is None:
        if experiment.data.stores_images:
            raise UserError(
                "the generator needs codes: set init.tokenizer to a trained tokenizer's run, or data.source "
                "to latents that imgen.encode wrote"
            )
        return None
    source = experiment.data.held_out
    if source.tokenizer_hash not in (None, trained.fingerprint):
        where = run.workdir if run else workdir
        raise UserError(
            f"the codes in {source.name} are not of the tokenizer in {where}: encode them again"
        )
    return trained


def _stage(name: str, task: Task, experiment: Experiment, workdir: str | Path) -> Stage:
    data, loop = experiment.data, experiment.training[name].loop
    size = loop.batch_size

    def make_eval(num_workers: int | None = None):
        return data.eval_batches("eval", data.limit("eval"), size, num_workers)

    return Stage(
        name=name,
        task=task,
        make_train=lambda step: data.train_batches(step, size, experiment.seed),
        make_eval=make_eval,
        make_pictures=lambda: make_eval(0),  # one batch: not worth starting processes
        evaluators=evaluators(name, experiment, task, workdir),
        **loop.fields(),
    )


def evaluators(
    name: str, experiment: Experiment, task: Task, workdir: str | Path
) -> tuple[Evaluator, ...]:
    """What a stage's `sample_metrics` and `sample_eval` measure of what it makes."""
    found, settings = [], experiment.training[name]
    if settings.sample_metrics:
        where = _measuring(experiment, name, "sample_metrics", ("generator",))
        arguments = dict(settings.sample_metrics)
        metric = arguments.pop("name", None)
        if metric not in SAMPLE_METRICS:
            raise UserError(f"{where}.name {metric!r} is none of {', '.join(SAMPLE_METRICS)}")
        found.append(Evaluator(construct(SAMPLE_METRICS[metric], arguments, where, task=task)))
    if settings.sample_eval:
        where = _measuring(experiment, name, "sample_eval", STAGES)
        data, kept = experiment.data, Path(workdir) / "references"
        given = dict(task=task, size=data.image_size, open_images=data.images, kept=kept)
        found.append(construct(EVALS[name], settings.sample_eval, where, **given))
    return tuple(found)


def _measuring(experiment: Experiment, name: str, key: str, stages: Sequence[str]) -> str:
    """Where the settings of what measures a stage's pictures are."""
    where = f"train.{name}.{key}"
    if name not in stages:
        raise UserError(f"{where} is of the stage {' or '.join(stages)}")
    if not experiment.has_tokenizer:
        raise UserError(f"{where} needs pictures, and so a tokenizer: set init.tokenizer")
    return where


def check(experiment: Experiment, workdir: str | Path, mesh: jax.sharding.Mesh) -> None:
    """Builds every stage's task and traces its initialisation. Raises UserError."""
    check_init(experiment, workdir)
    size = experiment.data.image_size
    for name in experiment.stages:
        task, batch_size = experiment.task(name), experiment.training[name].loop.batch_size
        check_batch_size(batch_size, mesh)
        if batch_size % task.microbatches:
            raise UserError(
                f"train.{name}.batch_size {batch_size} is not a multiple of its "
                f"{task.microbatches} microbatches"
            )
        batch = {"image": jnp.zeros((1, size, size, 3), jnp.uint8)}
        if name == "tokenizer" and experiment.data.has_teacher:
            batch["teacher"] = jnp.zeros((1, *experiment.data.train.teacher_shape))
        if name == "generator":
            batch = experiment.model.conditioner.example(1)
            check_data(experiment)
        for doubt in task.doubts():
            log.warning("%s: %s", name, doubt)
        evaluators(name, experiment, task, workdir)
        shapes = jax.eval_shape(task.init, jax.random.key(0), batch)
        _check_checkpoint(name, shapes | _frozen_shapes(task), workdir)


def _frozen_shapes(task: Task) -> dict[str, Any]:
    """Shapes of what a task carries along unchanged, but for a tokenizer, which comes from elsewhere."""
    items = {k: v for k, v in task.frozen_items.items() if k != "tokenizer"}
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), items)


def _check_checkpoint(stage: str, shapes: dict[str, Any], workdir: str | Path) -> None:
    """What training would go on from must fit."""
    if Run(workdir).has_checkpoint(stage):
        with Checkpointer(checkpoint_dir(workdir, stage), read_only=True) as checkpointer:
            checkpointer.check_latest(shapes, besides=("tokenizer",))


def check_resume(old: FrozenConfigDict, experiment: Experiment, workdir: str | Path) -> list[str]:
    """Lists, in lines, what changes of a run that has trained already.

    old: its config.   Raises UserError for another model or data, for a recipe of a stage that is trained
    and would only be stated, and for a tokenizer that would be trained further under its generator.
    """
    changes, run = config.check_resume(old, experiment.settings, workdir), Run(workdir)
    for stage in experiment.stages:
        step = run.latest_step(stage)
        if step is None:
            continue
        if stage == "tokenizer" and step < experiment.training[stage].loop.steps:
            if run.has_checkpoint("generator"):
                raise UserError(
                    f"{workdir}: its generator is of the tokenizer of step {step}, which cannot be trained "
                    f"further beside it: leave train.tokenizer.steps at {step}, or start another --workdir "
                    f"with init.tokenizer={workdir}"
                )
        if step < experiment.training[stage].loop.steps:
            continue
        for change in changes:
            group, name, key = (*change.split(":")[0].split("."), "", "")[:3]
            if (group, name) == ("train", stage) and key not in FREE_WHEN_TRAINED:
                raise UserError(
                    f"{workdir}: its {stage} is trained, so the config cannot say otherwise how ({change}): "
                    f"put it back, or give it more train.{stage}.steps"
                )
    return changes


def check_data(experiment: Experiment) -> None:
    """The data's latents and classes must be those that the model is built for, in both splits."""
    train, held_out = experiment.data.train, experiment.data.held_out
    for source in (train, held_out):
        if source.spec not in (None, experiment.spec):
            raise UserError(
                f"the codes in {source.name} are {source.spec}, config.tokenizer makes {experiment.spec}"
            )
    if train.class_names != held_out.class_names:
        raise UserError(f"{train.name} and {held_out.name} have unlike classes: mend the folders")
    conditioner = experiment.model.conditioner
    classes = conditioner.num_classes if "label" in conditioner.inputs else None
    for source in (train, held_out):
        if classes is not None and source.num_classes != classes:
            raise UserError(
                f"{source.name} has {source.num_classes or 'no'} classes, the generator {classes}: "
                f"set config.generator.conditioning.num_classes={source.num_classes}"
            )
    if "text" in conditioner.inputs or "tokens" in conditioner.inputs:
        raise UserError("no data source gives text yet: condition on classes")


def check_init(experiment: Experiment, workdir: str | Path) -> None:
    """The runs that the stages start from must be there and fit."""
    init, here = experiment.init, Run(workdir)
    trains_tokenizer = "tokenizer" in experiment.stages
    if trains_tokenizer and not here.has_checkpoint("tokenizer"):
        check_tokenizer_start(experiment)
    if "generator" not in experiment.stages or here.has_checkpoint("generator"):
        return
    if init.tokenizer and not trains_tokenizer:
        run = Run(init.tokenizer, where="init.tokenizer")
        run.check_tokenizer(experiment.tokenizer)
        run.shapes("tokenizer")
    if init.generator:
        theirs = Run(init.generator, where="init.generator").shapes("generator")
        check_warm_start(experiment.model_shapes(), theirs, init.generator, "init.generator")


def check_tokenizer_start(experiment: Experiment) -> None:
    """What a tokenizer starts from must fit, and bring everything that is never trained here."""
    tokenizer, init = experiment.tokenizer, experiment.init
    ours, given = paths.flatten(experiment.tokenizer_shapes()), set()
    if init.tokenizer:
        run = Run(init.tokenizer, where="init.tokenizer")
        theirs = paths.flatten(run.shapes("tokenizer"))
        check_warm_start(ours, theirs, init.tokenizer, "init.tokenizer")
        _check_meaning(tokenizer, run, "init.tokenizer", only_silent=True)
        given |= theirs.keys()
    for part, name in init.parts.items():
        if name:
            given |= _check_part(part, name, tokenizer, ours)
    frozen = tokenizer.frozen
    lacking = [k for k in ours if any(re.search(p, k) for p in frozen) and k not in given]
    if lacking:
        part = lacking[0].split("/")[0]
        key = f"init.parts.{part}" if part in tokenizer.parts else "init.tokenizer"
        raise UserError(
            f"tokenizer.{part} is never trained here: name the run that trained it in {key}"
        )


def _check_part(part: str, name: str, tokenizer: Tokenizer, ours: dict[str, Any]) -> set[str]:
    """The paths that the run `name` gives to a part of the tokenizer, which must be as its own."""
    where, run = f"init.parts.{part}", Run(name, where=f"init.parts.{part}")
    inside = {k.removeprefix(f"{part}/"): v for k, v in ours.items() if k.startswith(f"{part}/")}
    if part not in tokenizer.parts or not inside:
        raise UserError(f"{where}: the tokenizer has no such part")
    theirs = paths.flatten(run.shapes("tokenizer"))
    if missing := [path for path in inside if path not in theirs]:
        raise UserError(
            f"{where}: the tokenizer of {name} has no {missing[0]}: make tokenizer.{part} its settings"
        )
    check_warm_start(inside, theirs, name, where)
    _check_meaning(vars(tokenizer)[part], run, where)
    return {f"{part}/{path}" for path in theirs}


def _check_meaning(module: Tokenizer, run: Run, where: str, only_silent: bool = False) -> None:
    """Raises UserError where a run's parameters would mean something else here, though their shapes fit."""
    for found in differences(module, run.experiment.tokenizer, only_silent):
        raise UserError(f"{where}: the tokenizer here and that of {run.workdir} differ: {found}")
