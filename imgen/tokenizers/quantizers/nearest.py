"""Nearest codes: exact search in float32 that never builds a large tensor."""

from typing import Any

import jax
import jax.numpy as jnp

from imgen.tokenizers.quantizers.chunks import rows_per_device

HIGHEST = jax.lax.Precision.HIGHEST  # bfloat16 passes on a TPU would flip near-ties


def squared_distances(z: jax.Array, codebook: jax.Array) -> jax.Array:
    """Returns |z - e|^2 of every row of z [N, D] to every code [K, D]: float32 [N, K]."""
    products = jnp.matmul(z, codebook.T, precision=HIGHEST)
    return jnp.square(z).sum(-1)[:, None] + jnp.square(codebook).sum(-1) - 2.0 * products


def nearest_codes(z: jax.Array, codebook: jax.Array, max_bytes: int = 2**27) -> jax.Array:
    """Finds the nearest code, the smallest one of equals: z [..., D], [K, D] -> int32 [...].

    No tensor of over `max_bytes` on a device is built: the codes are searched in chunks, each against all
    rows, so that a batch that is split over devices stays where it is. Carries no gradient.
    """
    z, codebook = jax.lax.stop_gradient((z, codebook))
    rows = z.reshape(-1, z.shape[-1])
    (n, d), k = rows.shape, codebook.shape[0]
    # |z|^2 is the same for all codes and left out.
    lengths = jnp.square(codebook).sum(-1)

    def search(lengths: jax.Array, codes: jax.Array) -> tuple[jax.Array, jax.Array]:
        scores = lengths - 2.0 * jnp.matmul(rows, codes.T, precision=HIGHEST)
        return jnp.min(scores, axis=-1), jnp.argmin(scores, axis=-1).astype(jnp.int32)

    chunk = max(1, max_bytes // (4 * rows_per_device(n)))
    if chunk >= k:
        return search(lengths, codebook)[1].reshape(z.shape[:-1])

    chunks = -(-k // chunk)
    padding = chunks * chunk - k
    lengths = jnp.pad(lengths, (0, padding), constant_values=jnp.inf).reshape(chunks, chunk)
    codebook = jnp.pad(codebook, ((0, padding), (0, 0))).reshape(chunks, chunk, d)

    def step(best: tuple[jax.Array, jax.Array], piece: tuple[Any, ...]) -> tuple[Any, None]:
        first, lengths, codes = piece
        score, index = search(lengths, codes)
        nearer = score < best[0]
        return (
            jnp.where(nearer, score, best[0]),
            jnp.where(nearer, first + index, best[1]),
        ), None

    first = jnp.arange(chunks, dtype=jnp.int32) * chunk
    start = (jnp.full(n, jnp.inf), jnp.zeros(n, jnp.int32))
    (_, index), _ = jax.lax.scan(step, start, (first, lengths, codebook))
    return index.reshape(z.shape[:-1])
