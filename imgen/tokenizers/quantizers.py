"""Vector quantisation: features [..., D] <-> codes [...] of a codebook [K, D]. All in float32.

A quantizer is a Linen module with `__call__(z) -> Quantized`, `encode(z) -> codes` and
`decode(codes) -> values`; formulas and gradients are those of LlamaGen's vq_model.py.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

HIGHEST = jax.lax.Precision.HIGHEST  # bfloat16 passes on a TPU would flip near-ties


class Quantized(NamedTuple):
    """values [..., D] with a straight-through gradient, codes int32 [...], weighted losses."""

    values: jax.Array
    codes: jax.Array
    losses: dict[str, jax.Array]


class VectorQuantizer(nn.Module):
    """Nearest code by Euclidean distance; with `l2_norm` both sides are put on the unit sphere
    first, at every use, while the stored table stays unconstrained.

    commit_weight: beta of the commitment loss.
    entropy_weight: of H(one position's soft assignment) - H(their mean over the global batch),
        with p = softmax(-distance / entropy_temperature). 0 (LlamaGen's released models) skips
        it; otherwise tensors of positions x K are built.
    """

    codebook_size: int
    codebook_dim: int
    l2_norm: bool = True
    commit_weight: float = 0.25
    entropy_weight: float = 0.0
    entropy_temperature: float = 0.01

    def setup(self):
        def init(key: jax.Array, shape: tuple[int, int]) -> jax.Array:
            bound = 1.0 / self.codebook_size
            return self.normed(jax.random.uniform(key, shape, jnp.float32, -bound, bound))

        self.codebook = self.param("codebook", init, (self.codebook_size, self.codebook_dim))

    def __call__(self, z: jax.Array) -> Quantized:
        z, table = self.normed(z), self.normed(self.codebook)
        codes = nearest_codes(z, table)
        q = jnp.take(table, codes, axis=0)
        fixed_z, fixed_q = jax.lax.stop_gradient(z), jax.lax.stop_gradient(q)
        losses = {
            "codebook": jnp.mean(jnp.square(q - fixed_z)),
            "commit": self.commit_weight * jnp.mean(jnp.square(fixed_q - z)),
        }
        if self.entropy_weight:
            distances = squared_distances(z.reshape(-1, z.shape[-1]), table)
            entropy = entropy_loss(-distances / self.entropy_temperature)
            losses["entropy"] = self.entropy_weight * entropy
        return Quantized(fixed_q + (z - fixed_z), codes, losses)

    def encode(self, z: jax.Array) -> jax.Array:
        """Features [..., D] -> int32 codes [...]."""
        return nearest_codes(self.normed(z), self.normed(self.codebook))

    def decode(self, codes: jax.Array) -> jax.Array:
        """Codes [...] -> float32 values [..., D]."""
        return jnp.take(self.normed(self.codebook), codes, axis=0)

    def normed(self, x: jax.Array) -> jax.Array:
        """Features or codes as they are compared: float32, of unit length with `l2_norm`."""
        x = x.astype(jnp.float32)
        return l2_normalize(x) if self.l2_norm else x


def l2_normalize(x: jax.Array, epsilon: float = 1e-12) -> jax.Array:
    """x / max(|x|, epsilon) over the last axis, with a finite gradient at 0."""
    square = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(square, epsilon**2))


def squared_distances(z: jax.Array, codebook: jax.Array) -> jax.Array:
    """|z - e|^2 of every row of z [N, D] to every code [K, D]: float32 [N, K]."""
    products = jnp.matmul(z, codebook.T, precision=HIGHEST)
    return jnp.square(z).sum(-1)[:, None] + jnp.square(codebook).sum(-1) - 2.0 * products


def nearest_codes(z: jax.Array, codebook: jax.Array, max_bytes: int = 2**28) -> jax.Array:
    """Index of the nearest code, the smallest one of equals: z [..., D], [K, D] -> int32 [...].

    No tensor of over `max_bytes` is built: the codes are searched in chunks, each against all
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

    chunk = max(1, max_bytes // (4 * n))
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


def entropy_loss(logits: jax.Array) -> jax.Array:
    """mean_n H(p_n) - H(mean_n p_n) of p = softmax(logits [N, K]), in nats, with LlamaGen's and
    MaskGIT's log(p + 1e-5) in the second term. The mean runs over the global batch."""
    log_p = nn.log_softmax(logits, axis=-1)
    p = jnp.exp(log_p)
    mean = p.mean(0)
    each = -jnp.sum(p * log_p, axis=-1).mean()
    return each + jnp.sum(mean * jnp.log(mean + 1e-5))
