"""RAR: official state dict <-> our parameters (bytedance/1d-tokenizer, modeling/rar.py).

Its tables have rows that nothing ever reads: the mask of the vocabulary, and of positions and slots all that
are beyond the grid's. Ours lack them; on the way back they are zero.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from imgen.generators import make_generator
from imgen.generators.generator import Generator
from imgen.generators.presets import RAR_BLOCK
from imgen.interop import vit
from imgen.interop.table import LINEAR, Row, Transform, layer, norm
from imgen.latents import LatentSpec

PREFIX = 2  # the slots of cls and of the condition
SPARE = 1024  # rows of the tables of positions beyond those of the codes
SPARE_SLOTS = 100  # and of the table of slots


def generator_from_config(config: Mapping[str, Any]) -> Generator:
    """The Generator of an official configuration, without dropout; its codes are a row of tokens."""
    return make_generator(
        LatentSpec("index", (config["image_seq_len"],), config["codebook_size"]),
        **RAR_BLOCK | dict(dropout=0.0),
        conditioning=dict(name="class", num_classes=config["condition_num_classes"], start=True),
        width=config["hidden_size"],
        depth=config["num_hidden_layers"],
        heads=config["num_attention_heads"],
        hidden=config["intermediate_size"],
    )


def rows(generator: Generator) -> list[Row]:
    """The conversion table of one model."""
    codes, positions, heads = generator.head.size, generator.plan.positions, generator.heads

    def join(tokens: np.ndarray, classes: np.ndarray) -> np.ndarray:
        return np.concatenate([tokens, np.zeros_like(tokens[:1]), classes])

    def used(rows: int, of: int) -> Transform:
        """The first rows of a table [1, of, D]."""
        around = ((0, 0), (0, of - rows), (0, 0))
        return Transform(lambda w: w[0, :rows], lambda w: np.pad(w[None], around))

    vocabulary = Transform(lambda w: (w[:codes], w[codes + 1 :]), join)
    start = Transform(lambda w: w[0], lambda w: w[None])
    seen, theirs = PREFIX + positions, positions + SPARE
    official, ours = "blocks.{i}.", "transformer/blocks_0/"
    return [
        Row("cls_token", "conditioner/start", start),
        Row("embeddings.weight", ("tokens/embedding", "conditioner/table/embedding"), vocabulary),
        Row("pos_embed", "position_table", used(seen, theirs)),
        Row("target_aware_pos_embed", "target_table", used(seen, theirs)),
        Row("timesteps_embeddings", "slot_table", used(seen - 1, positions + SPARE_SLOTS)),
        *norm(f"{official}norm1", f"{ours}attention_norm"),
        *vit.fused_attention(f"{official}attn", f"{ours}attention", heads),
        *norm(f"{official}attn.q_norm", f"{ours}attention/q_norm"),
        *norm(f"{official}attn.k_norm", f"{ours}attention/k_norm"),
        *norm(f"{official}norm2", f"{ours}ffn_norm"),
        *vit.mlp(f"{official}mlp.", f"{ours}ffn"),
        *layer(f"{official}adaLN_modulation.1", f"{ours}modulation", LINEAR),
        *layer("adaln_before_head.adaLN_modulation.1", "transformer/exit/modulation", LINEAR),
        *layer("lm_head", "head_0/output", LINEAR),
    ]
