"""MLPs that denoise one token, given what the transformer says of it (`denoising_heads`).

Shapes: [...] any leading axes, a token each, C its channels, Z features, W the MLP's width. Sources:
"Autoregressive Image Generation without Vector Quantization",
LTH14/mar, models/diffloss.py; inclusionAI/Ming-UniVision, mingunivision/diff_loss_rf_swiglu.py.
"""

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from imgen.nn.adaln import Modulation, layer_norm, modulate
from imgen.nn.mlp import GatedMLP, Init, kernel_init
from imgen.nn.time_embedding import TimeEmbedding
from imgen.parallel.constrain import constrain

FeedForward = Literal["silu", "swiglu"]
NORM_EPS = 1e-6

# MAR's README; its weights are not decayed.
MAR = {
    "B": dict(depth=6, width=1024),
    "L": dict(depth=8, width=1280),
    "H": dict(depth=12, width=1536),
}


class ResBlock(nn.Module):
    """h + gate ffn(norm(h) (1 + scale) + shift), shift, scale and gate from the condition. [..., W] both.

    ffn: "silu" is down(silu(up h)), as wide as h (MAR); "swiglu" is `GatedMLP` with biases, 2/3 of `ratio` as
        wide as h, rounded up to a multiple of 8 (Ming).
    """

    ffn: FeedForward = "silu"
    ratio: float = 4.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, h: jax.Array, condition: jax.Array) -> jax.Array:
        width = h.shape[-1]
        parts = Modulation((3,), width, self.dtype, name="modulation")(condition)
        shift, scale, gate = jnp.moveaxis(parts, -2, 0)
        out = modulate(nn.LayerNorm(NORM_EPS, dtype=self.dtype, name="norm")(h), shift, scale)
        if self.ffn == "swiglu":
            hidden = 8 * -(-int(2 * self.ratio * width / 3) // 8)
            out = GatedMLP(hidden, "xavier", self.dtype, use_bias=True, name="ffn")(out)
        else:
            common = dict(dtype=self.dtype, kernel_init=kernel_init("xavier"))
            out = nn.silu(nn.Dense(width, **common, name="up")(out))
            out = constrain(out, "batch", *(None,) * (out.ndim - 2), "hidden")
            out = nn.Dense(width, **common, name="down")(out)
        return h + gate * out


class TokenMLP(nn.Module):
    """Noisy tokens [..., C], what is told of the time [...] and features [..., Z] -> float32 [..., outputs].

    Starts at zero: gates, modulations and the output. The tokens enter and leave in float32.
    """

    outputs: int
    width: int = 1024
    depth: int = 6
    ffn: FeedForward = "silu"
    ratio: float = 4.0
    time_features: int = 256
    dtype: Any = jnp.float32

    def setup(self):
        init = kernel_init("xavier")
        self.time = TimeEmbedding(self.width, self.time_features, dtype=self.dtype)
        self.condition = nn.Dense(self.width, dtype=self.dtype, kernel_init=init)
        self.input = nn.Dense(self.width, kernel_init=init)
        self.block = [ResBlock(self.ffn, self.ratio, self.dtype) for _ in range(self.depth)]
        self.modulation = Modulation((2,), self.width, self.dtype)
        self.output = nn.Dense(self.outputs, kernel_init=nn.initializers.zeros)

    def __call__(self, x: jax.Array, time: jax.Array, z: jax.Array) -> jax.Array:
        return self.denoise(x, self.embed_time(time) + self.embed_features(z))

    def embed_time(self, time: jax.Array) -> jax.Array:
        """[...] -> [..., W]."""
        return self.time(time)

    def embed_features(self, z: jax.Array) -> jax.Array:
        """[..., Z] -> [..., W]."""
        return self.condition(z)

    def denoise(self, x: jax.Array, condition: jax.Array) -> jax.Array:
        """x [..., C]; condition [..., W]: the sum of both embeddings."""
        h = self.input(x).astype(self.dtype)
        for block in self.block:
            h = block(h, condition)
        shift, scale = jnp.moveaxis(self.modulation(condition), -2, 0)
        h = modulate(layer_norm(h, NORM_EPS), shift, scale)
        return self.output(h.astype(jnp.float32))


class Features(nn.Module):
    """What an exit tells the MLP, float32. [..., D] -> [..., size]: a linear layer and a LayerNorm (Ming's
    `vis_head`), or without a size the hidden state itself (MAR)."""

    size: int | None
    init_std: Init = 0.02
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, hidden: jax.Array) -> jax.Array:
        if self.size is None:
            return hidden.astype(jnp.float32)
        init = kernel_init(self.init_std)
        hidden = nn.Dense(self.size, dtype=self.dtype, kernel_init=init, name="output")(hidden)
        return nn.LayerNorm(NORM_EPS, dtype=jnp.float32, name="norm")(hidden)
