"""A config, checked and built once: the tokenizer, the model over its latents, the data, the tasks."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import FrozenConfigDict

from imgen.config import plain
from imgen.config.construct import construct
from imgen.config.types import check_range
from imgen.decoding import sampling_from
from imgen.errors import UserError, did_you_mean
from imgen.generators import LatentModel, build_model
from imgen.interop import lpips
from imgen.latents import LatentSpec
from imgen.parallel.mesh import make_mesh
from imgen.runs.data import RunData
from imgen.runs.from_data import from_data
from imgen.tokenizers import Tokenizer, build_tokenizer
from imgen.tokenizers.losses.adversary import Adversary
from imgen.tokenizers.losses.discriminators import DISCRIMINATORS
from imgen.training.best import KeepBest
from imgen.training.generator_task import GeneratorTask
from imgen.training.stage import LoopSettings
from imgen.training.task import Task
from imgen.training.tokenizer_task import TokenizerTask

STAGES = ("tokenizer", "generator")


@dataclasses.dataclass(frozen=True)
class Init:
    """Runs that the stages start from, "" for none: `config.init`.

    tokenizer: of a run that trains none, the tokenizer that it uses; else what its training starts from.
    generator: what its training starts from.   parts: runs of parts of the tokenizer, by the part's name.
    """

    tokenizer: str = ""
    generator: str = ""
    parts: dict = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class StageSettings:
    """What `config.train.STAGE` says: of the loop, of the task, and what is measured."""

    loop: LoopSettings
    task: dict[str, Any]
    sample_metrics: dict[str, Any]
    sample_eval: dict[str, Any]


class Experiment:
    """What a config describes. Nothing of the data, of other runs or of weights is opened before it is used.

    settings: the config, to be written beside the run.   seed, mesh, init: as it says.
    tokenizer, spec: the tokenizer and the latents of its images.   model: None of a run without generator.
    data: see `RunData`.   stages: those to train, in their order.
    """

    @classmethod
    def build(cls, settings: FrozenConfigDict) -> "Experiment":
        """Opens the data only for what the config leaves to it (`from_data`).

        Raises UserError for what is wrong with the config by itself.
        """
        settings = from_data(settings)
        return construct(cls, plain(settings), "config", settings=settings)

    def __init__(
        self,
        settings: FrozenConfigDict,
        *,
        seed: int,
        data: dict,
        tokenizer: dict,
        train: dict,
        mesh: dict | None = None,
        init: dict | None = None,
        generator: dict | None = None,
    ):
        check_range("seed", seed, 0)
        self.settings, self.seed = settings, seed
        self.mesh_axes = mesh or {}
        self.init = construct(Init, init or {}, "config.init")
        self.data = construct(RunData, data, "config.data")
        self.tokenizer: Tokenizer = build_tokenizer(tokenizer)
        self.spec: LatentSpec = self.tokenizer.spec(self.data.image_size)
        self.model: LatentModel | None = None
        if generator is not None:
            self.model = build_model(generator, self.spec)
        for name in train:
            if name not in STAGES:
                hint = did_you_mean(name, STAGES) or f"there are {', '.join(STAGES)}"
                raise UserError(f"config.train has no {name!r}; {hint}")
        if not train:
            raise UserError(f"config.train is empty: say how to train {' or '.join(STAGES)}")
        self.stages = tuple(name for name in STAGES if name in train)
        self.training = {name: _stage_settings(name, train[name]) for name in self.stages}
        if self.data.has_teacher and "tokenizer" not in self.stages:
            raise UserError(
                "data.train.teacher is for the training of a tokenizer, which config.train has not: "
                "leave it out"
            )
        if "generator" in self.stages:
            self._check_generator()

    def _check_generator(self) -> None:
        stage = self.training["generator"]
        if self.model is None:
            raise UserError("config.train has a generator, config has none: set config.generator")
        if stage.task.get("sample_latents") and not self.data.stores_images:
            raise UserError(
                "sample_latents draws latents from images, but data.source holds stored ones: read the "
                "images, or set it to False"
            )
        groups = ("guidance", "filters", "sampling")
        self.sampling = sampling_from({name: stage.task.pop(name, {}) for name in groups})

    @property
    def has_tokenizer(self) -> bool:
        """Whether its tokenizer's parameters are trained here or named, so that there are pictures."""
        return bool("tokenizer" in self.stages or self.init.tokenizer)

    def make_mesh(self) -> jax.sharding.Mesh:
        return construct(make_mesh, self.mesh_axes, "config.mesh")

    def task(self, stage: str, **given: Any) -> Task:
        """The task of a stage: to evaluate with, or, with what was trained elsewhere (`given`:
        fields of the task), to train. Raises UserError."""
        if stage not in self.stages:
            raise UserError(f"this run trains no {stage}: config.train has only {self.stages}")
        settings, where = self.training[stage], f"train.{stage}"
        given["total_steps"] = settings.loop.steps
        if stage == "tokenizer":
            arguments = {
                k: v for k, v in settings.task.items() if k not in ("adversary", "lpips_weights")
            }
            given |= dict(
                tokenizer=self.tokenizer, adversary=self._adversary, lpips_params=self._lpips_params
            )
            return construct(TokenizerTask, arguments, where, **given)
        default = dict(tokenizer=self.tokenizer, tokenizer_params=None)
        given = {**default, **given, "sampling": self.sampling}
        return construct(GeneratorTask, settings.task, where, generator=self.model, **given)

    @functools.cached_property
    def _lpips_params(self) -> Any:
        weights = self.training["tokenizer"].task.get("lpips_weights")
        return lpips.load(weights) if weights else None

    @functools.cached_property
    def _adversary(self) -> Adversary | None:
        """Its "discriminator" is a name, or {"name": ..., further arguments}."""
        arguments = dict(self.training["tokenizer"].task.get("adversary") or {})
        if not arguments:
            return None
        where = "train.tokenizer.adversary"
        which = arguments.pop("discriminator", None)
        network = {"name": which} if isinstance(which, str) else dict(which or {})
        name, group = network.pop("name", None), f"config.{where}.discriminator"
        if name not in DISCRIMINATORS:
            raise UserError(f"{group} {name!r} is none of {', '.join(DISCRIMINATORS)}")
        discriminator = construct(DISCRIMINATORS[name], network, group, dtype=self.tokenizer.dtype)
        return construct(Adversary, arguments, where, discriminator=discriminator)

    def tokenizer_shapes(self) -> Any:
        """Shapes of the tokenizer's parameters."""
        size = self.data.image_size
        images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
        return jax.eval_shape(self.tokenizer.init, jax.random.key(0), images)["params"]

    def model_shapes(self) -> Any:
        """Shapes of the generator's parameters. Raises UserError where there is none."""
        if self.model is None:
            raise UserError("this run has no generator, only a tokenizer")
        return jax.eval_shape(self.model.init_params, jax.random.key(0))


def _stage_settings(name: str, given: dict) -> StageSettings:
    """`config.train.STAGE`, sorted. Raises UserError."""
    where, fields = f"config.train.{name}", [f.name for f in dataclasses.fields(LoopSettings)]
    loop = {key: value for key, value in given.items() if key in fields}
    if loop.get("keep_best"):
        loop["keep_best"] = construct(KeepBest, loop["keep_best"], f"train.{name}.keep_best")
    measured = {key: dict(given.get(key) or {}) for key in ("sample_metrics", "sample_eval")}
    task = {k: v for k, v in given.items() if k not in fields and k not in measured}
    return StageSettings(loop=construct(LoopSettings, loop, where), task=task, **measured)
