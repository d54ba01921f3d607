"""The vision transformer's block, as CLIP writes it: pre-norm, biases, full attention.

Source: "An Image is Worth 16x16 Words"; CLIP, model.py; bytedance/1d-tokenizer, modeling/modules/blocks.py.
SwiGLU as DINOv2 has it (facebookresearch/dinov2, layers/swiglu_ffn.py).
"""

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from imgen.errors import UserError
from imgen.nn.mlp import ACTIVATIONS, GatedMLP
from imgen.nn.stack import stack
from imgen.parallel.constrain import constrain
from imgen.params.fields import training

MLP = Literal["gelu", "quick_gelu", "swiglu"]

SHARDING = (  # of a `ViT`; the leading axis of the layers is left out
    (r"blocks/qkv/kernel$", ("fsdp", None, "tensor")),  # [D, 3, D]
    (r"blocks/(mlp/)?gate_up/kernel$", ("fsdp", None, "tensor")),  # [D, 2, F]
    (r"blocks/up/kernel$", ("fsdp", "tensor")),  # [D, F]
    (r"blocks/out/kernel$", ("tensor", "fsdp")),  # [D, D]
    (r"blocks/(mlp/)?down/kernel$", ("tensor", "fsdp")),  # [F, D]
)


class ViTBlock(nn.Module):
    """Computes h = x + attention(norm1(x)); h + mlp(norm2(h)). [B, T, D] -> [B, T, D].

    Queries, keys and values are one kernel [D, 3, D], Xavier-uniform over the whole of it, as PyTorch
    starts its MultiheadAttention; the other kernels start normal with deviation `init_std`.
    mlp: "gelu" is down(gelu(up x)), exact, mlp_ratio * D wide; "quick_gelu" the same with x sigmoid(1.702 x);
        "swiglu" is `GatedMLP` with biases, of 2/3 of that width, rounded up to a multiple of 8.
    """

    heads: int
    mlp_ratio: float = 4.0
    eps: float = 1e-5
    init_std: float = training(0.02)
    dtype: Any = training(jnp.float32)
    mlp: MLP = "gelu"

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> tuple[jax.Array, None]:
        """Returns the output and nothing of each layer, as `nn.stack` wants it.

        mask: bool, to be broadcast to [B, heads, queries, keys]; what is False is not seen.
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
        h = jax.nn.dot_product_attention(q, k, v, mask=mask).reshape(batch, length, width)
        x = x + nn.Dense(width, dtype=self.dtype, kernel_init=init, name="out")(h)

        h = nn.LayerNorm(self.eps, dtype=self.dtype, name="norm2")(x)
        hidden = int(self.mlp_ratio * width)
        if self.mlp == "swiglu":
            gated = 8 * -(-int(2 * hidden / 3) // 8)
            h = GatedMLP(gated, self.init_std, self.dtype, use_bias=True, name="mlp")(h)
            return constrain(x + h, "batch", None, None), None
        h = nn.Dense(hidden, dtype=self.dtype, kernel_init=init, name="up")(h)
        h = constrain(ACTIVATIONS[self.mlp](h), "batch", None, "hidden")
        x = x + nn.Dense(width, dtype=self.dtype, kernel_init=init, name="down")(h)
        return constrain(x, "batch", None, None), None


class ViT(nn.Module):
    """Runs `depth` ViTBlocks, their parameters stacked along a leading axis: leaves [depth, ...].

    remat: recompute each block's inside in the backward pass, which then keeps its input only.
    """

    depth: int
    heads: int
    mlp_ratio: float = 4.0
    eps: float = 1e-5
    init_std: float = training(0.02)
    remat: bool = training(False)
    dtype: Any = training(jnp.float32)
    mlp: MLP = "gelu"

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """Runs all blocks, [B, T, D] -> [B, T, D]. mask: see `ViTBlock`."""
        blocks = stack(ViTBlock, self.depth, remat="full" if self.remat else "none")
        options = (self.heads, self.mlp_ratio, self.eps, self.init_std, self.dtype, self.mlp)
        return blocks(*options, name="blocks")(x, mask)[0]


def patch_embedding(width: int, patch: int, dtype: Any) -> nn.Module:
    """Makes the layer "patch_embed": images [B, H, W, C] -> [B, H/patch, W/patch, width], each patch on its
    own."""
    return nn.Conv(
        width,
        (patch, patch),
        (patch, patch),
        "VALID",
        dtype=dtype,
        kernel_init=nn.initializers.normal(0.02),
        name="patch_embed",
    )


def repeat_tokens(tokens: jax.Array, batch: int, dtype: Any) -> jax.Array:
    """Gives every image of a batch the same tokens: [T, D] -> [B, T, D]."""
    return jnp.broadcast_to(tokens.astype(dtype), (batch, *tokens.shape))
