"""Entropy losses: codes that are sure one by one, and used evenly together."""

import jax
import jax.numpy as jnp
from flax import linen as nn


def entropy_loss(logits: jax.Array) -> jax.Array:
    """mean_n H(p_n) - H(mean_n p_n) of p = softmax(logits [N, K]), in nats, with LlamaGen's and
    MaskGIT's log(p + 1e-5) in the second term. The mean runs over the global batch."""
    log_p = nn.log_softmax(logits, axis=-1)
    p = jnp.exp(log_p)
    mean = p.mean(0)
    each = -jnp.sum(p * log_p, axis=-1).mean()
    return each + jnp.sum(mean * jnp.log(mean + 1e-5))
