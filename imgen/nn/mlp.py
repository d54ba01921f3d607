"""Feed-forward layers and how kernels start."""

import functools
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from imgen.nn.dropout import Dropout
from imgen.parallel.constrain import constrain

normal_init = nn.initializers.normal
Init = float | Literal["torch", "xavier"]


def kernel_init(init: Init) -> nn.initializers.Initializer:
    """A standard deviation, "torch" (PyTorch's default of linear layers) or "xavier" (uniform)."""
    if init == "torch":
        return nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
    if init == "xavier":
        return nn.initializers.xavier_uniform()
    return normal_init(init)


def embedding_init(init: Init) -> nn.initializers.Initializer:
    """Tables of vectors are normal, with standard deviation 0.02 where `init` names a rule of kernels."""
    return normal_init(0.02 if isinstance(init, str) else init)


def swiglu_hidden(width: int, multiple_of: int = 256, multiplier: float | None = None) -> int:
    """Llama's hidden width: int(2/3 * 4 * width), optionally scaled, rounded up to a multiple."""
    hidden = int(2 * (4 * width) / 3)
    if multiplier is not None:
        hidden = int(multiplier * hidden)
    return multiple_of * -(-hidden // multiple_of)


def quick_gelu(x: jax.Array) -> jax.Array:
    """x sigmoid(1.702 x), OpenAI CLIP's approximation of GELU."""
    return x * nn.sigmoid(1.702 * x)


ACTIVATIONS = {
    "silu": nn.silu,
    "gelu": functools.partial(nn.gelu, approximate=False),
    "gelu_tanh": functools.partial(nn.gelu, approximate=True),
    "quick_gelu": quick_gelu,
}


class GatedMLP(nn.Module):
    """down(dropout(activation(gate x) * up x)) [..., D] -> [..., D]: SwiGLU with "silu", GEGLU with "gelu",
    the exact one.

    gate and up are one kernel [D, 2, F]: one matrix product, and sharding over F stays local. dropout also
    follows `down`. apart: gate and up start as two kernels of their own
    do, which is another scale under "xavier".
    """

    hidden: int
    init_std: Init = 0.02
    dtype: jnp.dtype = jnp.float32
    activation: Literal["silu", "gelu"] = "silu"
    use_bias: bool = False
    dropout: float = 0.0
    apart: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        common = dict(use_bias=self.use_bias, dtype=self.dtype)
        init = kernel_init(self.init_std)
        gate_up = nn.DenseGeneral(
            (2, self.hidden),
            kernel_init=halves(init) if self.apart else init,
            **common,
            name="gate_up",
        )(x)  # [..., 2, F]
        h = ACTIVATIONS[self.activation](gate_up[..., 0, :]) * gate_up[..., 1, :]
        h = constrain(h, "batch", *(None,) * (h.ndim - 2), "hidden")
        out = nn.Dense(x.shape[-1], kernel_init=init, **common, name="down")(
            Dropout(self.dropout)(h)
        )
        return Dropout(self.dropout)(out)


def halves(init: nn.initializers.Initializer) -> nn.initializers.Initializer:
    """`init` for each half of the columns of a kernel [D, 2 F]."""

    def both(key: jax.Array, shape: tuple[int, int], dtype: jnp.dtype = jnp.float32) -> jax.Array:
        half = (shape[0], shape[1] // 2)
        return jnp.concatenate([init(k, half, dtype) for k in jax.random.split(key)], axis=1)

    return both


class GeluMLP(nn.Module):
    """down(dropout(gelu(up x))), with biases. [..., D] -> [..., D].

    zero_out: `down` starts at zero.   activation: "gelu_tanh", an approximation, or "gelu".
    """

    hidden: int
    init_std: Init = 0.02
    dtype: jnp.dtype = jnp.float32
    zero_out: bool = False
    activation: Literal["gelu_tanh", "gelu"] = "gelu_tanh"
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        init = kernel_init(self.init_std)
        h = nn.Dense(self.hidden, dtype=self.dtype, kernel_init=init, name="up")(x)
        h = Dropout(self.dropout)(ACTIVATIONS[self.activation](h))
        h = constrain(h, "batch", *(None,) * (h.ndim - 2), "hidden")
        out_init = nn.initializers.zeros if self.zero_out else init
        return nn.Dense(x.shape[-1], dtype=self.dtype, kernel_init=out_init, name="down")(h)
