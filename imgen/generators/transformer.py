"""The decoder-only transformer: pre-norm blocks with exits at several depths.

Shapes: B batch, T slots, D width, N heads, H head width, L layers, C context rows, R context width.
"""

import dataclasses
import functools
from typing import Any, ClassVar, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from imgen.errors import UserError
from imgen.nn.adaln import modulate
from imgen.nn.attention import Attention, KVCache, SlotPositions
from imgen.nn.dropout import Dropout, DropPath
from imgen.nn.mlp import GatedMLP, GeluMLP, Init, kernel_init
from imgen.nn.norms import RMSNorm
from imgen.nn.stack import check_remat, stack
from imgen.parallel.constrain import constrain

FEED_FORWARD = {
    "swiglu": GatedMLP,
    "gelu": GeluMLP,
    "gelu_exact": functools.partial(GeluMLP, activation="gelu"),
}


@dataclasses.dataclass(frozen=True)
class BlockSpec:
    """The options of a transformer's block; the defaults are Llama's (LlamaGen `gpt.py`).

    hidden: of the feed-forward.   ffn: "swiglu", or with biases "gelu", the approximation, or "gelu_exact".
    norm: "rms", "layer", or "plain", a LayerNorm without gain and bias.
    modulated: a vector shifts, scales and gates both branches (adaLN-zero), in the order shift, scale,
    gate of
        attention, then of the feed-forward.   modulation_init: of that layer's kernel, None for zeros.
    position_rows: rows of a table of learned positions, added to what attention reads; 0 for none.
    hidden_dropout: inside of the feed-forward; ffn_dropout: of what it gives.
    drop_path: greatest rate of stochastic depth, of the last layer.
    """

    heads: int
    hidden: int
    kv_heads: int | None = None
    ffn: Literal["swiglu", "gelu", "gelu_exact"] = "swiglu"
    norm: Literal["rms", "layer", "plain"] = "rms"
    norm_eps: float = 1e-5
    qk_norm: bool | str = False
    use_bias: bool = False
    modulated: bool = False
    modulation_init: Init | None = None
    position_rows: int = 0
    attention_dropout: float = 0.0
    residual_dropout: float = 0.0
    hidden_dropout: float = 0.0
    ffn_dropout: float = 0.0
    drop_path: float = 0.0
    init_std: Init = 0.02
    dtype: Any = jnp.float32

    def __post_init__(self):
        if self.ffn not in FEED_FORWARD:
            raise UserError(f"generator.ffn {self.ffn!r} is none of {', '.join(FEED_FORWARD)}")

    def make_norm(self, name: str | None = None) -> nn.Module:
        """Returns a norm, unbound or within a compact module."""
        if self.norm == "rms":
            return RMSNorm(self.norm_eps, name=name)
        affine = self.norm == "layer"
        return nn.LayerNorm(
            self.norm_eps, use_scale=affine, use_bias=affine, dtype=jnp.float32, name=name
        )


class Block(nn.Module):
    """h = x + gate drop_path(attention(norm(x))); out = h + gate drop_path(ffn(norm(h))).

    Llama's block, and by its options Instella-T2I's (`models/ar_model.py`, `models/diff_model.py`) and RAR's.
    A context is projected by a layer of its own and gives keys and values (see `Attention`).
    """

    spec: BlockSpec

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        drop_path_rate: jax.Array | float,
        positions: SlotPositions,
        visible: Int[Array, " T"],
        key_valid: jax.Array | None = None,  # [B, S]
        context: jax.Array | None = None,  # [B, C, R]
        vector: jax.Array | None = None,  # [B, 1 or T, D]
        cache: KVCache | None = None,
        start: jax.Array | int = 0,
        read: int | None = None,
    ) -> tuple[Float[Array, "B T D"], KVCache | None]:
        spec = self.spec
        drop_path = DropPath(spec.drop_path > 0)
        shift, scale, gate, *of_ffn = modulation(vector, 6, spec) if spec.modulated else (None,) * 6
        h = self.branch_input(x, "attention_norm", shift, scale)
        if spec.position_rows:
            table = self.param(
                "positions", nn.initializers.zeros, (spec.position_rows, x.shape[-1])
            )
            h += table[positions.rows].astype(h.dtype)
        if context is not None:
            init = kernel_init(spec.init_std)
            layer = nn.Dense(x.shape[-1], dtype=spec.dtype, kernel_init=init, name="context")
            context = layer(context)
        h, cache = Attention(
            spec.heads,
            spec.kv_heads,
            spec.init_std,
            spec.dtype,
            spec.qk_norm,
            spec.norm_eps,
            use_bias=spec.use_bias,
            dropout=spec.attention_dropout,
            name="attention",
        )(h, positions, visible, key_valid, context, cache, start, read)
        h = h if gate is None else h * gate
        x = x + drop_path(Dropout(spec.residual_dropout)(h), drop_path_rate)

        shift, scale, gate = of_ffn
        h = self.branch_input(x, "ffn_norm", shift, scale)
        mlp = FEED_FORWARD[spec.ffn](
            spec.hidden, spec.init_std, spec.dtype, dropout=spec.hidden_dropout, name="ffn"
        )
        h = mlp(h)
        h = h if gate is None else h * gate
        x = x + DropPath(spec.drop_path > 0)(Dropout(spec.ffn_dropout)(h), drop_path_rate)
        return constrain(x, "batch", None, None), cache

    def branch_input(self, x, name: str, shift, scale) -> jax.Array:
        """The norm of a branch, shifted and scaled where the block is modulated."""
        h = self.spec.make_norm(name)(x).astype(x.dtype)
        return h if shift is None else modulate(h, shift, scale)


def modulation(vector: jax.Array, parts: int, spec: BlockSpec) -> list[jax.Array]:
    """Returns the chunks [B, 1 or T, D] of a layer on silu(vector), called within a compact module."""
    init = nn.initializers.zeros
    if spec.modulation_init is not None:
        init = kernel_init(spec.modulation_init)
    width = parts * vector.shape[-1]
    layer = nn.Dense(width, dtype=spec.dtype, kernel_init=init, name="modulation")
    return jnp.split(layer(nn.silu(vector)), parts, axis=-1)


class Surroundings(NamedTuple):
    """What a backbone is told of its slots besides their vectors [B, T, D].

    positions: where they stand.   visible [T]: how many rows each sees, counting the context's.
    known [B, T] bool: the condition's slots, and positions whose codes are shown in place.
    key_valid [B, C + T]: real rows, None if all are.   context [L, B, C, R]: each layer's own.
    vector [B, 1 or T, D]: for adaLN.
    """

    positions: SlotPositions
    visible: jax.Array
    known: jax.Array | None = None
    key_valid: jax.Array | None = None
    context: jax.Array | None = None
    vector: jax.Array | None = None


class Transformer(nn.Module):
    """Blocks with exits. [B, T, D] -> the residual stream [B, T, D] at each depth of `exits`.

    Parameters are stacked, one group of layers for each stretch between exits (`blocks_0`, `blocks_1`,
    ...: leaves [layers, ...]), and run under `nn.scan`; `unstack` gives the per-layer list that decoding
    uses. remat: "none", "full" or "dots".   modulated_exits: ends with a plain LayerNorm that the vector
    scales and shifts, in this order (RAR).
    """

    spec: BlockSpec
    exits: tuple[int, ...]
    remat: Literal["none", "full", "dots"] = "none"
    modulated_exits: bool = False

    masks: ClassVar[bool] = False  # see `FullAttention`

    @property
    def depth(self) -> int:
        """Blocks below the first exit."""
        return self.exits[0]

    @property
    def layers(self) -> int:
        return self.exits[-1]

    def setup(self):
        check_remat(self.remat)
        if self.modulated_exits:
            self.exit = ModulatedExit(self.spec)

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"], around: Surroundings) -> list[jax.Array]:
        rates = np.linspace(0.0, self.spec.drop_path, self.layers, dtype=np.float32)
        axes = (0, nn.broadcast, nn.broadcast, nn.broadcast, 0, nn.broadcast)
        context, hidden, depth = around.context, [], 0
        for number, exit_depth in enumerate(self.exits):
            layers = stack(Block, exit_depth - depth, remat=self.remat, in_axes=axes)(
                self.spec, name=f"blocks_{number}"
            )
            own = None if context is None else context[depth:exit_depth]
            x, _ = layers(
                x,
                rates[depth:exit_depth],
                around.positions,
                around.visible,
                around.key_valid,
                own,
                around.vector,
            )
            hidden.append(self.leave(x, around.vector))
            depth = exit_depth
        return hidden

    def leave(self, x: jax.Array, vector: jax.Array | None) -> jax.Array:
        """Returns what an exit gives of the residual stream [B, T, D]."""
        return self.exit(x, vector) if self.modulated_exits else x


class ModulatedExit(nn.Module):
    """`modulated_exit` with parameters of its own."""

    spec: BlockSpec

    @nn.compact
    def __call__(self, x: jax.Array, vector: jax.Array) -> jax.Array:
        return modulated_exit(x, vector, self.spec)


def modulated_exit(x: jax.Array, vector: jax.Array, spec: BlockSpec) -> jax.Array:
    """Returns a plain LayerNorm of x [B, T, D], scaled and shifted by a vector, in this order; called
    within a compact module."""
    scale, shift = modulation(vector, 2, spec)
    norm = dataclasses.replace(spec, norm="plain").make_norm()
    return modulate(norm(x).astype(x.dtype), shift, scale)


class FullAttention(nn.Module):
    """A network (x [B, S, D], known [B, S] bool) -> [B, S, D] in a Transformer's place: one exit, no cache.

    S slots, the condition's first; the network has positions of its own, and its parameters stand in this
    module's place. One that `masks` has a mask vector of its own, and looks at known slots only.
    """

    network: nn.Module

    def setup(self):
        nn.share_scope(self, self.network)

    @property
    def masks(self) -> bool:
        return self.network.masks

    def __call__(self, x: Float[Array, "B S D"], around: Surroundings) -> list[jax.Array]:
        return [self.network(x, around.known)]


def unstack(params: dict) -> list[dict]:
    """Returns the Transformer's stacked parameters as one tree a layer, in order of depth."""
    groups = sorted(name for name in params if name.startswith("blocks_"))
    return [layer for name in groups for layer in unstack_layers(params[name])]


def unstack_layers(stacked: dict) -> list[dict]:
    """Returns a tree for each layer of leaves [layers, ...]."""
    count = jax.tree.leaves(stacked)[0].shape[0]
    return [jax.tree.map(lambda leaf, i=i: leaf[i], stacked) for i in range(count)]
