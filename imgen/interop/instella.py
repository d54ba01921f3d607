"""Instella-T2I's generators: official state dicts <-> our parameters.

Sources: `models/ar_model.py`, `models/diff_model.py`.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from imgen.generators import Generator, make_generator
from imgen.generators.bit_diffusion import BitDiffusion
from imgen.interop.table import LINEAR, Row, Transform
from imgen.latents import LatentSpec

UNUSED = (
    r"time_embed\..*",
)  # in the state dict of the autoregressive model, but not in its forward pass


def arguments(config: Mapping[str, Any], text_slots: int) -> dict[str, Any]:
    """What both models are made of."""
    width = config["attention_head_dim"] * config["num_attention_heads"]
    return dict(
        width=width,
        depth=config["num_layers"],
        heads=config["num_attention_heads"],
        hidden=4 * width,
        ffn="gelu",
        qk_norm=True,
        position="block",
        norm_eps=1e-6,
        dropout=0.0,
        conditioning=dict(
            name="layer_text",
            layers=config["num_layers"],
            context_slots=text_slots,
            text_width=config["text_cond_dim"],
        ),
    )


def generator_from_config(config: Mapping[str, Any], text_slots: int) -> Generator:
    """The autoregressive model of an official configuration, without dropout."""
    return make_generator(
        LatentSpec("bits", (config["num_img_tkns"],), config["in_channels"]),
        plan="raster",
        plan_options={},
        **arguments(config, text_slots),
    )


def rows(generator: Generator) -> list[Row]:
    """The conversion table of the autoregressive model."""
    return [
        Row("split_token", "conditioner/start", FIRST),
        Row("x_embedder.weight", "tokens/proj/kernel", LINEAR),
        Row("x_embedder.bias", "tokens/proj/bias"),
        Row("norm_out.weight", "norm_0/scale"),
        Row("proj_out.weight", "head_0/output/kernel", LINEAR),
        Row("proj_out.bias", "head_0/output/bias"),
        Row(BLOCK + "input_layernorm.weight", OURS + "attention_norm/scale"),
        Row(BLOCK + "post_attention_layernorm.weight", OURS + "ffn_norm/scale"),
        *block_rows(generator.heads, "mlp"),
    ]


def diffusion_rows(model: BitDiffusion) -> list[Row]:
    """The conversion table of the bit-flip diffusion model."""
    return [
        *linear_rows("time_embed.linear_1", "time_1"),
        *linear_rows("time_embed.linear_2", "time_2"),
        *linear_rows("x_embedder", "tokens/proj"),
        *linear_rows("norm_out.linear", "modulation"),
        *linear_rows("proj_out", "output"),
        *linear_rows(BLOCK + "norm1.linear", OURS + "modulation"),
        *block_rows(model.heads, "ff"),
    ]


BLOCK, OURS = "transformer_blocks.{i}.", "transformer/blocks_0/"
FIRST = Transform(lambda x: x[0], lambda x: x[None])


def linear_rows(official: str, ours: str) -> list[Row]:
    return [
        Row(f"{official}.weight", f"{ours}/kernel", LINEAR),
        Row(f"{official}.bias", f"{ours}/bias"),
    ]


def block_rows(heads: int, mlp: str) -> list[Row]:
    """The rows that both models' blocks share."""
    out = Transform(  # [D, N H] <-> [N, H, D]
        lambda w: w.T.reshape(heads, -1, w.shape[0]),
        lambda w: w.reshape(-1, w.shape[-1]).T,
    )
    return [
        Row(BLOCK + "pos_emb", OURS + "positions", FIRST),
        *linear_rows(BLOCK + f"{mlp}.net.0.proj", OURS + "ffn/up"),
        *linear_rows(BLOCK + f"{mlp}.net.2", OURS + "ffn/down"),
        *linear_rows(BLOCK + "proj_cond", OURS + "context"),
        Row(
            tuple(BLOCK + f"attn.{name}_proj.weight" for name in "qkv"),
            OURS + "attention/qkv/kernel",
            Transform(  # three [N H, D] <-> [D, N, 3, H]
                lambda *w: np.stack([m.T.reshape(m.shape[1], heads, -1) for m in w], axis=2),
                lambda w: tuple(w[:, :, j].reshape(w.shape[0], -1).T for j in range(3)),
            ),
        ),
        Row(BLOCK + "attn.o_proj.weight", OURS + "attention/out/kernel", out),
        Row(BLOCK + "attn.norm_q.weight", OURS + "attention/q_norm/scale"),
        Row(BLOCK + "attn.norm_k.weight", OURS + "attention/k_norm/scale"),
    ]
