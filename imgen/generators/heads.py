"""Heads: the distribution of one prediction."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from imgen.nn.constrain import constrain


class Categorical(nn.Module):
    """Logits over a vocabulary, in float32. [..., D] -> [..., V].

    LlamaGen starts the output matrix at zero (init_std 0), so that the first loss is exactly ln V.
    """

    size: int
    init_std: float = 0.0
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, hidden: jax.Array) -> jax.Array:
        logits = nn.Dense(
            self.size,
            use_bias=False,
            dtype=self.dtype,
            name="output",
            kernel_init=nn.initializers.normal(self.init_std),
        )(hidden)
        logits = logits.astype(jnp.float32)
        return constrain(logits, "batch", *(None,) * (logits.ndim - 2), "vocab")


def categorical_nll(logits: jax.Array, codes: jax.Array) -> jax.Array:
    """Negative log-likelihood in nats of codes [...] under logits [..., V]."""
    picked = jnp.take_along_axis(logits, codes[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(logits, axis=-1) - picked
