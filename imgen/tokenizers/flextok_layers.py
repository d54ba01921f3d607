"""FlexTok's transformers: latents -> registers, and (noisy latents, registers) -> velocity.

Shapes: B batch, [h, w, C] latents, N = (h / p)(w / p) patches, K registers, T = N + K, D width.
Source: apple/ml-flextok, model/layers, model/trunks, model/preprocessors, model/postprocessors.
"""

import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from imgen.errors import UserError
from imgen.nn.adaln import Modulation, layer_norm, modulate
from imgen.nn.conv import depth_to_space, space_to_depth
from imgen.nn.mlp import GatedMLP
from imgen.nn.positions import sincos_2d
from imgen.nn.stack import stack
from imgen.nn.time_embedding import TimeEmbedding
from imgen.nn.vit import repeat_tokens
from imgen.parallel.constrain import constrain
from imgen.params.fields import training

xavier = nn.initializers.xavier_uniform()
truncated = nn.initializers.truncated_normal(0.02)  # tokens and positions

SHARDING = (  # the leading axis of the layers is left out
    (r"blocks/attention/qkv/kernel$", ("fsdp", None, "tensor", None)),  # [D, 3, N, H]
    (r"blocks/attention/out/kernel$", ("tensor", None, "fsdp")),  # [N, H, D]
    (r"blocks/mlp/gate_up/kernel$", ("fsdp", None, "tensor")),  # [D, 2, F]
    (r"blocks/mlp/down/kernel$", ("tensor", "fsdp")),  # [F, D]
    (r"blocks/modulation/linear/kernel$", ("fsdp", None, None, "tensor")),  # [D, 2, 6, D]
    # Between patches, values and times and the width, on every device.
    (r"(patches|from_values|head|time/in|time/out|decoder/modulation/linear)/kernel$", ()),
    (r"(registers|positions|mask_token|null_token)$", ()),
)


def causal_last(patches: int, registers: int) -> np.ndarray:
    """Returns the mask bool [T, T], query by key: patches see all patches; register i sees them and
    registers <= i."""
    visible = np.concatenate([np.full(patches, patches), patches + 1 + np.arange(registers)])
    return np.arange(patches + registers) < visible[:, None]


class RegisterAttention(nn.Module):
    """Attends without biases: [B, T, D] -> [B, T, D]. Queries and keys of each head are normalised, without
    a gain; the scale is muP's 8 / head_dim, which is 1 / sqrt(head_dim) at 64."""

    head_dim: int
    dtype: Any = training(jnp.float32)

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """Attends, [B, T, D] -> [B, T, D]; mask: bool [T, T], what is False is not seen."""
        width = x.shape[-1]
        if width % self.head_dim:
            raise UserError(
                f"heads of {self.head_dim} channels do not divide a width of {width}: change head_dim"
            )
        qkv = nn.DenseGeneral(
            (3, width // self.head_dim, self.head_dim),
            use_bias=False,
            dtype=self.dtype,
            kernel_init=nn.initializers.normal(width**-0.5),  # Xavier's, for each of the three
            name="qkv",
        )(x)
        q, k, v = (constrain(qkv[:, :, i], "batch", None, "heads", None) for i in range(3))
        mask = None if mask is None else mask[None, None]
        q, k = layer_norm(q), layer_norm(k)
        out = jax.nn.dot_product_attention(q, k, v, mask=mask, scale=8 / self.head_dim)
        return nn.DenseGeneral(
            width, axis=(-2, -1), use_bias=False, dtype=self.dtype, kernel_init=xavier, name="out"
        )(out)


class Carry(NamedTuple):
    """Holds what goes from block to block: x [B, T, D] and, where some block's output is asked for, that
    output."""

    x: jax.Array
    features: jax.Array | None


class RegisterBlock(nn.Module):
    """Computes x += attention(norm(x)); x += mlp(norm(x)), with norms that have no parameters.

    Given a time vector [B, D], both branches are shifted, scaled and gated by it (adaLN-zero), with
    one set of vectors for the patches and another for the registers.
    features_at: the block whose output is kept as `Carry.features`.
    """

    head_dim: int
    mlp_ratio: float = 4.0
    dtype: Any = training(jnp.float32)
    features_at: int | None = training(None)

    @nn.compact
    def __call__(
        self,
        carry: Carry,
        number: jax.Array,  # of this block
        mask: jax.Array | None,  # [T, T]
        time: jax.Array | None,  # [B, D]
        is_register: jax.Array | None,  # [T]
    ) -> tuple[Carry, None]:
        x, features = carry
        width = x.shape[-1]
        hidden = int(2 * (self.mlp_ratio * width) / 3)
        deviation = math.sqrt(2 / (width + hidden))  # Xavier's, for each of the three kernels
        attention = RegisterAttention(self.head_dim, self.dtype, name="attention")
        mlp = GatedMLP(hidden, deviation, self.dtype, name="mlp")
        if time is None:
            x = x + attention(layer_norm(x), mask)
            x = x + mlp(layer_norm(x))
        else:
            modulation = Modulation((2, 6), width, self.dtype, name="modulation")(time)
            patches, registers = jnp.moveaxis(modulation[:, :, :, None], 1, 0)
            gate_attention, gate_mlp, shift_attention, scale_attention, shift_mlp, scale_mlp = (
                jnp.where(is_register[:, None], registers[:, i], patches[:, i]) for i in range(6)
            )  # [B, T, D] each
            h = modulate(layer_norm(x), shift=shift_attention, scale=scale_attention)
            x = x + gate_attention * attention(h, mask)
            h = modulate(layer_norm(x), shift=shift_mlp, scale=scale_mlp)
            x = x + gate_mlp * mlp(h)
        x = constrain(x, "batch", None, None)
        if features is not None:
            features = jnp.where(number == self.features_at, x, features)
        return Carry(x, features), None


class RegisterTransformer(nn.Module):
    """Runs `depth` blocks, their parameters stacked: leaves [depth, ...].

    remat: recompute each block's inside in the backward pass, which then keeps its input only.
    """

    depth: int
    head_dim: int
    mlp_ratio: float = 4.0
    remat: bool = training(False)
    dtype: Any = training(jnp.float32)

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        mask: jax.Array | None = None,
        time: jax.Array | None = None,
        is_register: jax.Array | None = None,
        features_at: int | None = None,
    ) -> Carry:
        """Returns the output [B, T, D] and, where `features_at` is a block's number, what that block
        gives."""
        blocks = stack(
            RegisterBlock,
            self.depth,
            remat="full" if self.remat else "none",
            in_axes=(0, nn.broadcast, nn.broadcast, nn.broadcast),
        )(self.head_dim, self.mlp_ratio, self.dtype, features_at, name="blocks")
        carry = Carry(x, None if features_at is None else x)
        return blocks(carry, jnp.arange(self.depth), mask, time, is_register)[0]


class RegisterEncoder(nn.Module):
    """Turns latents [B, h, w, C] into what is quantised, float32 [B, K, features].

    Patches and learned registers attend under the mask `causal_last`, so that a register depends on no
    later one. The last layer starts at zero.
    """

    width: int
    depth: int
    registers: int
    features: int
    head_dim: int = 64
    mlp_ratio: float = 4.0
    patch: int = 2
    remat: bool = training(False)
    dtype: Any = training(jnp.float32)

    @nn.compact
    def __call__(self, latents: jax.Array) -> jax.Array:
        x = nn.Dense(self.width, dtype=self.dtype, kernel_init=xavier, name="patches")(
            space_to_depth(latents, self.patch)
        )
        x = x + sincos_2d(x.shape[1:3], self.width).astype(x.dtype)
        x = x.reshape(len(x), -1, self.width)
        patches = x.shape[1]
        registers = self.param("registers", truncated, (self.registers, self.width))
        x = jnp.concatenate([x, repeat_tokens(registers, len(x), x.dtype)], axis=1)
        transformer = RegisterTransformer(
            self.depth, self.head_dim, self.mlp_ratio, self.remat, self.dtype, name="transformer"
        )
        x, _ = transformer(x, causal_last(patches, self.registers))
        last = nn.Dense(self.features, kernel_init=nn.initializers.zeros, name="head")  # float32
        return last(layer_norm(x[:, patches:]).astype(jnp.float32))


class FlowDecoder(nn.Module):
    """Predicts the velocity of noisy latents [B, h, w, C], given quantised registers [B, K, F].

    `condition` makes [B, K, D] of the registers once; a call then costs one pass of the transformer.
    time_features, max_timestep: of the time's sinusoids, with frequencies (1000 / max_timestep) *
        256^(-2 i / time_features).
    final_modulation: the last norm, too, is shifted and scaled by the time.
    """

    width: int
    depth: int
    registers: int
    channels: int
    head_dim: int = 64
    mlp_ratio: float = 4.0
    patch: int = 2
    time_features: int = 256
    max_timestep: float = 1.0
    final_modulation: bool = True
    remat: bool = training(False)
    dtype: Any = training(jnp.float32)

    def setup(self):
        dense = {"dtype": self.dtype, "kernel_init": xavier}
        self.from_values = nn.Dense(self.width, **dense)
        self.positions = self.param("positions", truncated, (self.registers, self.width))
        self.mask_token = self.param("mask_token", truncated, (self.width,))
        self.null_token = self.param("null_token", truncated, (self.width,))
        self.patches = nn.Dense(self.width, **dense)
        self.time = TimeEmbedding(
            self.width, self.time_features, 256.0, 1000 / self.max_timestep, dtype=self.dtype
        )
        self.transformer = RegisterTransformer(
            self.depth, self.head_dim, self.mlp_ratio, self.remat, self.dtype
        )
        if self.final_modulation:
            self.modulation = Modulation((2,), self.width, self.dtype)
        self.head = nn.Dense(
            self.channels * self.patch**2, dtype=self.dtype, kernel_init=nn.initializers.zeros
        )

    def condition(self, values: jax.Array, keep: jax.Array, null: jax.Array) -> jax.Array:
        """Embeds quantised registers: [B, K, F] -> [B, K, D].

        keep: int [B]: registers from here on are a learned mask token, after their positions were
            added, so that masked ones are all alike.
        null: bool [B]: all registers are a learned null token, the unconditional case.
        """
        x = self.from_values(values) + self.positions.astype(self.dtype)
        masked = (np.arange(self.registers) >= keep[:, None])[:, :, None]
        x = jnp.where(masked, self.mask_token.astype(x.dtype), x)
        return jnp.where(null[:, None, None], self.null_token.astype(x.dtype), x)

    def __call__(
        self, noisy: jax.Array, t: jax.Array, condition: jax.Array, features_at: int | None = None
    ) -> tuple[jax.Array, jax.Array | None]:
        """Returns, for noisy [B, h, w, C], t [B] in [0, 1] and condition [B, K, D], the float32 velocity
        [B, h, w, C].

        Also, where `features_at` is a block's number, the patches that it gives, [B, h/p, w/p, D].
        """
        x = self.patches(space_to_depth(noisy, self.patch))
        batch, *grid, width = x.shape
        x = (x + sincos_2d(grid, width).astype(x.dtype)).reshape(batch, -1, width)
        patches, time = x.shape[1], self.time(t)
        x = jnp.concatenate([x, condition], axis=1)
        is_register = np.arange(x.shape[1]) >= patches
        x, features = self.transformer(x, None, time, is_register, features_at)
        x = layer_norm(x[:, :patches])
        if self.final_modulation:
            shift, scale = jnp.moveaxis(self.modulation(time)[:, :, None], 1, 0)
            x = modulate(x, shift=shift, scale=scale)
        velocity = depth_to_space(self.head(x).reshape(batch, *grid, -1), self.patch)
        if features is not None:
            features = features[:, :patches].reshape(batch, *grid, width)
        return velocity.astype(jnp.float32), features
