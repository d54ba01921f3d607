"""Checkpoints: an Orbax CheckpointManager that tells an intact checkpoint from a damaged one.

DIR/STEP/ holds one folder per top-level key of the state, `meta` (JSON) and `checksums.json`. A
step's folder appears only when it is complete (written beside, then renamed). Orbax does not notice
flipped bytes in its data files, so the checksums are ours.
"""

import hashlib
import json
import logging
import os
import tempfile
import zlib
from collections.abc import Collection
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from orbax.checkpoint import checkpoint_managers

from imgen.errors import UserError
from imgen.params import paths
from imgen.training.task import State

CHECKSUMS = "checksums.json"
log = logging.getLogger(__name__)


def _checksums(step_dir: Path) -> dict[str, int]:
    """CRC-32 of every file of every item. The step's own files are Orbax's notes, not our data."""
    sums = {}
    for path in sorted(p for p in step_dir.glob("*/**/*") if p.is_file()):
        crc = 0
        with path.open("rb") as file:
            while block := file.read(1 << 24):
                crc = zlib.crc32(block, crc)
        sums[path.relative_to(step_dir).as_posix()] = crc
    return sums


def _everywhere(ok: bool) -> bool:
    """True if `ok` on all processes: they have to choose the same step."""
    if jax.process_count() == 1:
        return ok
    return bool(np.all(multihost_utils.process_allgather(np.array(ok))))


def _as_tree(item):
    """Orbax stores trees only; a bare array is wrapped."""
    return {"array": item} if isinstance(item, jax.Array | jax.ShapeDtypeStruct) else item


def _without_wildcards(directory: Path) -> Path:
    """A path of this directory that Orbax, which globs, takes as it is: itself, or a link to it."""
    if not set("*?[]") & set(str(directory)):
        return directory
    name = hashlib.sha256(str(directory).encode()).hexdigest()[:24]
    link = Path(tempfile.gettempdir()) / f"imgen-{os.getuid()}-{name}"
    if not link.is_symlink() or link.readlink() != directory:
        fresh = link.with_name(f"{link.name}-{os.getpid()}")
        fresh.symlink_to(directory)
        fresh.replace(link)
    return link


def _shapes(tree) -> dict[str, list[int]]:
    return {path: list(leaf.shape) for path, leaf in paths.flatten(tree).items()}


class Checkpointer:
    """Saves and restores train states in `directory`; use as a context manager or close it.

    keep: how many of the newest checkpoints stay; keep_every: also keep multiples of this step.
    read_only: for sampling beside a running training: nothing is created, moved or cleaned up.
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        keep: int = 2,
        keep_every: int | None = None,
        read_only: bool = False,
    ):
        self.directory = Path(directory).absolute()
        if read_only and not self.directory.is_dir():
            raise UserError(f"no checkpoints in {self.directory}; train first, or mend the path")
        policies = [checkpoint_managers.LatestN(keep)]
        if keep_every:
            policies.append(checkpoint_managers.EveryNSteps(keep_every))
        self._saving: int | None = None
        self._intact: dict[int, bool] = {}
        if not read_only:
            self.directory.mkdir(parents=True, exist_ok=True)
        self._manager = ocp.CheckpointManager(
            _without_wildcards(self.directory),
            options=ocp.CheckpointManagerOptions(
                preservation_policy=checkpoint_managers.AnyPreservationPolicy(policies),
                cleanup_tmp_directories=not read_only,
                read_only=read_only,
                create=not read_only,
                async_options=ocp.options.AsyncOptions(
                    post_finalization_callback=self._write_checksums
                ),
            ),
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def save(self, step: int, state: State, meta: dict[str, Any]) -> None:
        """Starts writing `state` and `meta` (JSON); the state may be donated when this returns.

        Damaged checkpoints of other steps are moved aside first, so that they neither stand in the
        way of the same step nor count among the newest that are kept. Raises ValueError where a checkpoint
        of this step or a later one is there, which Orbax would pass over in silence.
        """
        self._set_damaged_aside()
        self._saving = step
        # Some keys may hold no arrays (an optimiser without state): Orbax refuses empty items.
        items = {
            k: ocp.args.StandardSave(_as_tree(v)) for k, v in state.items() if jax.tree.leaves(v)
        }
        meta = {**meta, "step": step, "shapes": _shapes(state)}
        args = ocp.args.Composite(**items, meta=ocp.args.JsonSave(meta))
        if not self._manager.save(step, args=args):
            there = f"in {self.directory} are those of steps {self.steps()}"
            raise ValueError(f"the checkpoint of step {step} is not saved: {there}")

    def latest_step(self) -> int | None:
        """The newest step whose files are all as they were written."""
        return next((s for s in self.steps() if self._is_intact(s)), None)

    def latest_meta(self) -> dict[str, Any] | None:
        """The meta of the newest readable checkpoint, with its step; None without one."""
        step = self.latest_step()
        return None if step is None else self._meta(step)

    def check_latest(self, abstract: State, besides: Collection[str] = ()) -> None:
        """Raises UserError unless the newest readable checkpoint has the shapes of a state, but for some of
        its keys. Nothing is loaded."""
        step = self.latest_step()
        if step is not None:
            self._check_shapes(step, abstract, besides)

    def steps(self) -> list[int]:
        """The steps of all checkpoints, damaged ones too, the newest first."""
        self.wait()
        return sorted(self._manager.all_steps(), reverse=True)

    def remove(self, step: int) -> None:
        """Deletes the checkpoint of a step."""
        self._manager.delete(step)
        self._intact.pop(step, None)

    def restore_latest(self, abstract: State) -> tuple[State, dict[str, Any]] | None:
        """The newest readable (state, meta), or None if there are no checkpoints.

        abstract: the state's shapes, with the shardings wanted now; any mesh will do.

        A damaged checkpoint is passed over with a warning. Raises UserError if there are only
        damaged ones, or if a leaf's shape is not the one asked for.
        """
        steps = self.steps()
        for step in steps:
            restored = self._try_restore(step, abstract, whole=True)
            if restored is not None:
                return restored
        if steps:
            raise UserError(
                f"every checkpoint in {self.directory} is damaged; restore that directory from a "
                "backup, or move it away to start this stage again"
            )
        return None

    def has_item(self, name: str, step: int) -> bool:
        """Whether the checkpoint of `step` holds that key of the state."""
        return (self.directory / str(step) / name).is_dir()

    def restore_items(self, abstract: State, step: int | None = None) -> State:
        """Some of the state's keys, e.g. only "ema", from `step` or the newest readable checkpoint.

        Shapes without a sharding are restored onto this process's first device.
        """
        device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        abstract = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding or device),
            abstract,
        )
        for candidate in self.steps() if step is None else [step]:
            restored = self._try_restore(candidate, abstract, whole=False)
            if restored is not None:
                return restored[0]
        wanted = "readable checkpoint" if step is None else f"readable checkpoint of step {step}"
        raise UserError(f"no {wanted} in {self.directory}; train first, or mend the path")

    def wait(self) -> None:
        """Blocks until what is being written is on disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        self._manager.close()

    def _write_checksums(self) -> None:
        """Called by Orbax when a step's files are written and its folder is not yet renamed."""
        if jax.process_index() != 0:
            return
        for unfinished in self.directory.glob(f"{self._saving}.orbax-checkpoint-tmp*"):
            (unfinished / CHECKSUMS).write_text(json.dumps(_checksums(unfinished)))

    def _is_intact(self, step: int) -> bool:
        if step not in self._intact:
            ok, folder = True, self.directory / str(step)
            if jax.process_index() == 0:
                try:
                    ok = json.loads((folder / CHECKSUMS).read_text()) == _checksums(folder)
                except (OSError, ValueError):
                    ok = False
            self._intact[step] = _everywhere(ok)
            if not self._intact[step]:
                log.warning("checkpoint %s is damaged; trying the one before it", folder)
        return self._intact[step]

    def _try_restore(self, step: int, abstract: State, whole: bool):
        """(state, meta), or None if that checkpoint is damaged."""
        if not self._is_intact(step):
            return None
        saved = () if whole else self._meta(step)["shapes"]
        self._check_shapes(step, abstract, {path.split("/")[0] for path in saved} - set(abstract))
        args = {
            k: ocp.args.StandardRestore(_as_tree(v))
            for k, v in abstract.items()
            if jax.tree.leaves(v)
        }
        found = self._manager.restore(
            step, args=ocp.args.Composite(**args, meta=ocp.args.JsonRestore())
        )
        state = dict(abstract)  # items without arrays are what they are asked to be
        for key in args:
            wrapped = _as_tree(abstract[key]) is not abstract[key]
            state[key] = found[key]["array"] if wrapped else found[key]
        meta = dict(found["meta"])
        del meta["shapes"]
        return state, meta

    def _meta(self, step: int) -> dict[str, Any]:
        found = self._manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))
        return found["meta"]

    def _check_shapes(self, step: int, abstract: State, besides: Collection[str]) -> None:
        """besides: keys of the state that are not looked at."""
        saved = self._meta(step)["shapes"]
        saved = {p: s for p, s in saved.items() if p.split("/")[0] not in besides}
        asked = _shapes({key: item for key, item in abstract.items() if key not in besides})
        where = f"checkpoint {self.directory / str(step)}"
        remedy = "use the config that it was trained with, or another --workdir"
        for path in sorted(saved.keys() | asked.keys()):
            if path not in saved:
                raise UserError(f"{where} has no {path!r}, which this config asks for; {remedy}")
            if path not in asked:
                raise UserError(f"{where} has {path!r}, which this config has not; {remedy}")
            if saved[path] != asked[path]:
                raise UserError(
                    f"{where}: {path!r} has shape {tuple(saved[path])}, this config asks for "
                    f"{tuple(asked[path])}; {remedy}"
                )

    def _set_damaged_aside(self) -> None:
        self.wait()
        damaged = [step for step, intact in self._intact.items() if not intact]
        if jax.process_index() == 0:
            for step in damaged:
                aside = self.directory / f"damaged-{step}"
                while aside.exists():
                    aside = aside.with_name(aside.name + "-again")
                (self.directory / str(step)).rename(aside)
                log.warning("moved the damaged checkpoint of step %d to %s", step, aside)
        if damaged:
            if jax.process_count() > 1:
                multihost_utils.sync_global_devices("damaged checkpoints moved")
            self._manager.reload()
            self._intact = {s: ok for s, ok in self._intact.items() if ok}
