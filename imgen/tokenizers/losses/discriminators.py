"""Discriminators of adversarial tokenizer training: images [B, H, W, 3] -> logits.

All have the same face: `__call__(images, stats) -> (logits, stats)` and `init_stats()`.
`stats` are the running statistics of batch norms, explicit because they are state, not parameters
({} where there are none); training moves them on and judges by the batch's own.
Sources: LlamaGen, tokenizer/tokenizer_image/discriminator*.py; bytedance/1d-tokenizer,
modeling/modules/discriminator.py.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from imgen.errors import UserError
from imgen.nn.conv import Conv, GroupNorm, torch_uniform

Stats = dict[str, dict[str, jax.Array]]


def leaky_relu(x: jax.Array) -> jax.Array:
    return nn.leaky_relu(x, 0.2)


class BatchNorm(nn.Module):
    """Normalises over the GLOBAL batch, with PyTorch's running statistics (momentum 0.1,
    unbiased variance). The official code runs it per device."""

    momentum: float = 0.1
    epsilon: float = 1e-5

    @nn.compact
    def __call__(
        self, x: jax.Array, stats: dict[str, jax.Array], train: bool
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        c = x.shape[-1]
        scale = self.param("scale", lambda key: 1.0 + 0.02 * jax.random.normal(key, (c,)))
        bias = self.param("bias", nn.initializers.zeros, (c,))
        x = x.astype(jnp.float32)
        if train:
            n = x.size // c
            mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
            fresh = {"mean": mean, "var": variance * (n / max(n - 1, 1))}
            stats = jax.tree.map(
                lambda old, new: (1 - self.momentum) * old + self.momentum * new, stats, fresh
            )
        else:
            mean, variance = stats["mean"], stats["var"]
        slope = scale * jax.lax.rsqrt(variance + self.epsilon)
        return x * slope + (bias - mean * slope), jax.lax.stop_gradient(stats)


class PatchGAN(nn.Module):
    """Returns logits for overlapping patches: [B, h, w, 1] (30 x 30 for 256 x 256 images).

    ndf: channels of the first layer, doubled by each later one up to 8 ndf.
    n_layers: convolutions of stride 2.

    Without `train` it judges by the running statistics, as the official one does in evaluation.
    """

    ndf: int = 64
    n_layers: int = 3
    dtype: Any = jnp.float32

    @nn.nowrap
    def widths(self) -> Sequence[int]:
        """Channels of all layers but the last: n_layers of stride 2, then one of stride 1."""
        return tuple(self.ndf * min(2**i, 8) for i in range(self.n_layers + 1))

    @nn.nowrap
    def init_stats(self) -> Stats:
        """Starts with running mean 0 and variance 1 of every batch norm."""
        return {
            f"norm_{i}": {"mean": jnp.zeros(width), "var": jnp.ones(width)}
            for i, width in enumerate(self.widths())
            if i > 0
        }

    @nn.compact
    def __call__(
        self, images: jax.Array, stats: Stats, train: bool = True
    ) -> tuple[jax.Array, Stats]:
        def conv(features: int, i: int, stride: int, use_bias: bool) -> Conv:
            init = nn.initializers.normal(0.02)
            return Conv(features, 4, stride, 1, use_bias, init, self.dtype, name=f"conv_{i}")

        x, new_stats = images, {}
        for i, width in enumerate(self.widths()):
            x = conv(width, i, stride=2 if i < self.n_layers else 1, use_bias=i == 0)(x)
            if i > 0:
                name = f"norm_{i}"
                x, new_stats[name] = BatchNorm(name=name)(x, stats[name], train)
            x = leaky_relu(x)
        logits = conv(1, len(self.widths()), stride=1, use_bias=True)(x)
        return logits.astype(jnp.float32), new_stats


class StyleGANBlock(nn.Module):
    """Halves H and W: (down(net(x)) + conv1x1_stride2(x)) / sqrt(2)."""

    features: int
    blur: Sequence[float]
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shortcut = Conv(self.features, 1, 2, 0, dtype=self.dtype, name="shortcut")(x)
        x = leaky_relu(Conv(self.features, dtype=self.dtype, name="conv1")(x))
        x = leaky_relu(Conv(self.features, dtype=self.dtype, name="conv2")(x))
        x = Conv(self.features, 3, 2, 1, dtype=self.dtype, name="down")(low_pass(x, self.blur))
        return (x + shortcut) / math.sqrt(2)


class StyleGANDiscriminator(nn.Module):
    """Returns one logit per image: [B, 1]. Square images whose side is a power of two, at least 8.

    ch_mult: scales the widths of 64 pixels and up (published: 1); max_ch: bounds all widths.
    blur: the low-pass filter in front of a stride. LlamaGen has (1, 2, 1), MaskGIT (1, 3, 3, 1). The
        rest of a block is LlamaGen's; MaskGIT's filters its shortcut too.
    """

    ch_mult: int = 1
    max_ch: int = 512
    blur: Sequence[float] = (1, 2, 1)
    dtype: Any = jnp.float32

    @nn.nowrap
    def init_stats(self) -> Stats:
        return {}

    @nn.compact
    def __call__(self, images: jax.Array, stats: Stats) -> tuple[jax.Array, Stats]:
        def width(side: int) -> int:
            return min(self.max_ch, 512 if side <= 32 else self.ch_mult * 16384 // side)

        side = images.shape[1]
        if side < 8 or side & (side - 1) or images.shape[2] != side:
            raise UserError(
                f"the StyleGAN discriminator takes square images of 8, 16, 32, ... pixels, not "
                f"{side}x{images.shape[2]}; use patchgan"
            )
        x = leaky_relu(Conv(width(side), dtype=self.dtype, name="conv_in")(images))
        while side > 4:
            side //= 2
            x = StyleGANBlock(width(side), self.blur, self.dtype, name=f"block_{side}")(x)
        x = leaky_relu(Conv(width(4), dtype=self.dtype, name="conv_out")(x))
        x = leaky_relu(self._dense(width(4), "dense_0", x.reshape(x.shape[0], -1)))
        return self._dense(1, "dense_1", x).astype(jnp.float32), stats

    def _dense(self, features: int, name: str, x: jax.Array) -> jax.Array:
        init = torch_uniform(x.shape[-1])
        return nn.Dense(features, dtype=self.dtype, kernel_init=init, bias_init=init, name=name)(x)


class NLayerDiscriminator(nn.Module):
    """Returns TiTok's (and MaskBit's) logits [B, 16, 16, 1] whatever the size of the images.

    Stages are conv3x3, anti-aliased halving, group norm; then the largest features of each cell of a
    16 x 16 grid are judged. No batch norm. (The official one takes images in [0, 1]: converted inside.)

    hidden_channels: of the stem and the first stage, doubled by each later one.
    blur: the low-pass filter of the halving.
    """

    hidden_channels: int = 128
    num_stages: int = 3
    groups: int = 32
    blur: Sequence[float] = (1, 3, 3, 1)
    dtype: Any = jnp.float32

    @nn.nowrap
    def init_stats(self) -> Stats:
        return {}

    @nn.compact
    def __call__(self, images: jax.Array, stats: Stats) -> tuple[jax.Array, Stats]:
        def conv(features: int, kernel: int, name: str) -> Conv:
            return Conv(features, kernel, dtype=self.dtype, name=name)

        x = conv(self.hidden_channels, 5, "conv_in")((images + 1.0) / 2.0)
        x = nn.leaky_relu(x, 0.1)
        for i in range(self.num_stages):
            x = conv(self.hidden_channels * 2**i, 3, f"conv_{i}")(x)
            x = low_pass(x, self.blur, stride=2, border="constant")
            x = GroupNorm(self.groups, 1e-5, self.dtype, name=f"norm_{i}")(x)
            x = nn.leaky_relu(x, 0.1)
        x = adaptive_max_pool(x, 16)
        x = nn.leaky_relu(conv(x.shape[-1], 1, "to_logits_0")(x), 0.1)
        return conv(1, 5, "to_logits_1")(x).astype(jnp.float32), stats


def low_pass(
    x: jax.Array, taps: Sequence[float], stride: int = 1, border: str = "reflect"
) -> jax.Array:
    """Filters by `taps`, made to sum to 1, along both axes: [B, H, W, C] -> ceil(H / stride), ceil(W /
    stride).

    border: what is around, as `jnp.pad` calls it ("constant": zeros); an odd one of it is at the end.
    """
    for axis in (1, 2):
        length = x.shape[axis]
        last = (length - 1) // stride * stride  # the first tap's place in the last window
        around = last + len(taps) - length
        padding = [(around // 2, around - around // 2) if a == axis else (0, 0) for a in range(4)]
        x = jnp.pad(x, padding, mode=border)
        x = sum(
            tap / sum(taps) * jax.lax.slice_in_dim(x, i, i + last + 1, stride, axis)
            for i, tap in enumerate(taps)
        )
    return x


def adaptive_max_pool(x: jax.Array, size: int) -> jax.Array:
    """Pools [B, H, W, C] to [B, size, size, C]: the largest value of each cell. Cell i of n rows takes the
    rows from floor(i n / size) to before ceil((i + 1) n / size); neighbours may share a row."""
    for axis in (1, 2):
        cells = np.arange(size)
        first = cells * x.shape[axis] // size
        last = -(-(cells + 1) * x.shape[axis] // size) - 1
        widest = (last - first).max() + 1
        rows = np.minimum(
            first[:, None] + np.arange(widest), last[:, None]
        )  # repeats change no maximum
        x = jnp.take(x, rows, axis=axis).max(axis + 1)
    return x


DISCRIMINATORS = {
    "patchgan": PatchGAN,
    "stylegan": StyleGANDiscriminator,
    "nlayer": NLayerDiscriminator,
}
