"""The decoder-only backbone of LlamaGen, NAR and PAR: pre-norm Llama blocks with exits at several depths.

Shapes: B batch, T slots, D width, N heads, H head width, L layers.
"""

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from imgen.errors import UserError
from imgen.nn.attention import Attention, KVCache
from imgen.nn.constrain import constrain
from imgen.nn.dropout import Dropout, DropPath
from imgen.nn.mlp import SwiGLU
from imgen.nn.norms import RMSNorm

REMAT_POLICIES = {
    "full": None,  # keep nothing but the layer's input
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


class Block(nn.Module):
    """h = x + drop_path(attention(rms(x))); out = h + drop_path(swiglu(rms(h))).  (LlamaGen `gpt.py`)"""

    heads: int
    hidden: int
    kv_heads: int | None = None
    residual_dropout: float = 0.0
    ffn_dropout: float = 0.0
    drop_path: bool = False
    norm_eps: float = 1e-5
    init_std: float = 0.02
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: jax.Array,  # [B, T, D]
        drop_path_rate: jax.Array | float,
        cos: jax.Array,  # [T, H / 2]
        sin: jax.Array,
        visible: jax.Array,  # [T]
        key_valid: jax.Array | None = None,  # [B, S]
        cache: KVCache | None = None,
        start: jax.Array | int = 0,
        read: int | None = None,
    ) -> tuple[jax.Array, KVCache | None]:
        h, cache = Attention(
            self.heads, self.kv_heads, self.init_std, self.dtype, name="attention"
        )(
            RMSNorm(self.norm_eps, name="attention_norm")(x),
            cos,
            sin,
            visible,
            key_valid,
            cache,
            start,
            read,
        )
        x = x + DropPath(self.drop_path)(Dropout(self.residual_dropout)(h), drop_path_rate)
        h = SwiGLU(self.hidden, self.init_std, self.dtype, name="ffn")(
            RMSNorm(self.norm_eps, name="ffn_norm")(x)
        )
        x = x + DropPath(self.drop_path)(Dropout(self.ffn_dropout)(h), drop_path_rate)
        return constrain(x, "batch", None, None), cache


class Transformer(nn.Module):
    """Blocks with exits. [B, T, D] -> the residual stream [B, T, D] at each depth of `exits`.

    Parameters are stacked, one group of layers for each stretch between exits (`blocks_0`, `blocks_1`,
    ...: leaves [layers, ...]), and run under `nn.scan`; `unstack` gives the per-layer list that decoding
    uses. remat: "none", "full" or "dots".
    """

    exits: tuple[int, ...]
    heads: int
    hidden: int
    kv_heads: int | None = None
    residual_dropout: float = 0.0
    ffn_dropout: float = 0.0
    drop_path: float = 0.0
    norm_eps: float = 1e-5
    init_std: float = 0.02
    remat: Literal["none", "full", "dots"] = "none"
    dtype: jnp.dtype = jnp.float32

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
        )

    @nn.compact
    def __call__(
        self,
        x: jax.Array,  # [B, T, D]
        cos: jax.Array,  # [T, H / 2]
        sin: jax.Array,
        visible: jax.Array,  # [T]
        key_valid: jax.Array | None = None,  # [B, T]
    ) -> list[jax.Array]:
        if self.remat not in ("none", *REMAT_POLICIES):
            raise UserError(f"remat {self.remat!r} is none of none, {', '.join(REMAT_POLICIES)}")
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
                in_axes=(0, nn.broadcast, nn.broadcast, nn.broadcast, nn.broadcast),
                length=exit_depth - depth,
            )(**self.block_arguments(), name=f"blocks_{number}")
            x, _ = layers(x, rates[depth:exit_depth], cos, sin, visible, key_valid)
            hidden.append(x)
            depth = exit_depth
        return hidden


def unstack(params: dict) -> list[dict]:
    """The Transformer's stacked parameters as one tree a layer, in order of depth."""
    layers = []
    for number in range(len(params)):
        group = params[f"blocks_{number}"]
        count = jax.tree.leaves(group)[0].shape[0]
        layers += [jax.tree.map(lambda leaf, i=i: leaf[i], group) for i in range(count)]
    return layers
