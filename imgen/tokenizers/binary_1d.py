"""Instella-T2I's 1D tokenizer: an image as a row of K tokens, 64 bits each as published.

Learned latent queries stand beside the image's patches in a transformer; only they are kept and
quantised. The decoder's transformer fills in as many mask tokens as the picture is large, so one code
can be drawn at any size. With a VQ codebook in place of the bits the same body is a 1D VQ tokenizer.

Source: "Instella-T2I: Pushing the Limits of 1D Discrete Latent Space Image Generation";
AMD-AIG-AIMA/Instella-T2I, bae/ae_model.py, bae/bnl.py, bae/resize_layers.py, configs/bae_config.py.
`causal_1d` is SEED's causal order of tokens (AILab-CVC/SEED, Qformer_casual.py).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from imgen.config.construct import construct
from imgen.errors import UserError
from imgen.latents import LatentSpec, height_width
from imgen.nn.axial_rope import Pairing
from imgen.nn.conv import depth_to_space
from imgen.params.fields import silent, training
from imgen.tokenizers.binary_1d_layers import SHARDING, Decoder, Encoder, Size, TokenPositions
from imgen.tokenizers.losses.repa import InnerTarget
from imgen.tokenizers.losses.semantic import SemanticTarget, teacher_loss
from imgen.tokenizers.quantizers import Bernoulli, Quantizer, VectorQuantizer
from imgen.tokenizers.ranges import whole_numbers
from imgen.tokenizers.tokenizer import QuantizedTokenizer


class Binary1D(QuantizedTokenizer):
    """Puts encoder, any quantizer and decoder together. The defaults are the released model's. Images are
    in [-1, 1].

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
    semantic_target, repa: predict a teacher's features, the latter from the image tokens after a
        block of the decoder, whose grid is resized to the teacher's.
    dtype: of the computation in the blocks; quantisation and losses are float32 always.
    """

    quantizer: Quantizer
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
    rope_pairing: Pairing = silent("official")
    position_scale: int | None = silent(None)
    causal_1d: bool = False
    semantic_target: SemanticTarget | Mapping[str, Any] | None = None
    repa: InnerTarget | Mapping[str, Any] | None = None
    dtype: Any = training(jnp.float32)

    projectors = {"semantic_target": SemanticTarget, "repa": InnerTarget}
    last_layer = ("to_pixel",)
    sharding = SHARDING

    def setup(self):
        positions = self._positions()
        self.encoder = Encoder(
            self.encoder_layers,
            self.encoder_heads,
            self.head_dim,
            self.num_latents,
            self.patch_size,
            self.downsample_idx,
            positions,
            self.causal_1d,
            self.dtype,
        )
        self.decoder = Decoder(
            self.decoder_layers,
            self.decoder_heads,
            self.head_dim,
            self.upsample_idx,
            positions,
            None if self.repa is None else self.repa.layer,
            self.dtype,
        )
        width = self.encoder_heads * self.head_dim
        self.to_code = nn.Dense(self.quantizer.layout.features_in)
        if self.quantizer.layout.features_out != width:
            self.from_code = nn.Dense(width)
        self.to_pixel = nn.Dense(3 * self.patch_size**2, dtype=self.dtype)

    @nn.nowrap
    def _positions(self) -> TokenPositions:
        latent = 4 * -(-self.head_dim // 32)  # so that the rest is two even halves
        image = (self.head_dim - latent) // 2
        dims = tuple(self.axes_dims or (latent, image, image))
        scale = self.position_scale and self.position_scale // self.patch_size
        return TokenPositions(dims, self.rope_pairing, scale)

    @nn.nowrap
    def spec(self, image_size: int | Size) -> LatentSpec:
        """Describes K latents in a row. Raises UserError if images of this size, or the fields of this
        module, don't fit."""
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
        dims = self._positions().dims
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
        """Counts the pixels along each side of a patch where the grid is smallest."""
        return self.patch_size * 2**self._halvings

    @nn.nowrap
    def grid(self, image_size: int | Size) -> Size:
        """Returns rows and columns of patches. Raises UserError for a size that can't be cut into them."""
        size = height_width(image_size)
        if any(side % self._factor for side in size):
            raise UserError(
                f"images of {size[0]}x{size[1]} cannot be cut into patches of {self.patch_size} and halved "
                f"{self._halvings} times: give sizes that are multiples of {self._factor}"
            )
        return size[0] // self.patch_size, size[1] // self.patch_size

    def features(self, images: jax.Array) -> jax.Array:
        """Turns images [B, H, W, 3] of any fitting size into what is quantised: float32 [B, K,
        features_in]."""
        self.grid(images.shape[1:3])
        return self.to_code(self.encoder(images).astype(jnp.float32))

    def decode(self, latents: jax.Array, image_size: int | Size | None = None) -> jax.Array:
        """Turns latents into images of `image_size`, by default the field's, [B, H, W, 3], not clipped."""
        grid = self.grid(image_size or self.image_size)
        return self.project(self.decoder(self.values(self.quantizer.decode(latents)), grid)[0])

    def values(self, codes: jax.Array) -> jax.Array:
        """Widens the quantizer's values for the decoder and `semantic_target`: [B, K, encoder width]."""
        width = self.encoder_heads * self.head_dim
        return codes if codes.shape[-1] == width else self.from_code(codes)

    def project(self, hidden: jax.Array) -> jax.Array:
        """Applies the last layer alone: tokens [B, h, w, D] -> float32 images [B, H, W, 3]."""
        return depth_to_space(self.to_pixel(hidden), self.patch_size).astype(jnp.float32)

    def __call__(
        self,
        images: jax.Array,
        rng: jax.Array | None = None,
        teacher: jax.Array | None = None,
    ) -> dict[str, Any]:
        """Runs a training pass (see `tokenizers`), at the images' own size.

        teacher: a frozen model's features [B, M, F], for `semantic_target` and `repa`. With a key
        (in training) they must be there if either of these is.
        """
        z = self.features(images)
        quantized = self.quantizer(z, rng)
        values = self.values(quantized.values)
        hidden, inner = self.decoder(values, self.grid(images.shape[1:3]))
        losses = dict(quantized.losses)
        losses |= teacher_loss("semantic_target", self.semantic_target, values, teacher, rng)
        losses |= teacher_loss("repa", self.repa, inner, teacher, rng)
        recon = self.project(hidden)
        return self.training_pass(quantized, z, losses=losses, recon=recon, hidden=hidden)


# The released model: 119.9 M parameters in the encoder, 427.8 M in all.
def binary_1d(
    bits: int = 64,
    temperature: float = 0.1,
    code_weight: float = 0.0,
    head_dim: int = 64,
    encoder_heads: int = 12,
    **body: Any,
) -> Binary1D:
    """Builds a tokenizer of independent bits. bits, temperature, code_weight: see `quantizers.Bernoulli`; the
    other arguments are those of `Binary1D`."""
    quantizer = Bernoulli(bits, encoder_heads * head_dim, temperature, code_weight)
    body |= {"head_dim": head_dim, "encoder_heads": encoder_heads}
    return construct(Binary1D, body, "tokenizer", quantizer=quantizer)


def vq_1d(
    codebook_size: int = 4096,
    codebook_dim: int = 12,
    l2_norm: bool = True,
    commit_weight: float = 0.25,
    entropy_weight: float = 0.0,
    **body: Any,
) -> Binary1D:
    """Builds the same body with one VQ code a token: see `quantizers.VectorQuantizer`. The codebook is that
    of TiTok's published models."""
    quantizer = VectorQuantizer(codebook_size, codebook_dim, l2_norm, commit_weight, entropy_weight)
    return construct(Binary1D, body, "tokenizer", quantizer=quantizer)
