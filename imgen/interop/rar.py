"""RAR: official state dict <-> our parameters (bytedance/1d-tokenizer, modeling/rar.py).

Its tables have rows that nothing ever reads: the mask of the vocabulary, and of positions and slots all beyond the
grid's. Ours lack them; on the way back they are zero.
"""

import numpy as np

from imgen.interop import vit
from imgen.interop.table import LINEAR, Row, Transform, layer, norm

PREFIX = 2  # the slots of cls and of the condition
SPARE = 1024  # rows of the tables of positions beyond those of the codes
SPARE_SLOTS = 100  # and of the table of slots


def rows(codes: int, positions: int, heads: int) -> list[Row]:
    """The conversion table of one model. codes: the vocabulary's; positions: of the grid."""

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
