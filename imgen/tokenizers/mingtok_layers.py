"""MingTok's three transformers. Shapes: B images, N patches in rows, C channels, D width.

Source: inclusionAI/Ming-UniVision, mingtok/modeling_mingtok.py and mingtok/vision_transformer.py.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from imgen.nn.conv import depth_to_space
from imgen.nn.vit import SHARDING as VIT
from imgen.nn.vit import ViT, patch_embedding, repeat_tokens
from imgen.params.fields import training

NORM_EPS = 1e-6
normal = nn.initializers.normal(0.02)

SHARDING = (
    *VIT,
    # Between patches, latents, pixels and the widths, on every device.
    (r"(patch_embed|proj_in|proj_out|sem_to_pix|pixel_decoder/head)/kernel$", ()),
    (r"(class_token|mask_token|positions)$", ()),
)


def random_mask(rng: jax.Array, batch: int, positions: int, ratio: float) -> jax.Array:
    """Draws bool [B, N]: round(ratio N) positions of each image, from the key and the image's number."""

    def one(number: jax.Array) -> jax.Array:
        order = jax.random.permutation(jax.random.fold_in(rng, number), positions)
        return order < round(ratio * positions)

    return jax.vmap(one)(jnp.arange(batch))


class LowLevelEncoder(nn.Module):
    """Turns images [B, H, W, 3] into float32 latents [B, N + 1, C], not normalised, the class token's last.

    out = group_mean(x) + linear(gelu(norm(x))), group_mean: of D / C channels in a row each.
    masking: there is a mask token, which takes the place of patches that are masked.
    """

    width: int
    depth: int
    head_dim: int
    patch: int
    channels: int
    masking: bool = False
    remat: bool = training(False)
    dtype: Any = training(jnp.float32)

    @nn.compact
    def __call__(self, images: jax.Array, masked: jax.Array | None = None) -> jax.Array:
        """Encodes; masked: bool [B, N], the patches that are not seen."""
        x = patch_embedding(self.width, self.patch, self.dtype)(images)
        x = x.reshape(len(x), -1, self.width)  # [B, N, D]
        if self.masking:
            mask_token = self.param("mask_token", normal, (1, self.width)).astype(x.dtype)
            if masked is not None:
                x = jnp.where(masked[:, :, None], mask_token, x)
        class_token = self.param("class_token", normal, (1, self.width))
        x = jnp.concatenate([x, repeat_tokens(class_token, len(x), x.dtype)], axis=1)
        x = x + self.param("positions", normal, x.shape[1:]).astype(x.dtype)
        x = ViT(
            self.depth,
            self.width // self.head_dim,
            eps=NORM_EPS,
            remat=self.remat,
            dtype=self.dtype,
            mlp="swiglu",
            name="transformer",
        )(x).astype(jnp.float32)
        means = x.reshape(*x.shape[:2], self.channels, -1).mean(-1)
        x = nn.gelu(nn.LayerNorm(NORM_EPS, name="norm_out")(x), approximate=False)
        return means + nn.Dense(self.channels, kernel_init=normal, name="proj_out")(x)


class SemanticDecoder(nn.Module):
    """Turns latents [B, T, C], not normalised, into features [B, T, D], each from the latents up to its own.

    x = linear(z) + repeat(z), each channel D / C times in a row. Order is known from causality alone: there
    are no positions.
    """

    width: int
    depth: int
    head_dim: int
    remat: bool = training(False)
    dtype: Any = training(jnp.float32)

    def setup(self):
        self.proj_in = nn.Dense(self.width, dtype=self.dtype, kernel_init=normal)
        self.transformer = ViT(
            self.depth,
            self.width // self.head_dim,
            eps=NORM_EPS,
            remat=self.remat,
            dtype=self.dtype,
            mlp="swiglu",
        )
        self.norm_out = nn.LayerNorm(NORM_EPS, dtype=self.dtype)

    def __call__(self, z: jax.Array) -> jax.Array:
        causal = np.tri(z.shape[1], dtype=bool)
        repeated = jnp.repeat(z, self.width // z.shape[-1], axis=-1)
        x = self.proj_in(z) + repeated.astype(self.dtype)
        return self.norm_out(self.transformer(x, causal))


class PixelDecoder(nn.Module):
    """Turns tokens [B, h, w, D] into images [B, h p, w p, 3]: `hidden`, then `project`. There are no
    positions."""

    depth: int
    heads: int
    patch: int
    remat: bool = training(False)
    dtype: Any = training(jnp.float32)

    def setup(self):
        self.transformer = ViT(
            self.depth, self.heads, eps=NORM_EPS, remat=self.remat, dtype=self.dtype
        )
        self.norm_out = nn.LayerNorm(NORM_EPS, dtype=self.dtype)
        self.head = nn.Dense(3 * self.patch**2, dtype=self.dtype, kernel_init=normal)

    def hidden(self, x: jax.Array) -> jax.Array:
        """Computes everything before the last layer: [B, h, w, D]."""
        tokens = x.reshape(len(x), -1, x.shape[-1])
        return self.norm_out(self.transformer(tokens)).reshape(x.shape)

    def project(self, hidden: jax.Array) -> jax.Array:
        """Applies the last layer alone, in float32, not clipped."""
        return depth_to_space(self.head(hidden), self.patch).astype(jnp.float32)
