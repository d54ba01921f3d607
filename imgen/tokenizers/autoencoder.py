"""Convolutional encoder and decoder of the VQGAN family.

LlamaGen, taming, LDM and MAR, MaskGIT and Binary Latent Diffusion build the same two halves with small
differences, which are fields here. Levels are numbered by resolution in both halves: level 0 is the
finest, the last one is the latent grid. The defaults are LlamaGen's VQ-16.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from imgen.errors import UserError
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
from imgen.params.fields import silent, training
from imgen.tokenizers.ranges import whole_numbers

Make = Callable[..., nn.Module]  # a module's class, with some of its fields given

SHARDING = (  # convolutions are small: every device has all of them
    (r"(conv_in|conv_out|(pre_|post_)?quant_conv|patch_embed)/kernel$", ()),
    (r"(level_\d+|mid)/(res_\d+|attn(_\d+)?|resample)/\w+/kernel$", ()),
)


class Level(nn.Module):
    """Runs ResBlocks at one resolution, each with an AttnBlock behind it if `attention`, then `resample`."""

    features: int
    num_res_blocks: int
    block: Make
    attention: Make | None = None
    resample: Make | None = None

    @nn.compact
    def __call__(self, x: jax.Array, deterministic: bool = True) -> jax.Array:
        for i in range(self.num_res_blocks):
            x = self.block(self.features, name=f"res_{i}")(x, deterministic)
            if self.attention is not None:
                x = self.attention(name=f"attn_{i}")(x)
        if self.resample is not None:
            x = self.resample(name="resample")(x)
        return x


class Middle(nn.Module):
    """Runs ResBlocks at the latent resolution, with an AttnBlock behind the first if `attention`."""

    features: int
    num_res_blocks: int
    block: Make
    attention: Make | None = None

    @nn.compact
    def __call__(self, x: jax.Array, deterministic: bool = True) -> jax.Array:
        for i in range(self.num_res_blocks):
            x = self.block(self.features, name=f"res_{i}")(x, deterministic)
            if i == 0 and self.attention is not None:
                x = self.attention(name="attn")(x)
        return x


class Half(nn.Module):
    """Holds what encoder and decoder have in common.

    ch, ch_mult: level l has ch * ch_mult[l] channels.
    num_res_blocks: at every level.
    attention_levels: levels whose ResBlocks are each followed by attention; None is the last level.
    mid_blocks, mid_attention: of the middle, see `Middle`.
    out_activation: swish between the last norm and the last convolution.
    groups, dropout, use_bias, output_shortcut: of the ResBlocks, see `nn.conv.ResBlock`.
    patch: images are cut into patch x patch pixels first (1: not at all), which is much cheaper
        than convolving at full resolution. Not in the papers.
    """

    ch: int = 128
    ch_mult: Sequence[int] = (1, 1, 2, 2, 4)
    num_res_blocks: int = 2
    attention_levels: Sequence[int] | None = ()
    mid_blocks: int = 2
    mid_attention: bool = True
    out_activation: bool = True
    groups: int = silent(32)
    dropout: float = training(0.0)
    use_bias: bool = True
    output_shortcut: bool = False
    patch: int = 1
    dtype: Any = training(jnp.float32)

    def __post_init__(self):
        if not (whole_numbers(self.ch_mult, 1) and len(self.ch_mult)):
            raise UserError(f"ch_mult {self.ch_mult}: give a factor for each level, e.g. (1, 2, 4)")
        last = len(self.ch_mult) - 1
        if self.attention_levels is None:
            self.attention_levels = (last,)
        if not whole_numbers(self.attention_levels, 0, last):
            raise UserError(
                f"attention_levels {self.attention_levels}: give a row of levels from 0 to {last}, which "
                "ch_mult has; () is no attention"
            )
        self.ch_mult, self.attention_levels = tuple(self.ch_mult), tuple(self.attention_levels)
        super().__post_init__()

    @property
    def factor(self) -> int:
        """Pixels along each side of a latent position."""
        return self.patch * 2 ** (len(self.ch_mult) - 1)

    @nn.nowrap
    def _level(self, number: int, resample: Make | None, name: str | None = None) -> Level:
        return Level(
            self.ch * self.ch_mult[number],
            self.num_res_blocks,
            self._block,
            self._attention if number in self.attention_levels else None,
            resample and functools.partial(resample, dtype=self.dtype),
            name=name,
        )

    @nn.nowrap
    def _middle(self, name: str | None = None) -> Middle:
        return Middle(
            self.ch * self.ch_mult[-1],
            self.mid_blocks,
            self._block,
            self._attention if self.mid_attention else None,
            name=name,
        )

    @property
    def _block(self) -> Make:
        return functools.partial(
            ResBlock,
            groups=self.groups,
            dropout=self.dropout,
            use_bias=self.use_bias,
            output_shortcut=self.output_shortcut,
            dtype=self.dtype,
        )

    @property
    def _attention(self) -> Make:
        return functools.partial(AttnBlock, self.groups, self.dtype)

    @nn.nowrap
    def _activated(self, x: jax.Array) -> jax.Array:
        return nn.swish(x) if self.out_activation else x


class Encoder(Half):
    """Turns images [B, H, W, 3] into features [B, H/f, W/f, z_channels], f = patch * 2^(levels - 1).

    downsample: `nn.conv.Downsample` or `AveragePool`. out_kernel: of the last convolution.
    use_bias: also of the first convolution; the last one always has a bias.
    """

    z_channels: int = 256
    downsample: type[nn.Module] = Downsample
    out_kernel: int = 3

    @nn.compact
    def __call__(self, x: jax.Array, deterministic: bool = True) -> jax.Array:
        last = len(self.ch_mult) - 1
        x = space_to_depth(x, self.patch)
        x = Conv(self.ch, use_bias=self.use_bias, dtype=self.dtype, name="conv_in")(x)
        for number in range(last + 1):
            resample = self.downsample if number < last else None
            x = self._level(number, resample, f"level_{number}")(x, deterministic)
        x = self._middle("mid")(x, deterministic)
        x = self._activated(GroupNorm(self.groups, dtype=self.dtype, name="norm_out")(x))
        return Conv(self.z_channels, self.out_kernel, dtype=self.dtype, name="conv_out")(x)


class Decoder(Half):
    """Turns features [B, h, w, C] into images [B, h*f, w*f, 3], unbounded (clip outside).

    norm_first: the features are normalised before the first convolution, in groups.
    `hidden` and `project` are the two parts of a call: the adaptive adversarial weight needs the
    gradient to the kernel of `project` alone.
    """

    norm_first: bool = False

    def setup(self):
        if self.norm_first:
            self.norm_in = GroupNorm(self.groups, dtype=self.dtype)
        self.conv_in = Conv(self.ch * self.ch_mult[-1], dtype=self.dtype)
        self.mid = self._middle()
        self.level = [
            self._level(number, Upsample if number > 0 else None)
            for number in range(len(self.ch_mult))
        ]
        self.norm_out = GroupNorm(self.groups, dtype=self.dtype)
        self.conv_out = Conv(3 * self.patch**2, dtype=self.dtype)

    def hidden(self, z: jax.Array, deterministic: bool = True) -> jax.Array:
        """Computes everything before the last convolution: [B, H/patch, W/patch, ch]."""
        x = self.norm_in(z) if self.norm_first else z
        x = self.mid(self.conv_in(x), deterministic)
        for level in reversed(self.level):
            x = level(x, deterministic)
        return self._activated(self.norm_out(x))

    def project(self, x: jax.Array) -> jax.Array:
        """Applies the last convolution: hidden features -> float32 images [B, H, W, 3]."""
        return depth_to_space(self.conv_out(x), self.patch).astype(jnp.float32)

    def __call__(self, z: jax.Array, deterministic: bool = True) -> jax.Array:
        return self.project(self.hidden(z, deterministic))
