"""Blocks of vision transformers in which all slots see each other.

Shapes: B batch, S slots, D width.
"""

import functools
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from imgen.errors import UserError
from imgen.nn.attention import Attention, SlotPositions
from imgen.nn.dropout import Dropout
from imgen.nn.mlp import GeluMLP, Init, kernel_init
from imgen.parallel.constrain import constrain

NOWHERE = SlotPositions(None, None, None)  # slots without rotary positions


def check_heads(width: int, heads: int) -> None:
    """Raises UserError for heads that don't divide a width."""
    if width % heads:
        raise UserError(f"{heads} heads do not divide a width of {width}: change one of them")


class PostNormBlock(nn.Module):
    """h = norm(x + attention(x)); out = norm(h + mlp(h)) (BERT). [B, S, D] -> [B, S, D].

    hidden: of the feed-forward.   activation: its own, "gelu" (exact) or "gelu_tanh".
    """

    heads: int
    hidden: int
    activation: Literal["gelu", "gelu_tanh"] = "gelu"
    dropout: float = 0.1
    norm_eps: float = 1e-12
    init_std: Init = 0.02
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, visible: jax.Array) -> tuple[jax.Array, None]:
        check_heads(x.shape[-1], self.heads)
        norm = functools.partial(nn.LayerNorm, self.norm_eps, dtype=self.dtype)
        attention = Attention(
            self.heads,
            init_std=self.init_std,
            dtype=self.dtype,
            use_bias=True,
            dropout=self.dropout,
            name="attention",
        )
        x = norm(name="attention_norm")(x + attention(x, NOWHERE, visible)[0])
        mlp = GeluMLP(
            self.hidden, self.init_std, self.dtype, activation=self.activation, name="ffn"
        )
        x = norm(name="ffn_norm")(x + Dropout(self.dropout)(mlp(x)))
        return constrain(x, "batch", None, None), None


class PreNormBlock(nn.Module):
    """h = x + attention(norm(x)); out = h + mlp(norm(h)), with the exact GELU. [B, S, D] -> [B, S, D].

    hidden: of the feed-forward.   qkv_bias: of queries, keys and values.
    keep: whether the result is also given as a layer's own output.
    """

    heads: int
    hidden: int
    qkv_bias: bool = True
    keep: bool = False
    dropout: float = 0.1
    norm_eps: float = 1e-6
    init_std: Init = 0.02
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        skip: jax.Array | None,  # [B, S, D]: x becomes linear([x, skip]) first
        key_valid: jax.Array | None,  # [B, S] bool: the slots that are seen, None for all
        visible: jax.Array,  # [S]
    ) -> tuple[jax.Array, jax.Array | None]:
        check_heads(x.shape[-1], self.heads)
        norm = functools.partial(nn.LayerNorm, self.norm_eps, dtype=self.dtype)
        if skip is not None:
            init = kernel_init(self.init_std)
            linear = nn.Dense(x.shape[-1], dtype=self.dtype, kernel_init=init, name="skip")
            x = linear(jnp.concatenate([x, skip], axis=-1))
        attention = Attention(
            self.heads,
            init_std=self.init_std,
            dtype=self.dtype,
            use_bias=self.qkv_bias,
            out_bias=True,
            dropout=self.dropout,
            name="attention",
        )
        h = norm(name="attention_norm")(x)
        x = x + attention(h, NOWHERE, visible, key_valid)[0]
        mlp = GeluMLP(
            self.hidden,
            self.init_std,
            self.dtype,
            activation="gelu",
            dropout=self.dropout,
            name="ffn",
        )
        x = x + Dropout(self.dropout)(mlp(norm(name="ffn_norm")(x)))
        x = constrain(x, "batch", None, None)
        return x, x if self.keep else None
