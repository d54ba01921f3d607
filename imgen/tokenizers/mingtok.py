"""MingTok: one continuous latent space for understanding and generation.

Three vision transformers. A low-level encoder makes a latent of C channels of each patch and, behind them,
one of a class token; a causal semantic decoder makes features of latents, each from those up to its own, so
that a generator can have them token by token; a pixel decoder draws the image from these features.

Shapes: B images, N = h w patches in rows, C channels, D width; the class token comes LAST.
Sources: "Ming-UniVision" (arXiv 2510.06590); inclusionAI/Ming-UniVision, mingtok/modeling_mingtok.py and
mingtok/vision_transformer. No training code is released: masking and teacher stand for what the model card
says of them (masked image modelling, multi-level supervision).
"""

import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from imgen.errors import UserError
from imgen.latents import LatentSpec, height_width
from imgen.nn.conv import depth_to_space
from imgen.params.fields import training
from imgen.tokenizers.losses.semantic import FeatureTarget, teacher_loss
from imgen.tokenizers.mingtok_layers import (
    SHARDING,
    LowLevelEncoder,
    PixelDecoder,
    SemanticDecoder,
    normal,
    random_mask,
)
from imgen.tokenizers.quantizers.gaussian import Normalizer
from imgen.tokenizers.tokenizer import ImageSize, Tokenizer


class MingTok(Tokenizer):
    """Turns images [B, H, W, 3] in [-1, 1] into latents [B, h, w, C] and back. The defaults are the
    released model's.

    image_size: a side or (H, W), the only one that can be encoded: the encoder's positions are learned.
    patch: pixels a side of a latent. pixel_patch: of a token of the pixel decoder, whose grid is
        patch / pixel_patch times as fine.
    channels: C. widths and depths: of the three transformers, which have width / head_dim heads.
    mask_ratio: share of the patches that the encoder does not see in training; the share and the mask token
        are ours.
    semantic_target: predicts a teacher's features from the semantic features, one of each patch in rows.
    class_target: a teacher's features end with one more, of the whole image, for the class token.
    remat: recompute the blocks in the backward pass. dtype: of the transformers' computation.
    """

    image_size: int | tuple[int, int] = 512
    patch: int = 32
    pixel_patch: int = 16
    channels: int = 32
    encoder_width: int = 768
    encoder_depth: int = 12
    semantic_width: int = 1024
    semantic_depth: int = 24
    pixel_width: int = 1024
    pixel_depth: int = 24
    head_dim: int = 64
    mask_ratio: float = 0.0
    semantic_target: FeatureTarget | Mapping[str, Any] | None = None
    class_target: bool = False
    remat: bool = training(False)
    dtype: Any = training(jnp.float32)

    projectors = {"semantic_target": FeatureTarget}
    sharding = SHARDING
    last_layer = ("pixel_decoder", "head")

    def setup(self):
        self.spec(self.image_size)
        common = {"remat": self.remat, "dtype": self.dtype}
        self.low_level_encoder = LowLevelEncoder(
            self.encoder_width,
            self.encoder_depth,
            self.head_dim,
            self.patch,
            self.channels,
            self.mask_ratio > 0,
            **common,
        )
        self.quantizer = Normalizer()
        self.semantic_decoder = SemanticDecoder(
            self.semantic_width, self.semantic_depth, self.head_dim, **common
        )
        finer = (self.patch // self.pixel_patch) ** 2
        self.sem_to_pix = nn.Dense(finer * self.pixel_width, dtype=self.dtype, kernel_init=normal)
        self.pixel_decoder = PixelDecoder(
            self.pixel_depth, self.pixel_width // self.head_dim, self.pixel_patch, **common
        )

    @nn.nowrap
    def spec(self, image_size: ImageSize) -> LatentSpec:
        """Describes the latents of the patches. Raises UserError for settings that do not fit together and
        for images of another size than the model's."""
        size, ours = height_width(image_size), height_width(self.image_size)
        if size != ours:
            raise UserError(
                f"this MingTok takes images of {ours[0]}x{ours[1]}, not {size[0]}x{size[1]}: change "
                "tokenizer.image_size or the data's size"
            )
        if any(side % self.patch for side in size):
            raise UserError(
                f"tokenizer.patch {self.patch} does not divide images of {size[0]}x{size[1]}"
            )
        if self.patch % self.pixel_patch:
            raise UserError(
                f"tokenizer.pixel_patch {self.pixel_patch} does not divide patch {self.patch}"
            )
        for name in ("encoder_width", "semantic_width", "pixel_width"):
            width = getattr(self, name)
            if width % self.head_dim or (name != "pixel_width" and width % self.channels):
                raise UserError(
                    f"tokenizer.{name} {width} must be a multiple of head_dim {self.head_dim} and, for the "
                    f"encoder and the semantic decoder, of channels {self.channels}"
                )
        if not 0.0 <= self.mask_ratio < 1.0:
            raise UserError(f"tokenizer.mask_ratio {self.mask_ratio} is not in [0, 1)")
        grid = (size[0] // self.patch, size[1] // self.patch)
        return LatentSpec("continuous", grid, self.channels)

    def features(self, images: jax.Array, rng: jax.Array | None = None) -> jax.Array:
        """Turns images into the latents of patches and class token, not normalised: float32 [B, N + 1, C].
        With a key, patches are masked."""
        positions = self.spec(images.shape[1:3]).positions
        masked = None
        if rng is not None and self.mask_ratio:
            masked = random_mask(rng, len(images), positions, self.mask_ratio)
        return self.low_level_encoder(images, masked)

    def encode(self, images: jax.Array, rng: jax.Array | None = None) -> jax.Array:
        """Turns images into latents [B, h, w, C] of the patches. Nothing is drawn with the key."""
        grid = self.spec(images.shape[1:3]).grid
        latents = self.quantizer.encode(self.features(images)[:, :-1])
        return latents.reshape(-1, *grid, self.channels)

    def semantic(self, latents: jax.Array) -> jax.Array:
        """Turns latents [B, h, w, C] into semantic features [B, h, w, D], each from the latents up to its
        own, row by row."""
        z = self.quantizer.decode(latents)
        features = self.semantic_decoder(z.reshape(len(z), -1, self.channels))
        return features.reshape(*latents.shape[:-1], -1)

    def decode(self, latents: jax.Array) -> jax.Array:
        """Turns latents [B, h, w, C] into images [B, H, W, 3], clipped to [-1, 1] as published."""
        return self.draw(self.semantic(latents))

    def draw(self, semantic: jax.Array) -> jax.Array:
        """Turns semantic features [B, h, w, D] into images [B, H, W, 3] in [-1, 1]."""
        return jnp.clip(self.project(self._hidden(semantic)), -1.0, 1.0)

    def project(self, hidden: jax.Array) -> jax.Array:
        """Applies the last layer alone: hidden features -> images [B, H, W, 3], not clipped."""
        return self.pixel_decoder.project(hidden)

    def __call__(
        self,
        images: jax.Array,
        rng: jax.Array | None = None,
        teacher: jax.Array | None = None,
    ) -> dict[str, Any]:
        """Runs a training pass (see `tokenizers`). `recon` is not clipped, `latents` are those of the masked
        image where patches are masked.

        teacher: features [B, N, F] of a frozen model, with `class_target` [B, N + 1, F], for
            `semantic_target`, which must have them with a key (in training).
        """
        grid = self.spec(images.shape[1:3]).grid
        z = self.features(images, rng)
        latents = jax.lax.stop_gradient(self.quantizer.encode(z[:, :-1]))
        semantic = self.semantic_decoder(z)
        hidden = self._hidden(semantic[:, :-1].reshape(len(z), *grid, -1))
        tokens = semantic if self.class_target else semantic[:, :-1]
        losses = teacher_loss("semantic_target", self.semantic_target, tokens, teacher, rng)
        return {
            "recon": self.project(hidden),
            "latents": latents.reshape(len(z), *grid, self.channels),
            "losses": losses,
            "stats": {},
            "hidden": hidden,
        }

    def _hidden(self, semantic: jax.Array) -> jax.Array:
        """Turns semantic features [B, h, w, D] into the pixel decoder's [B, H/p, W/p, D], p its patch."""
        tokens = depth_to_space(self.sem_to_pix(semantic), self.patch // self.pixel_patch)
        return self.pixel_decoder.hidden(tokens)


# Ours, of as many tokens as the released model.
SMALL = {
    "image_size": 256,
    "patch": 16,
    "pixel_patch": 8,
    "encoder_width": 384,
    "encoder_depth": 6,
    "semantic_width": 512,
    "semantic_depth": 8,
    "pixel_width": 512,
    "pixel_depth": 8,
}
BUILDERS = {"mingtok": MingTok, "mingtok_small": functools.partial(MingTok, **SMALL)}
