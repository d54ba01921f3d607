"""What a masked plan hides in training and in evaluation. Shapes: B batch, P positions."""

import jax
import jax.numpy as jnp

from imgen.generators.arrays import fold
from imgen.generators.plan import Plan


def training_mask(keys: jax.Array, plan: Plan) -> jax.Array:
    """bool [B, P]: as many masked positions, at random, as some call of the plan meets (ELM `mlm_model.py`).

    keys [B]: a random key for each sample.
    """
    before = jnp.asarray([0, *plan.decided[:-1]])
    calls = jax.vmap(lambda key: jax.random.randint(key, (), 0, plan.calls))(fold(keys, 0))
    return _random_positions(fold(keys, 1), plan.positions - before[calls], plan.positions)


def likelihood_mask(keys: jax.Array, positions: int) -> tuple[jax.Array, jax.Array]:
    """bool [B, P] and weights [B]: the weighted sum of the masked positions' nll is, in the mean, the nll of
    all when they are decided one by one in random order. That bounds the -log p of such decoding from above,
    not that of deciding many at once by confidence.

    The number of masked positions is uniform in 1 ... P, the weight P / number. (Order-agnostic training:
    Uria et al. 2014, "A deep and tractable density estimator", equation 9.)
    """
    count = jax.vmap(lambda key: jax.random.randint(key, (), 1, positions + 1))(fold(keys, 0))
    return _random_positions(fold(keys, 1), count, positions), positions / count.astype(jnp.float32)


def _random_positions(keys: jax.Array, count: jax.Array, positions: int) -> jax.Array:
    """bool [B, P] with `count` [B] random positions set."""
    places = jax.vmap(lambda key: jax.random.permutation(key, positions))(keys)
    return places < count[:, None]
