"""MAR: official state dict <-> our parameters, of a Generator over `backbones.EncoderDecoder` with a
diffusion head (LTH14/mar, models/mar.py)."""

import numpy as np

from imgen.interop import vit
from imgen.interop.denoisers import mar_rows
from imgen.interop.table import FIRST, LINEAR, Row, Transform, layer, norm

MASK = Transform(lambda w: w[0, 0], lambda w: w[None, None])


def rows(heads: tuple[int, int], buffer: int) -> list[Row]:
    """The conversion table. heads: of the encoder and the decoder; buffer: condition slots.

    The last table of positions has no rows for the condition's slots: they are zero here.
    """
    classes = Transform(
        lambda table, null: np.concatenate([table, null]), lambda w: (w[:-1], w[-1:])
    )
    output = Transform(
        lambda w: np.concatenate([np.zeros_like(w[0, :1]).repeat(buffer, 0), w[0]]),
        lambda w: w[None, buffer:],
    )
    table = [
        Row(("class_emb.weight", "fake_latent"), "conditioner/table/embedding", classes),
        *layer("z_proj", "tokens", LINEAR),
        *norm("z_proj_ln", "transformer/input_norm"),
        *layer("decoder_embed", "transformer/decoder_embed", LINEAR),
        Row("mask_token", "transformer/mask", MASK),
        Row("diffusion_pos_embed_learned", "transformer/output_positions", output),
        *mar_rows("diffloss.net."),
    ]
    for half, number in zip(("encoder", "decoder"), heads, strict=True):
        official, ours = f"{half}_blocks.{{i}}", f"transformer/{half}"
        table += [
            Row(f"{half}_pos_embed_learned", f"transformer/{half}_positions", FIRST),
            *norm(f"{official}.norm1", f"{ours}/attention_norm"),
            *vit.fused_attention(f"{official}.attn", f"{ours}/attention", number),
            *norm(f"{official}.norm2", f"{ours}/ffn_norm"),
            *vit.mlp(f"{official}.mlp.", f"{ours}/ffn"),
            *norm(f"{half}_norm", f"transformer/{half}_norm"),
        ]
    return table
