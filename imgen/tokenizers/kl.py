"""The KL autoencoder: images <-> continuous latents [B, h, w, C].

MAR stores the moments of every image once, and draws latents from them anew at every visit.

Sources: "High-Resolution Image Synthesis with Latent Diffusion Models" (CompVis/latent-diffusion,
ldm/models/autoencoder.py); KL-16 of "Autoregressive Image Generation without Vector Quantization"
(LTH14/mar, models/vae.py).
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from imgen.nn.conv import Conv
from imgen.tokenizers.autoencoder import Decoder, Encoder
from imgen.tokenizers.conv import ConvTokenizer
from imgen.tokenizers.quantizers.gaussian import Gaussian

# LDM weighs the KL sum of an image by 1e-6 beside the SUM of the errors of its 256 * 256 * 3 values. The
# reconstruction losses here are means over those values.
KL_WEIGHT = 1e-6 / (256 * 256 * 3)


def kl(
    ch: int = 128,
    ch_mult: Sequence[int] = (1, 1, 2, 2, 4),
    num_res_blocks: int = 2,
    z_channels: int = 16,
    embed_dim: int = 16,
    encoder_attention_levels: Sequence[int] | None = None,
    decoder_attention_levels: Sequence[int] = (),
    kl_weight: float = KL_WEIGHT,
    groups: int = 32,
    dropout: float = 0.0,
    patch: int = 1,
    dtype: Any = jnp.float32,
) -> ConvTokenizer:
    """LDM's autoencoder; the defaults are MAR's KL-16: 16x16 pixels a position, 66.46 M parameters.

    z_channels: of the decoder's input; the encoder gives twice as many.
    embed_dim: channels C of the latents.
    encoder_attention_levels: None is the last level only. decoder_attention_levels: MAR's decoder has
        attention in the middle only; LDM's own f16 model has it at the last level of both halves.
    kl_weight: see `quantizers.Gaussian`; the default is LDM's 1e-6 for images of 256x256.
    The others: see `autoencoder.Half`.
    """
    if encoder_attention_levels is None:
        encoder_attention_levels = (len(ch_mult) - 1,)
    half = {
        "ch": ch,
        "ch_mult": tuple(ch_mult),
        "groups": groups,
        "dropout": dropout,
        "patch": patch,
        "dtype": dtype,
    }
    return ConvTokenizer(
        Encoder(
            **half,
            num_res_blocks=num_res_blocks,
            z_channels=2 * z_channels,
            attention_levels=tuple(encoder_attention_levels),
        ),
        Decoder(
            **half,
            num_res_blocks=num_res_blocks + 1,
            attention_levels=tuple(decoder_attention_levels),
        ),
        Gaussian(embed_dim, kl_weight),
        Conv(2 * embed_dim, 1, dtype=dtype),
        Conv(z_channels, 1, dtype=dtype),
    )


kl16 = kl
