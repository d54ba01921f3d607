"""The VQ tokenizer of LlamaGen: images <-> int32 codes [B, h, w].

Source: "Autoregressive Model Beats Diffusion: Llama for Scalable Image Generation", section 2.1;
FoundationVision/LlamaGen, tokenizer/tokenizer_image/vq_model.py.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from imgen.errors import UserError
from imgen.latents import LatentSpec
from imgen.nn.conv import Conv
from imgen.tokenizers.autoencoder import Decoder, Encoder
from imgen.tokenizers.quantizers.vector import VectorQuantizer


class VQ(nn.Module):
    """Encoder, vector quantizer, decoder. The defaults are VQ-16's. Images are float in [-1, 1].

    ch, ch_mult, num_res_blocks, z_channels, groups, dropout, patch: see `autoencoder.Encoder`.
    attention_levels: None puts attention at the last level only, as published.
    codebook_size (K), codebook_dim (D), l2_norm, commit_weight, entropy_weight,
    entropy_temperature: see `quantizers.VectorQuantizer`.
    dtype: of the convolutions; quantisation and losses are float32 always.
    """

    ch: int = 128
    ch_mult: Sequence[int] = (1, 1, 2, 2, 4)
    num_res_blocks: int = 2
    z_channels: int = 256
    codebook_size: int = 16384
    codebook_dim: int = 8
    l2_norm: bool = True
    commit_weight: float = 0.25
    entropy_weight: float = 0.0
    entropy_temperature: float = 0.01
    attention_levels: Sequence[int] | None = None
    mid_attention: bool = True
    groups: int = 32
    dropout: float = 0.0
    patch: int = 1
    dtype: Any = jnp.float32

    def setup(self):
        levels = self.attention_levels
        halves = {
            "ch": self.ch,
            "ch_mult": self.ch_mult,
            "num_res_blocks": self.num_res_blocks,
            "z_channels": self.z_channels,
            "attention_levels": (len(self.ch_mult) - 1,) if levels is None else levels,
            "mid_attention": self.mid_attention,
            "groups": self.groups,
            "dropout": self.dropout,
            "patch": self.patch,
            "dtype": self.dtype,
        }
        self.encoder = Encoder(**halves)
        self.decoder = Decoder(**halves)
        self.quant_conv = Conv(self.codebook_dim, 1, dtype=self.dtype)
        self.post_quant_conv = Conv(self.z_channels, 1, dtype=self.dtype)
        self.quantizer = VectorQuantizer(
            self.codebook_size,
            self.codebook_dim,
            self.l2_norm,
            self.commit_weight,
            self.entropy_weight,
            self.entropy_temperature,
        )

    @nn.nowrap
    def spec(self, image_size: int | tuple[int, int]) -> LatentSpec:
        """Latents of images of this size. Raises UserError if the grid does not come out whole."""
        size = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
        factor = self.patch * 2 ** (len(self.ch_mult) - 1)
        if any(side % factor for side in size):
            raise UserError(
                f"images of {size[0]}x{size[1]} cannot be cut into a whole grid by the tokenizer's "
                f"factor {factor}: give sizes that are multiples of {factor}"
            )
        return LatentSpec("index", (size[0] // factor, size[1] // factor), self.codebook_size)

    def features(self, images: jax.Array, deterministic: bool = True) -> jax.Array:
        """Images [B, H, W, 3] -> what is quantised: [B, h, w, D]."""
        self.spec(images.shape[1:3])
        return self.quant_conv(self.encoder(images, deterministic))

    def encode(self, images: jax.Array, rng: jax.Array | None = None) -> jax.Array:
        """Images [B, H, W, 3] -> codes int32 [B, h, w]; the same with or without a key."""
        del rng
        return self.quantizer.encode(self.features(images))

    def decode(self, codes: jax.Array) -> jax.Array:
        """Codes [B, h, w] -> images [B, H, W, 3], not clipped."""
        return self.decoder(self.post_quant_conv(self.quantizer.decode(codes)))

    def code_features(self, z: jax.Array) -> jax.Array:
        """Features -> one row for each position, in the space of the codes, without gradient:
        [..., D] -> [N, D]."""
        return jax.lax.stop_gradient(self.quantizer.normed(z)).reshape(-1, self.codebook_dim)

    def project(self, hidden: jax.Array) -> jax.Array:
        """The decoder's last convolution alone, for the adaptive adversarial weight."""
        return self.decoder.project(hidden)

    def __call__(self, images: jax.Array, rng: jax.Array | None = None) -> dict[str, Any]:
        """A training pass (see `tokenizers`): also z [B, h, w, D], the features before quantisation."""
        deterministic = rng is None
        z = self.features(images, deterministic)
        quantized = self.quantizer(z, rng)
        hidden = self.decoder.hidden(self.post_quant_conv(quantized.values), deterministic)
        return {
            "recon": self.decoder.project(hidden),
            "latents": quantized.latents,
            "losses": quantized.losses,
            "stats": quantized.stats,
            "z": z,
            "hidden": hidden,
        }


# The published sizes: 71.88 M and 70.11 M parameters.
PRESETS = {
    "vq16": {"ch_mult": (1, 1, 2, 2, 4)},
    "vq8": {"ch_mult": (1, 2, 2, 4)},
}


def vq16(**changes: Any) -> VQ:
    """LlamaGen's VQ-16: 16 x 16 pixels a code."""
    return VQ(**{**PRESETS["vq16"], **changes})


def vq8(**changes: Any) -> VQ:
    """LlamaGen's VQ-8: 8 x 8 pixels a code."""
    return VQ(**{**PRESETS["vq8"], **changes})
