"""Sampling from a bit-flip diffusion model (Instella-T2I, `models/diff_model.py`)."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from imgen.decoding.guidance import guide
from imgen.errors import UserError
from imgen.generators.arrays import sample_keys
from imgen.generators.bit_diffusion import BitDiffusion, noisy_probability


def times(steps: int, rho: float = 1.0) -> np.ndarray:
    """The time of each step: (1 - i / S)^rho, from 1 down. The last step ends at 0. [S]"""
    return (1 - np.arange(steps) / steps) ** rho


def clean_probability(flip_logits: jax.Array, noisy: jax.Array, temperature: float) -> jax.Array:
    """P(clean bit = 1) given the noisy bits and the guided logits that they are flipped."""
    flip = jax.nn.sigmoid(flip_logits / temperature)
    return noisy * (1 - flip) + (1 - noisy) * flip


def next_probability(clean: jax.Array, noisy: jax.Array, now, then, posterior: bool) -> jax.Array:
    """P(bit = 1) at time `then` < `now`. clean: of `clean_probability`.

    Without `posterior` a clean code is noised anew (protocol 1); with it the two-class posterior of the
    noisy bits is taken (protocol 2).
    """
    fresh = noisy_probability(clean, then)
    if not posterior:
        return fresh

    def weight(bit):
        reached = fresh if bit else 1 - fresh
        kept = 0.5 + (1 if bit else -1) * (1 - (now - then)) * (noisy - 0.5)
        return reached * kept

    return weight(1) / (weight(1) + weight(0))


@functools.partial(
    jax.jit, static_argnums=0, static_argnames=("scale", "temperature", "steps", "rho", "posterior")
)
def sample(
    model: BitDiffusion,
    params: dict,
    cond: dict,
    rng: jax.Array,
    sample_ids: jax.Array,
    *,
    scale: float = 8.5,
    temperature: float = 1.0,
    steps: int = 20,
    rho: float = 1.0,
    posterior: bool = False,
) -> jax.Array:
    """Draws bits int32 [B, P, b]. scale: of u + s (c - u) on flip logits (official guidance is s - 1)."""
    if steps < 1 or temperature <= 0 or scale < 1:
        raise UserError(
            f"steps {steps}, temperature {temperature}, guidance {scale}: must be at least 1, above 0 "
            "and at least 1"
        )
    batch, shape = len(sample_ids), (model.positions, model.bits)
    rows = batch if scale == 1 else 2 * batch
    cond = jax.tree.map(lambda x: jnp.tile(x, (rows // batch,) + (1,) * (x.ndim - 1)), cond)
    null = jnp.arange(rows) >= batch
    keys = sample_keys(rng, sample_ids)

    def coins(step, probability):
        uniform = jax.vmap(lambda k: jax.random.uniform(jax.random.fold_in(k, step), shape))(keys)
        return (uniform < probability).astype(jnp.float32)

    def predict(noisy, now):
        twice = jnp.concatenate([noisy] * (rows // batch))
        flip = model.apply({"params": params}, twice, jnp.full(rows, now), cond, null)
        flip = guide(flip[:batch], flip[batch:], scale) if rows > batch else flip
        return clean_probability(flip, noisy, temperature)

    def step(noisy, now_then_number):
        now, then, number = now_then_number
        clean = predict(noisy, now)
        return coins(number + 1, next_probability(clean, noisy, now, then, posterior)), None

    when = jnp.asarray(times(steps, rho), jnp.float32)
    noisy = coins(0, 0.5)
    noisy, _ = jax.lax.scan(step, noisy, (when[:-1], when[1:], jnp.arange(steps - 1)))
    return (predict(noisy, when[-1]) > 0.5).astype(jnp.int32)
