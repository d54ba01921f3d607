"""The time of diffusion and flow matching as a vector: sinusoids and a small MLP.

Source: DiT, models.py; apple/ml-flextok, model/preprocessors/time_embedding.py; xAR, models/xar.py.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from imgen.nn.mlp import Init, kernel_init


def sinusoids(
    t: jax.Array, features: int = 256, period: float = 10000.0, scale: float = 1.0
) -> jax.Array:
    """Times [...] -> float32 [..., features]: cos(f_i t), then sin(f_i t), i < features / 2.

    f_i = scale * period^(-2 i / features). Dialects: DiT, MAR and xAR give t in [0, 1000] and keep the
    defaults; FlexTok gives t in [0, 1] with period 256 and scale 1000.
    """
    half = features // 2
    frequencies = scale * period ** (-np.arange(half) / half)
    angles = t.astype(jnp.float32)[..., None] * frequencies.astype(np.float32)
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


class TimeEmbedding(nn.Module):
    """Times [...] -> [..., width]: Linear, SiLU, Linear of their `sinusoids`, whose arguments these are."""

    width: int
    features: int = 256
    period: float = 10000.0
    scale: float = 1.0
    init_std: Init = 0.02
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, t: jax.Array) -> jax.Array:
        init = kernel_init(self.init_std)
        h = sinusoids(t, self.features, self.period, self.scale)
        h = nn.silu(nn.Dense(self.width, dtype=self.dtype, kernel_init=init, name="in")(h))
        return nn.Dense(self.width, dtype=self.dtype, kernel_init=init, name="out")(h)
