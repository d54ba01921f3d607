"""LPIPS, the learned perceptual distance (features of a classifier, v0.1 linear heads), as pure functions.

Source: "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric";
richzhang/PerceptualSimilarity, lpips/; LlamaGen, tokenizer/vqgan/lpips.py, whose dropout in front of the
heads is left out (the same expectation). Training losses take VGG16; evaluations take AlexNet, the lpips
package's default, or VGG16, and must say which. Parameters come from `imgen.interop.lpips`; everything runs
in float32.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

MEAN = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)


@dataclasses.dataclass(frozen=True)
class Trunk:
    """Describes a classifier of torchvision, cut into five slices whose last activations are compared.

    slices: the convolutions of each, by their index in `features`; a ReLU follows each one. widths: channels
    of each slice. kernel, stride, padding: of each slice's convolutions. pooled: the slices that a max-pool
    precedes, of pool_size pixels in steps of 2.
    """

    slices: tuple[tuple[int, ...], ...]
    widths: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    pooled: tuple[int, ...]
    pool_size: int


VGG16 = Trunk(
    slices=((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28)),
    widths=(64, 128, 256, 512, 512),
    kernel=(3, 3, 3, 3, 3),
    stride=(1, 1, 1, 1, 1),
    padding=(1, 1, 1, 1, 1),
    pooled=(1, 2, 3, 4),
    pool_size=2,
)
ALEXNET = Trunk(
    slices=((0,), (3,), (6,), (8,), (10,)),
    widths=(64, 192, 384, 256, 256),
    kernel=(11, 5, 3, 3, 3),
    stride=(4, 1, 1, 1, 1),
    padding=(2, 2, 1, 1, 1),
    pooled=(1, 2),
    pool_size=3,
)
TRUNKS = {"vgg": VGG16, "alex": ALEXNET}  # by the names of the lpips package

Params = dict[str, Any]


def abstract_params(widths: Sequence[int] | None = None, trunk: Trunk = VGG16) -> Params:
    """Returns the shapes of the parameters: conv_{index}/{kernel, bias} and lin_{slice} [C]. widths: if not
    published."""
    params, previous = {}, 3
    for k, width in enumerate(widths or trunk.widths):
        size = trunk.kernel[k]
        for index in trunk.slices[k]:
            params[f"conv_{index}"] = {
                "kernel": jax.ShapeDtypeStruct((size, size, previous, width), jnp.float32),
                "bias": jax.ShapeDtypeStruct((width,), jnp.float32),
            }
            previous = width
        params[f"lin_{k}"] = jax.ShapeDtypeStruct((width,), jnp.float32)
    return params


def least_size(trunk: Trunk) -> int:
    """Counts the pixels a side, below which the last slice is left with none."""
    size = 1
    for k in reversed(range(len(trunk.slices))):
        for _ in trunk.slices[k]:
            size = (size - 1) * trunk.stride[k] + trunk.kernel[k] - 2 * trunk.padding[k]
        if k in trunk.pooled:
            size = (size - 1) * 2 + trunk.pool_size
    return size


def features(params: Params, images: jax.Array, trunk: Trunk = VGG16) -> list[jax.Array]:
    """Turns images [B, H, W, 3] in [-1, 1] into the last activations of each slice."""
    x = (images.astype(jnp.float32) - jnp.array(MEAN)) / jnp.array(SCALE)
    out = []
    for k, slice_ in enumerate(trunk.slices):
        if k in trunk.pooled:
            window = (1, trunk.pool_size, trunk.pool_size, 1)
            x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, (1, 2, 2, 1), "VALID")
        for index in slice_:
            conv = params[f"conv_{index}"]
            x = jax.lax.conv_general_dilated(
                x,
                conv["kernel"],
                (trunk.stride[k], trunk.stride[k]),
                2 * [2 * (trunk.padding[k],)],
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
                precision="highest",
            )
            x = jax.nn.relu(x + conv["bias"])
        out.append(x)
    return out


def lpips_per_layer(
    params: Params, first: jax.Array, second: jax.Array, trunk: Trunk = VGG16
) -> jax.Array:
    """Returns the five terms of the distance: [B, 5]."""
    terms = []
    pairs = zip(features(params, first, trunk), features(params, second, trunk), strict=True)
    for k, (a, b) in enumerate(pairs):
        difference = jnp.square(_unit(a) - _unit(b))
        terms.append(
            jnp.mean(jnp.matmul(difference, params[f"lin_{k}"], precision="highest"), axis=(1, 2))
        )
    return jnp.stack(terms, axis=-1)


def lpips(params: Params, first: jax.Array, second: jax.Array, trunk: Trunk = VGG16) -> jax.Array:
    """Returns the distance of two image batches [B, H, W, 3] in [-1, 1]: float32 [B]."""
    return lpips_per_layer(params, first, second, trunk).sum(-1)


def _unit(x: jax.Array) -> jax.Array:
    """Returns x / (|x| + 1e-10) over channels. Where all channels are 0 the gradient is 0, not NaN."""
    square = jnp.square(x).sum(-1, keepdims=True)
    norm = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)
    return x / (norm + 1e-10)
