"""Llama's block without a causal mask, as 1D tokenizers use it (Instella-T2I, bae/llama_attn.py)."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from imgen.nn.attention import attend
from imgen.nn.axial_rope import Pairing, Rotation, rotate
from imgen.nn.mlp import GatedMLP, Init, kernel_init
from imgen.nn.norms import RMSNorm
from imgen.parallel.constrain import constrain
from imgen.params.fields import silent, training

SHARDING = (
    (r"block_\d+/attention/qkv/kernel$", ("fsdp", "tensor", None, None)),  # [D, N, 3, H]
    (r"block_\d+/attention/out/kernel$", ("tensor", None, "fsdp")),  # [N, H, D]
    (r"block_\d+/ffn/gate_up/kernel$", ("fsdp", None, "tensor")),  # [D, 2, F]
    (r"block_\d+/ffn/down/kernel$", ("tensor", "fsdp")),  # [F, D]
)


class SelfAttention(nn.Module):
    """Attends: every token sees all, or token t those before visible[t]. No biases. [B, T, D] -> [B, T, D].

    Queries and keys get an RMSNorm over each head's channels, then their rotary position. The
    projections are one kernel [D, N, 3, H].
    """

    heads: int
    pairing: Pairing = silent("official")
    init: Init = training("torch")
    norm_eps: float = 1e-6
    dtype: Any = training(jnp.float32)

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        tables: Rotation | None = None,
        visible: jax.Array | None = None,  # [T]
    ) -> jax.Array:
        width = x.shape[-1]
        common = {
            "use_bias": False,
            "dtype": self.dtype,
            "kernel_init": kernel_init(self.init),
        }
        qkv = nn.DenseGeneral((self.heads, 3, width // self.heads), **common, name="qkv")(x)
        qkv = constrain(qkv, "batch", None, "heads", None, None)
        q = RMSNorm(self.norm_eps, name="q_norm")(qkv[:, :, :, 0])
        k = RMSNorm(self.norm_eps, name="k_norm")(qkv[:, :, :, 1])
        v = qkv[:, :, :, 2]
        if tables is not None:
            q, k = rotate(q, tables, self.pairing), rotate(k, tables, self.pairing)
        if visible is None:
            out = jax.nn.dot_product_attention(q, k, v)
        else:
            out = attend(q, k, v, visible)
        return nn.DenseGeneral(width, axis=(-2, -1), **common, name="out")(out)


class Block(nn.Module):
    """Computes x += attention(RMSNorm(x)); x += SwiGLU(RMSNorm(x)), of hidden width `hidden`."""

    heads: int
    hidden: int
    pairing: Pairing = silent("official")
    init: Init = training("torch")
    norm_eps: float = 1e-6
    dtype: Any = training(jnp.float32)

    @nn.compact
    def __call__(
        self,
        x: jax.Array,  # [B, T, D]
        tables: Rotation | None = None,
        visible: jax.Array | None = None,  # [T]
    ) -> jax.Array:
        attention = SelfAttention(
            self.heads, self.pairing, self.init, self.norm_eps, self.dtype, name="attention"
        )
        x = x + attention(RMSNorm(self.norm_eps, name="attention_norm")(x), tables, visible)
        ffn = GatedMLP(self.hidden, self.init, self.dtype, name="ffn")
        x = x + ffn(RMSNorm(self.norm_eps, name="ffn_norm")(x))
        return constrain(x, "batch", None, None)
