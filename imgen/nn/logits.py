"""Linear layers whose result is not rounded: logits in float32 of activations in any dtype."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

_sums = functools.partial(jax.lax.dot_general, preferred_element_type=jnp.float32)
# As Flax's own with `dtype` for what is multiplied; products are added up and given back in float32.
Logits = functools.partial(nn.Dense, dot_general=_sums)
LogitsGeneral = functools.partial(nn.DenseGeneral, dot_general=_sums)
