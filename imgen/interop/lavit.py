"""LaVIT's dynamic tokenizer, between the features of its tower and those that its decoder predicts.

Source: jy0205/LaVIT, LaVIT/models/modeling_visual_tokenzier.py and modeling_decoder.py.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from imgen.interop.table import FIRST, Row, Transform, layer, norm
from imgen.tokenizers.dynamic import DynamicTokenizer

# Ours alone: the encoder that stands for the tower, and pixels.
OUTSIDE = ("encoder", "to_pixel", "semantic_target")

QKV = Transform(  # [3 D, D] <-> three [D, D]
    lambda w: tuple(part.T for part in np.split(w, 3)),
    lambda *ws: np.concatenate([w.T for w in ws]),
)
QKV_BIAS = Transform(lambda b: tuple(np.split(b, 3)), lambda *bs: np.concatenate(bs))


def tokenizer_from_config(config: Mapping[str, Any]) -> DynamicTokenizer:
    """A tokenizer around the official modules of a configuration with N positions. Its images are one
    row of patches: only the number of positions matters to those modules."""
    return DynamicTokenizer(
        image_size=(1, config["N"]),
        patch_size=1,
        width=config["dim"],
        heads=config["heads"],
        mlp_ratio=config["mlp_ratio"],
        encoder_layers=1,
        merger_layers=config["depth"],
        decoder_layers=config["depth"],
        codebook_size=config["n_code"],
        codebook_dim=config["code_dim"],
    )


def rows() -> list[Row]:
    """The conversion table."""
    selector, merger, decoder = "token_predictor", "causal_encoder", "decoder"
    return [
        *norm(f"{selector}.in_conv.0", "selector/norm"),
        *layer(f"{selector}.in_conv.1", "selector/in"),
        *layer(f"{selector}.out_conv.0", "selector/hidden_2"),
        *layer(f"{selector}.out_conv.2", "selector/hidden_4"),
        *layer(f"{selector}.out_conv.4", "selector/out"),
        *norm(f"{merger}.ln_vision", "merger/norm_in"),
        *_block(merger, "merger", "token_causal_attn", "token_cross_attn"),
        *norm(f"{merger}.norm", "merger/norm_out"),
        *layer("encode_task_layer.0", "to_code_hidden"),
        *layer("encode_task_layer.2", "to_code"),
        Row("quantize.embedding.weight", "quantizer/codebook"),
        Row(f"{decoder}.pos_embed", "decoder/positions", FIRST),
        Row(f"{decoder}.query_embed", "decoder/query_tokens", FIRST),
        *layer(f"{decoder}.in_proj", "decoder/proj_in"),
        *_block(decoder, "decoder", "self_attn", "cross_attn"),
        *norm(f"{decoder}.norm", "decoder/norm_out"),
    ]


def _block(official: str, ours: str, self_attention: str, cross_attention: str) -> list[Row]:
    official, ours = f"{official}.blocks.{{i}}", f"{ours}/block_{{i}}"
    names = ("query", "key", "value")
    table = [
        Row(
            f"{official}.{self_attention}.qkv.{theirs}",
            tuple(f"{ours}/self_attention/{name}/{leaf}" for name in names),
            transform,
        )
        for theirs, leaf, transform in (("weight", "kernel", QKV), ("bias", "bias", QKV_BIAS))
    ]
    table += layer(f"{official}.{self_attention}.proj", f"{ours}/self_attention/out")
    for theirs, name in zip((*names, "proj"), (*names, "out"), strict=True):
        table += layer(f"{official}.{cross_attention}.{theirs}", f"{ours}/cross_attention/{name}")
    for i, name in enumerate(("self_norm", "cross_norm", "ffn_norm")):
        table += norm(f"{official}.norm{i}", f"{ours}/{name}")
    table += layer(f"{official}.mlp.fc1", f"{ours}/up")
    return table + layer(f"{official}.mlp.fc2", f"{ours}/down")
