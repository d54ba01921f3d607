"""Sampling from a bit-flip diffusion model (Instella-T2I, `models/diff_model.py`)."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from imgen.decoding.guidance import Guidance, guide
from imgen.decoding.sampling import Sampling
from imgen.errors import UserError
from imgen.generators.arrays import sample_keys
from imgen.generators.bit_diffusion import BitDiffusion, noisy_probability
from imgen.generators.filters import check_temperature_only


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


STEPS = 20


def steps_of(sampling: Sampling) -> int:
    """Returns how many steps are taken."""
    return sampling.steps or STEPS


def check(sampling: Sampling) -> None:
    """Raises UserError for settings that bit diffusion has no use for."""
    if sampling.guidance.schedule != "constant":
        raise UserError("bit diffusion is guided at every step alike: guidance has no schedule")
    check_temperature_only(sampling.filters, "bits")
    if sampling.filters.temperature == 0:
        raise UserError("bit diffusion needs a temperature above 0")
    if (sampling.solver, sampling.solver_steps, sampling.shift) != (None, None, None):
        raise UserError("bit diffusion has no solver: leave solver, solver_steps and shift out")


@functools.partial(jax.jit, static_argnums=(0, 5), static_argnames=("rho", "posterior"))
def sample(
    model: BitDiffusion,
    params: dict,
    cond: dict,
    rng: jax.Array,
    sample_ids: jax.Array,
    sampling: Sampling = Sampling(guidance=Guidance(8.5)),
    *,
    rho: float = 1.0,
    posterior: bool = False,
) -> jax.Array:
    """Draws bits int32 [B, P, b]. guidance: of u + s (c - u) on flip logits (official guidance is s - 1), at
    times within its interval."""
    batch, shape = len(sample_ids), (model.positions, model.bits)
    when = times(steps_of(sampling), rho)
    weight = np.where(sampling.guidance.holds(when), sampling.guidance.scale, 1.0)
    rows = 2 * batch if (weight != 1).any() else batch
    cond = jax.tree.map(lambda x: jnp.tile(x, (rows // batch,) + (1,) * (x.ndim - 1)), cond)
    null = jnp.arange(rows) >= batch
    keys = sample_keys(rng, sample_ids)

    def coins(step, probability):
        uniform = jax.vmap(lambda k: jax.random.uniform(jax.random.fold_in(k, step), shape))(keys)
        return (uniform < probability).astype(jnp.float32)

    def predict(noisy, now, scale):
        twice = jnp.concatenate([noisy] * (rows // batch))
        flip = model.apply({"params": params}, twice, jnp.full(rows, now), cond, null)
        flip = guide(flip[:batch], flip[batch:], scale) if rows > batch else flip
        return clean_probability(flip, noisy, sampling.filters.temperature)

    def step(noisy, now_then_number):
        now, then, scale, number = now_then_number
        clean = predict(noisy, now, scale)
        return coins(number + 1, next_probability(clean, noisy, now, then, posterior)), None

    when, weight = (jnp.asarray(x, jnp.float32) for x in (when, weight))
    noisy = coins(0, 0.5)
    steps = (when[:-1], when[1:], weight[:-1], jnp.arange(len(when) - 1))
    noisy, _ = jax.lax.scan(step, noisy, steps)
    return (predict(noisy, when[-1], weight[-1]) > 0.5).astype(jnp.int32)
