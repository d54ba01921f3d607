"""Convolutional bricks of image autoencoders. Activations are NHWC: x [B, H, W, C].

The blocks are those of VQGAN as LlamaGen uses them (tokenizer/tokenizer_image/vq_model.py), with what
MaskGIT does otherwise; parameters are float32, `dtype` is the type of the computation, norm statistics
are float32.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from imgen.errors import UserError
from imgen.params.fields import silent, training

Padding = str | int | tuple[tuple[int, int], tuple[int, int]]


def torch_uniform(fan_in: int) -> nn.initializers.Initializer:
    """Draws as PyTorch does for convolutions, weights and biases alike: uniform(+-1/sqrt(fan_in))."""
    bound = 1.0 / math.sqrt(fan_in)
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(
        key, shape, dtype, -bound, bound
    )


class Conv(nn.Module):
    """Convolves, kernel x kernel, with PyTorch's default initialisation.

    padding: pixels on every side, ((top, bottom), (left, right)), or XLA's "SAME" / "VALID".
    kernel_init: replaces the default of the kernel.
    """

    features: int
    kernel: int = 3
    stride: int = 1
    padding: Padding = "SAME"
    use_bias: bool = True
    kernel_init: nn.initializers.Initializer | None = training(None)
    dtype: Any = training(jnp.float32)

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (self.kernel, self.kernel, x.shape[-1], self.features)
        default = torch_uniform(math.prod(shape[:3]))
        kernel = self.param("kernel", self.kernel_init or default, shape)
        padding = self.padding
        if isinstance(padding, int):
            padding = ((padding, padding), (padding, padding))
        x = jax.lax.conv_general_dilated(
            x.astype(self.dtype),
            kernel.astype(self.dtype),
            (self.stride, self.stride),
            padding,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        if self.use_bias:
            x = x + self.param("bias", default, (self.features,)).astype(self.dtype)
        return x


class GroupNorm(nn.Module):
    """Normalises groups of channels, with float32 statistics.

    The sums are taken per channel and only the small [B, C] results are grouped, so that the
    activations are read once for the statistics and once for the result, without a reshape.
    """

    groups: int = silent(32)
    epsilon: float = 1e-6
    dtype: Any = training(jnp.float32)

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        b, h, w, c = x.shape
        if c % self.groups:
            raise UserError(f"{self.groups} norm groups do not divide {c} channels: change groups")
        scale = self.param("scale", nn.initializers.ones, (c,))
        bias = self.param("bias", nn.initializers.zeros, (c,))
        x = x.astype(jnp.float32)

        def group_mean(per_channel: jax.Array) -> jax.Array:  # [B, C] -> [B, G]
            return per_channel.reshape(b, self.groups, -1).mean(-1) / (h * w)

        mean = group_mean(x.sum((1, 2)))
        variance = jnp.maximum(group_mean(jnp.square(x).sum((1, 2))) - jnp.square(mean), 0.0)
        inverse = jax.lax.rsqrt(variance + self.epsilon)
        slope = jnp.repeat(inverse, c // self.groups, axis=1) * scale  # [B, C]
        shift = bias - jnp.repeat(mean, c // self.groups, axis=1) * slope
        return (x * slope[:, None, None] + shift[:, None, None]).astype(self.dtype)


class ResBlock(nn.Module):
    """Adds norm, swish, conv3x3, norm, swish, dropout, conv3x3 to x (by a 1x1 conv if it widens).

    use_bias: of the convolutions.
    output_shortcut: where the block widens, x is left out and the 1x1 conv is of the block's own output
        h: h + W h. MaskGIT's released VQGAN was trained so.
    """

    features: int
    groups: int = silent(32)
    dropout: float = training(0.0)
    use_bias: bool = True
    output_shortcut: bool = False
    dtype: Any = training(jnp.float32)

    @nn.compact
    def __call__(self, x: jax.Array, deterministic: bool = True) -> jax.Array:
        def conv(kernel: int, name: str) -> Conv:
            return Conv(self.features, kernel, use_bias=self.use_bias, dtype=self.dtype, name=name)

        h = nn.swish(GroupNorm(self.groups, dtype=self.dtype, name="norm1")(x))
        h = conv(3, "conv1")(h)
        h = nn.swish(GroupNorm(self.groups, dtype=self.dtype, name="norm2")(h))
        h = nn.Dropout(self.dropout)(h, deterministic=deterministic)
        h = conv(3, "conv2")(h)
        if x.shape[-1] != self.features:
            x = conv(1, "shortcut")(h if self.output_shortcut else x)
        return x + h


class AttnBlock(nn.Module):
    """Adds single-head attention over all H*W positions; no mask, no position embedding."""

    groups: int = silent(32)
    dtype: Any = training(jnp.float32)

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        b, h, w, c = x.shape
        y = GroupNorm(self.groups, dtype=self.dtype, name="norm")(x)
        q, k, v = (
            Conv(c, 1, dtype=self.dtype, name=name)(y).reshape(b, h * w, c) for name in "qkv"
        )
        logits = jnp.einsum("bqc,bkc->bqk", q, k, preferred_element_type=jnp.float32)
        weights = nn.softmax(logits * c**-0.5, axis=-1).astype(self.dtype)
        y = jnp.einsum("bqk,bkc->bqc", weights, v).reshape(b, h, w, c)
        return x + Conv(c, 1, dtype=self.dtype, name="out")(y)


class Downsample(nn.Module):
    """Halves H and W: zeros on the right and bottom only, then conv3x3 of stride 2."""

    dtype: Any = training(jnp.float32)

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        padding = ((0, 1), (0, 1))
        return Conv(x.shape[-1], stride=2, padding=padding, dtype=self.dtype, name="conv")(x)


class AveragePool(nn.Module):
    """Halves H and W: the mean of each 2x2 pixels."""

    dtype: Any = training(jnp.float32)

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        b, h, w, c = x.shape
        return x.reshape(b, h // 2, 2, w // 2, 2, c).mean((2, 4)).astype(self.dtype)


class Upsample(nn.Module):
    """Doubles H and W: nearest neighbour, then conv3x3."""

    dtype: Any = training(jnp.float32)

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        b, h, w, c = x.shape
        x = jnp.broadcast_to(x[:, :, None, :, None], (b, h, 2, w, 2, c)).reshape(b, 2 * h, 2 * w, c)
        return Conv(c, dtype=self.dtype, name="conv")(x)


def space_to_depth(x: jax.Array, patch: int) -> jax.Array:
    """Makes one position of each pxp patch: [B, H, W, C] -> [B, H/p, W/p, p*p*C]."""
    b, h, w, c = x.shape
    x = x.reshape(b, h // patch, patch, w // patch, patch, c)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, h // patch, w // patch, patch * patch * c)


def depth_to_space(x: jax.Array, patch: int) -> jax.Array:
    """Undoes `space_to_depth`."""
    b, h, w, c = x.shape
    x = x.reshape(b, h, w, patch, patch, c // patch**2)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, h * patch, w * patch, c // patch**2)
