"""Reading trained models back from a run's folder."""

import dataclasses
import hashlib
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from imgen import config
from imgen.errors import UserError
from imgen.generators import Generator, make_generator
from imgen.latents import LatentSpec
from imgen.tokenizers import TOKENIZERS
from imgen.training.checkpoint import Checkpointer
from imgen.training.loop import checkpoint_dir


def construct(constructor: Callable, arguments: Mapping[str, Any], where: str, **given):
    """constructor(**given, **arguments), where a wrong key is an error of the config's group `where`."""
    arguments = plain(arguments)
    try:
        inspect.signature(constructor).bind(**given, **arguments)
    except TypeError as error:
        raise UserError(f"config.{where}: {error}") from None
    return constructor(**given, **arguments)


def plain(value):
    """Nested ConfigDicts -> dicts."""
    if isinstance(value, Mapping | ConfigDict):
        return {k: plain(v) for k, v in value.items()}
    return value


def build_tokenizer(settings) -> tuple[nn.Module, LatentSpec]:
    """The tokenizer of a run's config, and the latents of its images."""
    arguments = plain(settings.tokenizer)
    name = arguments.pop("name")
    if name not in TOKENIZERS:
        raise UserError(f"tokenizer.name {name!r} is none of {', '.join(TOKENIZERS)}")
    arguments["dtype"] = jnp.dtype(arguments.get("dtype", "float32"))
    tokenizer = construct(TOKENIZERS[name], arguments, "tokenizer")
    return tokenizer, tokenizer.spec(settings.data.image_size)


def build_generator(settings, spec: LatentSpec) -> Generator:
    """The generator of a run's config over the latents of `spec`."""
    arguments = plain(settings.generator)
    arguments["dtype"] = jnp.dtype(arguments.get("dtype", "float32"))
    return construct(make_generator, arguments, "generator", spec=spec)


@dataclasses.dataclass(frozen=True)
class TrainedTokenizer:
    """A tokenizer with its parameters, the average where one was kept."""

    module: nn.Module
    params: Any
    spec: LatentSpec
    step: int

    def encode(self, images: jax.Array) -> jax.Array:
        """Float images [B, H, W, 3] -> latents."""
        return self.module.apply({"params": self.params}, images, method="encode")


def fingerprint(params) -> str:
    """Tells one tokenizer's parameters from another's: stored codes name their maker by it."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(params):
        digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()[:16]


def load_tokenizer(run: str | Path) -> TrainedTokenizer:
    """The tokenizer that was trained in a run's folder. Raises UserError if there is none."""
    settings = config.read_config(run)
    tokenizer, spec = build_tokenizer(settings)
    params, step = _load(run, "tokenizer", _tokenizer_shapes(tokenizer, settings))
    return TrainedTokenizer(tokenizer, params, spec, step)


@dataclasses.dataclass(frozen=True)
class TrainedGenerator:
    """A generator and the tokenizer that its checkpoint carries, with their parameters."""

    module: Generator
    params: Any
    tokenizer: nn.Module
    tokenizer_params: Any
    step: int


def load_generator(run: str | Path) -> TrainedGenerator:
    """The generator that was trained in a run's folder. Raises UserError if there is none."""
    settings = config.read_config(run)
    tokenizer, spec = build_tokenizer(settings)
    generator = build_generator(settings, spec)
    codes = jnp.zeros((1, spec.positions), jnp.int32)
    cond = generator.conditioner.example(1)
    shapes = jax.eval_shape(lambda: generator.init(jax.random.key(0), codes, cond)["params"])
    params, step = _load(run, "generator", shapes)
    with Checkpointer(checkpoint_dir(run, "generator"), read_only=True) as checkpointer:
        if not (checkpoint_dir(run, "generator") / str(step) / "tokenizer").is_dir():
            raise UserError(
                f"{run} was trained on stored codes without a tokenizer, so it cannot draw pictures: "
                "train it with init.tokenizer set"
            )
        shapes = _tokenizer_shapes(tokenizer, settings)
        tokenizer_params = checkpointer.restore_items({"tokenizer": shapes}, step)["tokenizer"]
    return TrainedGenerator(generator, params, tokenizer, tokenizer_params, step)


def _tokenizer_shapes(tokenizer: nn.Module, settings):
    size = settings.data.image_size
    return jax.eval_shape(
        lambda: tokenizer.init(jax.random.key(0), jnp.zeros((1, size, size, 3)))["params"]
    )


def _load(run: str | Path, stage: str, shapes) -> tuple[Any, int]:
    """The newest readable average of the parameters, or the parameters, and their step."""
    with Checkpointer(checkpoint_dir(run, stage), read_only=True) as checkpointer:
        step = checkpointer.latest_step()
        if step is None:
            raise UserError(f"{run} has no readable checkpoint of its {stage}; train it first")
        item = "ema" if (checkpoint_dir(run, stage) / str(step) / "ema").is_dir() else "params"
        return checkpointer.restore_items({item: shapes}, step)[item], step
