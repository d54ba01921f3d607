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
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from imgen.config.construct import construct
from imgen.errors import UserError
from imgen.latents import LatentSpec, height_width
from imgen.nn.attention import KVCache
from imgen.nn.conv import depth_to_space
from imgen.nn.vit import ViT
from imgen.tokenizers.losses.semantic import FeatureTarget, teacher_loss, with_heads

NORM_EPS = 1e-6
normal = nn.initializers.normal(0.02)


def random_mask(rng: jax.Array, batch: int, positions: int, ratio: float) -> jax.Array:
    """bool [B, N]: round(ratio N) positions of each image, drawn from the key and the image's number."""

    def one(number: jax.Array) -> jax.Array:
        order = jax.random.permutation(jax.random.fold_in(rng, number), positions)
        return order < round(ratio * positions)

    return jax.vmap(one)(jnp.arange(batch))


class LowLevelEncoder(nn.Module):
    """Images [B, H, W, 3] -> float32 latents [B, N + 1, C], not normalised, the class token's last.

    out = group_mean(x) + linear(gelu(norm(x))), group_mean: of D / C channels in a row each.
    masking: there is a mask token, which takes the place of patches that are masked.
    """

    width: int
    depth: int
    head_dim: int
    patch: int
    channels: int
    masking: bool = False
    remat: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, masked: jax.Array | None = None) -> jax.Array:
        """masked: bool [B, N]."""
        size = (self.patch, self.patch)
        conv = nn.Conv(
            self.width,
            size,
            size,
            "VALID",
            dtype=self.dtype,
            kernel_init=normal,
            name="patch_embed",
        )
        x = conv(images)
        x = x.reshape(len(x), -1, self.width)  # [B, N, D]
        if self.masking:
            mask_token = self.param("mask_token", normal, (1, self.width)).astype(x.dtype)
            if masked is not None:
                x = jnp.where(masked[:, :, None], mask_token, x)
        class_token = self.param("class_token", normal, (1, self.width)).astype(x.dtype)
        class_token = jnp.broadcast_to(class_token, (len(x), 1, self.width))
        x = jnp.concatenate([x, class_token], axis=1)
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
    """Latents [B, T, C], not normalised -> features [B, T, D], each from the latents up to its own.

    x = linear(z) + repeat(z), each channel D / C times in a row. Order is known from causality alone: there
    are no positions.
    """

    width: int
    depth: int
    head_dim: int
    remat: bool = False
    dtype: Any = jnp.float32

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
        return self.norm_out(self.transformer(self._embed(z), causal))

    def step(
        self, z: jax.Array, cache: KVCache, start: jax.Array | int
    ) -> tuple[jax.Array, KVCache]:
        """T more latents, see `ViT.step`."""
        x, cache = self.transformer.step(self._embed(z), cache, start)
        return self.norm_out(x), cache

    def _embed(self, z: jax.Array) -> jax.Array:
        repeated = jnp.repeat(z, self.width // z.shape[-1], axis=-1)
        return self.proj_in(z) + repeated.astype(self.dtype)


class PixelDecoder(nn.Module):
    """Tokens [B, h, w, D] -> images [B, h p, w p, 3]: `hidden`, then `project`. There are no positions."""

    depth: int
    heads: int
    patch: int
    remat: bool = False
    dtype: Any = jnp.float32

    def setup(self):
        self.transformer = ViT(
            self.depth, self.heads, eps=NORM_EPS, remat=self.remat, dtype=self.dtype
        )
        self.norm_out = nn.LayerNorm(NORM_EPS, dtype=self.dtype)
        self.head = nn.Dense(3 * self.patch**2, dtype=self.dtype, kernel_init=normal)

    def hidden(self, x: jax.Array) -> jax.Array:
        """Everything before the head: [B, h, w, D]."""
        tokens = x.reshape(len(x), -1, x.shape[-1])
        return self.norm_out(self.transformer(tokens)).reshape(x.shape)

    def project(self, hidden: jax.Array) -> jax.Array:
        """The head alone, in float32, not clipped."""
        return depth_to_space(self.head(hidden), self.patch).astype(jnp.float32)


class Normalizer(nn.Module):
    """z [..., C] <-> latents (z - shift) * scale, which have mean 0 and deviation 1. Nothing is random.

    `shift` and `scale` are scalars among the parameters, measured in training as those of
    `quantizers.Gaussian`.
    """

    def setup(self):
        self.shift = self.param("shift", nn.initializers.zeros, ())
        self.scale = self.param("scale", nn.initializers.ones, ())

    def encode(self, z: jax.Array) -> jax.Array:
        return (z - self.shift) * self.scale

    def decode(self, latents: jax.Array) -> jax.Array:
        return latents.astype(jnp.float32) / self.scale + self.shift


class MingTok(nn.Module):
    """Images [B, H, W, 3] in [-1, 1] <-> latents [B, h, w, C]. The defaults are the released model's.

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
    semantic_target: FeatureTarget | None = None
    class_target: bool = False
    remat: bool = False
    dtype: Any = jnp.float32

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
    def spec(self, image_size: int | tuple[int, int]) -> LatentSpec:
        """The latents of the patches. Raises UserError for settings that do not fit together and for images
        of another size than the model's."""
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
        """Images -> the latents of patches and class token, not normalised: float32 [B, N + 1, C]. With a
        key, patches are masked."""
        positions = self.spec(images.shape[1:3]).positions
        masked = None
        if rng is not None and self.mask_ratio:
            masked = random_mask(rng, len(images), positions, self.mask_ratio)
        return self.low_level_encoder(images, masked)

    def encode_with_class(self, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Images -> latents of the patches [B, h, w, C] and of the class token [B, C], normalised alike."""
        grid = self.spec(images.shape[1:3]).grid
        latents = self.quantizer.encode(self.features(images))
        return latents[:, :-1].reshape(-1, *grid, self.channels), latents[:, -1]

    def encode(self, images: jax.Array, rng: jax.Array | None = None) -> jax.Array:
        """Images -> latents [B, h, w, C] of the patches. Nothing is drawn with the key."""
        return self.encode_with_class(images)[0]

    def semantic(self, latents: jax.Array) -> jax.Array:
        """Latents [B, h, w, C] -> semantic features [B, h, w, D], each from the latents up to its own, row by
        row."""
        z = self.quantizer.decode(latents)
        features = self.semantic_decoder(z.reshape(len(z), -1, self.channels))
        return features.reshape(*latents.shape[:-1], -1)

    def semantic_class(self, latents: jax.Array, class_latent: jax.Array) -> jax.Array:
        """Latents as `encode_with_class` gives them -> the class token's feature [B, D], made from all."""
        rows = latents.reshape(len(latents), -1, self.channels)
        z = self.quantizer.decode(jnp.concatenate([rows, class_latent[:, None]], axis=1))
        return self.semantic_decoder(z)[:, -1]

    @nn.nowrap
    def semantic_cache(self, batch: int, rows: int) -> KVCache:
        """An empty cache for `rows` tokens of `semantic_step`: leaves [depth, B, rows, heads, H]."""
        heads = self.semantic_width // self.head_dim
        shape = (self.semantic_depth, batch, rows, heads, self.head_dim)
        return KVCache(jnp.zeros(shape, self.dtype), jnp.zeros(shape, self.dtype))

    def semantic_step(
        self, latents: jax.Array, cache: KVCache, start: jax.Array | int
    ) -> tuple[jax.Array, KVCache]:
        """The next T latents [B, T, C] of a row, the first of them number `start` -> their semantic features
        [B, T, D], as `semantic` has them, and the cache with their rows."""
        return self.semantic_decoder.step(self.quantizer.decode(latents), cache, start)

    def decode(self, latents: jax.Array) -> jax.Array:
        """Latents [B, h, w, C] -> images [B, H, W, 3], clipped to [-1, 1] as published."""
        return self.draw(self.semantic(latents))

    def draw(self, semantic: jax.Array) -> jax.Array:
        """Semantic features [B, h, w, D] -> images [B, H, W, 3] in [-1, 1]."""
        return jnp.clip(self.project(self._hidden(semantic)), -1.0, 1.0)

    def project(self, hidden: jax.Array) -> jax.Array:
        """The last layer alone: hidden features -> images [B, H, W, 3], not clipped."""
        return self.pixel_decoder.project(hidden)

    def __call__(
        self,
        images: jax.Array,
        rng: jax.Array | None = None,
        teacher: jax.Array | None = None,
    ) -> dict[str, Any]:
        """A training pass (see `tokenizers`). `recon` is not clipped, `latents` are those of the masked
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
        target = self.semantic_target
        losses = teacher_loss("semantic_target", target, tokens, teacher, rng is not None)
        return {
            "recon": self.project(hidden),
            "latents": latents.reshape(len(z), *grid, self.channels),
            "losses": losses,
            "stats": {},
            "hidden": hidden,
        }

    def _hidden(self, semantic: jax.Array) -> jax.Array:
        """Semantic features [B, h, w, D] -> the pixel decoder's [B, H/p, W/p, D], p its patch."""
        tokens = depth_to_space(self.sem_to_pix(semantic), self.patch // self.pixel_patch)
        return self.pixel_decoder.hidden(tokens)


def mingtok(**arguments: Any) -> MingTok:
    """The tokenizer of a config: `MingTok`, its head given as a mapping."""
    arguments = with_heads(arguments, semantic_target=FeatureTarget)
    return construct(MingTok, arguments, "tokenizer")


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
BUILDERS = {"mingtok": mingtok, "mingtok_small": functools.partial(mingtok, **SMALL)}
