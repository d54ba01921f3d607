"""Small array operations that training and decoding share."""

import enum

import jax
import jax.numpy as jnp
import numpy as np


class Purpose(enum.IntEnum):
    """What a sample's key is used for: each use has a key of its own."""

    ORDER = 1
    VECTORS = 2
    MASK = 3
    DRAWS = 4
    NOISE = 5


def fold(keys: jax.Array, number) -> jax.Array:
    """The keys [B] with a number folded into each."""
    return jax.vmap(lambda key: jax.random.fold_in(key, number))(keys)


def sample_keys(rng: jax.Array, sample_ids: jax.Array) -> jax.Array:
    """A key for each image, of its number only."""
    return jax.vmap(lambda i: jax.random.fold_in(rng, i))(sample_ids)


def join_valid(condition, batch: int, slots: int) -> jax.Array | None:
    """Which keys are real: [context, condition slots, other slots] [B, C + S]; None if all are.

    condition: a `Condition`.   slots: S, the condition's among them.
    """
    if condition.context_valid is None and condition.valid is None:
        return None
    parts = [] if condition.context_valid is None else [condition.context_valid]
    count = condition.slots.shape[1]
    given = condition.valid
    parts.append(jnp.ones((batch, count), bool) if given is None else given)
    parts.append(jnp.ones((batch, slots - count), bool))
    return jnp.concatenate(parts, axis=1)


def permute(x: jax.Array, order: jax.Array) -> jax.Array:
    """x [B, P, ...] taken at order [B, P]."""
    return jnp.take_along_axis(x, order.reshape(*order.shape, *(1,) * (x.ndim - 2)), axis=1)


def take(hidden: jax.Array, slots: np.ndarray) -> jax.Array:
    """hidden[:, slots] for static slots; a plain slice where they are consecutive."""
    if (np.diff(slots) == 1).all():
        return hidden[:, slots[0] : slots[0] + len(slots)]
    return hidden[:, slots]


def content_keys(codes: jax.Array) -> jax.Array:
    """A key for each sample that depends on its codes only, or on its latents to 1/64: for what evaluation
    draws. [B]"""
    if jnp.issubdtype(codes.dtype, jnp.floating):
        codes = jnp.round(64 * codes).astype(jnp.int32)
    flat = codes.reshape(len(codes), -1).astype(jnp.uint32)
    places = jnp.arange(1, flat.shape[1] + 1, dtype=jnp.uint32)
    mixed = jnp.sum((flat + 1) * places * jnp.uint32(2654435761), axis=1)  # Knuth's multiplier
    return jax.vmap(lambda number: jax.random.fold_in(jax.random.key(0), number))(mixed)
