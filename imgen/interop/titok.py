"""Checkpoints of bytedance/1d-tokenizer <-> our `TiTok` and `NLayerDiscriminator`.

Source: bytedance/1d-tokenizer, modeling/titok.py, modules/blocks.py and modules/discriminator.py. The
two-stage models carry MaskGIT-VQGAN's decoder and codebook under `pixel_` keys: our `proxy`.
"""

import numpy as np

from imgen.interop import maskgit_vqgan
from imgen.interop.table import CONV, LINEAR, Row, Transform, layer, norm

DISCRIMINATOR_IGNORED = (r"blocks\.\d+\.1\.kernel",)  # the low-pass filter, a constant

POINTWISE = Transform(lambda w: w[:, :, 0, 0].T, lambda w: w.T[:, :, None, None])  # 1x1 convolution
TOKEN = Transform(lambda t: t[0], lambda t: t[None])  # [1, 1, D], [1, D]


def _join_qkv(kernel: np.ndarray) -> np.ndarray:
    return kernel.reshape(kernel.shape[0], -1).T


QKV = Transform(lambda w: w.T.reshape(w.shape[1], 3, -1), _join_qkv)  # [3 D, D], [D, 3, D]
QKV_BIAS = Transform(lambda b: b.reshape(3, -1), np.ravel)


def rows(head: str = "pixels", gaussian: bool = False) -> list[Row]:
    """The table for a TiTok with this `head` and quantizer.

    Must be left out of our tree, because no checkpoint has them: a Gaussian's shift and scale, and with
    the head "codes" the proxy.
    """
    table = [Row("latent_tokens", "latent_tokens")]
    if not gaussian:
        table.append(Row("quantize.embedding.weight", "quantizer/codebook"))
    for half in ("encoder", "decoder"):
        table += [
            Row(f"{half}.class_embedding", f"{half}/class_token"),
            Row(f"{half}.positional_embedding", f"{half}/positions"),
            Row(f"{half}.latent_token_positional_embedding", f"{half}/latent_positions"),
        ]
        for name in ("ln_pre", "ln_post"):
            table += norm(f"{half}.{name}", f"{half}/{name}")
        table += block_rows(f"{half}.transformer.{{i}}", f"{half}/transformer/blocks")
    table += layer("encoder.patch_embed", "encoder/patch_embed", CONV)
    table += layer("encoder.conv_out", "encoder/conv_out", POINTWISE)
    table.append(Row("decoder.mask_token", "decoder/mask_token", TOKEN))
    table += layer("decoder.decoder_embed", "decoder/decoder_embed", LINEAR)
    if head == "pixels":
        table += layer("decoder.ffn.0", "pixel_head/to_pixels", POINTWISE)
        return table + layer("decoder.conv_out", "pixel_head/conv_out", CONV)
    table += layer("decoder.ffn.0", "code_head/hidden", POINTWISE)
    table += layer("decoder.ffn.2", "code_head/logits", POINTWISE)
    if head == "mixture":
        table += [
            Row(f"pixel_{row.official}", f"proxy/{row.ours}", row.transform)
            for row in maskgit_vqgan.rows()
        ]
    return table


def block_rows(official: str, ours: str) -> list[Row]:
    """CLIP's residual attention blocks <-> the stacked `ViTBlock`s."""
    return [
        *norm(f"{official}.ln_1", f"{ours}/norm1"),
        Row(f"{official}.attn.in_proj_weight", f"{ours}/qkv/kernel", QKV),
        Row(f"{official}.attn.in_proj_bias", f"{ours}/qkv/bias", QKV_BIAS),
        *layer(f"{official}.attn.out_proj", f"{ours}/out", LINEAR),
        *norm(f"{official}.ln_2", f"{ours}/norm2"),
        *layer(f"{official}.mlp.c_fc", f"{ours}/up", LINEAR),
        *layer(f"{official}.mlp.c_proj", f"{ours}/down", LINEAR),
    ]


def discriminator_rows() -> list[Row]:
    """The table for an NLayerDiscriminator."""
    return [
        *layer("block_in.0", "conv_in", CONV),
        *layer("blocks.{i}.0", "conv_{i}", CONV),
        *norm("blocks.{i}.2", "norm_{i}"),
        *layer("to_logits.0", "to_logits_0", CONV),
        *layer("to_logits.2", "to_logits_1", CONV),
    ]
