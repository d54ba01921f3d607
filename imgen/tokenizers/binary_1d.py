"""Instella-T2I's 1D tokenizer: an image as a row of K tokens, 64 bits each as published.

Learned latent queries stand beside the image's patches in a transformer; only they are kept and
quantised. The decoder's transformer fills in as many mask tokens as the picture is large, so one code
can be drawn at any size. With a VQ codebook in place of the bits the same body is a 1D VQ tokenizer.

Source: "Instella-T2I: Pushing the Limits of 1D Discrete Latent Space Image Generation";
AMD-AIG-AIMA/Instella-T2I, bae/ae_model.py, bae/bnl.py, bae/resize_layers.py, configs/bae_config.py.
`causal_1d` is SEED's causal order of tokens (AILab-CVC/SEED, Qformer_casual.py).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from imgen.config.construct import construct
from imgen.errors import UserError
from imgen.latents import LatentSpec, height_width
from imgen.nn.axial_rope import Pairing, Rotation, rotation
from imgen.nn.bidirectional import Block
from imgen.nn.conv import Conv, depth_to_space
from imgen.nn.norms import RMSNorm
from imgen.tokenizers.losses.repa import InnerTarget
from imgen.tokenizers.losses.semantic import SemanticTarget, teacher_loss, with_heads
from imgen.tokenizers.quantizers import Bernoulli, VectorQuantizer
from imgen.tokenizers.ranges import whole_numbers

NORM_EPS = 1e-6
Size = tuple[int, int]


class Places(NamedTuple):
    """Where tokens stand: latent k at (k, 0, 0), the patch in row r and column c at (0, r, c).

    dims: channels of a head that turn with each of the three coordinates.
    scale: rows and columns of every grid are stretched to [0, scale - 1]; None counts them.
    """

    dims: tuple[int, ...]
    pairing: Pairing
    scale: int | None

    def tables(self, grid: Size, latents: int) -> Rotation:
        """Of the patches of a grid, row by row, and then of the latents."""
        sides = [np.arange(n) * self._stretch(n) for n in grid]
        patches = np.stack(np.meshgrid(*sides, indexing="ij"), -1).reshape(-1, 2)
        positions = np.zeros((len(patches) + latents, 3))
        positions[: len(patches), 1:] = patches
        positions[len(patches) :, 0] = np.arange(latents)
        return rotation(positions, self.dims)

    def _stretch(self, side: int) -> float:
        return 1.0 if self.scale is None or side == 1 else (self.scale - 1) / (side - 1)

    def halved(self, times: int = 1) -> "Places":
        return self if self.scale is None else self._replace(scale=self.scale // 2**times)

    def doubled(self) -> "Places":
        return self if self.scale is None else self._replace(scale=self.scale * 2)


class Halve(nn.Module):
    """[B, h, w, D] -> [B, h/2, w/2, D]: convolution of stride 2 plus the mean of each 2 x 2."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        b, h, w, d = x.shape
        mean = x.reshape(b, h // 2, 2, w // 2, 2, d).mean((2, 4))
        return Conv(d, stride=2, padding=1, dtype=self.dtype, name="conv")(x) + mean


class Double(nn.Module):
    """[B, h, w, D] -> [B, 2h, 2w, D]: convolution to 4 D and depth-to-space, plus nearest neighbour."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = Conv(4 * x.shape[-1], padding=1, dtype=self.dtype, name="conv")(x)
        return depth_to_space(y, 2) + x.repeat(2, axis=1).repeat(2, axis=2)


class Encoder(nn.Module):
    """Images [B, H, W, 3] -> latents [B, K, heads * head_dim], before the projection to logits.

    downsample_idx: blocks after which the patches' grid is halved.
    causal: latent k sees the patches and latents <= k, and patches see only patches: token k can't
        depend on a later one.
    """

    layers: int
    heads: int
    head_dim: int
    num_latents: int
    patch_size: int
    downsample_idx: Sequence[int]
    places: Places
    causal: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        width, k = self.heads * self.head_dim, self.num_latents
        patch = self.patch_size  # kernel and stride
        embedder = Conv(width, patch, patch, 0, dtype=self.dtype, name="patch_embedder")
        patches = embedder(images)
        latents = self.param("latent_tokens", nn.initializers.normal(0.02), (k, width))
        latents = jnp.broadcast_to(latents, (images.shape[0], k, width)).astype(self.dtype)
        places = self.places
        for i in range(self.layers):
            b, h, w, _ = patches.shape
            tables, visible = places.tables((h, w), k), None
            if self.causal:
                visible = h * w + np.concatenate([np.zeros(h * w, int), 1 + np.arange(k)])
            block = Block(
                self.heads, 4 * width, places.pairing, dtype=self.dtype, name=f"block_{i}"
            )
            x = jnp.concatenate([patches.reshape(b, h * w, width), latents], axis=1)
            x = block(x, tables, visible)
            patches, latents = x[:, : h * w].reshape(b, h, w, width), x[:, h * w :]
            if i in self.downsample_idx:
                stage = sorted(self.downsample_idx).index(i)
                patches = Halve(self.dtype, name=f"down_{stage}")(patches)
                places = places.halved()
        latents = RMSNorm(NORM_EPS, name="norm_out")(latents)
        return nn.Dense(width, dtype=self.dtype, name="proj_out")(latents)


class Decoder(nn.Module):
    """Values [B, K, C] and a grid of patches -> tokens [B, h, w, heads * head_dim] before the pixels.

    upsample_idx: blocks after which the grid of mask tokens, which starts small, is doubled.
    inner: the block whose image tokens are returned as well [B, h', w', D].
    """

    layers: int
    heads: int
    head_dim: int
    upsample_idx: Sequence[int]
    places: Places
    inner: int | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, values: jax.Array, grid: Size) -> tuple[jax.Array, jax.Array | None]:
        width, times = self.heads * self.head_dim, len(self.upsample_idx)
        latents = RMSNorm(NORM_EPS, name="norm_in")(values)
        latents = nn.Dense(width, dtype=self.dtype, name="proj_in")(latents)
        mask = self.param("mask_token", nn.initializers.normal(0.02), (width,))
        b, k, h, w = *latents.shape[:2], *(side // 2**times for side in grid)
        patches = jnp.broadcast_to(mask, (b, h, w, width)).astype(self.dtype)
        places, inner = self.places.halved(times), None
        for i in range(self.layers):
            _, h, w, _ = patches.shape
            block = Block(
                self.heads, 4 * width, places.pairing, dtype=self.dtype, name=f"block_{i}"
            )
            x = jnp.concatenate([patches.reshape(b, h * w, width), latents], axis=1)
            x = block(x, places.tables((h, w), k))
            patches, latents = x[:, : h * w].reshape(b, h, w, width), x[:, h * w :]
            if i == self.inner:
                inner = patches
            if i in self.upsample_idx:
                stage = sorted(self.upsample_idx).index(i)
                patches = Double(self.dtype, name=f"up_{stage}")(patches)
                places = places.doubled()
        return RMSNorm(NORM_EPS, name="norm_out")(patches), inner


class Binary1D(nn.Module):
    """Encoder, any quantizer, decoder. The defaults are the released model's. Images are in [-1, 1].

    quantizer: a module of `tokenizers.quantizers`. Linear layers give it the channels that it takes
        and, where its values are not of the encoder's width as the embeddings of bits are, widen those.
    image_size: of what `decode` draws unless told another; a side or (H, W).
    patch_size, num_latents, head_dim: of both halves; a half is as wide as its heads together.
    downsample_idx, upsample_idx: see `Encoder` and `Decoder`.
    axes_dims: channels of a head for latent, row and column; None takes the published (8, 28, 28) of
        64 and about these shares of other widths.
    rope_pairing: "official" for released weights, "interleaved" for a true rotation.
    position_scale: in pixels: whatever the image's size, its patches get the positions of an image of
        this size; the released models have 1024. None: rows and columns are counted.
    causal_1d: see `Encoder`; `causal`.
    semantic_target, repa: heads that predict a teacher's features, the latter from the image tokens after a
        block of the decoder, whose grid is resized to the teacher's.
    dtype: of the computation in the blocks; quantisation and losses are float32 always.
    """

    quantizer: nn.Module
    image_size: int | Size = 1024
    patch_size: int = 16
    num_latents: int = 128
    head_dim: int = 64
    encoder_layers: int = 12
    encoder_heads: int = 12
    downsample_idx: Sequence[int] = (7,)
    decoder_layers: int = 16
    decoder_heads: int = 16
    upsample_idx: Sequence[int] = (7,)
    axes_dims: Sequence[int] | None = None
    rope_pairing: Pairing = "official"
    position_scale: int | None = None
    causal_1d: bool = False
    semantic_target: SemanticTarget | None = None
    repa: InnerTarget | None = None
    dtype: Any = jnp.float32

    last_layer = ("to_pixel",)

    def setup(self):
        places = self._places()
        self.encoder = Encoder(
            self.encoder_layers,
            self.encoder_heads,
            self.head_dim,
            self.num_latents,
            self.patch_size,
            self.downsample_idx,
            places,
            self.causal_1d,
            self.dtype,
        )
        self.decoder = Decoder(
            self.decoder_layers,
            self.decoder_heads,
            self.head_dim,
            self.upsample_idx,
            places,
            None if self.repa is None else self.repa.layer,
            self.dtype,
        )
        width = self.encoder_heads * self.head_dim
        self.to_code = nn.Dense(self.quantizer.layout.features_in)
        if self.quantizer.layout.features_out != width:
            self.from_code = nn.Dense(width)
        self.to_pixel = nn.Dense(3 * self.patch_size**2, dtype=self.dtype)

    @nn.nowrap
    def _places(self) -> Places:
        latent = 4 * -(-self.head_dim // 32)  # so that the rest is two even halves
        image = (self.head_dim - latent) // 2
        dims = tuple(self.axes_dims or (latent, image, image))
        scale = self.position_scale and self.position_scale // self.patch_size
        return Places(dims, self.rope_pairing, scale)

    @nn.nowrap
    def spec(self, image_size: int | Size) -> LatentSpec:
        """Raises UserError if images of this size, or the fields of this module, don't fit."""
        if height_width(image_size) != height_width(self.image_size):
            raise UserError(
                f"images of {image_size} would be decoded at {self.image_size}: "
                f"set tokenizer.image_size to {image_size}"
            )
        for name, layers in (
            ("downsample_idx", self.encoder_layers),
            ("upsample_idx", self.decoder_layers),
        ):
            blocks = getattr(self, name)
            if not whole_numbers(blocks, 0, layers - 1) or len(set(blocks)) < len(blocks):
                raise UserError(
                    f"tokenizer.{name} {blocks}: name some of the {layers} blocks in a row, each once and "
                    "counted from 0, such as (0,)"
                )
        patches = max(self.grid(image_size)) // 2**self._halvings  # a side, where they are fewest
        if (scale := self.position_scale) is not None:
            least = self._factor * min(2, patches)
            if not isinstance(scale, int) or scale < least:
                raise UserError(
                    f"tokenizer.position_scale {scale} is too little to tell patches apart: give pixels, at "
                    f"least {least}"
                )
        if self.repa is not None:
            self.repa.check_layer(self.decoder_layers)
        dims = self._places().dims
        if len(dims) != 3 or sum(dims) != self.head_dim or any(dim % 2 for dim in dims):
            raise UserError(
                f"axes_dims {dims} are not three even numbers that add up to head_dim {self.head_dim}"
            )
        return self.quantizer.layout.spec((self.num_latents,))

    @property
    def _halvings(self) -> int:
        return max(len(self.downsample_idx), len(self.upsample_idx))

    @property
    def _factor(self) -> int:
        """Pixels along each side of a patch where the grid is smallest."""
        return self.patch_size * 2**self._halvings

    @nn.nowrap
    def grid(self, image_size: int | Size) -> Size:
        """Rows and columns of patches. Raises UserError for a size that can't be cut into them."""
        size = height_width(image_size)
        if any(side % self._factor for side in size):
            raise UserError(
                f"images of {size[0]}x{size[1]} cannot be cut into patches of {self.patch_size} and halved "
                f"{self._halvings} times: give sizes that are multiples of {self._factor}"
            )
        return size[0] // self.patch_size, size[1] // self.patch_size

    def features(self, images: jax.Array) -> jax.Array:
        """Images [B, H, W, 3] of any fitting size -> what is quantised: float32 [B, K, features_in]."""
        self.grid(images.shape[1:3])
        return self.to_code(self.encoder(images).astype(jnp.float32))

    def moments(self, images: jax.Array) -> jax.Array:
        """Images -> what is stored of continuous latents (`quantizers.Gaussian.moments`): [B, K, 2 C]."""
        return self.quantizer.moments(self.features(images))

    def encode(self, images: jax.Array, rng: jax.Array | None = None) -> jax.Array:
        """Images [B, H, W, 3] of any fitting size -> latents of K positions."""
        return self.quantizer.encode(self.features(images), rng)

    def decode(self, latents: jax.Array, image_size: int | Size | None = None) -> jax.Array:
        """Latents -> images of `image_size`, by default the field's, [B, H, W, 3], not clipped."""
        grid = self.grid(image_size or self.image_size)
        return self.project(self.decoder(self.values(self.quantizer.decode(latents)), grid)[0])

    def values(self, codes: jax.Array) -> jax.Array:
        """The quantizer's values -> what decoder and semantic head read: [B, K, encoder width]."""
        width = self.encoder_heads * self.head_dim
        return codes if codes.shape[-1] == width else self.from_code(codes)

    def project(self, hidden: jax.Array) -> jax.Array:
        """The last layer alone: tokens [B, h, w, D] -> float32 images [B, H, W, 3]."""
        return depth_to_space(self.to_pixel(hidden), self.patch_size).astype(jnp.float32)

    def code_features(self, z: jax.Array, codes: jax.Array) -> jax.Array:
        """Features and their codes -> rows in the space of the codes, one a code: [N, D]. With a codebook."""
        return self.quantizer.code_features(z, codes)

    def __call__(
        self,
        images: jax.Array,
        rng: jax.Array | None = None,
        teacher: jax.Array | None = None,
    ) -> dict[str, Any]:
        """A training pass (see `tokenizers`), at the images' own size.

        teacher: a frozen model's features [B, M, F], for `semantic_target` and `repa`. With a key
        (in training) they must be there if either head is.
        """
        z = self.features(images)
        quantized = self.quantizer(z, rng)
        values = self.values(quantized.values)
        hidden, inner = self.decoder(values, self.grid(images.shape[1:3]))
        heads = {"semantic_target": (self.semantic_target, values), "repa": (self.repa, inner)}
        losses = dict(quantized.losses)
        for name, (head, tokens) in heads.items():
            losses |= teacher_loss(name, head, tokens, teacher, rng is not None)
        out = {
            "recon": self.project(hidden),
            "latents": quantized.latents,
            "losses": losses,
            "stats": quantized.stats,
            "hidden": hidden,
        }
        return {**out, "z": z} if hasattr(self.quantizer, "code_features") else out


# The released model: 119.9 M parameters in the encoder, 427.8 M in all.
def binary_1d(
    bits: int = 64,
    temperature: float = 0.1,
    code_weight: float = 0.0,
    head_dim: int = 64,
    encoder_heads: int = 12,
    **body: Any,
) -> Binary1D:
    """Tokens of independent bits. bits, temperature, code_weight: see `quantizers.Bernoulli`; the
    other arguments are those of `Binary1D`, its heads' as mappings."""
    quantizer = Bernoulli(bits, encoder_heads * head_dim, temperature, code_weight)
    return _body(quantizer, head_dim=head_dim, encoder_heads=encoder_heads, **body)


def vq_1d(
    codebook_size: int = 4096,
    codebook_dim: int = 12,
    l2_norm: bool = True,
    commit_weight: float = 0.25,
    entropy_weight: float = 0.0,
    **body: Any,
) -> Binary1D:
    """The same body with one VQ code a token: see `quantizers.VectorQuantizer`. The codebook is that
    of TiTok's published models."""
    quantizer = VectorQuantizer(codebook_size, codebook_dim, l2_norm, commit_weight, entropy_weight)
    return _body(quantizer, **body)


def _body(quantizer: nn.Module, **body: Any) -> Binary1D:
    body = with_heads(body, semantic_target=SemanticTarget, repa=InnerTarget)
    return construct(Binary1D, body, "tokenizer", quantizer=quantizer)
