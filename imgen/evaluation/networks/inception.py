"""The Inception-v3 of FID, Inception Score and their kin: Google's graph of 2015-12-05, with 1008 outputs.

It is not the Inception-v3 of classification libraries: average pools leave padding out of the mean, the
last block pools with the maximum, batch norms have eps 1e-3, and pixels are scaled otherwise
(`inception_input`). Everything runs in float32 at highest precision; batch norms are those of inference.

Sources: Szegedy et al. 2016, "Rethinking the Inception Architecture for Computer Vision";
mseitzer/pytorch-fid, inception.py; toshas/torch-fidelity, feature_extractor_inceptionv3.py. Layers have the
names that these ports gave them.
"""

import functools
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

SHA256 = "6726825d"  # how that of the published file of weights begins
SIZE = 299  # pixels a side
CLASSES = 1008
EPSILON = 1e-3
SPATIAL_CHANNELS = 7
WIDTHS = {"pool3": 2048, "spatial": 17 * 17 * SPATIAL_CHANNELS, "logits": CLASSES}
HIGHEST = jax.lax.Precision.HIGHEST


class Conv(NamedTuple):
    """Convolution without bias, batch norm, ReLU. kernel: (height, width).

    average: takes the mean of 3 x 3 pixels, of those that are there. The graph does so before the (1 x 1)
    convolution; here it comes after, which gives the same from fewer channels.
    """

    name: str
    features: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    padding: str = "SAME"
    average: bool = False


class MaxPool(NamedTuple):
    """Windows of 3 x 3; with stride 1 the size stays, with stride 2 nothing is padded."""

    stride: int = 1
    name: str = "pool"


Fork = tuple[Conv, ...]  # convolutions of one input, whose outputs are concatenated
Branch = tuple[Conv | MaxPool | Fork, ...]  # one after the other

MAX_HALF = MaxPool(stride=2)
AVERAGE: Branch = (Conv("branch_pool", 192, average=True),)
MAX: Branch = (MaxPool(), Conv("branch_pool", 192))


def _half(name: str, features: int) -> Conv:
    return Conv(name, features, (3, 3), 2, "VALID")


def _block_a(pool_features: int) -> tuple[Branch, ...]:
    return (
        (Conv("branch1x1", 64),),
        (Conv("branch5x5_1", 48), Conv("branch5x5_2", 64, (5, 5))),
        (
            Conv("branch3x3dbl_1", 64),
            Conv("branch3x3dbl_2", 96, (3, 3)),
            Conv("branch3x3dbl_3", 96, (3, 3)),
        ),
        (Conv("branch_pool", pool_features, average=True),),
    )


BLOCK_B: tuple[Branch, ...] = (
    (_half("branch3x3", 384),),
    (
        Conv("branch3x3dbl_1", 64),
        Conv("branch3x3dbl_2", 96, (3, 3)),
        _half("branch3x3dbl_3", 96),
    ),
    (MAX_HALF,),
)


def _block_c(width: int) -> tuple[Branch, ...]:
    return (
        (Conv("branch1x1", 192),),
        (
            Conv("branch7x7_1", width),
            Conv("branch7x7_2", width, (1, 7)),
            Conv("branch7x7_3", 192, (7, 1)),
        ),
        (
            Conv("branch7x7dbl_1", width),
            Conv("branch7x7dbl_2", width, (7, 1)),
            Conv("branch7x7dbl_3", width, (1, 7)),
            Conv("branch7x7dbl_4", width, (7, 1)),
            Conv("branch7x7dbl_5", 192, (1, 7)),
        ),
        AVERAGE,
    )


BLOCK_D: tuple[Branch, ...] = (
    (Conv("branch3x3_1", 192), _half("branch3x3_2", 320)),
    (
        Conv("branch7x7x3_1", 192),
        Conv("branch7x7x3_2", 192, (1, 7)),
        Conv("branch7x7x3_3", 192, (7, 1)),
        _half("branch7x7x3_4", 192),
    ),
    (MAX_HALF,),
)


def _block_e(pool: Branch) -> tuple[Branch, ...]:
    def fork(name: str) -> Fork:
        return Conv(f"{name}a", 384, (1, 3)), Conv(f"{name}b", 384, (3, 1))

    return (
        (Conv("branch1x1", 320),),
        (Conv("branch3x3_1", 384), fork("branch3x3_2")),
        (
            Conv("branch3x3dbl_1", 448),
            Conv("branch3x3dbl_2", 384, (3, 3)),
            fork("branch3x3dbl_3"),
        ),
        pool,
    )


STEM = (  # 299 pixels a side -> 149, 147, 147, 73, 73, 71, 35
    _half("Conv2d_1a_3x3", 32),
    Conv("Conv2d_2a_3x3", 32, (3, 3), padding="VALID"),
    Conv("Conv2d_2b_3x3", 64, (3, 3)),
    MaxPool(2, "MaxPool_1"),
    Conv("Conv2d_3b_1x1", 80),
    Conv("Conv2d_4a_3x3", 192, (3, 3), padding="VALID"),
    MaxPool(2, "MaxPool_2"),
)
BLOCKS = {
    "Mixed_5b": _block_a(32),  # [B, 35, 35, 256]
    "Mixed_5c": _block_a(64),  # 288
    "Mixed_5d": _block_a(64),
    "Mixed_6a": BLOCK_B,  # [B, 17, 17, 768]
    "Mixed_6b": _block_c(128),
    "Mixed_6c": _block_c(160),
    "Mixed_6d": _block_c(160),
    "Mixed_6e": _block_c(192),
    "Mixed_7a": BLOCK_D,  # [B, 8, 8, 1280]
    "Mixed_7b": _block_e(AVERAGE),  # 2048
    "Mixed_7c": _block_e(MAX),
}


class Inception(nn.Module):
    """Pixels float32 [B, 299, 299, 3], scaled as the weights want them -> a dict of float32 features.

    pool3     [B, 2048]  mean of the last block: FID, KID, precision and recall
    spatial   [B, 2023]  first 7 channels of Mixed_6d, in the order H, W, C: sFID
    logits    [B, 1008]  without the bias: Inception Score
    biased_logits        with it
    stages    {name: [B, H, W, C]}, the output of each layer of the stem and of each block

    Under `jit`, only what is asked for is computed.
    """

    @nn.compact
    def __call__(self, x: jax.Array) -> dict[str, Any]:
        stages = {}
        for step in STEM:
            x = stages[step.name] = _apply(step, x)
        for name, branches in BLOCKS.items():
            x = stages[name] = Mixed(branches, name=name)(x)
        pool3 = x.mean(axis=(1, 2))
        logits, biased_logits = Head(CLASSES, name="fc")(pool3)
        # The first branch of a block comes first in its channels.
        spatial = stages["Mixed_6d"][..., :SPATIAL_CHANNELS]
        return {
            "pool3": pool3,
            "spatial": spatial.reshape(len(x), -1),
            "logits": logits,
            "biased_logits": biased_logits,
            "stages": stages,
        }


def abstract_params() -> dict[str, Any]:
    """Shapes of the parameters."""
    x = jax.ShapeDtypeStruct((1, SIZE, SIZE, 3), jnp.float32)
    return jax.eval_shape(Inception().init, jax.random.key(0), x)["params"]


def conv_paths() -> list[str]:
    """The parameter paths of all convolutions: "Conv2d_1a_3x3", ..., "Mixed_7c/branch_pool"."""
    found = [step.name for step in STEM if isinstance(step, Conv)]
    for block, branches in BLOCKS.items():
        for step in itertools.chain.from_iterable(branches):
            convs = (step,) if isinstance(step, Conv) else () if isinstance(step, MaxPool) else step
            found += [f"{block}/{conv.name}" for conv in convs]
    return found


class Mixed(nn.Module):
    """Branches over one input, concatenated along channels."""

    branches: tuple[Branch, ...]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        outputs = []
        for branch in self.branches:
            y = x
            for step in branch:
                y = _apply(step, y)
            outputs.append(y)
        return jnp.concatenate(outputs, axis=-1)


def _apply(step: Conv | MaxPool | Fork, x: jax.Array) -> jax.Array:
    """One step of a branch; the module whose method calls it gets its parameters."""
    if isinstance(step, Conv):
        return NormedConv(*step[1:], name=step.name)(x)
    if isinstance(step, MaxPool):
        return max_pool(x, step.stride)
    return jnp.concatenate([_apply(conv, x) for conv in step], axis=-1)


class NormedConv(nn.Module):
    """See `Conv`. The norm's slope is folded into the kernel."""

    features: int
    kernel: tuple[int, int]
    stride: int
    padding: str
    average: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        he = nn.initializers.he_normal()
        kernel = self.param("kernel", he, (*self.kernel, x.shape[-1], self.features))
        zeros, ones = nn.initializers.zeros, nn.initializers.ones
        scale, bias, mean, var = (
            self.param(name, init, (self.features,))
            for name, init in (("scale", ones), ("bias", zeros), ("mean", zeros), ("var", ones))
        )
        slope = scale * jax.lax.rsqrt(var + EPSILON)
        x = convolve(x, kernel * slope, self.stride, self.padding)
        if self.average:
            x = average_pool(x)
        return nn.relu(x + (bias - mean * slope))


class Head(nn.Module):
    """Features [B, C] -> logits without and with their bias."""

    classes: int

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (x.shape[-1], self.classes))
        bias = self.param("bias", nn.initializers.zeros, (self.classes,))
        logits = jnp.matmul(x, kernel, precision=HIGHEST)
        return logits, logits + bias


def convolve(x: jax.Array, kernel: jax.Array, stride: int, padding: str) -> jax.Array:
    """[B, H, W, C] with [h, w, C, D] -> [B, H', W', D]. padding: "SAME" (of stride 1) or "VALID"."""
    if kernel.shape[:2] == (1, 1):
        return jnp.matmul(x, kernel[0, 0], precision=HIGHEST)
    rows = (x.shape[1] - kernel.shape[0]) // stride + 1
    if padding == "VALID":
        # A row of zeros that is cut off again: without any padding, XLA's CPU takes 2 to 3 times as long.
        padding = ((0, 1), (0, 0))
    else:
        rows = x.shape[1]
    y = jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=HIGHEST,
    )
    return y[:, :rows]


def max_pool(x: jax.Array, stride: int) -> jax.Array:
    """[B, H, W, C] by windows of 3 x 3; with stride 1 the size stays, with stride 2 nothing is padded."""
    return _windows(x, jnp.maximum, stride, -jnp.inf)


def average_pool(x: jax.Array) -> jax.Array:
    """[B, H, W, C] by windows of 3 x 3 in steps of 1: the mean of those pixels that are there."""
    there = jnp.ones_like(x[:1, ..., :1])
    return _windows(x, jnp.add, 1, 0.0) / _windows(there, jnp.add, 1, 0.0)


def _windows(x: jax.Array, combine: Callable, stride: int, outside: float) -> jax.Array:
    """Along height, then along width: on a CPU that is quicker than `reduce_window`."""
    for axis in (1, 2):
        if stride == 1:
            padding = [(1, 1) if a == axis else (0, 0) for a in range(x.ndim)]
            x = jnp.pad(x, padding, constant_values=outside)
        end = x.shape[axis] - 2
        rows = (jax.lax.slice_in_dim(x, i, end + i, stride, axis) for i in range(3))
        x = functools.reduce(combine, rows)
    return x
