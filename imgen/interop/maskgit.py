"""Masked generators: official parameters <-> ours, of `backbones.Bert` and `backbones.UViT`.

Sources: google-research/maskgit, nets/maskgit_transformer.py (a Flax tree, its paths joined by "/");
bytedance/1d-tokenizer, modeling/maskgit.py (`ImageBert`, `UViTBert`). All have one table for codes, mask and
classes.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from imgen.generators import make_generator
from imgen.generators.generator import Generator
from imgen.generators.presets import IMAGE_BERT, MASKGIT, UVIT_BERT
from imgen.interop import vit
from imgen.interop.table import FIRST, LINEAR, Row, Transform, layer, norm
from imgen.latents import LatentSpec

TABLES = ("tokens/embedding", "mask", "conditioner/table/embedding")
# Hugging Face's BERT counts its positions in a buffer.
IGNORED = (r"model\.embeddings\.position_ids",)


def titok_from_config(config: Mapping[str, Any], **more: Any) -> Generator:
    """The Generator of 1d-tokenizer's configuration, without dropout; its codes are a row of tokens."""
    model = {"ViT": IMAGE_BERT, "UViT": UVIT_BERT}[config["model_type"]]
    size = dict(
        depth=config["num_hidden_layers"],
        heads=config["num_attention_heads"],
        hidden=config["intermediate_size"],
    )
    return make_generator(
        LatentSpec("index", (config["image_seq_len"],), config["codebook_size"]),
        **model
        | dict(dropout=0.0, width=config["hidden_size"])
        | dict(backbone_options=model["backbone_options"] | size)
        | more,
        conditioning=dict(name="class", num_classes=config["condition_num_classes"]),
    )


def flax_from_config(config: Mapping[str, Any]) -> Generator:
    """The Generator of the original MaskGIT, without dropout; its codes are a row of tokens."""
    size = dict(
        depth=config["num_layers"],
        heads=config["num_heads"],
        hidden=config["intermediate_size"],
    )
    return make_generator(
        LatentSpec("index", (config["seq"],), config["codebook_size"]),
        **MASKGIT
        | dict(dropout=0.0, width=config["hidden_size"])
        | dict(backbone_options=MASKGIT["backbone_options"] | size),
        conditioning=dict(name="class", num_classes=config["num_class"]),
    )


def titok_rows(generator: Generator, model_type: str) -> list[Row]:
    """The table of 1d-tokenizer's "ViT" or "UViT"."""
    rows = {"ViT": image_bert_rows, "UViT": uvit_bert_rows}[model_type]
    return rows(generator.head.size, generator.transformer.network.heads)


def vocabulary_row(official: str, codes: int) -> Row:
    """1d-tokenizer's table: codes, mask, classes, no class."""

    def split(w: np.ndarray) -> tuple[np.ndarray, ...]:
        return w[:codes], w[codes], w[codes + 1 :]

    def join(tokens: np.ndarray, mask: np.ndarray, classes: np.ndarray) -> np.ndarray:
        return np.concatenate([tokens, mask[None], classes])

    return Row(official, TABLES, Transform(split, join))


def image_bert_rows(codes: int, heads: int) -> list[Row]:
    """TiTok's `ImageBert`, a Generator over `Bert(token_types=2)`."""
    official, ours = "model.encoder.layer.{i}.", "transformer/blocks/"
    embeddings = "model.embeddings."
    return [
        vocabulary_row(f"{embeddings}word_embeddings.weight", codes),
        Row(f"{embeddings}position_embeddings.weight", "transformer/positions"),
        Row(f"{embeddings}token_type_embeddings.weight", "transformer/token_types"),
        *norm(f"{embeddings}LayerNorm", "transformer/norm"),
        *vit.bert_attention(f"{official}attention", f"{ours}attention", heads),
        *norm(f"{official}attention.output.LayerNorm", f"{ours}attention_norm"),
        *vit.mlp(official, f"{ours}ffn", ("intermediate.dense", "output.dense")),
        *norm(f"{official}output.LayerNorm", f"{ours}ffn_norm"),
        *layer("model.lm_head", "head_0/output", LINEAR),
    ]


def uvit_bert_rows(codes: int, heads: int) -> list[Row]:
    """TiTok's `UViTBert`, a Generator over `UViT`."""
    return [
        vocabulary_row("embeddings.weight", codes),
        Row("pos_embed", "transformer/positions", FIRST),
        *_uvit_block("in_blocks.{i}", "first", heads),
        *(_unstacked(row) for row in _uvit_block("mid_block", "middle", heads)),
        *_uvit_block("out_blocks.{i}", "last", heads),
        *layer("out_blocks.{i}.skip_linear", "transformer/last/skip", LINEAR),
        *norm("norm", "transformer/norm"),
        *layer("lm_head", "head_0/output", LINEAR),
    ]


def flax_rows(codes: int, classes: int) -> list[Row]:
    """The original MaskGIT, a Generator over `Bert(transform=True)` with a tied head.

    Its table holds codes, classes and the mask; it has no row for "no class", which is zero here. Its output
    also has a bias for each class and the mask, columns that decoding cuts off: zero on the way back.
    """
    official, ours = "TransformerLayer_{i}/", "transformer/blocks/"
    attention = f"{official}Attention_0/self_attention/"

    def split(w: np.ndarray) -> tuple[np.ndarray, ...]:
        own = w[codes : codes + classes]
        return w[:codes], w[-1], np.concatenate([own, np.zeros_like(w[:1])])

    def join(tokens: np.ndarray, mask: np.ndarray, table: np.ndarray) -> np.ndarray:
        return np.concatenate([tokens, table[:classes], mask[None]])

    def padded(bias: np.ndarray) -> np.ndarray:
        return np.concatenate([bias, np.zeros(classes + 1, bias.dtype)])

    def three(kind: str, axis: int) -> Row:
        keys = tuple(f"{attention}{name}/{kind}" for name in ("query", "key", "value"))
        transform = Transform(
            lambda *w: np.stack(w, axis=axis), lambda w: tuple(np.moveaxis(w, axis, 0))
        )
        return Row(keys, f"{ours}attention/qkv/{kind}", transform)

    table = [
        Row("Embed_0/word_embeddings/embedding", TABLES, Transform(split, join)),
        Row("Embed_0/position_embeddings/embedding", "transformer/positions"),
        three("kernel", 2),  # of [D, N, H]
        three("bias", 1),
        Row("MlmLayer_0/mlm_bias/bias", "head_0/bias", Transform(lambda b: b[:codes], padded)),
    ]
    for theirs, name, kinds in (
        ("Embed_0/embeddings_ln", "norm", ("scale", "bias")),
        (f"{attention}out", "blocks/attention/out", ("kernel", "bias")),
        (f"{official}Attention_0/attention_output_ln", "blocks/attention_norm", ("scale", "bias")),
        (f"{official}Mlp_0/intermediate_output", "blocks/ffn/up", ("kernel", "bias")),
        (f"{official}Mlp_0/layer_output", "blocks/ffn/down", ("kernel", "bias")),
        (f"{official}Mlp_0/layer_output_ln", "blocks/ffn_norm", ("scale", "bias")),
        ("MlmLayer_0/mlm_dense", "transform", ("kernel", "bias")),
        ("MlmLayer_0/mlm_ln", "transform_norm", ("scale", "bias")),
    ):
        table += [Row(f"{theirs}/{kind}", f"transformer/{name}/{kind}") for kind in kinds]
    return table


def _uvit_block(official: str, name: str, heads: int) -> list[Row]:
    ours = f"transformer/{name}"
    return [
        *norm(f"{official}.norm1", f"{ours}/attention_norm"),
        *vit.fused_attention(f"{official}.attn", f"{ours}/attention", heads, bias=False),
        *norm(f"{official}.norm2", f"{ours}/ffn_norm"),
        *vit.mlp(f"{official}.mlp.", f"{ours}/ffn"),
    ]


def _unstacked(row: Row) -> Row:
    """The row of a stack of one layer, whose official keys are not numbered."""
    transform = row.transform
    return Row(
        row.official,
        row.ours,
        Transform(lambda *w: transform.to_ours(*w)[None], lambda w: transform.to_official(w[0])),
    )
