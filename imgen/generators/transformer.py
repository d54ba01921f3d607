"""The decoder-only backbone: pre-norm blocks with exits at several depths.

Shapes: B batch, T slots, D width, N heads, H head width, L layers, C context rows, R context width.
"""

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from imgen.errors import UserError
from imgen.nn.attention import Attention, KVCache, Places
from imgen.nn.dropout import Dropout, DropPath
from imgen.nn.mlp import GatedMLP, GeluMLP, Init, kernel_init
from imgen.nn.norms import RMSNorm
from imgen.parallel.constrain import constrain

REMAT_POLICIES = {
    "full": None,  # keep nothing but the layer's input
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}
FEED_FORWARD = {"swiglu": GatedMLP, "gelu": GeluMLP}


class Block(nn.Module):
    """h = x + drop_path(attention(norm(x))); out = h + drop_path(ffn(norm(h))).

    Llama's block (LlamaGen `gpt.py`), and by its options Instella-T2I's (`models/ar_model.py`,
    `models/diff_model.py`):

    ffn: "swiglu", or "gelu" with biases.
    position_rows: rows of a table of learned positions, added to what attention reads; 0 for none.
    A context is projected by a layer of its own and gives keys and values (see `Attention`).
    With a time vector the norms have no gain but are scaled and shifted by it, and it gates both
    branches (adaLN-zero).
    """

    heads: int
    hidden: int
    kv_heads: int | None = None
    residual_dropout: float = 0.0
    ffn_dropout: float = 0.0
    drop_path: bool = False
    norm_eps: float = 1e-5
    init_std: Init = 0.02
    dtype: jnp.dtype = jnp.float32
    ffn: Literal["swiglu", "gelu"] = "swiglu"
    qk_norm: bool = False
    position_rows: int = 0

    @nn.compact
    def __call__(
        self,
        x: jax.Array,  # [B, T, D]
        drop_path_rate: jax.Array | float,
        places: Places,
        visible: jax.Array,  # [T]
        key_valid: jax.Array | None = None,  # [B, S]
        context: jax.Array | None = None,  # [B, C, R]
        time: jax.Array | None = None,  # [B, D]
        cache: KVCache | None = None,
        start: jax.Array | int = 0,
        read: int | None = None,
    ) -> tuple[jax.Array, KVCache | None]:
        width = x.shape[-1]
        if time is not None:
            shift, scale, gate, *of_ffn = modulation(time, 6, self.init_std, self.dtype)
            h = modulate(x, scale, shift, self.norm_eps)
        else:
            h = RMSNorm(self.norm_eps, name="attention_norm")(x)
        if self.position_rows:
            shape = (self.position_rows, width)
            h += self.param("positions", nn.initializers.zeros, shape)[places.rows].astype(h.dtype)
        if context is not None:
            context = nn.Dense(
                width, dtype=self.dtype, kernel_init=kernel_init(self.init_std), name="context"
            )(context)
        h, cache = Attention(
            self.heads,
            self.kv_heads,
            self.init_std,
            self.dtype,
            self.qk_norm,
            self.norm_eps,
            name="attention",
        )(h, places, visible, key_valid, context, cache, start, read)
        h = h if time is None else h * gate
        x = x + DropPath(self.drop_path)(Dropout(self.residual_dropout)(h), drop_path_rate)

        if time is not None:
            shift, scale, gate = of_ffn
            h = modulate(x, scale, shift, self.norm_eps)
        else:
            h = RMSNorm(self.norm_eps, name="ffn_norm")(x)
        h = FEED_FORWARD[self.ffn](self.hidden, self.init_std, self.dtype, name="ffn")(h)
        h = h if time is None else h * gate
        x = x + DropPath(self.drop_path)(Dropout(self.ffn_dropout)(h), drop_path_rate)
        return constrain(x, "batch", None, None), cache


def modulation(time: jax.Array, parts: int, init: Init, dtype: jnp.dtype) -> list[jax.Array]:
    """The chunks [B, 1, D] of a layer on silu(time [B, D]), called within a compact module."""
    layer = nn.Dense(
        parts * time.shape[-1], dtype=dtype, kernel_init=kernel_init(init), name="modulation"
    )
    return jnp.split(layer(nn.silu(time))[:, None], parts, axis=-1)


def modulate(x: jax.Array, scale: jax.Array, shift: jax.Array, eps: float) -> jax.Array:
    """LayerNorm without gain or bias, statistics in float32, then x (1 + scale) + shift."""
    norm = nn.LayerNorm(eps, use_scale=False, use_bias=False, dtype=jnp.float32, parent=None)
    return norm.apply({}, x).astype(x.dtype) * (1 + scale) + shift


class Transformer(nn.Module):
    """Blocks with exits. [B, T, D] -> the residual stream [B, T, D] at each depth of `exits`.

    Parameters are stacked, one group of layers for each stretch between exits (`blocks_0`, `blocks_1`,
    ...: leaves [layers, ...]), and run under `nn.scan`; `unstack` gives the per-layer list that decoding
    uses. remat: "none", "full" or "dots". The other arguments are those of `Block`.
    """

    exits: tuple[int, ...]
    heads: int
    hidden: int
    kv_heads: int | None = None
    residual_dropout: float = 0.0
    ffn_dropout: float = 0.0
    drop_path: float = 0.0
    norm_eps: float = 1e-5
    init_std: Init = 0.02
    remat: Literal["none", "full", "dots"] = "none"
    dtype: jnp.dtype = jnp.float32
    ffn: Literal["swiglu", "gelu"] = "swiglu"
    qk_norm: bool = False
    position_rows: int = 0

    def block_arguments(self) -> dict[str, Any]:
        """Constructor arguments of one `Block`."""
        return dict(
            heads=self.heads,
            hidden=self.hidden,
            kv_heads=self.kv_heads,
            residual_dropout=self.residual_dropout,
            ffn_dropout=self.ffn_dropout,
            drop_path=self.drop_path > 0,
            norm_eps=self.norm_eps,
            init_std=self.init_std,
            dtype=self.dtype,
            ffn=self.ffn,
            qk_norm=self.qk_norm,
            position_rows=self.position_rows,
        )

    @nn.compact
    def __call__(
        self,
        x: jax.Array,  # [B, T, D]
        places: Places,
        visible: jax.Array,  # [T], counting the context's rows
        key_valid: jax.Array | None = None,  # [B, C + T]
        context: jax.Array | None = None,  # [L, B, C, R]: each layer has its own
        time: jax.Array | None = None,  # [B, D]
    ) -> list[jax.Array]:
        if self.remat not in ("none", *REMAT_POLICIES):
            raise UserError(f"remat {self.remat!r} is none of none, {', '.join(REMAT_POLICIES)}")
        if self.ffn not in FEED_FORWARD:
            raise UserError(f"generator.ffn {self.ffn!r} is none of {', '.join(FEED_FORWARD)}")
        block = Block
        if self.remat != "none":
            block = nn.remat(Block, prevent_cse=False, policy=REMAT_POLICIES[self.remat])
        rates = np.linspace(0.0, self.drop_path, self.exits[-1], dtype=np.float32)
        hidden, depth = [], 0
        for number, exit_depth in enumerate(self.exits):
            layers = nn.scan(
                block,
                variable_axes={"params": 0},
                split_rngs={"params": True, "dropout": True},
                in_axes=(0, nn.broadcast, nn.broadcast, nn.broadcast, 0, nn.broadcast),
                length=exit_depth - depth,
            )(**self.block_arguments(), name=f"blocks_{number}")
            own = None if context is None else context[depth:exit_depth]
            x, _ = layers(x, rates[depth:exit_depth], places, visible, key_valid, own, time)
            hidden.append(x)
            depth = exit_depth
        return hidden


def unstack(params: dict) -> list[dict]:
    """The Transformer's stacked parameters as one tree a layer, in order of depth."""
    return [layer for i in range(len(params)) for layer in unstack_layers(params[f"blocks_{i}"])]


def unstack_layers(stacked: dict) -> list[dict]:
    """Leaves [layers, ...] -> a tree for each layer."""
    count = jax.tree.leaves(stacked)[0].shape[0]
    return [jax.tree.map(lambda leaf, i=i: leaf[i], stacked) for i in range(count)]
