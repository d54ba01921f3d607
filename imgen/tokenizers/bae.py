"""The 2D binary autoencoder: images <-> bits [B, h, w, D].

Source: "Binary Latent Diffusion" (ZeWang95/BinaryLatentDiffusion, models/binaryae.py), which "Elucidating
the design space of language models for image generation" (ELM) uses as its tokenizer.
"""

from collections.abc import Sequence
from typing import Any

from imgen.errors import UserError
from imgen.nn.conv import Conv
from imgen.tokenizers.autoencoder import Decoder, Encoder, Half
from imgen.tokenizers.conv import HALF, ConvTokenizer, passes_on
from imgen.tokenizers.quantizers.bernoulli import Bernoulli


@passes_on(HALF, to=Half)
def bae(
    bits: int = 20,
    num_res_blocks: int = 2,
    z_channels: int = 256,
    attention_levels: Sequence[int] | None = None,
    gen_mul: float = 1.0,
    norm_first: bool = True,
    code_weight: float = 0.0,
    **half: Any,
) -> ConvTokenizer:
    """Builds ELM's binary autoencoder, on images in [0, 1], without activations behind the last norms.

    bits: D of a position; ELM's models of 2 x 8, 2 x 10 and 2 x 12 bits take 16, 20 and 24.
    z_channels: width of the encoder's features and of the bits' embeddings.
    attention_levels: None is the last level only (16x16 of 256x256), as published.
    gen_mul: the decoder has int(num_res_blocks * gen_mul) ResBlocks a level.
    norm_first: a norm in front of the decoder, as in ELM's released runs.
    code_weight: see `quantizers.Bernoulli`. half: `conv.HALF`, see `autoencoder.Half`.
    """
    blocks = int(num_res_blocks * gen_mul)
    if blocks < 1:
        raise UserError(
            f"gen_mul {gen_mul} of {num_res_blocks} ResBlocks leaves the decoder none: make it larger"
        )
    half |= {"attention_levels": attention_levels, "out_activation": False}
    encoder = Encoder(**half, num_res_blocks=num_res_blocks, z_channels=z_channels)
    return ConvTokenizer(
        encoder,
        Decoder(**half, num_res_blocks=blocks, norm_first=norm_first),
        Bernoulli(bits, z_channels, code_weight=code_weight),
        quant_conv=Conv(bits, 1, dtype=encoder.dtype),
        image_range="unit",
    )
