"""A run's folder, read back: its experiment, and the models that its checkpoints hold."""

import contextlib
import dataclasses
import functools
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import FrozenConfigDict

from imgen import config
from imgen.decoding import Sampling, check_sampling
from imgen.errors import UserError
from imgen.generators import LatentModel
from imgen.latents import LatentSpec
from imgen.parallel.mesh import batch_sharding, make_mesh, replicated, whole_batch
from imgen.report import pixels as images
from imgen.runs.experiment import Experiment
from imgen.tokenizers import Tokenizer
from imgen.training.best import best_dir
from imgen.training.checkpoint import Checkpointer
from imgen.training.stage import checkpoint_dir

CHECKPOINTS = ("latest", "best")  # best: what `keep_best` of the stage kept


@dataclasses.dataclass(frozen=True)
class TrainedTokenizer:
    """A tokenizer with its parameters, the average where one was kept."""

    module: Tokenizer
    params: Any
    spec: LatentSpec
    step: int

    @functools.cached_property
    def _compiled(self):
        @functools.partial(jax.jit, static_argnames="method")
        def apply(params, pixels, method):
            return self.module.apply({"params": params}, images.to_float(pixels), method=method)

        return apply

    @property
    def has_moments(self) -> bool:
        """Whether its latents are drawn from a distribution that can be stored."""
        return self.module.has_moments

    @functools.cached_property
    def fingerprint(self) -> str:
        """Tells its parameters from another tokenizer's: stored codes name their maker by it."""
        return fingerprint(self.params)

    def encode(self, pixels: np.ndarray) -> np.ndarray:
        """uint8 [B, H, W, 3] -> latents [B, *grid, ...], computed on all devices of this process."""
        return self._on_all_devices(pixels, "encode")

    def store(self, pixels: np.ndarray) -> np.ndarray:
        """uint8 [B, H, W, 3] -> what `imgen.encode` stores: latents, or the moments of continuous ones."""
        return self._on_all_devices(pixels, "moments" if self.has_moments else "encode")

    def _on_all_devices(self, pixels: np.ndarray, method: str) -> np.ndarray:
        mesh, rows = make_mesh(devices=jax.local_devices()), len(pixels)
        padding = whole_batch(rows, mesh) - rows
        pixels = np.pad(pixels, ((0, padding), *((0, 0),) * (pixels.ndim - 1)))
        with jax.set_mesh(mesh):
            batch = jax.device_put(pixels, batch_sharding(mesh))
            return np.asarray(self._compiled(self._replicated, batch, method))[:rows]

    @functools.cached_property
    def _replicated(self):
        return jax.device_put(self.params, replicated(make_mesh(devices=jax.local_devices())))


@dataclasses.dataclass(frozen=True)
class TrainedGenerator:
    """A generator and the tokenizer that its checkpoint carries, with their parameters."""

    module: LatentModel
    params: Any
    tokenizer: Tokenizer
    tokenizer_params: Any  # None where it was trained on stored codes without a tokenizer
    step: int


class Run:
    """A folder that `imgen.train` or `imgen.convert` wrote.

    checkpoint: of CHECKPOINTS, which of the models that were trained here are read. where: what named the
    folder, for errors.
    """

    def __init__(self, workdir: str | Path, checkpoint: str = "latest", where: str = "--workdir"):
        self.workdir = Path(workdir).expanduser()
        self._checkpoint, self._where = checkpoint, where

    @functools.cached_property
    def experiment(self) -> Experiment:
        """Of RUN/config.json. Raises UserError where there is none."""
        return Experiment.build(config.read_config(self.workdir, self._where))

    def tokenizer(self) -> TrainedTokenizer:
        """The tokenizer that was trained here, that the generator carries or that the config names.

        Raises UserError if there is none.
        """
        experiment = self.experiment
        if "tokenizer" not in experiment.stages:
            if carried := self.carried_tokenizer():
                return carried
            if experiment.init.tokenizer:
                return Run(experiment.init.tokenizer).tokenizer()
        with self._open("tokenizer") as (checkpointer, step):
            params = _averaged_params(checkpointer, step, experiment.tokenizer_shapes())
        return TrainedTokenizer(experiment.tokenizer, params, experiment.spec, step)

    def carried_tokenizer(self) -> TrainedTokenizer | None:
        """The tokenizer that the generator's newest readable checkpoint carries, if there is one."""
        folder, experiment = checkpoint_dir(self.workdir, "generator"), self.experiment
        if not folder.is_dir():
            return None
        with Checkpointer(folder, read_only=True) as checkpointer:
            step = checkpointer.latest_step()
            if step is None or not checkpointer.has_item("tokenizer", step):
                return None
            params = _tokenizer_params(checkpointer, step, experiment)
        return TrainedTokenizer(experiment.tokenizer, params, experiment.spec, step)

    def generator(self) -> TrainedGenerator:
        """The generator that was trained here. Raises UserError if there is none."""
        experiment, tokenizer_params = self.experiment, None
        shapes = experiment.model_shapes()
        with self._open("generator") as (checkpointer, step):
            params = _averaged_params(checkpointer, step, shapes)
            if checkpointer.has_item("tokenizer", step):
                tokenizer_params = _tokenizer_params(checkpointer, step, experiment)
        tokenizer = experiment.tokenizer
        return TrainedGenerator(experiment.model, params, tokenizer, tokenizer_params, step)

    def sampling(self, **asked: Any) -> Sampling:
        """Returns how samples are drawn: as the run says, but for what was asked for, by the names of the
        flags (None: as the run says). Raises UserError for what does not fit the model."""
        experiment = self.experiment
        experiment.task("generator")
        own, asked = experiment.sampling, {k: v for k, v in asked.items() if v is not None}
        names = dict(guidance="scale", guidance_interval="interval")
        guidance = {new: asked.pop(old) for old, new in names.items() if old in asked}
        filters = {k: asked.pop(k) for k in ("temperature", "top_k", "top_p") if k in asked}
        sampling = dataclasses.replace(
            own,
            guidance=dataclasses.replace(own.guidance, **guidance),
            filters=dataclasses.replace(own.filters, **filters),
            **asked,
        )
        check_sampling(experiment.model, sampling)
        return sampling

    def shapes(self, stage: str) -> Any:
        """Shapes of the parameters in the newest readable checkpoint of a stage; nothing is loaded.

        Raises UserError if there is none.
        """
        experiment = self.experiment
        if stage == "tokenizer" and stage not in experiment.stages and experiment.init.tokenizer:
            return Run(experiment.init.tokenizer).shapes(stage)
        with self._open(stage):
            if stage == "tokenizer":
                return experiment.tokenizer_shapes()
            return experiment.model_shapes()

    def has_checkpoint(self, stage: str) -> bool:
        """Whether a stage has a checkpoint to go on from."""
        return self.latest_step(stage) is not None

    def latest_step(self, stage: str) -> int | None:
        """The step of a stage's newest checkpoint; None without one. One whose writing was cut short is none:
        Orbax gives it the name of its step when it is whole."""
        folder = checkpoint_dir(self.workdir, stage)
        names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
        return max((int(name) for name in names if name.isdigit()), default=None)

    def check_tokenizer(self, expected: Tokenizer) -> None:
        """Raises UserError unless the run's tokenizer is the one that a config describes."""
        if self.experiment.tokenizer != expected:
            raise UserError(
                f"config.tokenizer is not the tokenizer that was trained in {self.workdir}: copy its settings"
            )

    @contextlib.contextmanager
    def _open(self, stage: str) -> Iterator[tuple[Checkpointer, int]]:
        """The checkpoints of a stage, to read, and the newest readable step."""
        folder = checkpoint_dir(self.workdir, stage)
        if self._checkpoint == "best":
            folder = best_dir(self.workdir, stage)
            if not folder.is_dir():
                raise UserError(
                    f"{self.workdir} kept no best checkpoint of its {stage}: set train.{stage}.keep_best, or "
                    "take the latest"
                )
        with Checkpointer(folder, read_only=True) as checkpointer:
            step = checkpointer.latest_step()
            if step is None:
                raise UserError(
                    f"{self.workdir} has no readable checkpoint of its {stage}; train it first"
                )
            yield checkpointer, step


def write_tokenizer_run(
    workdir: str | Path, settings: FrozenConfigDict, params: Any, about: dict[str, str]
) -> None:
    """Makes a folder the run of a tokenizer that was trained elsewhere, of 0 steps.

    params: of the tokenizer that the config describes, host arrays.   about: where they are from, kept in
    the checkpoint's meta.
    """
    with Checkpointer(checkpoint_dir(workdir, "tokenizer")) as checkpointer:
        state = {"params": jax.tree.map(jnp.asarray, params)}
        checkpointer.save(0, state, {**about, "data": {"next_index": 0}, "seconds": 0.0})
        checkpointer.wait()
    config.write_config(settings, workdir)


def fingerprint(params: Any) -> str:
    """16 hexadecimal digits of the parameters' bytes."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(params):
        digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()[:16]


def _replaced(record: Any, **asked: Any) -> Any:
    """A record with the fields that are not None."""
    return dataclasses.replace(record, **{k: v for k, v in asked.items() if v is not None})


def _tokenizer_params(checkpointer: Checkpointer, step: int, experiment: Experiment) -> Any:
    """What a generator's checkpoint carries."""
    shapes = {"tokenizer": experiment.tokenizer_shapes()}
    return checkpointer.restore_items(shapes, step)["tokenizer"]


def _averaged_params(checkpointer: Checkpointer, step: int, shapes: Any) -> Any:
    """The average of the parameters where one was kept, else the parameters; host arrays."""
    item = "ema" if checkpointer.has_item("ema", step) else "params"
    return checkpointer.restore_items({item: shapes}, step)[item]
