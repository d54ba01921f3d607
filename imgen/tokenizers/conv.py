"""The convolutional tokenizer: encoder, quantizer and decoder, for any quantizer.

`vq`, `bae` and `kl` hold the published ones. All of them are one module put together from parts.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from imgen.construct import construct
from imgen.errors import UserError
from imgen.latents import LatentSpec, height_width
from imgen.nn.conv import Conv
from imgen.tokenizers.autoencoder import Decoder, Encoder
from imgen.tokenizers.quantizers import QUANTIZERS


class ConvTokenizer(nn.Module):
    """Images [B, H, W, 3] in [-1, 1] <-> latents on the grid [H/f, W/f].

    quantizer: as `quantizers.base.Quantizer`.
    quant_conv, post_quant_conv: 1x1 convolutions before and behind the quantizer, or None.
    image_range: what encoder and decoder work in: "signed" [-1, 1] or "unit" [0, 1].
    """

    encoder: Encoder
    decoder: Decoder
    quantizer: Any
    quant_conv: Conv | None = None
    post_quant_conv: Conv | None = None
    image_range: Literal["signed", "unit"] = "signed"

    last_layer = ("decoder", "conv_out")

    @property
    def dtype(self) -> Any:
        """Of the convolutions; quantisation and losses are float32 always."""
        return self.encoder.dtype

    @nn.nowrap
    def spec(self, image_size: int | tuple[int, int]) -> LatentSpec:
        """Latents of images of this size. Raises UserError if the grid does not come out whole."""
        size = height_width(image_size)
        factor = self.encoder.factor
        if any(side % factor for side in size):
            raise UserError(
                f"images of {size[0]}x{size[1]} cannot be cut into a whole grid by the tokenizer's "
                f"factor {factor}: give sizes that are multiples of {factor}"
            )
        return self.quantizer.layout.spec((size[0] // factor, size[1] // factor))

    def features(self, images: jax.Array, deterministic: bool = True) -> jax.Array:
        """Images [B, H, W, 3] -> what is quantised: [B, h, w, features_in]."""
        self.spec(images.shape[1:3])
        x = (images + 1.0) / 2.0 if self.image_range == "unit" else images
        z = self.encoder(x, deterministic)
        return z if self.quant_conv is None else self.quant_conv(z)

    def encode(self, images: jax.Array, rng: jax.Array | None = None) -> jax.Array:
        """Images [B, H, W, 3] -> latents: the likeliest, or drawn with a key if the quantizer can."""
        return self.quantizer.encode(self.features(images), rng)

    def moments(self, images: jax.Array) -> jax.Array:
        """Images [B, H, W, 3] -> mean and log variance of latents, as `quantizers.Gaussian` stores them:
        float32 [B, h, w, 2 C]. Only with that quantizer."""
        return self.quantizer.moments(self.features(images))

    def decode(self, latents: jax.Array) -> jax.Array:
        """Latents -> images [B, H, W, 3], not clipped."""
        return self.project(self._hidden(self.quantizer.decode(latents)))

    def code_features(self, z: jax.Array) -> jax.Array:
        """Features -> rows in the space of the codes, one a code: [..., D] -> [N, D]. With a codebook."""
        return self.quantizer.code_features(z)

    def project(self, hidden: jax.Array) -> jax.Array:
        """The decoder's last convolution alone, for the adaptive adversarial weight."""
        images = self.decoder.project(hidden)
        return 2.0 * images - 1.0 if self.image_range == "unit" else images

    def __call__(self, images: jax.Array, rng: jax.Array | None = None) -> dict[str, Any]:
        """A training pass (see `tokenizers`); z [B, h, w, D] with a codebook."""
        deterministic = rng is None
        z = self.features(images, deterministic)
        quantized = self.quantizer(z, rng)
        hidden = self._hidden(quantized.values, deterministic)
        return {
            "recon": self.project(hidden),
            "latents": quantized.latents,
            "losses": quantized.losses,
            "stats": quantized.stats,
            "hidden": hidden,
            **({"z": z} if hasattr(self.quantizer, "code_features") else {}),
        }

    def _hidden(self, values: jax.Array, deterministic: bool = True) -> jax.Array:
        if self.post_quant_conv is not None:
            values = self.post_quant_conv(values)
        return self.decoder.hidden(values, deterministic)


def conv(
    quantizer: nn.Module | Mapping[str, Any],
    ch: int = 128,
    ch_mult: Sequence[int] = (1, 1, 2, 2, 4),
    num_res_blocks: int = 2,
    z_channels: int = 256,
    attention_levels: Sequence[int] | None = None,
    mid_attention: bool = True,
    groups: int = 32,
    dropout: float = 0.0,
    patch: int = 1,
    dtype: Any = jnp.float32,
) -> ConvTokenizer:
    """LlamaGen's encoder and decoder around any quantizer, with a 1x1 convolution on either side of it.

    quantizer: a module, or its name in `QUANTIZERS` with its arguments: {"name": "fsq", "levels": ...}.
    z_channels: between the halves and the 1x1 convolutions.
    attention_levels: of both halves; None puts attention at the last level only, as published.
    The others: see `autoencoder.Half`. The decoder has one ResBlock a level more than the encoder.
    """
    if not isinstance(quantizer, nn.Module):
        quantizer = make_quantizer(**quantizer)
    last = (len(ch_mult) - 1,)
    half = {
        "ch": ch,
        "ch_mult": tuple(ch_mult),
        "attention_levels": last if attention_levels is None else tuple(attention_levels),
        "mid_attention": mid_attention,
        "groups": groups,
        "dropout": dropout,
        "patch": patch,
        "dtype": dtype,
    }
    return ConvTokenizer(
        Encoder(**half, num_res_blocks=num_res_blocks, z_channels=z_channels),
        Decoder(**half, num_res_blocks=num_res_blocks + 1),
        quantizer,
        Conv(quantizer.layout.features_in, 1, dtype=dtype),
        Conv(z_channels, 1, dtype=dtype),
    )


def make_quantizer(name: str | None = None, **arguments: Any) -> nn.Module:
    """A quantizer by its name in `QUANTIZERS`. Raises UserError for a name or an argument that there
    isn't."""
    if name not in QUANTIZERS:
        raise UserError(f"tokenizer.quantizer.name {name!r} is none of {', '.join(QUANTIZERS)}")
    return construct(QUANTIZERS[name], arguments, "tokenizer.quantizer")
