"""MAR's two transformers: an encoder of what is known, a decoder with a mask vector for what isn't.

The released code drops the masked slots before the encoder. Here they stay and no query sees them, which is
the same function of the others, whatever the number of masked slots.
Shapes: B batch, S slots (the condition's first, then the positions), D the encoder's width, E the decoder's.
Source: "Autoregressive Image Generation without Vector Quantization"; LTH14/mar, models/mar.py.
"""

from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from imgen.generators.backbones.blocks import PreNormBlock
from imgen.nn.mlp import Init, embedding_init, kernel_init
from imgen.nn.stack import stack


class EncoderDecoder(nn.Module):
    """[B, S, D] -> [B, S, E]: what a denoising head is told of each slot.

    depth: of the encoder and of the decoder.   heads, hidden: of both; hidden is the feed-forward's width.
    decoder_width: E, by default D; decoder_heads, decoder_hidden: where they differ from the encoder's.
    init_std: of kernels; tables start with deviation 0.02.
    """

    depth: tuple[int, int]
    heads: int
    hidden: int
    decoder_width: int | None = None
    decoder_heads: int | None = None
    decoder_hidden: int | None = None
    dropout: float = 0.1
    norm_eps: float = 1e-6
    init_std: Init = "xavier"
    remat: str = "none"
    dtype: Any = jnp.float32

    masks: ClassVar[bool] = True

    @nn.compact
    def __call__(self, x: jax.Array, known: jax.Array) -> jax.Array:
        """known [B, S] bool: the condition's slots and the positions whose latents are in x [B, S, D]; what
        x holds elsewhere is not looked at."""
        width = self.decoder_width or x.shape[-1]
        x = self.norm("input_norm")(x + self.table("encoder_positions", x))
        x = self.norm("encoder_norm")(
            self.blocks("encoder", self.depth[0], self.heads, self.hidden)(x, known)
        )
        init = kernel_init(self.init_std)
        x = nn.Dense(width, dtype=self.dtype, kernel_init=init, name="decoder_embed")(x)
        mask = self.param("mask", embedding_init(self.init_std), (width,)).astype(x.dtype)
        x = jnp.where(known[..., None], x, mask) + self.table("decoder_positions", x)
        heads, hidden = self.decoder_heads or self.heads, self.decoder_hidden or self.hidden
        x = self.norm("decoder_norm")(self.blocks("decoder", self.depth[1], heads, hidden)(x, None))
        return x + self.table("output_positions", x)

    def norm(self, name: str) -> nn.Module:
        return nn.LayerNorm(self.norm_eps, dtype=self.dtype, name=name)

    def table(self, name: str, x: jax.Array) -> jax.Array:
        """Learned positions [S, width of x]."""
        return self.param(name, embedding_init(self.init_std), x.shape[1:]).astype(x.dtype)

    def blocks(self, name: str, depth: int, heads: int, hidden: int):
        """(x [B, S, width], key_valid [B, S] or None) -> [B, S, width]."""
        layers = stack(PreNormBlock, depth, remat=self.remat)(
            heads,
            hidden,
            dropout=self.dropout,
            norm_eps=self.norm_eps,
            init_std=self.init_std,
            dtype=self.dtype,
            name=name,
        )
        return lambda x, key_valid: layers(x, None, key_valid, jnp.full(x.shape[1], x.shape[1]))[0]
