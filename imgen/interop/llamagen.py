"""LlamaGen's generator and its forks NAR and PAR: official state dicts <-> our parameters.

Sources: `autoregressive/models/gpt.py` of FoundationVision/LlamaGen and YuqingWang1029/PAR, and
`NAR-images/.../gpt.py`, `NAR-videos/models/larp_ar.py` of ThisisBillhe/NAR. The extra blocks of NAR's later
heads follow the trunk in `layers.{i}`.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from imgen.conditioning import ClassLabels
from imgen.generators import Generator, make_generator
from imgen.generators.plan import Kind
from imgen.interop.table import GATE_UP, LINEAR, SAME, Row, Transform
from imgen.latents import LatentSpec
from imgen.nn.mlp import swiglu_hidden

IGNORED = ("freqs_cis", "causal_mask")


def generator_from_config(
    config: Mapping[str, Any], grid: tuple[int, ...], *, plan: str = "raster", **plan_options
) -> Generator:
    """The Generator of an official `ModelArgs` dict, without dropout (for inference)."""
    if config["model_type"] == "t2i":
        conditioning = dict(
            name="text", text_width=config["caption_dim"], num_slots=config["cls_token_num"]
        )
    else:
        conditioning = dict(name="class", num_classes=config["num_classes"])
    return make_generator(
        LatentSpec("index", grid, config["vocab_size"]),
        plan=plan,
        plan_options=plan_options,
        conditioning=conditioning,
        width=config["dim"],
        depth=config["n_layer"],
        heads=config["n_head"],
        kv_heads=config["n_kv_head"],
        hidden=swiglu_hidden(config["dim"], config["multiple_of"], config["ffn_dim_multiplier"]),
        dropout=0.0,
        position="learned" if "latent_shape" in config else "rope",
        rope_base=config["rope_base"],
        norm_eps=config["norm_eps"],
    )


def rows(generator: Generator) -> list[Row]:
    """The conversion table of one model."""
    if isinstance(generator.conditioner, ClassLabels):
        table = [Row("cls_embedding.embedding_table.weight", "conditioner/table/embedding")]
    else:
        table = [
            Row("cls_embedding.uncond_embedding", "conditioner/null_features"),
            Row("cls_embedding.cap_proj.fc1.weight", "conditioner/fc1/kernel", LINEAR),
            Row("cls_embedding.cap_proj.fc2.weight", "conditioner/fc2/kernel", LINEAR),
        ]
    table.append(Row("tok_embeddings.weight", "tokens/embedding"))
    if Kind.SPECIAL in generator.plan.fed:
        table.append(Row("spe_tok_embeddings.special_embeddings.weight", "special"))
    if generator.position == "learned":
        table.append(Row("abs_pe", "position_table", Transform(lambda x: x[0], lambda x: x[None])))
    for head, (norm, output) in enumerate(_head_names(generator)):
        table.append(Row(f"{norm}.weight", f"norm_{head}/scale"))
        table.append(Row(f"{output}.weight", f"head_{head}/output/kernel", LINEAR))
    table += block_rows(generator, "layers.{i}", "transformer/blocks_0", lambda t: t)
    for extra in range(1, generator.plan.heads):
        layer = f"layers.{generator.transformer.depth + extra - 1}"
        table += block_rows(generator, layer, f"transformer/blocks_{extra}", _one_layer)
    return table


def _head_names(generator: Generator) -> list[tuple[str, str]]:
    if generator.plan.heads == 1:
        return [("norm", "output")]
    if generator.plan.heads == 2:
        return [("norm", "output"), ("medusa_norm", "medusa_output")]
    return [(f"norm_{h}", f"output_{h}") for h in "RDB"]


def block_rows(generator: Generator, official: str, ours: str, stacking) -> list[Row]:
    """Rows of one group of Llama blocks; `stacking` changes the transforms of unstacked ones."""
    spec = generator.transformer.spec
    heads, kv_heads = spec.heads, spec.kv_heads or spec.heads
    return [
        Row(official + o, f"{ours}/{p}", stacking(transform))
        for o, p, transform in (
            (".attention.wqkv.weight", "attention/qkv/kernel", _qkv(heads, kv_heads)),
            (".attention.wo.weight", "attention/out/kernel", _out(heads)),
            (".feed_forward.w2.weight", "ffn/down/kernel", LINEAR),
            (".attention_norm.weight", "attention_norm/scale", SAME),
            (".ffn_norm.weight", "ffn_norm/scale", SAME),
        )
    ] + [
        Row(
            (f"{official}.feed_forward.w1.weight", f"{official}.feed_forward.w3.weight"),
            f"{ours}/ffn/gate_up/kernel",
            stacking(GATE_UP),
        )
    ]


def _one_layer(transform: Transform) -> Transform:
    """For a group of a single layer: our leaf has a leading axis of 1."""

    def to_official(x: np.ndarray):
        return transform.to_official(x[0])

    return Transform(lambda *x: transform.to_ours(*x)[None], to_official)


def _qkv(heads: int, kv_heads: int) -> Transform:
    """[(N + 2 Nkv) H, D], rows all q, all k, all v <-> [D, Nkv, G + 2, H] (`nn.attention`)."""
    group = heads // kv_heads

    def to_ours(w: np.ndarray) -> np.ndarray:
        width = w.shape[1]
        head_dim = w.shape[0] // (heads + 2 * kv_heads)
        q, k, v = np.split(w, [heads * head_dim, (heads + kv_heads) * head_dim])
        parts = [
            q.reshape(kv_heads, group, head_dim, width),
            k.reshape(kv_heads, 1, head_dim, width),
            v.reshape(kv_heads, 1, head_dim, width),
        ]
        return np.concatenate(parts, axis=1).transpose(3, 0, 1, 2)

    def to_official(w: np.ndarray) -> np.ndarray:
        w = w.transpose(1, 2, 3, 0)  # [Nkv, G + 2, H, D]
        parts = (w[:, :group], w[:, group], w[:, group + 1])
        return np.concatenate([p.reshape(-1, w.shape[-1]) for p in parts])

    return Transform(to_ours, to_official)


def _out(heads: int) -> Transform:
    """[D, N H] <-> [N, H, D]."""
    return Transform(
        lambda w: w.T.reshape(heads, -1, w.shape[0]),
        lambda w: w.reshape(-1, w.shape[-1]).T,
    )
