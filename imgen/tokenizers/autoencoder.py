"""Convolutional encoder and decoder of the VQGAN family, in LlamaGen's layout.

Source: LlamaGen, tokenizer/tokenizer_image/vq_model.py. Levels are numbered by resolution in both
halves: level 0 is the finest, the last one is the latent grid.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from imgen.nn.conv import (
    AttnBlock,
    Conv,
    Downsample,
    GroupNorm,
    ResBlock,
    Upsample,
    depth_to_space,
    space_to_depth,
)


class Level(nn.Module):
    """ResBlocks at one resolution, each with an AttnBlock behind it if `attention`.

    resample: Downsample or Upsample at the end, or None.
    """

    features: int
    num_res_blocks: int
    attention: bool = False
    resample: type[nn.Module] | None = None
    groups: int = 32
    dropout: float = 0.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, deterministic: bool = True) -> jax.Array:
        for i in range(self.num_res_blocks):
            block = ResBlock(self.features, self.groups, self.dropout, self.dtype, name=f"res_{i}")
            x = block(x, deterministic)
            if self.attention:
                x = AttnBlock(self.groups, self.dtype, name=f"attn_{i}")(x)
        if self.resample is not None:
            x = self.resample(self.dtype, name="resample")(x)
        return x


class Middle(nn.Module):
    """ResBlock, AttnBlock (if `attention`), ResBlock, at the latent resolution."""

    features: int
    attention: bool = True
    groups: int = 32
    dropout: float = 0.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, deterministic: bool = True) -> jax.Array:
        block = (self.features, self.groups, self.dropout, self.dtype)
        x = ResBlock(*block, name="res_0")(x, deterministic)
        if self.attention:
            x = AttnBlock(self.groups, self.dtype, name="attn")(x)
        return ResBlock(*block, name="res_1")(x, deterministic)


class Encoder(nn.Module):
    """Images [B, H, W, 3] -> features [B, H/f, W/f, z_channels], f = patch * 2^(levels - 1).

    ch, ch_mult: level l has ch * ch_mult[l] channels.
    attention_levels: levels whose ResBlocks are each followed by attention.
    patch: images are cut into patch x patch pixels first (1: not at all), which is much cheaper
        than convolving at full resolution. Not in the paper.
    """

    ch: int
    ch_mult: Sequence[int]
    num_res_blocks: int
    z_channels: int
    attention_levels: Sequence[int] = ()
    mid_attention: bool = True
    groups: int = 32
    dropout: float = 0.0
    patch: int = 1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, deterministic: bool = True) -> jax.Array:
        last = len(self.ch_mult) - 1
        common = {"groups": self.groups, "dropout": self.dropout, "dtype": self.dtype}
        x = Conv(self.ch, dtype=self.dtype, name="conv_in")(space_to_depth(x, self.patch))
        for level, mult in enumerate(self.ch_mult):
            x = Level(
                self.ch * mult,
                self.num_res_blocks,
                level in self.attention_levels,
                Downsample if level < last else None,
                **common,
                name=f"level_{level}",
            )(x, deterministic)
        x = Middle(x.shape[-1], self.mid_attention, **common, name="mid")(x, deterministic)
        x = nn.swish(GroupNorm(self.groups, dtype=self.dtype, name="norm_out")(x))
        return Conv(self.z_channels, dtype=self.dtype, name="conv_out")(x)


class Decoder(nn.Module):
    """Features [B, h, w, z_channels] -> images [B, h*f, w*f, 3], unbounded (clip outside).

    The arguments are the Encoder's; every level has one ResBlock more than in the Encoder.
    `hidden` and `project` are the two parts of a call: the adaptive adversarial weight needs the
    gradient to the kernel of `project` alone.
    """

    ch: int
    ch_mult: Sequence[int]
    num_res_blocks: int
    z_channels: int
    attention_levels: Sequence[int] = ()
    mid_attention: bool = True
    groups: int = 32
    dropout: float = 0.0
    patch: int = 1
    dtype: Any = jnp.float32

    def setup(self):
        common = {"groups": self.groups, "dropout": self.dropout, "dtype": self.dtype}
        widest = self.ch * self.ch_mult[-1]
        self.conv_in = Conv(widest, dtype=self.dtype)
        self.mid = Middle(widest, self.mid_attention, **common)
        self.level = [
            Level(
                self.ch * mult,
                self.num_res_blocks + 1,
                level in self.attention_levels,
                Upsample if level > 0 else None,
                **common,
            )
            for level, mult in enumerate(self.ch_mult)
        ]
        self.norm_out = GroupNorm(self.groups, dtype=self.dtype)
        self.conv_out = Conv(3 * self.patch**2, dtype=self.dtype)

    def hidden(self, z: jax.Array, deterministic: bool = True) -> jax.Array:
        """Everything before the last convolution: [B, H/patch, W/patch, ch]."""
        x = self.mid(self.conv_in(z), deterministic)
        for level in reversed(self.level):
            x = level(x, deterministic)
        return nn.swish(self.norm_out(x))

    def project(self, x: jax.Array) -> jax.Array:
        """The last convolution: hidden features -> float32 images [B, H, W, 3]."""
        return depth_to_space(self.conv_out(x), self.patch).astype(jnp.float32)

    def __call__(self, z: jax.Array, deterministic: bool = True) -> jax.Array:
        return self.project(self.hidden(z, deterministic))
