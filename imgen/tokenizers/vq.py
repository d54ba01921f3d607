"""The VQ tokenizers, images <-> int32 codes [B, h, w]: LlamaGen, taming VQGAN, MaskGIT-VQGAN.

Sources: "Autoregressive Model Beats Diffusion: Llama for Scalable Image Generation", section 2.1, and
FoundationVision/LlamaGen, tokenizer/tokenizer_image/vq_model.py; "Taming Transformers for
High-Resolution Image Synthesis"; "MaskGIT: Masked Generative Image Transformer" and
google-research/maskgit, maskgit/nets/vqgan_tokenizer.py.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from imgen.nn.conv import AveragePool
from imgen.tokenizers.autoencoder import Decoder, Encoder
from imgen.tokenizers.conv import ConvTokenizer, conv
from imgen.tokenizers.quantizers.vector import VectorQuantizer


def vq(
    ch: int = 128,
    ch_mult: Sequence[int] = (1, 1, 2, 2, 4),
    num_res_blocks: int = 2,
    z_channels: int = 256,
    codebook_size: int = 16384,
    codebook_dim: int = 8,
    l2_norm: bool = True,
    commit_weight: float = 0.25,
    entropy_weight: float = 0.0,
    entropy_temperature: float = 0.01,
    attention_levels: Sequence[int] | None = None,
    mid_attention: bool = True,
    groups: int = 32,
    dropout: float = 0.0,
    patch: int = 1,
    dtype: Any = jnp.float32,
) -> ConvTokenizer:
    """LlamaGen's tokenizer; the defaults are VQ-16's.

    ch, ch_mult, num_res_blocks, z_channels, attention_levels, ..., patch: see `conv.conv`.
    codebook_size (K), codebook_dim (D), l2_norm, commit_weight, entropy_weight,
    entropy_temperature: see `quantizers.VectorQuantizer`.
    dtype: of the convolutions; quantisation and losses are float32 always.
    """
    quantizer = VectorQuantizer(
        codebook_size,
        codebook_dim,
        l2_norm,
        commit_weight,
        entropy_weight,
        entropy_temperature,
    )
    return conv(
        quantizer,
        ch=ch,
        ch_mult=ch_mult,
        num_res_blocks=num_res_blocks,
        z_channels=z_channels,
        attention_levels=attention_levels,
        mid_attention=mid_attention,
        groups=groups,
        dropout=dropout,
        patch=patch,
        dtype=dtype,
    )


# LlamaGen's published sizes, with 16x16 and 8x8 pixels a code: 71.88 M and 70.11 M parameters.
VQ = vq16 = vq
vq8 = functools.partial(vq, ch_mult=(1, 2, 2, 4))

# Taming's layout is LlamaGen's with codes that are not normalised. The published f16 models have 1024 and
# 16384 codes. Its code puts beta on the codebook loss by mistake; here it is on the commitment loss.
taming_vqgan = functools.partial(vq, codebook_size=1024, codebook_dim=256, l2_norm=False)
taming_vqgan_16384 = functools.partial(taming_vqgan, codebook_size=16384)
taming_vqgan_f8 = functools.partial(
    vq, ch_mult=(1, 2, 2, 4), z_channels=4, codebook_dim=4, l2_norm=False
)


def maskgit_vqgan(
    ch: int = 128,
    ch_mult: Sequence[int] = (1, 1, 2, 2, 4),
    num_res_blocks: int = 2,
    codebook_size: int = 1024,
    codebook_dim: int = 256,
    commit_weight: float = 0.25,
    entropy_weight: float = 0.1,
    entropy_temperature: float = 0.01,
    groups: int = 32,
    dropout: float = 0.0,
    dtype: Any = jnp.float32,
) -> ConvTokenizer:
    """MaskGIT's tokenizer, on images in [0, 1]: no attention, no 1x1 convolutions about the quantizer,
    average pooling, ResBlocks without biases, as many at a level of the decoder as of the encoder.

    codebook_dim: also the channels that the encoder gives and the decoder takes.
    The others: see `vq`.
    """
    half = {
        "ch": ch,
        "ch_mult": tuple(ch_mult),
        "num_res_blocks": num_res_blocks,
        "mid_blocks": num_res_blocks,
        "mid_attention": False,
        "groups": groups,
        "dropout": dropout,
        "use_bias": False,
        "output_shortcut": True,
        "dtype": dtype,
    }
    return ConvTokenizer(
        Encoder(**half, z_channels=codebook_dim, downsample=AveragePool, out_kernel=1),
        Decoder(**half),
        VectorQuantizer(
            codebook_size,
            codebook_dim,
            False,
            commit_weight,
            entropy_weight,
            entropy_temperature,
        ),
        image_range="unit",
    )
