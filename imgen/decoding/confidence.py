"""Confidence-ordered decoding of masked plans (MaskGIT `parallel_decode.py`; ELM `mlm_model.py`).

Every call draws a code for each masked position, keeps those that the model is surest of, and masks the
others again. How many are kept is the plan's; which, is decided here.
"""

import jax
import jax.numpy as jnp

from imgen.generators.generator import Generator


def confidence(
    generator: Generator, logits: jax.Array, codes: jax.Array, uniform: jax.Array, spread: jax.Array
) -> jax.Array:
    """log p of the drawn codes, the mean over a position's variables, plus Gumbel noise. [B, P]

    p is the model's own, guided but before temperature and filters, as published.
    logits [B, P, ..., V], codes [B, P, ...], uniform [B, P] in [0, 1). spread: scale of the noise.
    """
    log_p = -generator.nll(logits, codes) / generator.terms
    tiny = jnp.finfo(jnp.float32).tiny
    gumbel = -jnp.log(-jnp.log(jnp.clip(uniform, tiny, 1 - 1e-7)))
    return log_p + spread * gumbel


def still_masked(confidence: jax.Array, masked: jax.Array, decided: jax.Array) -> jax.Array:
    """The positions to mask again, [B, P] bool: all but the `decided` surest. What is decided stays so."""
    surest_first = jnp.argsort(-jnp.where(masked, confidence, jnp.inf), axis=1, stable=True)
    place = jnp.argsort(surest_first, axis=1)
    return place >= decided


def keep_decided(state: dict, found: dict) -> dict:
    """What a call found, [B, P, ...] by name, with what had been decided before in its old place."""

    def keep(name, new):
        masked = state["masked"].reshape(state["masked"].shape + (1,) * (new.ndim - 2))
        return jnp.where(masked, new, state[name][:, : new.shape[1]])

    return {name: keep(name, new) for name, new in found.items()}
