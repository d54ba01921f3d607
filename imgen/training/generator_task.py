"""What stage 2 trains: a generator on a tokenizer's codes (LlamaGen, sections 2.2 and 3.2)."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from imgen.config.construct import construct
from imgen.config.types import check_range
from imgen.decoding import Sampling, check_sampling, draw_latents
from imgen.errors import UserError
from imgen.generators import LatentModel, backbones
from imgen.parallel.constrain import constrain
from imgen.report import pixels as images
from imgen.training import optim
from imgen.training.gradients import accumulate
from imgen.training.reconstructions import replicate
from imgen.training.task import Batch, State, Task

# Official buffers: saved, never trained, not decayed.
FROZEN = ("null_features",)
# As published: weight decay on every matrix, embeddings included, none on norm gains and biases; none on a
# denoising head (MAR).
DECAY = ((r"/(scale|bias)$", 0.0), (r"^denoiser/", 0.0), (".*", 1.0))
SHARDING_RULES = [
    (r"^params/denoiser/.*(gate_up|modulation/linear)/kernel$", ("fsdp", None, "tensor")),
    (r"^params/denoiser/.*up/kernel$", ("fsdp", "tensor")),
    (r"^params/denoiser/.*down/kernel$", ("tensor", "fsdp")),
    (r"^params/denoiser/", ()),
    (r"^params/.*attention/qkv/kernel$", ("fsdp", "tensor", None, None)),  # [D, Nkv, G + 2, H]
    (r"^params/.*attention/out/kernel$", ("tensor", None, "fsdp")),  # [N, H, D]
    (r"^params/.*gate_up/kernel$", ("fsdp", None, "tensor")),  # [D, 2, F]
    (r"^params/.*up/kernel$", ("fsdp", "tensor")),  # [D, F]
    (r"^params/.*down/kernel$", ("tensor", "fsdp")),  # [F, D]
    (r"^params/tokens/embedding$", ("tensor", "fsdp")),  # [V, D], or [t, 2^c, D]
    (r"^params/tokens/proj/kernel$", ("fsdp", None)),  # [bits, D] or [t, D, D]
    (r"^params/tokens/kernel$", (None, "fsdp")),  # [C, D]
    (r"^params/head_\d+/output/kernel$", ("fsdp", "tensor")),  # [D, V]
    (r"^params/head_\d+/outputs/kernel$", ("fsdp", None, "tensor")),  # [D, t, 2^c]
    (r"^params/.*modulation/linear/kernel$", ("fsdp", None, "tensor")),  # [D, parts, D]
    (
        r"^params/.*(compress|expand|context|modulation|time_\d|time/(in|out)|inputs_\d|output)/kernel$",
        ("fsdp", None),
    ),
    *backbones.SHARDING_RULES,
    (r"^params/positions_\d$", (None, "fsdp")),
    (r"^params/conditioner/.*(embedding|kernel)$", (None, "fsdp")),
    (
        r"^params/.*(scale|bias|special|query|mask|start|positions|position_table|target_table|slot_table|null_features)$",
        (),
    ),
    (r"^tokenizer/", ()),
]


def mean_nll(nll: jax.Array, weight: jax.Array) -> jax.Array:
    """Mean over the codes that count: sum(nll w) / max(sum w, 1). nll [B, P], weight [B, P] or [B]."""
    weight = weight.astype(jnp.float32).reshape(len(nll), -1)
    weight = jnp.broadcast_to(weight, nll.shape)
    return jnp.sum(nll * weight) / jnp.maximum(jnp.sum(weight), 1.0)


@dataclasses.dataclass
class GeneratorTask(Task):
    """A generator's own loss (next-code cross-entropy, or a flow's or diffusion's error) with a share of the
    conditions dropped.

    generator: the model.
    tokenizer: the frozen tokenizer, which encodes the images of a batch and decodes samples; None where
        batches hold codes and no tokenizer is known (no pictures then).
    tokenizer_params: its parameters; they travel in the state, so that a checkpoint can draw images.
    optimizer: arguments of `optim.make_optimizer`.   total_steps: length of the run, for its schedule.
    condition_dropout: share of samples trained on the null condition (LlamaGen: 0.1).
    z_loss: weight of the mean squared log-normaliser of the logits (Token-Shuffle's last stage: 1e-5).
    ema_decay: 0 keeps no average; evaluation and samples use the average where there is one.
    ema_warmup: see `optim.ema_decay_at`; LlamaGen's code has none.
    sample_latents: training draws an image's latents anew at every visit, where its tokenizer can (bits,
        continuous latents), as ELM does; evaluation takes the likeliest.
    microbatches: passes that a batch is cut into.
    sampling, num_samples: of the pictures.
    trained: parameters of another generator, by path, to start from (`training.warm_start`).
    """

    generator: LatentModel
    tokenizer: nn.Module | None
    tokenizer_params: Any
    optimizer: dict
    total_steps: int
    condition_dropout: float = 0.1
    z_loss: float = 0.0
    ema_decay: float = 0.0
    ema_warmup: bool = True
    sample_latents: bool = False
    microbatches: int = 1
    sampling: Sampling = Sampling()
    num_samples: int = 64
    trained: dict[str, np.ndarray] | None = None

    def __post_init__(self):
        check_range("ema_decay", self.ema_decay, 0.0, below=1.0)
        check_range("microbatches", self.microbatches, 1)
        check_range("condition_dropout", self.condition_dropout, 0.0, 1.0)
        check_range("z_loss", self.z_loss, 0.0)
        check_range("num_samples", self.num_samples, 1)
        self.optimizer = {"decay": DECAY, "frozen": FROZEN, **self.optimizer}
        self._optimizer, self._learning_rate = construct(
            optim.make_optimizer, self.optimizer, "optimizer", total_steps=self.total_steps
        )
        self.sharding_rules = SHARDING_RULES
        if self.z_loss and self.generator.likelihood == "none":
            raise UserError("z_loss keeps logits small and this generator has none: set it to 0")
        check_sampling(self.generator, self.sampling)

    @property
    def variables(self) -> int:
        """Predicted variables of an image: codes, sub-codes, bits or channels. Losses are means over them."""
        return self.generator.variables

    @property
    def frozen_items(self) -> State:
        """State that training carries along unchanged."""
        return {} if self.tokenizer is None else {"tokenizer": self.tokenizer_params}

    def parameter_notes(self, params) -> dict[str, str]:
        return optim.describe(params, **self.optimizer)

    def doubts(self) -> list[str]:
        return optim.doubts(total_steps=self.total_steps, **self.optimizer)

    def init(self, rng: jax.Array, batch: Batch) -> State:
        params = self.generator.init_params(rng)
        state = {
            "step": jnp.zeros((), jnp.int32),
            "params": params,
            "opt": self._optimizer.init(params),
        }
        if self.ema_decay:
            state["ema"] = jax.tree.map(lambda p: p.astype(jnp.float32), params)
        return state

    def train_step(self, state: State, batch: Batch, rng: jax.Array) -> tuple[State, dict]:
        def loss_fn(params, batch, rng):
            drop_key, dropout_key = jax.random.split(rng)
            draw_key = jax.random.fold_in(rng, 3) if self.sample_latents else None
            codes = self._codes(state, batch, draw_key)
            null = jax.random.bernoulli(drop_key, self.condition_dropout, codes.shape[:1])
            found = self.generator.apply(
                {"params": params},
                codes,
                self._condition(batch),
                null,
                jax.random.fold_in(rng, 2),
                state["step"] / self.total_steps,
                rngs={"dropout": dropout_key},
                method="loss",
            )
            valid = batch.get("valid", jnp.ones(len(codes)))
            weight = found.weight * valid[:, None]
            nll = mean_nll(found.per_position, weight) / self.generator.variables_per_position
            loss = nll
            if self.z_loss:
                loss += self.z_loss * mean_nll(found.extra["log_normalizer"], weight)
            return loss, {"nll": nll, "weight": jnp.sum(weight)}

        loss, means, gradient = accumulate(
            loss_fn, state["params"], batch, rng, self.microbatches, lambda aux: aux["weight"]
        )
        updates, opt = self._optimizer.update(gradient, state["opt"], state["params"])
        new = {
            **state,
            "step": state["step"] + 1,
            "params": optax.apply_updates(state["params"], updates),
            "opt": opt,
        }
        if self.ema_decay:
            decay = optim.ema_decay_at(self.ema_decay, new["step"], self.ema_warmup)
            new["ema"] = optim.ema_update(state["ema"], new["params"], decay)
        metrics = {"loss": loss}
        if self.generator.trains_on_likelihood:
            metrics["nats_per_image"] = means["nll"] * self.variables
        metrics |= {
            "grad_norm": optax.tree.norm(gradient),
            "learning_rate": self._learning_rate(optim.schedule_position(state["opt"])),
        }
        return new, metrics

    def eval_step(self, state: State, batch: Batch) -> dict[str, jax.Array]:
        """Sums over the images that count."""
        codes = self._codes(state, batch)
        nll = self.generator.apply(
            {"params": averaged(state)}, codes, self._condition(batch), method="evaluate"
        )
        return {"nll": jnp.sum(nll * batch["mask"]), "images": jnp.sum(batch["mask"])}

    def summarize(self, sums: dict[str, np.ndarray]) -> dict[str, float]:
        per_image = float(sums["nll"] / max(sums["images"], 1))
        loss = {"loss": per_image / self.variables}
        if self.generator.likelihood == "none":
            return loss
        return {**loss, "nats_per_image": per_image}

    def visualize(self, state: State, batch: Batch, rng: jax.Array) -> dict[str, np.ndarray]:
        """Returns samples of the model's own conditions, each class in turn, or of a batch's."""
        if self.tokenizer is None:
            return {}
        cond = jax.tree.map(lambda x: x[: self.num_samples], self._condition(batch))
        own = self.generator.conditioner.default_conditions(self.num_samples, "balanced", 0)
        if own is not None:
            cond = jax.tree.map(jnp.asarray, own.rows(np.arange(self.num_samples)))
        pixels = self.draw(
            averaged(state), state["tokenizer"], cond, rng, jnp.arange(len(cond_leaf(cond)))
        )
        return {"samples": images.grid(jax.device_get(replicate(pixels)))}

    @functools.cached_property
    def draw(self) -> Callable[..., jax.Array]:
        """`sampler` of this task's settings, compiled once for each number of images."""
        return sampler(self.generator, self.tokenizer, self.sampling)

    def _codes(self, state: State, batch: Batch, rng: jax.Array | None = None) -> jax.Array:
        """Codes [B, P, ...] of a batch: of stored latents, or of the frozen tokenizer's."""
        if "codes" in batch:
            latents = batch["codes"]
        else:
            pixels = images.to_float(batch["image"])
            variables = {"params": state["tokenizer"]}
            latents = self.tokenizer.apply(variables, pixels, rng, method="encode")
        return self.generator.to_codes(jax.lax.stop_gradient(latents))

    def _condition(self, batch: Batch) -> dict[str, jax.Array]:
        return {name: batch[name] for name in self.generator.conditioner.inputs}


def averaged(state: State):
    """The parameters to evaluate and to sample with: the average where there is one."""
    return state.get("ema", state["params"])


def cond_leaf(cond: dict) -> jax.Array:
    """Any array of a condition: its leading axis is the batch."""
    return next(iter(cond.values()))


def sampler(
    generator: LatentModel, tokenizer: nn.Module, sampling: Sampling = Sampling()
) -> Callable[..., jax.Array]:
    """Returns (params, tokenizer params, cond, key, sample numbers [B]) -> uint8 images [B, H, W, 3], sharded
    by rows."""

    @jax.jit
    def draw(params, tokenizer_params, cond, rng, sample_ids):
        codes = draw_latents(generator, params, cond, rng, sample_ids, sampling)
        pixels = tokenizer.apply({"params": tokenizer_params}, codes, method="decode")
        return constrain(images.to_uint8(pixels), "batch", None, None, None)

    return draw
