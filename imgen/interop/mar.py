"""MAR: official state dict <-> our parameters, of a Generator over `backbones.EncoderDecoder` with a
diffusion head (LTH14/mar, models/mar.py)."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from imgen.generators import make_generator
from imgen.generators.generator import Generator
from imgen.generators.presets import MAR_MODEL
from imgen.interop import vit
from imgen.interop.denoisers import mar_rows
from imgen.interop.table import FIRST, LINEAR, Row, Transform, layer, norm
from imgen.latents import LatentSpec

MASK = Transform(lambda w: w[0, 0], lambda w: w[None, None])


def generator_from_config(config: Mapping[str, Any]) -> Generator:
    """The Generator of an official configuration, without dropout; its latents are patches, [h, w, c p p]."""
    side = config["img_size"] // config["vae_stride"] // config["patch_size"]
    channels = config["vae_embed_dim"] * config["patch_size"] ** 2
    width, decoder_width = config["encoder_embed_dim"], config["decoder_embed_dim"]
    return make_generator(
        LatentSpec("continuous", (side, side), channels),
        **MAR_MODEL | dict(dropout=0.0),
        conditioning=dict(
            name="class", num_classes=config["class_num"], copies=config["buffer_size"]
        ),
        width=width,
        backbone_options=dict(
            depth=(config["encoder_depth"], config["decoder_depth"]),
            heads=config["encoder_num_heads"],
            hidden=int(width * config["mlp_ratio"]),
            decoder_width=decoder_width,
            decoder_heads=config["decoder_num_heads"],
            decoder_hidden=int(decoder_width * config["mlp_ratio"]),
            norm_eps=config["norm_eps"],
        ),
        head_options=dict(
            width=config["diffloss_w"],
            depth=config["diffloss_d"],
            repeats=config["diffusion_batch_mul"],
        ),
    )


def rows(generator: Generator) -> list[Row]:
    """The conversion table of one model.

    The last table of positions has no rows for the condition's slots: they are zero here.
    """
    network, buffer = generator.transformer.network, generator.plan.num_cond
    heads = (network.heads, network.decoder_heads or network.heads)
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
