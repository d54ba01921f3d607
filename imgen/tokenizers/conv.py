"""The convolutional tokenizer: encoder, quantizer and decoder, for any quantizer.

`vq`, `bae` and `kl` hold the published ones. All of them are one module put together from parts.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax
from flax import linen as nn

from imgen.errors import UserError
from imgen.latents import LatentSpec, height_width
from imgen.nn.conv import Conv
from imgen.params.fields import silent
from imgen.tokenizers.autoencoder import SHARDING, Decoder, Encoder, Half
from imgen.tokenizers.quantizers import Quantizer, make_quantizer
from imgen.tokenizers.tokenizer import ImageSize, QuantizedTokenizer


class ConvTokenizer(QuantizedTokenizer):
    """Turns images [B, H, W, 3] in [-1, 1] into latents on the grid [H/f, W/f], and back.

    quant_conv, post_quant_conv: 1x1 convolutions before and behind the quantizer, or None.
    image_range: what encoder and decoder work in: "signed" [-1, 1] or "unit" [0, 1].
    """

    encoder: Encoder
    decoder: Decoder
    quantizer: Quantizer
    quant_conv: Conv | None = None
    post_quant_conv: Conv | None = None
    image_range: Literal["signed", "unit"] = silent("signed")

    last_layer = ("decoder", "conv_out")
    sharding = SHARDING

    @property
    def dtype(self) -> Any:
        """Returns the type of the convolutions; quantisation and losses are float32 always."""
        return self.encoder.dtype

    @nn.nowrap
    def spec(self, image_size: ImageSize) -> LatentSpec:
        """Describes the latents of images of this size. Raises UserError if the grid does not come out
        whole."""
        size = height_width(image_size)
        factor = self.encoder.factor
        if any(side % factor for side in size):
            raise UserError(
                f"images of {size[0]}x{size[1]} cannot be cut into a whole grid by the tokenizer's "
                f"factor {factor}: give sizes that are multiples of {factor}"
            )
        return self.quantizer.layout.spec((size[0] // factor, size[1] // factor))

    def features(self, images: jax.Array, deterministic: bool = True) -> jax.Array:
        """Turns images [B, H, W, 3] into what is quantised: [B, h, w, features_in]."""
        self.spec(images.shape[1:3])
        x = (images + 1.0) / 2.0 if self.image_range == "unit" else images
        z = self.encoder(x, deterministic)
        return z if self.quant_conv is None else self.quant_conv(z)

    def decode(self, latents: jax.Array) -> jax.Array:
        """Turns latents into images [B, H, W, 3], not clipped."""
        return self.project(self._hidden(self.quantizer.decode(latents)))

    def project(self, hidden: jax.Array) -> jax.Array:
        """Applies the decoder's last convolution alone."""
        images = self.decoder.project(hidden)
        return 2.0 * images - 1.0 if self.image_range == "unit" else images

    def __call__(self, images: jax.Array, rng: jax.Array | None = None) -> dict[str, Any]:
        """Runs a training pass (see `tokenizers`); z [B, h, w, D] with a codebook."""
        deterministic = rng is None
        z = self.features(images, deterministic)
        quantized = self.quantizer(z, rng)
        hidden = self._hidden(quantized.values, deterministic)
        return self.training_pass(quantized, z, recon=self.project(hidden), hidden=hidden)

    def _hidden(self, values: jax.Array, deterministic: bool = True) -> jax.Array:
        if self.post_quant_conv is not None:
            values = self.post_quant_conv(values)
        return self.decoder.hidden(values, deterministic)


Builder = Callable[..., ConvTokenizer]
# Fields of `autoencoder.Half` that every builder takes.
HALF = ("ch", "ch_mult", "groups", "dropout", "patch", "dtype")


def passes_on(names: Sequence[str], to: Callable) -> Callable[[Builder], Builder]:
    """Tells of a builder that its `**keywords` are these arguments of `to`: in its signature, in which
    `imgen.config.construct` looks for what a config may say."""
    theirs = inspect.signature(to).parameters
    passed = [theirs[name].replace(kind=inspect.Parameter.KEYWORD_ONLY) for name in names]

    def with_signature(builder: Builder) -> Builder:
        signature = inspect.signature(builder)
        own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        builder.__signature__ = signature.replace(parameters=[*own, *passed])
        return builder

    return with_signature


@passes_on(HALF, to=Half)
def conv(
    quantizer: Quantizer | Mapping[str, Any],
    num_res_blocks: int = 2,
    z_channels: int = 256,
    attention_levels: Sequence[int] | None = None,
    mid_attention: bool = True,
    **half: Any,
) -> ConvTokenizer:
    """Builds LlamaGen's encoder and decoder around any quantizer, with a 1x1 convolution on either side of
    it.

    quantizer: a module, or its name in `QUANTIZERS` with its arguments: {"name": "fsq", "levels": ...}.
    num_res_blocks: at every level of the encoder; the decoder has one more.
    z_channels: between the halves and the 1x1 convolutions.
    attention_levels: of both halves; None puts attention at the last level only, as published.
    half: `HALF`, see `autoencoder.Half`.
    """
    quantizer = make_quantizer(quantizer)
    half |= {"attention_levels": attention_levels, "mid_attention": mid_attention}
    encoder = Encoder(**half, num_res_blocks=num_res_blocks, z_channels=z_channels)
    decoder = Decoder(**half, num_res_blocks=num_res_blocks + 1)
    before, behind = (
        Conv(channels, 1, dtype=encoder.dtype)
        for channels in (quantizer.layout.features_in, z_channels)
    )
    return ConvTokenizer(encoder, decoder, quantizer, before, behind)
