"""Quantisation without a codebook: each channel becomes its sign.

LFQ ("Language Model Beats Diffusion", section 3; MaskBit, modeling/quantizer/lookup_free.py;
Open-MAGVIT2, lookup_free_quantize.py) and BSQ, the same on the unit sphere ("Image and Video
Tokenization with Binary Spherical Quantization"; bsq-vit, models/quantizer/bsq.py).

Bit c is 1 where channel c is above 0. As one number, LFQ's codes have channel 0 lowest
(`bits.sub_codes_low_first`), BSQ's highest (`bits.sub_codes`).
"""

import math

import jax
import jax.numpy as jnp

from imgen.errors import UserError
from imgen.params.fields import training
from imgen.tokenizers.quantizers.base import (
    Layout,
    Quantized,
    Quantizer,
    l2_normalize,
    straight_through,
)
from imgen.tokenizers.quantizers.entropy import Entropies, bit_entropies

MAX_GROUP = 18  # 262,144 codes at once, as MAGVIT-v2 has them


def parts(bits: int, group_size: int | None) -> int:
    """Counts groups of bits whose joint use is measured. Raises UserError where they don't come out even."""
    size = bits if group_size is None else group_size
    if not 1 <= size <= MAX_GROUP or bits % size:
        raise UserError(
            f"group_size {size} of {bits} bits: give a divisor of {bits} of at most {MAX_GROUP}"
        )
    return bits // size


class LFQ(Quantizer):
    """Turns features [..., bits] into bits, values -1 and 1. There is nothing to learn. Defaults: MaskBit's.

    commit_weight: of mean |sg(q) - z|^2.
    entropy_weight: of H_s - gamma H_m (`entropy.bit_entropies`) of the softmax of 2 z . code /
        entropy_temperature over all codes. MaskBit starts with three times as much and lowers it
        over 2000 steps (the training task's `entropy_extra`); Open-MAGVIT2 has 0.1.
    group_size: bits of a group in H_m; None for all at once, as published.
    clip_log: MaskBit's logarithm; False for Open-MAGVIT2's (see `entropy`).
    """

    bits: int = 12
    commit_weight: float = training(0.25)
    entropy_weight: float = training(0.02)
    entropy_temperature: float = training(0.01)
    gamma: float = training(1.0)
    group_size: int | None = training(None)
    clip_log: bool = training(True)

    @property
    def layout(self) -> Layout:
        return Layout("bits", self.bits, self.bits, self.bits)

    def __call__(self, z: jax.Array, rng: jax.Array | None = None) -> Quantized:
        del rng
        z = z.astype(jnp.float32)
        bits = self.encode(z)
        q = self.decode(bits)
        losses = {"commit": self.commit_weight * jnp.mean(jnp.square(q - z))}
        stats = {}
        if self.entropy_weight:
            found = self.entropies(z)
            penalty = found.sample - self.gamma * found.code
            losses["entropy"] = self.entropy_weight * penalty
            stats = {"sample_entropy": found.sample, "code_entropy": found.code}
        return Quantized(straight_through(q, z), bits, losses, stats)

    def entropies(self, z: jax.Array) -> Entropies:
        logits = (4.0 / self.entropy_temperature) * z  # of a bit: 2 z . code differs by 4 z_c
        return bit_entropies(logits, parts(self.bits, self.group_size), clip=self.clip_log)

    def encode(self, z: jax.Array, rng: jax.Array | None = None) -> jax.Array:
        """Turns features [..., D] into int32 bits [..., D]; the same with or without a key."""
        del rng
        return (z > 0).astype(jnp.int32)

    def decode(self, latents: jax.Array) -> jax.Array:
        """Turns bits [..., D] into float32 values [..., D], -1 or 1."""
        return 2.0 * latents.astype(jnp.float32) - 1.0


class BSQ(Quantizer):
    """Turns features [..., bits] into unit vectors u -> bits, values +-1 / sqrt(bits). Nothing to learn.

    entropy_weight: of (gamma0 H_s - gamma H_m) / inv_temperature of the softmax of
        2 inv_temperature u . code over all codes. 0.1 as published, from three times as much down in the
        first 2000 steps (the training task's `entropy_extra`).
    group_size: bits of a group in H_m; the released models take each bit alone.
    commit_weight: of the mean over positions of |sg(q) - u|^2, as entropy_weight; 0 as published.
    """

    bits: int = 18
    commit_weight: float = training(0.0)
    entropy_weight: float = training(0.1)
    gamma0: float = training(1.0)
    gamma: float = training(1.0)
    inv_temperature: float = training(1.0)
    group_size: int = training(1)

    @property
    def layout(self) -> Layout:
        return Layout("bits", self.bits, self.bits, self.bits)

    def __call__(self, z: jax.Array, rng: jax.Array | None = None) -> Quantized:
        del rng
        u = l2_normalize(z.astype(jnp.float32))
        bits = self.encode(z)
        q = self.decode(bits)
        losses, stats = {}, {}
        if self.entropy_weight:
            found = self.entropies(u)
            penalty = self.gamma0 * found.sample - self.gamma * found.code
            losses["entropy"] = self.entropy_weight * penalty / self.inv_temperature
            stats = {"sample_entropy": found.sample, "code_entropy": found.code}
        if self.commit_weight:
            distance = jnp.mean(jnp.sum(jnp.square(q - u), axis=-1))
            losses["commit"] = self.commit_weight * distance
        return Quantized(straight_through(q, u), bits, losses, stats)

    def entropies(self, u: jax.Array) -> Entropies:
        logits = (4.0 * self.inv_temperature / math.sqrt(self.bits)) * u
        return bit_entropies(logits, parts(self.bits, self.group_size), epsilon=1e-8)

    def encode(self, z: jax.Array, rng: jax.Array | None = None) -> jax.Array:
        """Turns features [..., D], of unit length or not into int32 bits [..., D]; a key changes nothing."""
        del rng
        return (z > 0).astype(jnp.int32)

    def decode(self, latents: jax.Array) -> jax.Array:
        """Turns bits [..., D] into float32 values [..., D] of unit length."""
        return (2.0 * latents.astype(jnp.float32) - 1.0) / math.sqrt(self.bits)
