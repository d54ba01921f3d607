"""U-ViT: a transformer whose second half is given the streams of the first, the latest first.

Shapes: B batch, S slots (the condition's first, then the positions), D width.
Sources: "All are Worth Words: A ViT Backbone for Diffusion Models"; bytedance/1d-tokenizer,
modeling/maskgit.py (`UViTBert`) and modeling/modules/blocks.py.
"""

from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from imgen.errors import UserError
from imgen.generators.backbones.blocks import PreNormBlock
from imgen.nn.mlp import Init, embedding_init
from imgen.nn.stack import stack


class UViT(nn.Module):
    """x + positions through depth / 2 blocks, one in the middle, depth / 2 with skips, and a norm.

    [B, S, D] -> [B, S, D].   depth: an odd one is that of one less, as published.
    hidden: of the feed-forward.
    """

    depth: int
    heads: int
    hidden: int
    dropout: float = 0.0
    norm_eps: float = 1e-5
    init_std: Init = 0.02
    remat: str = "none"
    dtype: Any = jnp.float32

    masks: ClassVar[bool] = False

    @nn.compact
    def __call__(self, x: jax.Array, known: jax.Array) -> jax.Array:
        """known [B, S] bool: not asked for, as x [B, S, D] has mask vectors in place of unknown codes."""
        if self.depth < 2:
            raise UserError(f"a U-ViT has a depth of 2 or more, not {self.depth}")
        slots = x.shape[1]
        positions = self.param("positions", embedding_init(self.init_std), x.shape[1:])

        def blocks(name: str, length: int, keep: bool, skip_axis):
            in_axes = (skip_axis, nn.broadcast, nn.broadcast)
            return stack(PreNormBlock, length, remat=self.remat, in_axes=in_axes)(
                self.heads,
                self.hidden,
                qkv_bias=False,
                keep=keep,
                dropout=self.dropout,
                norm_eps=self.norm_eps,
                init_std=self.init_std,
                dtype=self.dtype,
                name=name,
            )

        everything, half = jnp.full(slots, slots), self.depth // 2
        x = x + positions.astype(x.dtype)
        x, skips = blocks("first", half, True, nn.broadcast)(x, None, None, everything)
        x, _ = blocks("middle", 1, False, nn.broadcast)(x, None, None, everything)
        x, _ = blocks("last", half, False, 0)(x, skips[::-1], None, everything)
        return nn.LayerNorm(self.norm_eps, dtype=self.dtype, name="norm")(x)
