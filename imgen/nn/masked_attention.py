"""Attention whose mask has a gradient: it multiplies the soft-max's terms instead of removing scores.

Kernels start as flax has them, with deviation 1 / sqrt(fan-in). LaVIT's 0.02 is about that at its width of
1408, but starves narrow networks.

Source: LaVIT, models/modeling_visual_tokenzier.py and models/modeling_decoder.py.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from imgen.parallel.constrain import constrain
from imgen.params.fields import training

SHARDING = (  # of a `MemoryBlock`
    (r"block_\d+/\w+_attention/(query|key|value)/kernel$", ("fsdp", "tensor")),  # [D, D]
    (r"block_\d+/\w+_attention/out/kernel$", ("tensor", "fsdp")),  # [D, D]
    (r"block_\d+/up/kernel$", ("fsdp", "tensor")),  # [D, F]
    (r"block_\d+/down/kernel$", ("tensor", "fsdp")),  # [F, D]
)

NORM_EPS = 1e-5


def masked_softmax(scores: jax.Array, mask: jax.Array, epsilon: float = 1e-6) -> jax.Array:
    """Returns (a + epsilon / S) / (sum a + epsilon) with a = exp(scores - max) * mask, over the last axis.

    scores [..., S] and mask (0 or 1, of a shape that broadcasts) in float32. As in LaVIT, the maximum
    is over all S entries, and a row whose entries are all masked is uniform; its mask gets no gradient
    here, which would be of the order 1 / epsilon.
    """
    scores, mask = scores.astype(jnp.float32), mask.astype(jnp.float32)
    some = jnp.max(mask, axis=-1, keepdims=True) > 0
    mask = jnp.where(some, mask, jax.lax.stop_gradient(mask))
    peak = jax.lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True))
    terms = jnp.exp(scores - peak) * mask
    total = jnp.sum(terms, axis=-1, keepdims=True)
    return (terms + epsilon / scores.shape[-1]) / (total + epsilon)


class MaskedAttention(nn.Module):
    """Attends from x [B, T, D] to memory [B, S, D]; biases everywhere.

    mask: float 0 or 1, broadcast to [B, heads, T, S]; None sees all.
    """

    heads: int
    epsilon: float = 1e-6
    dtype: Any = training(jnp.float32)

    @nn.compact
    def __call__(self, x: jax.Array, memory: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        width = x.shape[-1]

        def project(y: jax.Array, name: str) -> jax.Array:  # [B, S, N, H]
            y = nn.Dense(width, dtype=self.dtype, name=name)(y)
            return y.reshape(*y.shape[:2], self.heads, width // self.heads)

        q, k, v = project(x, "query"), project(memory, "key"), project(memory, "value")
        scores = jnp.einsum("btnh,bsnh->bnts", q, k, preferred_element_type=jnp.float32)
        scores *= (width // self.heads) ** -0.5
        if mask is None:
            weights = nn.softmax(scores, axis=-1)
        else:
            weights = masked_softmax(scores, mask, self.epsilon)
        out = jnp.einsum("bnts,bsnh->btnh", weights.astype(self.dtype), v).reshape(x.shape)
        return nn.Dense(width, dtype=self.dtype, name="out")(out)


class MemoryBlock(nn.Module):
    """Computes x += self-attention(LN x); x += cross-attention(LN x, memory); x += MLP(LN x), with exact
    GELU.

    hidden: width of the MLP.
    memory_epsilon: of the soft-max over the memory; self-attention has 1e-6.
    """

    heads: int
    hidden: int
    memory_epsilon: float = 1e-6
    dtype: Any = training(jnp.float32)

    @nn.compact
    def __call__(
        self,
        x: jax.Array,  # [B, T, D]
        mask: jax.Array | None,  # to [B, heads, T, T]
        memory: jax.Array,  # [B, S, D]
        memory_mask: jax.Array,  # to [B, heads, T, S]
    ) -> jax.Array:
        def norm(name: str) -> nn.Module:
            return nn.LayerNorm(NORM_EPS, dtype=self.dtype, name=name)

        h = norm("self_norm")(x)
        x = x + MaskedAttention(self.heads, dtype=self.dtype, name="self_attention")(h, h, mask)
        cross = MaskedAttention(self.heads, self.memory_epsilon, self.dtype, name="cross_attention")
        x = x + cross(norm("cross_norm")(x), memory, memory_mask)
        h = norm("ffn_norm")(x)
        h = nn.Dense(self.hidden, dtype=self.dtype, name="up")(h)
        h = constrain(nn.gelu(h, approximate=False), "batch", None, "hidden")
        x = x + nn.Dense(x.shape[-1], dtype=self.dtype, name="down")(h)
        return constrain(x, "batch", None, None)
