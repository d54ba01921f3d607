"""Classifier-free guidance, in its one form."""

import jax


def guide(conditional: jax.Array, unconditional: jax.Array, weight: jax.Array | float) -> jax.Array:
    """Returns u + s (c - u) in float32."""
    return unconditional + weight * (conditional - unconditional)
