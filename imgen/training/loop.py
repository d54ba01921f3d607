"""The training loop of one stage: the same for every task, on one device or many hosts."""

import contextlib
import functools
import logging
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from imgen.errors import NonFiniteLoss, UserError
from imgen.parallel import prefetch
from imgen.parallel.mesh import batch_sharding, check_batch_size, replicated
from imgen.report import pixels as images
from imgen.report.metrics_log import MetricWriter
from imgen.report.overview import memory_note, parameter_table
from imgen.report.progress import Progress
from imgen.report.run_page import write_report
from imgen.training.best import Best
from imgen.training.checkpoint import Checkpointer
from imgen.training.evaluator import of_first_process, sum_over
from imgen.training.signals import Interrupted, StopRequest
from imgen.training.stage import Stage, checkpoint_dir
from imgen.training.state import abstract_state, init_state, run_keys
from imgen.training.task import State

log = logging.getLogger(__name__)
REPORT_EVERY = 20.0  # seconds between two pages of a run
ASK_EVERY = 10  # steps after which several processes ask each other for a signal


def train_stage(
    stage: Stage,
    *,
    workdir: str | Path,
    mesh,
    seed: int,
    writer: MetricWriter,
    meta: dict | None = None,
) -> State | None:
    """Trains `stage` from its newest checkpoint, or from scratch, to its last step.

    meta: JSON saved in every checkpoint beside step and data position (the config, say).

    Returns the final state, or None if the stage was finished before. Raises NonFiniteLoss (no
    checkpoint is ever written of a state that is not finite), Interrupted after SIGTERM or Ctrl-C
    (a checkpoint is written first), UserError for a checkpoint that does not fit.
    """
    check_batch_size(stage.batch_size, mesh)
    folder = checkpoint_dir(workdir, stage.name)
    with (
        jax.set_mesh(mesh),
        StopRequest() as stop,
        Checkpointer(folder, keep=stage.keep, keep_every=stage.keep_every) as checkpointer,
    ):
        start = checkpointer.latest_step() or 0
        evaluated = _is_evaluated(stage, start, writer)
        if start > stage.steps or (start == stage.steps and evaluated):
            log.info("%s: already trained for %d steps", stage.name, start)
            return None
        progress = Progress(
            stage.name,
            stage.steps,
            start=start,
            items=stage.batch_size,
            noun="images",
            enabled=jax.process_index() == 0,
        )
        with prefetch.closing(stage.make_train(start)) as batches, contextlib.closing(progress):
            best = contextlib.nullcontext()
            if stage.keep_best:
                best = Best(workdir, stage.name, stage.keep_best, start, meta or {})
            with best as best:
                _prepare(stage, mesh, stop)
                run = _StageRun(
                    stage,
                    Path(workdir),
                    mesh,
                    seed,
                    writer,
                    checkpointer,
                    best,
                    meta or {},
                    batches,
                    stop,
                )
                if not evaluated:  # the run was stopped between saving and evaluating
                    run.look(start)
                return run.train(progress)


def _prepare(stage: Stage, mesh: Mesh, stop: StopRequest) -> None:
    def poll() -> None:
        if signum := stop.agreed(ask_others=True):
            raise Interrupted(
                signum,
                f"stopped before {stage.name} went on: start the same command again to go on",
            )

    for evaluator in stage.evaluators:
        if evaluator.prepare:
            evaluator.prepare(mesh, poll)


class _StageRun:
    """The loop's machinery for one call of `train_stage`: state, compiled step, clocks, rows."""

    def __init__(self, stage, workdir, mesh, seed, writer, checkpointer, best, meta, batches, stop):
        self._best, self._stop = best, stop
        self._stage, self._task, self._workdir, self._mesh = stage, stage.task, workdir, mesh
        self._seed, self._writer, self._checkpointer, self._meta = seed, writer, checkpointer, meta
        self._unlogged: tuple[int, dict] | None = None
        self._note, self._reported = "", -math.inf
        self._batches = prefetch.on_device(batches, batch_sharding(mesh))
        self._first = self._next_batch()
        self._abstract = abstract_state(self._task, self._first, self._task.sharding_rules, mesh)
        self._start_state()
        self._compile()
        self._clock = time.monotonic() - self._seconds_before
        self._window = (self._start, time.monotonic())

    def _start_state(self) -> None:
        restored = self._checkpointer.restore_latest(self._abstract)
        if restored is None:
            self._start, self._saved, self._seconds_before = 0, None, 0.0
            self._state = init_state(self._task, self._seed, self._first, self._abstract)
        else:
            self._state, meta = restored
            self._start = self._saved = meta["step"]
            self._seconds_before = meta["seconds"]
            self._check_position(meta["data"]["next_index"])
            log.info("%s: resuming after step %d", self._stage.name, self._start)
        self._writer.begin(self._stage.name, self._start)

    def _check_position(self, saved: int) -> None:
        if saved != self._start * self._stage.batch_size:
            raise UserError(
                f"{self._stage.name}: the checkpoint of step {self._start} stands at example {saved} of "
                f"the data, with this batch size it would be {self._start * self._stage.batch_size}: "
                "resume with the batch size of before"
            )

    def _compile(self) -> None:
        notes = self._task.parameter_notes(self._abstract["params"])
        rules = self._task.sharding_rules
        self._write_parameter_table(parameter_table(self._abstract, rules, self._mesh, notes))
        seed = self._seed

        def train_step(state, batch):
            key = jax.random.fold_in(run_keys(seed)[1], state["step"])
            return self._task.train_step(state, batch, key)

        shardings = jax.tree.map(lambda x: x.sharding, self._abstract)
        began = time.monotonic()
        self._train_step = (
            jax.jit(train_step, donate_argnums=0, out_shardings=(shardings, replicated(self._mesh)))
            .lower(self._abstract, self._first)
            .compile()
        )
        self._eval_step = jax.jit(self._task.eval_step, out_shardings=replicated(self._mesh))
        self._is_finite = jax.jit(_all_finite)
        seconds = time.monotonic() - began
        log.info("compiled in %.1f s; %s", seconds, memory_note(self._train_step))

    def _write_parameter_table(self, table: str) -> None:
        """RUN/parameters_STAGE.txt; the log gets the total."""
        path = self._workdir / f"parameters_{self._stage.name}.txt"
        if jax.process_index() == 0:
            path.write_text(table + "\n")
        log.info("%s: %s (%s)", self._stage.name, table.splitlines()[-1], path)

    def train(self, progress: Progress) -> State:
        stage, batch, previous = self._stage, self._first, None
        for step in range(self._start + 1, stage.steps + 1):
            with jax.transfer_guard("disallow"):
                self._state, metrics = self._train_step(self._state, batch)
            # The device is busy with this step: time for the host's work on the one before.
            self._log()
            jax.block_until_ready(previous)
            previous = metrics
            last = step == stage.steps
            if logged := stage.due(step, stage.log_every):
                self._unlogged = (step, metrics)
            signum = self._stop.agreed(ask_others=logged or step % ASK_EVERY == 0)
            if not (last or signum):
                batch = self._next_batch()
            # Saved before anything that takes long or may fail: a resumed run does what is missing.
            if saved := signum or stage.due(step, stage.checkpoint_every):
                self._pause(self._save, step)
            if signum:
                self._end(step, signum)
            looked = self.look(step)
            if saved or looked:
                self._pause(self._report, step)
            progress.update(step, self._note)
        self._checkpointer.wait()
        if signum := self._stop.agreed(ask_others=True):  # it came during the last save or report
            raise Interrupted(signum, f"stopped after {stage.name}, which is done and saved")
        return self._state

    def look(self, step: int) -> bool:
        """Pictures and evaluation, where they are due; whether there was an evaluation. A signal cuts it
        short, and the run that goes on begins with it."""
        if self._stage.shows(step):
            self._pause(self._visualize, step)
        if evaluated := self._stage.evaluates(step):
            self._pause(self._evaluate, step)
        return evaluated

    def _end(self, step: int, signum: int) -> NoReturn:
        """Obeys a signal, with the state on disk and the pictures that a resumed run would not draw again."""
        if self._saved != step:
            self._save(step)
        self._checkpointer.wait()
        if self._stage.shows(step) and not self._stage.evaluates(step):
            self._visualize(step)
        self._reported = -math.inf
        self._report(step)
        raise Interrupted(
            signum,
            f"stopped at {self._stage.name} step {step}: checkpoint saved, "
            "start the same command again to go on",
        )

    def _next_batch(self):
        try:
            return next(self._batches)
        except StopIteration:
            raise UserError(f"{self._stage.name}: the training data has ended") from None

    def _pause(self, work: Callable[[int], None], step: int) -> None:
        """Does something that is not training, and keeps its time out of the speed."""
        self._log()
        jax.block_until_ready(self._state)
        began = time.monotonic()
        work(step)
        done, since = self._window
        self._window = (done, since + time.monotonic() - began)

    def _log(self) -> None:
        """Writes the row of the last logged step, whose metrics the device has finished by now."""
        if self._unlogged is None:
            return
        step, metrics = self._unlogged
        self._unlogged = None
        values = {k: float(v) for k, v in jax.device_get(metrics).items()}
        now = time.monotonic()
        done, since = self._window
        self._window = (step, now)
        speed = (step - done) * self._stage.batch_size / max(now - since, 1e-9)
        self._writer.write(
            self._stage.name,
            step,
            {**values, "images_per_second": speed, "seconds": now - self._clock},
        )
        self._note = f"loss {values['loss']:.4g}" if "loss" in values else ""
        bad = [k for k, v in values.items() if "loss" in k and not math.isfinite(v)]
        if bad:
            raise NonFiniteLoss(self._not_finite(f"{bad[0]} is {values[bad[0]]}", step))

    def _not_finite(self, what: str, step: int) -> str:
        self._checkpointer.wait()
        good = "there is no checkpoint yet"
        if self._saved is not None:
            folder = checkpoint_dir(self._workdir, self._stage.name) / str(self._saved)
            good = f"the last good checkpoint is {folder}"
        return (
            f"{self._stage.name} step {step}: {what}; {good}. "
            f"Start again with a lower learning_rate or clip_norm in train.{self._stage.name}.optimizer, or "
            "with dtype=float32: a run may go on with these changed"
        )

    def _save(self, step: int) -> None:
        if not self._is_finite(self._state):
            raise NonFiniteLoss(self._not_finite("the parameters or moments are not finite", step))
        meta = {
            **self._meta,
            "data": {"next_index": step * self._stage.batch_size},
            "seconds": time.monotonic() - self._clock,
        }
        self._checkpointer.save(step, self._state, meta)
        self._saved = step

    def _evaluate(self, step: int) -> None:
        values = {}

        def poll() -> None:
            if signum := self._stop.agreed(ask_others=True):
                self._end(step, signum)

        if held_out := self._stage.measures_held_out(step):
            with prefetch.closing(self._stage.make_eval()) as batches:
                sums = sum_over(self._eval_step, self._state, batches, self._mesh, poll)
            if not sums:
                raise UserError(f"{self._stage.name}: the evaluation data has no batch")
            values |= self._task.summarize(sums)
        due = [e for e in self._stage.evaluators if self._stage.due(step, e.every)]
        for evaluator in due:
            values |= evaluator.measure(self._state, poll)
        values = of_first_process({f"val/{k}": float(v) for k, v in values.items()})
        if self._best:
            everything = held_out and len(due) == len(self._stage.evaluators)
            self._keep_best(step, values, everything)
        seconds = {"seconds": time.monotonic() - self._clock}
        self._writer.write(self._stage.name, step, {**values, **seconds})
        text = ", ".join(f"{k} {v:.4g}" for k, v in values.items())
        log.info("%s step %d: %s", self._stage.name, step, text)

    def _keep_best(self, step: int, values: dict[str, float], everything: bool) -> None:
        """Before the evaluation's row is written: a run that is killed in between does both again."""
        metric = self._stage.keep_best
        if everything and metric.value(values) is None:
            known = ", ".join(name.removeprefix("val/") for name in values)
            raise UserError(
                f"train.{self._stage.name}.keep_best.metric {metric.metric!r} was not measured, only {known}"
            )
        if self._best.beaten_by(values):
            if not self._is_finite(self._state):
                raise NonFiniteLoss(self._not_finite("the parameters are not finite", step))
            self._best.save(step, self._state, values)

    def _visualize(self, step: int) -> None:
        # The same key and examples every time: pictures of different steps differ by training only.
        key = run_keys(self._seed)[0]
        pictures = self._task.visualize(self._state, self._picture_batch, key)
        if jax.process_index() == 0:
            for name, picture in pictures.items():
                path = self._workdir / "samples" / self._stage.name / f"{name}_{step:08d}.png"
                images.save_png(path, images.enlarge(picture))

    @functools.cached_property
    def _picture_batch(self):
        make = self._stage.make_pictures or self._stage.make_eval
        with prefetch.closing(make()) as batches:
            return prefetch.to_global(next(iter(batches)), batch_sharding(self._mesh))

    def _report(self, step: int) -> None:
        """Writes the run's page: at the end, and before it not so often that drawing it takes long."""
        due = step == self._stage.steps or time.monotonic() >= self._reported + REPORT_EVERY
        if due and jax.process_index() == 0:
            write_report(self._workdir)
            self._reported = time.monotonic()


def _is_evaluated(stage: Stage, step: int, writer: MetricWriter) -> bool:
    """Whether what is due at a saved step has been evaluated; the first process knows."""
    if step == 0 or not stage.evaluates(step):
        return True
    done = np.array(writer.has_evaluation(stage.name, step))
    return bool(multihost_utils.broadcast_one_to_all(done) if jax.process_count() > 1 else done)


def _all_finite(tree) -> jax.Array:
    floats = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.floating)]
    return jnp.all(jnp.stack([jnp.isfinite(x).all() for x in floats]))
