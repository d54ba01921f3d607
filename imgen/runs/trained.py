"""Reading trained models back from a run's folder."""

import contextlib
import dataclasses
import functools
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from imgen import config
from imgen.config import plain
from imgen.config.construct import construct
from imgen.errors import UserError
from imgen.generators import GENERATORS, Generator
from imgen.latents import LatentSpec
from imgen.parallel.mesh import batch_sharding, make_mesh, replicated, whole_batch
from imgen.report import pixels as images
from imgen.tokenizers import TOKENIZERS
from imgen.training.best import best_dir
from imgen.training.checkpoint import Checkpointer
from imgen.training.stage import checkpoint_dir

PARTS = ("vae", "proxy")  # tokenizers inside tokenizers, trained elsewhere
CHECKPOINTS = ("latest", "best")  # best: what `keep_best` of the stage kept


def build_tokenizer(settings) -> tuple[nn.Module, LatentSpec]:
    """The tokenizer of a run's config, and the latents of its images."""
    tokenizer = _tokenizer(plain(settings.tokenizer), "tokenizer")
    return tokenizer, tokenizer.spec(settings.data.image_size)


def _tokenizer(arguments: dict, where: str) -> nn.Module:
    name = arguments.pop("name", None)
    if name not in TOKENIZERS:
        raise UserError(f"{where}.name {name!r} is none of {', '.join(TOKENIZERS)}")
    arguments["dtype"] = _dtype(arguments, where)
    for part in PARTS:
        if isinstance(arguments.get(part), dict):
            arguments[part] = _tokenizer(arguments[part], f"{where}.{part}")
    return construct(TOKENIZERS[name], arguments, where)


def build_generator(settings, spec: LatentSpec) -> Generator:
    """The generator of a run's config over the latents of `spec`."""
    if "generator" not in settings:
        raise UserError("this run has no generator, only a tokenizer")
    arguments = plain(settings.generator)
    arguments["dtype"] = _dtype(arguments, "generator")
    name = arguments.pop("name", "plan")
    if name not in GENERATORS:
        raise UserError(f"generator.name {name!r} is none of {', '.join(GENERATORS)}")
    return construct(GENERATORS[name], arguments, "generator", spec=spec)


def _dtype(arguments: dict, where: str) -> jnp.dtype:
    name = arguments.get("dtype", "float32")
    if name not in ("float32", "bfloat16"):
        raise UserError(f"{where}.dtype {name!r} is neither float32 nor bfloat16")
    return jnp.dtype(name)


@dataclasses.dataclass(frozen=True)
class TrainedTokenizer:
    """A tokenizer with its parameters, the average where one was kept."""

    module: nn.Module
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


def fingerprint(params) -> str:
    """Tells one tokenizer's parameters from another's: stored codes name their maker by it."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(params):
        digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()[:16]


def load_tokenizer(run: str | Path, which: str = "latest") -> TrainedTokenizer:
    """The tokenizer that a run trained, that its generator carries or that its config names.

    which: of CHECKPOINTS, where the run trained it.

    Raises UserError if there is none.
    """
    settings = config.read_config(run)
    if "tokenizer" not in settings.train:
        carried = checkpoint_dir(run, "generator").is_dir() and load_carried_tokenizer(run)
        if carried:
            return carried
        if source := settings.get("init", {}).get("tokenizer"):
            return load_tokenizer(source)
    tokenizer, spec = build_tokenizer(settings)
    with _open(run, "tokenizer", which) as (checkpointer, step):
        params = _averaged_params(checkpointer, step, tokenizer_shapes(tokenizer, settings))
    return TrainedTokenizer(tokenizer, params, spec, step)


def write_tokenizer_run(workdir: str | Path, settings, params: Any, about: dict[str, str]) -> None:
    """Makes a folder the run of a tokenizer that was trained elsewhere, of 0 steps.

    params: of the tokenizer that the config describes, host arrays.   about: where they are from, kept in
    the checkpoint's meta.
    """
    with Checkpointer(checkpoint_dir(workdir, "tokenizer")) as checkpointer:
        state = {"params": jax.tree.map(jnp.asarray, params)}
        checkpointer.save(0, state, {**about, "data": {"next_index": 0}, "seconds": 0.0})
        checkpointer.wait()
    config.write_config(settings, workdir)


def load_carried_tokenizer(run: str | Path) -> TrainedTokenizer | None:
    """The tokenizer that the newest readable checkpoint of a run's generator carries, if there is one."""
    settings = config.read_config(run)
    tokenizer, spec = build_tokenizer(settings)
    with Checkpointer(checkpoint_dir(run, "generator"), read_only=True) as checkpointer:
        step = checkpointer.latest_step()
        if step is None or not checkpointer.has_item("tokenizer", step):
            return None
        shapes = {"tokenizer": tokenizer_shapes(tokenizer, settings)}
        params = checkpointer.restore_items(shapes, step)["tokenizer"]
    return TrainedTokenizer(tokenizer, params, spec, step)


def check_tokenizer(trained: nn.Module, expected: nn.Module, run: str | Path) -> None:
    """Raises UserError unless the tokenizer of a run is the one that a config describes."""
    if trained != expected:
        raise UserError(
            f"config.tokenizer is not the tokenizer that was trained in {run}: copy its settings"
        )


# Fields that say how a module is trained or computed, not what it makes of its parameters.
TRAINING = re.compile(r"(parent|name|dtype|remat|\w*dropout|\w*_weight|\w*init\w*)")
# Of what a tokenizer starts from: fields that change what its parameters mean and that no shape shows.
SILENT = ("groups", "image_range", "l2_norm", "legacy", "position_scale", "rope_pairing", "levels")


def differences(one: Any, other: Any, where: str = "") -> list[str]:
    """The fields by which two modules compute unlike things, as "decoder.groups 8, not 32"."""
    if not (isinstance(one, nn.Module) and type(one) is type(other)):
        return [] if one == other else [f"{where} {_short(one)}, not {_short(other)}".lstrip()]
    names = [f.name for f in dataclasses.fields(one) if not TRAINING.fullmatch(f.name)]
    return [
        found
        for name in names
        for found in differences(
            getattr(one, name), getattr(other, name), f"{where}.{name}".lstrip(".")
        )
    ]


def _short(value: Any) -> str:
    return type(value).__name__ if isinstance(value, nn.Module) else repr(value)


def saved_shapes(
    run: str | Path, stage: str, expected: nn.Module | None = None, where: str = "--workdir"
):
    """Shapes of the parameters in the newest readable checkpoint of a run's stage; nothing is loaded.
    where: what names the run, for errors.

    Raises UserError if there is none, or if the run's tokenizer is not the `expected` one.
    """
    settings = config.read_config(run, where)
    tokenizer, spec = build_tokenizer(settings)
    if expected is not None:
        check_tokenizer(tokenizer, expected, run)
    source = settings.get("init", {}).get("tokenizer")
    if stage == "tokenizer" and stage not in settings.train and source:
        return saved_shapes(source, stage)
    with _open(run, stage):
        if stage == "tokenizer":
            return tokenizer_shapes(tokenizer, settings)
        return jax.eval_shape(build_generator(settings, spec).init_params, jax.random.key(0))


@dataclasses.dataclass(frozen=True)
class TrainedGenerator:
    """A generator and the tokenizer that its checkpoint carries, with their parameters."""

    module: Generator
    params: Any
    tokenizer: nn.Module
    tokenizer_params: Any  # None where it was trained on stored codes without a tokenizer
    step: int


def load_generator(run: str | Path, which: str = "latest") -> TrainedGenerator:
    """The generator that was trained in a run's folder; which: of CHECKPOINTS.

    Raises UserError if there is none.
    """
    settings = config.read_config(run)
    tokenizer, spec = build_tokenizer(settings)
    generator = build_generator(settings, spec)
    shapes = jax.eval_shape(generator.init_params, jax.random.key(0))
    tokenizer_params = None
    with _open(run, "generator", which) as (checkpointer, step):
        params = _averaged_params(checkpointer, step, shapes)
        if checkpointer.has_item("tokenizer", step):
            shapes = tokenizer_shapes(tokenizer, settings)
            tokenizer_params = checkpointer.restore_items({"tokenizer": shapes}, step)["tokenizer"]
    return TrainedGenerator(generator, params, tokenizer, tokenizer_params, step)


def tokenizer_shapes(tokenizer: nn.Module, settings):
    """Shapes of a tokenizer's parameters."""
    size = settings.data.image_size
    return jax.eval_shape(
        lambda: tokenizer.init(jax.random.key(0), jnp.zeros((1, size, size, 3)))["params"]
    )


@contextlib.contextmanager
def _open(run: str | Path, stage: str, which: str = "latest") -> Iterator[tuple[Checkpointer, int]]:
    """The checkpoints of a stage, to read, and the newest readable step."""
    folder = checkpoint_dir(run, stage)
    if which == "best":
        folder = best_dir(run, stage)
        if not folder.is_dir():
            raise UserError(
                f"{run} kept no best checkpoint of its {stage}: set train.{stage}.keep_best, or take "
                "the latest"
            )
    with Checkpointer(folder, read_only=True) as checkpointer:
        step = checkpointer.latest_step()
        if step is None:
            raise UserError(f"{run} has no readable checkpoint of its {stage}; train it first")
        yield checkpointer, step


def _averaged_params(checkpointer: Checkpointer, step: int, shapes):
    """The average of the parameters where one was kept, else the parameters; host arrays."""
    item = "ema" if checkpointer.has_item("ema", step) else "params"
    return checkpointer.restore_items({item: shapes}, step)[item]
