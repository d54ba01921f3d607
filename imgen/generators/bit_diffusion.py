"""Bernoulli diffusion over binary codes: a denoiser that tells which bits of a noisy code were flipped.

The block is that of the autoregressive model with full attention, shifted and gated by the time.
Shapes: B batch, P positions, D width, b bits a position. t in (0, 1): 0 is clean, 1 is coin tosses.
(Instella-T2I, `models/diff_model.py`.)
"""

import math
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from imgen.generators.arrays import content_keys
from imgen.generators.code_heads import BitEmbedding
from imgen.generators.model import Likelihood, Loss
from imgen.generators.transformer import BlockSpec, Surroundings, Transformer, modulated_exit
from imgen.latents import LatentSpec, bits
from imgen.nn.attention import SlotPositions
from imgen.nn.mlp import Init, kernel_init


class BitDiffusion(nn.Module):
    """A `LatentModel` of bits.

    grid, bits: of the latents.   conditioner: with a context and without slots (`conditioning.LayerText`).

    Starts as published: Xavier-uniform kernels and zero biases, so no gate is closed at first.
    """

    grid: tuple[int, ...]
    bits: int
    conditioner: nn.Module
    width: int
    depth: int
    heads: int
    hidden: int
    norm_eps: float = 1e-6
    init_std: Init = "xavier"
    remat: str = "none"
    dtype: jnp.dtype = jnp.float32

    likelihood: ClassVar[Likelihood] = "none"
    trains_on_likelihood: ClassVar[bool] = False
    samplers: ClassVar[tuple[str, ...]] = ("bit_diffusion",)

    @property
    def spec(self) -> LatentSpec:
        return LatentSpec("bits", self.grid, self.bits)

    @property
    def positions(self) -> int:
        return math.prod(self.grid)

    @property
    def variables_per_position(self) -> int:
        """Variables of a position."""
        return self.bits

    @property
    def variables(self) -> int:
        """Variables of an image."""
        return self.positions * self.bits

    @nn.nowrap
    def init_params(self, rng: jax.Array) -> dict:
        """Fresh parameters."""
        noisy = jnp.zeros((1, self.positions, self.bits), jnp.int32)
        return self.init(rng, noisy, jnp.zeros(1), self.conditioner.example(1))["params"]

    @nn.nowrap
    def to_codes(self, latents: jax.Array) -> jax.Array:
        """Latents [B, *grid, b] -> codes [B, P, b]."""
        return latents.reshape(len(latents), self.positions, self.bits)

    @nn.nowrap
    def to_latents(self, codes: jax.Array) -> jax.Array:
        """Codes [B, P, b] -> latents [B, *grid, b]."""
        return codes.reshape(len(codes), *self.grid, self.bits)

    def loss(
        self, codes: jax.Array, cond: dict, null: jax.Array, key: jax.Array, progress: Any = 1.0
    ) -> Loss:
        """Returns -log p of each position's clean bits given noisy ones at a random time, in nats. `key`
        draws times and noise."""
        nll = self._denoising(codes, cond, null, jax.random.split(key, len(codes)))
        return Loss(nll, jnp.ones(nll.shape), {})

    def evaluate(self, codes: jax.Array, cond: dict) -> jax.Array:
        """Returns the training loss of an image as a sum, [B], with times and noise that only its codes
        decide. It is no likelihood of the image."""
        return self._denoising(codes, cond, None, content_keys(codes)).sum(axis=1)

    def _denoising(self, codes, cond, null, keys) -> jax.Array:
        time, noise = jax.vmap(lambda key: jax.random.split(key))(keys).T
        time = jax.vmap(training_time)(time)
        noisy = jax.vmap(corrupt)(noise, codes, time)
        return denoising_nll(self(noisy, time, cond, null), noisy, codes).sum(axis=-1)

    @nn.compact
    def __call__(
        self, noisy: jax.Array, time: jax.Array, cond: dict, null: jax.Array | None = None
    ) -> jax.Array:
        """noisy [B, P, b] of 0 and 1, time [B] -> float32 logits [B, P, b] that each bit is flipped."""
        batch, init = noisy.shape[0], kernel_init(self.init_std)
        null = jnp.zeros(batch, bool) if null is None else null
        condition = self.conditioner(cond, null)

        def linear(name, features):
            return nn.Dense(features, dtype=self.dtype, kernel_init=init, name=name)

        time = nn.silu(linear("time_1", self.width)(time[:, None]))
        time = linear("time_2", self.width)(time)  # [B, D]
        x = BitEmbedding(self.width, self.init_std, self.dtype, name="tokens")(noisy)
        rows = condition.context.shape[2]
        valid = condition.context_valid
        spec = BlockSpec(
            self.heads,
            self.hidden,
            ffn="gelu",
            norm="plain",
            norm_eps=self.norm_eps,
            qk_norm=True,
            modulated=True,
            modulation_init=self.init_std,
            position_rows=self.positions,
            init_std=self.init_std,
            dtype=self.dtype,
        )
        around = Surroundings(
            positions=SlotPositions(None, None, np.arange(self.positions)),
            visible=np.full(self.positions, rows + self.positions),
            key_valid=jnp.pad(valid, ((0, 0), (0, self.positions)), constant_values=True),
            context=condition.context,
            vector=time[:, None],
        )
        x = Transformer(spec, (self.depth,), self.remat, name="transformer")(x, around)[0]
        x = modulated_exit(x, time[:, None], spec)
        return linear("output", self.bits)(x).astype(jnp.float32)


def noisy_probability(clean: jax.Array, time: jax.Array) -> jax.Array:
    """P(bit = 1) at time t (broadcast against `clean`, whose entries may be probabilities)."""
    return clean * (1 - time) + 0.5 * time


def corrupt(rng: jax.Array, clean: jax.Array, time: jax.Array) -> jax.Array:
    """Draws the noisy bits of clean ones [P, b] at a time."""
    return jax.random.bernoulli(rng, noisy_probability(clean, time)).astype(jnp.int32)


def training_time(rng: jax.Array) -> jax.Array:
    """A logistic-normal time."""
    return jax.nn.sigmoid(jax.random.normal(rng))


def denoising_nll(flip_logits: jax.Array, noisy: jax.Array, clean: jax.Array) -> jax.Array:
    """-log p of each clean bit in nats, [B, P, b]; its mean is the training loss."""
    return bits.binary_nll(bits.unflip(flip_logits, noisy), clean)
