"""TiTok's transformers and what makes pixels or codes of their features.

Source: bytedance/1d-tokenizer, modeling/modules/blocks.py.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from imgen.nn.conv import depth_to_space
from imgen.nn.logits import Logits
from imgen.nn.vit import SHARDING as VIT
from imgen.nn.vit import ViT, patch_embedding, repeat_tokens
from imgen.params.fields import silent, training

Size = tuple[int, int, int]  # width, layers, heads
INIT = nn.initializers.normal(0.02)  # of all linear layers

SHARDING = (
    *VIT,
    # Between patches, values, codes and the width, on every device.
    (
        r"(patch_embed|conv_out|decoder_embed|pixel_head/to_pixels|code_head/(hidden|logits))/kernel$",
        (),
    ),
    (r"(class_token|mask_token|latent_tokens|(latent_)?positions)$", ()),
)


def linear(features: int, dtype: Any, name: str | None = None) -> nn.Dense:
    """Makes a linear layer that starts as all of TiTok's do."""
    return nn.Dense(features, dtype=dtype, kernel_init=INIT, name=name)


def layer_norm(dtype: Any, name: str | None = None) -> nn.LayerNorm:
    """Makes a layer norm with PyTorch's epsilon."""
    return nn.LayerNorm(1e-5, dtype=dtype, name=name)


def causal_latents(patches: int, latents: int) -> jax.Array:
    """Returns who sees whom among [class, patches, latents]: bool [T, T]. Everyone sees class and patches; a
    latent also sees itself and the latents before it (SEED's order)."""
    query, key = jnp.ogrid[: 1 + patches + latents, : 1 + patches + latents]
    return (key <= patches) | (key <= query)


class Encoder(nn.Module):
    """Turns images [B, H, W, 3] in [0, 1] and latent tokens [K, D] into features [B, K, features].

    legacy: as the two-stage checkpoints have it, the last layer reads [B, K, D] as if it were
        [B, D, K]: each of its K rows mixes values of several tokens.
    """

    size: Size
    patch: int
    features: int
    legacy: bool = silent(False)
    causal_1d: bool = False
    remat: bool = training(False)
    dtype: Any = training(jnp.float32)

    @nn.compact
    def __call__(self, images: jax.Array, latent_tokens: jax.Array) -> jax.Array:
        (width, depth, heads), latents = self.size, latent_tokens.shape[0]
        token = nn.initializers.normal(width**-0.5)
        x = patch_embedding(width, self.patch, self.dtype)(images)
        batch, patches = x.shape[0], x.shape[1] * x.shape[2]
        x = x.reshape(batch, patches, width)
        class_token = self.param("class_token", token, (1, width))
        positions = self.param("positions", token, (1 + patches, width))
        x = jnp.concatenate([repeat_tokens(class_token, batch, x.dtype), x], axis=1)
        x = x + positions.astype(x.dtype)
        tail = latent_tokens + self.param("latent_positions", token, (latents, width))
        x = jnp.concatenate([x, repeat_tokens(tail, batch, x.dtype)], axis=1)  # [B, 1 + N + K, D]

        mask = causal_latents(patches, latents) if self.causal_1d else None
        x = layer_norm(self.dtype, "ln_pre")(x)
        x = ViT(depth, heads, remat=self.remat, dtype=self.dtype, name="transformer")(x, mask)
        x = layer_norm(self.dtype, "ln_post")(x[:, 1 + patches :])
        if self.legacy:
            x = jnp.swapaxes(x.reshape(batch, width, latents), 1, 2)
        return linear(self.features, self.dtype, "conv_out")(x)


class Decoder(nn.Module):
    """Turns values [B, K, C] into features [B, grid, grid, D] of the patches."""

    size: Size
    grid: int
    remat: bool = training(False)
    dtype: Any = training(jnp.float32)

    @nn.compact
    def __call__(self, values: jax.Array) -> jax.Array:
        (width, depth, heads), (batch, latents, _) = self.size, values.shape
        patches = self.grid**2
        token = nn.initializers.normal(width**-0.5)
        tail = linear(width, self.dtype, "decoder_embed")(values)
        tail = tail + self.param("latent_positions", token, (latents, width)).astype(tail.dtype)
        class_token = self.param("class_token", token, (1, width))
        mask_token = self.param("mask_token", token, (1, width))
        masks = jnp.concatenate([class_token, jnp.broadcast_to(mask_token, (patches, width))])
        masks = masks + self.param("positions", token, (1 + patches, width))
        x = jnp.concatenate(
            [repeat_tokens(masks, batch, tail.dtype), tail], axis=1
        )  # [B, 1 + N + K, D]

        x = layer_norm(self.dtype, "ln_pre")(x)
        x = ViT(depth, heads, remat=self.remat, dtype=self.dtype, name="transformer")(x)
        x = layer_norm(self.dtype, "ln_post")(x[:, 1 : 1 + patches])
        return x.reshape(batch, self.grid, self.grid, width)


class ToPixels(nn.Module):
    """Turns features [B, h, w, D] into images [B, h p, w p, 3] in [0, 1]: `hidden`, then `project`."""

    patch: int
    dtype: Any = training(jnp.float32)

    def setup(self):
        self.to_pixels = linear(3 * self.patch**2, self.dtype)
        self.conv_out = nn.Conv(3, (3, 3), dtype=self.dtype, kernel_init=INIT)

    def hidden(self, x: jax.Array) -> jax.Array:
        """Computes everything before the last convolution: [B, h p, w p, 3]."""
        return depth_to_space(self.to_pixels(x), self.patch)

    def project(self, hidden: jax.Array) -> jax.Array:
        """Applies the last convolution, in float32."""
        return self.conv_out(hidden).astype(jnp.float32)


class ToCodes(nn.Module):
    """Turns features [..., D] into float32 logits [..., codes] over the proxy's codebook."""

    codes: int
    dtype: Any = training(jnp.float32)

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.tanh(linear(2 * x.shape[-1], self.dtype, "hidden")(x))
        return Logits(self.codes, dtype=self.dtype, kernel_init=INIT, name="logits")(x)
