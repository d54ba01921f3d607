"""SwiGLU feed-forward."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from imgen.nn.constrain import constrain

normal_init = nn.initializers.normal


def swiglu_hidden(width: int, multiple_of: int = 256, multiplier: float | None = None) -> int:
    """Llama's hidden width: int(2/3 * 4 * width), optionally scaled, rounded up to a multiple."""
    hidden = int(2 * (4 * width) / 3)
    if multiplier is not None:
        hidden = int(multiplier * hidden)
    return multiple_of * -(-hidden // multiple_of)


class SwiGLU(nn.Module):
    """w2(silu(w1 x) * w3 x), no biases. [..., D] -> [..., D].

    w1 and w3 are one kernel [D, 2, F]: one matrix product, and sharding over F stays local.
    """

    hidden: int
    init_std: float = 0.02
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        gate_up = nn.DenseGeneral(
            (2, self.hidden),
            use_bias=False,
            dtype=self.dtype,
            kernel_init=normal_init(self.init_std),
            name="gate_up",
        )(x)  # [..., 2, F]
        h = nn.silu(gate_up[..., 0, :]) * gate_up[..., 1, :]
        h = constrain(h, "batch", *(None,) * (h.ndim - 2), "hidden")
        return nn.Dense(
            x.shape[-1],
            use_bias=False,
            dtype=self.dtype,
            kernel_init=normal_init(self.init_std),
            name="down",
        )(h)
