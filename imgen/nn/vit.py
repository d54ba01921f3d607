"""The vision transformer's block, as CLIP writes it: pre-norm, biases, full attention.

Source: "An Image is Worth 16x16 Words"; CLIP, model.py; bytedance/1d-tokenizer, modeling/modules/blocks.py.
SwiGLU as DINOv2 has it (facebookresearch/dinov2, layers/swiglu_ffn.py).
"""

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from imgen.errors import UserError
from imgen.nn.attention import KVCache
from imgen.nn.mlp import ACTIVATIONS, GatedMLP
from imgen.parallel.constrain import constrain

MLP = Literal["gelu", "quick_gelu", "swiglu"]


class ViTBlock(nn.Module):
    """h = x + attention(norm1(x)); out = h + mlp(norm2(h)). [B, T, D] -> [B, T, D].

    Queries, keys and values are one kernel [D, 3, D], Xavier-uniform over the whole of it, as PyTorch
    starts its MultiheadAttention; the other kernels start normal with deviation `init_std`.
    mlp: "gelu" is down(gelu(up x)), exact, mlp_ratio * D wide; "quick_gelu" the same with x sigmoid(1.702 x);
        "swiglu" is `GatedMLP` with biases, of 2/3 of that width, rounded up to a multiple of 8.
    """

    heads: int
    mlp_ratio: float = 4.0
    eps: float = 1e-5
    init_std: float = 0.02
    dtype: Any = jnp.float32
    mlp: MLP = "gelu"

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        mask: jax.Array | None = None,
        cache: KVCache | None = None,
        start: jax.Array | int = 0,
    ) -> tuple[jax.Array, KVCache | None]:
        """mask: bool, to be broadcast to [B, heads, queries, keys]; what is False is not seen.

        Given a cache, the keys are all of its rows, after this call's T were written from row `start` on;
        the cache is returned as well.
        """
        batch, length, width = x.shape
        if width % self.heads:
            raise UserError(
                f"{self.heads} heads do not divide a width of {width}: change one of them"
            )
        init = nn.initializers.normal(self.init_std)

        h = nn.LayerNorm(self.eps, dtype=self.dtype, name="norm1")(x)
        qkv = nn.DenseGeneral(
            (3, width), dtype=self.dtype, kernel_init=nn.initializers.xavier_uniform(), name="qkv"
        )(h)
        qkv = qkv.reshape(batch, length, 3, self.heads, width // self.heads)
        q, k, v = (constrain(qkv[:, :, i], "batch", None, "heads", None) for i in range(3))
        if cache is not None:
            write = jax.lax.dynamic_update_slice_in_dim
            k = write(cache.k, k.astype(cache.k.dtype), start, axis=1)
            v = write(cache.v, v.astype(cache.v.dtype), start, axis=1)
            cache = KVCache(k, v)
        h = jax.nn.dot_product_attention(q, k, v, mask=mask).reshape(batch, length, width)
        x = x + nn.Dense(width, dtype=self.dtype, kernel_init=init, name="out")(h)

        h = nn.LayerNorm(self.eps, dtype=self.dtype, name="norm2")(x)
        hidden = int(self.mlp_ratio * width)
        if self.mlp == "swiglu":
            gated = 8 * -(-int(2 * hidden / 3) // 8)
            h = GatedMLP(gated, self.init_std, self.dtype, use_bias=True, name="mlp")(h)
            return constrain(x + h, "batch", None, None), cache
        h = nn.Dense(hidden, dtype=self.dtype, kernel_init=init, name="up")(h)
        h = constrain(ACTIVATIONS[self.mlp](h), "batch", None, "hidden")
        x = x + nn.Dense(width, dtype=self.dtype, kernel_init=init, name="down")(h)
        return constrain(x, "batch", None, None), cache


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
    mlp: MLP = "gelu"

    def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """[B, T, D] -> [B, T, D]. mask: see `ViTBlock`."""
        return self._blocks(x, mask)[0]

    def step(
        self, x: jax.Array, cache: KVCache, start: jax.Array | int
    ) -> tuple[jax.Array, KVCache]:
        """T more tokens [B, T, D] of a causal pass: token t sees the rows [0, start + t] of the cache, leaves
        [depth, B, rows, heads, H]. Returns their outputs and the cache with their rows written."""
        visible = start + jnp.arange(x.shape[1])
        return self._blocks(x, jnp.arange(cache.k.shape[2]) <= visible[:, None], cache, start)

    @nn.compact
    def _blocks(
        self,
        x: jax.Array,
        mask: jax.Array | None,
        cache: KVCache | None = None,
        start: jax.Array | int = 0,
    ) -> tuple[jax.Array, KVCache | None]:
        layer = nn.remat(ViTBlock, prevent_cse=False) if self.remat else ViTBlock

        def step(block: ViTBlock, x: jax.Array, cache: KVCache | None) -> tuple:
            return block(x, mask, cache, start)

        blocks = layer(
            self.heads,
            self.mlp_ratio,
            self.eps,
            self.init_std,
            self.dtype,
            self.mlp,
            name="blocks",
        )
        scan = nn.scan(
            step, variable_axes={"params": 0}, split_rngs={"params": True}, length=self.depth
        )
        return scan(blocks, x, cache)
