"""LPIPS, the learned perceptual distance (VGG16 features, v0.1 linear heads), as pure functions.

Source: "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric"; LlamaGen,
tokenizer/vqgan/lpips.py, whose dropout in front of the heads is left out (the same expectation).
Parameters come from `imgen.interop.lpips`; everything runs in float32.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

# The convolutions of torchvision's VGG16, by their index in `features`, between two max-pools.
SLICES = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))
WIDTHS = (64, 128, 256, 512, 512)
MEAN = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)

Params = dict[str, Any]


def abstract_params(widths: Sequence[int] = WIDTHS) -> Params:
    """Shapes of the parameters: conv_{index}/{kernel, bias} and lin_{slice} [C]."""
    params, previous = {}, 3
    for k, (slice_, width) in enumerate(zip(SLICES, widths, strict=True)):
        for index in slice_:
            params[f"conv_{index}"] = {
                "kernel": jax.ShapeDtypeStruct((3, 3, previous, width), jnp.float32),
                "bias": jax.ShapeDtypeStruct((width,), jnp.float32),
            }
            previous = width
        params[f"lin_{k}"] = jax.ShapeDtypeStruct((width,), jnp.float32)
    return params


def features(params: Params, images: jax.Array) -> list[jax.Array]:
    """Images [B, H, W, 3] in [-1, 1] -> activations after relu1_2, 2_2, 3_3, 4_3 and 5_3."""
    x = (images.astype(jnp.float32) - jnp.array(MEAN)) / jnp.array(SCALE)
    out = []
    for k, slice_ in enumerate(SLICES):
        if k:
            window = (1, 2, 2, 1)
            x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, window, "VALID")
        for index in slice_:
            conv = params[f"conv_{index}"]
            x = jax.lax.conv_general_dilated(
                x,
                conv["kernel"],
                (1, 1),
                "SAME",
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
                precision="highest",
            )
            x = jax.nn.relu(x + conv["bias"])
        out.append(x)
    return out


def lpips_per_layer(params: Params, first: jax.Array, second: jax.Array) -> jax.Array:
    """The five terms of the distance: [B, 5]."""
    terms = []
    pairs = zip(features(params, first), features(params, second), strict=True)
    for k, (a, b) in enumerate(pairs):
        difference = jnp.square(_unit(a) - _unit(b))
        terms.append(
            jnp.mean(jnp.matmul(difference, params[f"lin_{k}"], precision="highest"), axis=(1, 2))
        )
    return jnp.stack(terms, axis=-1)


def lpips(params: Params, first: jax.Array, second: jax.Array) -> jax.Array:
    """Distance of two image batches [B, H, W, 3] in [-1, 1]: float32 [B]."""
    return lpips_per_layer(params, first, second).sum(-1)


def _unit(x: jax.Array) -> jax.Array:
    """x / (|x| + 1e-10) over channels. Where all channels are 0 the gradient is 0, not NaN."""
    square = jnp.square(x).sum(-1, keepdims=True)
    norm = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)
    return x / (norm + 1e-10)
