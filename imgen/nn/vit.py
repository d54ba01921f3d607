"""The vision transformer's block, as CLIP writes it: pre-norm, biases, full attention, exact GELU.

Source: "An Image is Worth 16x16 Words"; CLIP, model.py; bytedance/1d-tokenizer, modeling/modules/blocks.py.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from imgen.nn.constrain import constrain


class ViTBlock(nn.Module):
    """h = x + attention(norm1(x)); out = h + down(gelu(up(norm2(h)))). [B, T, D] -> [B, T, D].

    Queries, keys and values are one kernel [D, 3, D], Xavier-uniform over the whole of it, as PyTorch
    starts its MultiheadAttention; the other kernels start normal with deviation `init_std`.
    """

    heads: int
    mlp_ratio: float = 4.0
    eps: float = 1e-5
    init_std: float = 0.02
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """mask: bool, to be broadcast to [B, heads, queries, keys]; what is False is not seen."""
        batch, length, width = x.shape
        init = nn.initializers.normal(self.init_std)

        h = nn.LayerNorm(self.eps, dtype=self.dtype, name="norm1")(x)
        qkv = nn.DenseGeneral(
            (3, width), dtype=self.dtype, kernel_init=nn.initializers.xavier_uniform(), name="qkv"
        )(h)
        qkv = qkv.reshape(batch, length, 3, self.heads, width // self.heads)
        q, k, v = (constrain(qkv[:, :, i], "batch", None, "heads", None) for i in range(3))
        h = jax.nn.dot_product_attention(q, k, v, mask=mask).reshape(batch, length, width)
        x = x + nn.Dense(width, dtype=self.dtype, kernel_init=init, name="out")(h)

        h = nn.LayerNorm(self.eps, dtype=self.dtype, name="norm2")(x)
        hidden = int(self.mlp_ratio * width)
        h = nn.Dense(hidden, dtype=self.dtype, kernel_init=init, name="up")(h)
        h = constrain(nn.gelu(h, approximate=False), "batch", None, "hidden")
        x = x + nn.Dense(width, dtype=self.dtype, kernel_init=init, name="down")(h)
        return constrain(x, "batch", None, None)


class ViT(nn.Module):
    """`depth` ViTBlocks, their parameters stacked along a leading axis: leaves [depth, ...].

    remat: recompute each block's inside in the backward pass, which then keeps its input only.
    """

    depth: int
    heads: int
    mlp_ratio: float = 4.0
    eps: float = 1e-5
    init_std: float = 0.02
    remat: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        layer = nn.remat(ViTBlock, prevent_cse=False) if self.remat else ViTBlock

        def step(block: ViTBlock, x: jax.Array, _: None) -> tuple[jax.Array, None]:
            return block(x, mask), None

        blocks = layer(
            self.heads, self.mlp_ratio, self.eps, self.init_std, self.dtype, name="blocks"
        )
        scan = nn.scan(
            step, variable_axes={"params": 0}, split_rngs={"params": True}, length=self.depth
        )
        return scan(blocks, x, None)[0]
