"""The VQ tokenizers, images <-> int32 codes [B, h, w]: LlamaGen, taming VQGAN, MaskGIT-VQGAN.

Sources: "Autoregressive Model Beats Diffusion: Llama for Scalable Image Generation", section 2.1, and
FoundationVision/LlamaGen, tokenizer/tokenizer_image/vq_model.py; "Taming Transformers for
High-Resolution Image Synthesis"; "MaskGIT: Masked Generative Image Transformer" and
google-research/maskgit, maskgit/nets/vqgan_tokenizer.py.
"""

import functools
from typing import Any

from imgen.nn.conv import AveragePool
from imgen.tokenizers.autoencoder import Decoder, Encoder, Half
from imgen.tokenizers.conv import HALF, ConvTokenizer, conv, passes_on
from imgen.tokenizers.quantizers.vector import VectorQuantizer

BODY = (*HALF, "num_res_blocks", "z_channels", "attention_levels", "mid_attention")


@passes_on(BODY, to=conv)
def vq(
    codebook_size: int = 16384,
    codebook_dim: int = 8,
    l2_norm: bool = True,
    commit_weight: float = 0.25,
    entropy_weight: float = 0.0,
    entropy_temperature: float = 0.01,
    **body: Any,
) -> ConvTokenizer:
    """Builds LlamaGen's tokenizer. The defaults are VQ-16's: 16x16 pixels a code, 71.88 M parameters.

    codebook_size (K), codebook_dim (D), l2_norm, ..., entropy_temperature: see
        `quantizers.VectorQuantizer`.
    body: see `conv.conv`. dtype is that of the convolutions; quantisation and losses are float32 always.
    """
    quantizer = VectorQuantizer(
        codebook_size, codebook_dim, l2_norm, commit_weight, entropy_weight, entropy_temperature
    )
    return conv(quantizer, **body)


vq8 = functools.partial(vq, ch_mult=(1, 2, 2, 4))  # VQ-8, 70.11 M

# Taming's layout is LlamaGen's with codes that are not normalised. The published f16 models have 1024 and
# 16384 codes. Its code puts beta on the codebook loss by mistake; here it is on the commitment loss.
taming_vqgan = functools.partial(vq, codebook_size=1024, codebook_dim=256, l2_norm=False)
taming_vqgan_16384 = functools.partial(taming_vqgan, codebook_size=16384)
taming_vqgan_f8 = functools.partial(vq8, z_channels=4, codebook_dim=4, l2_norm=False)


@passes_on(HALF, to=Half)
def maskgit_vqgan(
    num_res_blocks: int = 2,
    codebook_size: int = 1024,
    codebook_dim: int = 256,
    commit_weight: float = 0.25,
    entropy_weight: float = 0.1,
    entropy_temperature: float = 0.01,
    **half: Any,
) -> ConvTokenizer:
    """Builds MaskGIT's tokenizer, on images in [0, 1]: no attention, no 1x1 convolutions about the quantizer,
    average pooling, ResBlocks without biases, as many at a level of the decoder as of the encoder.

    codebook_dim: also the channels that the encoder gives and the decoder takes.
    half: `conv.HALF`, see `autoencoder.Half`. The others: see `vq`.
    """
    half |= {
        "num_res_blocks": num_res_blocks,
        "mid_blocks": num_res_blocks,
        "mid_attention": False,
        "use_bias": False,
        "output_shortcut": True,
    }
    return ConvTokenizer(
        Encoder(**half, z_channels=codebook_dim, downsample=AveragePool, out_kernel=1),
        Decoder(**half),
        VectorQuantizer(
            codebook_size, codebook_dim, False, commit_weight, entropy_weight, entropy_temperature
        ),
        image_range="unit",
    )
