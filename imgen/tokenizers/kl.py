"""The KL autoencoder: images <-> continuous latents [B, h, w, C].

MAR stores the moments of every image once, and draws latents from them anew at every visit.

Sources: "High-Resolution Image Synthesis with Latent Diffusion Models" (CompVis/latent-diffusion,
ldm/models/autoencoder.py); KL-16 of "Autoregressive Image Generation without Vector Quantization"
(LTH14/mar, models/vae.py).
"""

from collections.abc import Sequence
from typing import Any

from imgen.nn.conv import Conv
from imgen.tokenizers.autoencoder import Decoder, Encoder, Half
from imgen.tokenizers.conv import HALF, ConvTokenizer, passes_on
from imgen.tokenizers.quantizers.gaussian import Gaussian


@passes_on(HALF, to=Half)
def kl(
    num_res_blocks: int = 2,
    z_channels: int = 16,
    embed_dim: int = 16,
    encoder_attention_levels: Sequence[int] | None = None,
    decoder_attention_levels: Sequence[int] = (),
    kl_weight: float = 1e-6,
    **half: Any,
) -> ConvTokenizer:
    """Builds LDM's autoencoder; the defaults are MAR's KL-16: 16x16 pixels a position, 66.46 M parameters.

    num_res_blocks: at every level of the encoder; the decoder has one more.
    z_channels: of the decoder's input; the encoder gives twice as many.
    embed_dim: channels C of the latents.
    encoder_attention_levels: None is the last level only. decoder_attention_levels: MAR's decoder has
        attention in the middle only; LDM's own f16 model has it at the last level of both halves.
    kl_weight: of an image's KL sum beside the SUM of its values' errors, as LDM's 1e-6. The losses here are
        means over the values, and so is the KL.
    half: `conv.HALF`, see `autoencoder.Half`.
    """
    encoder = Encoder(
        **half,
        num_res_blocks=num_res_blocks,
        z_channels=2 * z_channels,
        attention_levels=encoder_attention_levels,
    )
    return ConvTokenizer(
        encoder,
        Decoder(
            **half,
            num_res_blocks=num_res_blocks + 1,
            attention_levels=decoder_attention_levels,
        ),
        Gaussian(embed_dim, kl_weight, 3 * encoder.factor**2),
        Conv(2 * embed_dim, 1, dtype=encoder.dtype),
        Conv(z_channels, 1, dtype=encoder.dtype),
    )
