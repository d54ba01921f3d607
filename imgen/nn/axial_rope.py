"""Rotary positions of tokens on several axes, each with channels of its own (FluxPosEmbed of diffusers).

Axis a takes dims[a] channels of a head, and pair j of them turns by position * base^(-2 j / dims[a]).
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np

from imgen.errors import UserError

Pairing = Literal["official", "interleaved"]


class Rotation(NamedTuple):
    """cos and sin, float32 [T, H], of T tokens: both channels of a pair hold the pair's value."""

    cos: np.ndarray
    sin: np.ndarray


def rotation(positions: np.ndarray, dims: Sequence[int], base: float = 10000.0) -> Rotation:
    """The tables of tokens at positions [T, len(dims)], which need not be whole numbers."""
    angles = [
        np.repeat(positions[:, axis, None] * base ** (-np.arange(0, dim, 2) / dim), 2, axis=1)
        for axis, dim in enumerate(dims)
    ]
    angles = np.concatenate(angles, axis=1)
    return Rotation(np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32))


def rotate(x: jax.Array, tables: Rotation, pairing: Pairing) -> jax.Array:
    """Turns heads [B, T, N, H] in float32; the result has x's type.

    "interleaved" turns the adjacent channels (2j, 2j + 1), which share an angle. "official" combines
    channel i with i + H/2, whose angles differ: no true rotation, but what Instella's weights were
    trained with (bae/llama_attn.py).
    """
    if pairing not in get_args(Pairing):
        raise UserError(f"rope_pairing {pairing!r} is none of {', '.join(get_args(Pairing))}")
    x32 = x.astype(jnp.float32)
    if pairing == "official":
        a, b = jnp.split(x32, 2, axis=-1)
        partner = jnp.concatenate([-b, a], axis=-1)
    else:
        pairs = x32.reshape(*x.shape[:-1], -1, 2)
        partner = jnp.stack([-pairs[..., 1], pairs[..., 0]], axis=-1).reshape(x.shape)
    cos, sin = tables.cos[:, None], tables.sin[:, None]
    return (x32 * cos + partner * sin).astype(x.dtype)
