"""BERT's encoder, which MaskGIT and TiTok's generator run over masked codes.

Shapes: B batch, S slots (the condition's first, then the positions), D width.
Sources: google-research/maskgit, nets/maskgit_transformer.py; bytedance/1d-tokenizer, modeling/maskgit.py
(`ImageBert`, Hugging Face's BertModel without a pooler).
"""

from typing import Any, ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from imgen.generators.backbones.blocks import PostNormBlock
from imgen.nn.dropout import Dropout
from imgen.nn.mlp import ACTIVATIONS, Init, embedding_init, kernel_init
from imgen.nn.stack import stack


class Bert(nn.Module):
    """dropout(norm(x + positions)) through post-norm blocks. [B, S, D] -> [B, S, D].

    hidden: of the feed-forward.   token_types: rows of a table of which row 0 is added to all slots (Hugging
        Face's BERT has 2), 0 for none.
    transform: ends with MaskGIT's `MlmLayer`: a linear layer, the activation and a norm.
    """

    depth: int
    heads: int
    hidden: int
    activation: Literal["gelu", "gelu_tanh"] = "gelu"
    token_types: int = 0
    transform: bool = False
    dropout: float = 0.1
    norm_eps: float = 1e-12
    init_std: Init = 0.02
    remat: str = "none"
    dtype: Any = jnp.float32

    masks: ClassVar[bool] = False

    @nn.compact
    def __call__(self, x: jax.Array, known: jax.Array) -> jax.Array:
        """known [B, S] bool: not asked for, as x [B, S, D] has mask vectors in place of unknown codes."""
        slots, width = x.shape[1:]
        init = embedding_init(self.init_std)
        x = x + self.param("positions", init, (slots, width)).astype(x.dtype)
        if self.token_types:
            x = x + self.param("token_types", init, (self.token_types, width))[0].astype(x.dtype)
        x = nn.LayerNorm(self.norm_eps, dtype=self.dtype, name="norm")(x)
        blocks = stack(PostNormBlock, self.depth, remat=self.remat)(
            self.heads,
            self.hidden,
            self.activation,
            self.dropout,
            self.norm_eps,
            self.init_std,
            self.dtype,
            name="blocks",
        )
        x, _ = blocks(Dropout(self.dropout)(x), jnp.full(slots, slots))
        if not self.transform:
            return x
        init = kernel_init(self.init_std)
        x = nn.Dense(width, dtype=self.dtype, kernel_init=init, name="transform")(x)
        x = ACTIVATIONS[self.activation](x)
        return nn.LayerNorm(self.norm_eps, dtype=self.dtype, name="transform_norm")(x)
