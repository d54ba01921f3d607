"""Entropy losses: codes that are sure one by one, and used evenly together.

H_s is the mean entropy of one position's soft assignment, H_m the entropy of the mean assignment, both
in nats; a loss is H_s - gamma H_m. The mean runs over the global batch. Published codes keep the
logarithm finite in two ways, which differ by about 1e-3 in H_m: log(p + 1e-5) in LlamaGen, MaskGIT,
Open-MAGVIT2 and IBQ, log(max(p, 1e-5)) in MaskBit.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from imgen.latents.bits import from_sub_codes, sub_width
from imgen.tokenizers.quantizers.chunks import sum_rows
from imgen.tokenizers.quantizers.nearest import HIGHEST

EPSILON = 1e-5


class Entropies(NamedTuple):
    """Holds sample, H_s, and code, H_m: scalars, nats."""

    sample: jax.Array
    code: jax.Array


def assignment_entropies(
    logits: Callable[[jax.Array], jax.Array], rows: jax.Array, size: int
) -> Entropies:
    """Returns the entropies of p = softmax(logits(rows)): rows [N, D] -> [n, size] logits of n of them at a
    time.

    H_s is exact, H_m has log(p + 1e-5). No tensor of positions x codes is built.
    """

    def sums(rows: jax.Array) -> tuple[jax.Array, jax.Array]:
        log_p = nn.log_softmax(logits(rows), axis=-1)
        p = jnp.exp(log_p)
        return -jnp.sum(p * log_p), p.sum(0)

    total, mass = sum_rows(sums, rows, 4 * size)
    mean = mass / len(rows)
    return Entropies(total / len(rows), -jnp.sum(mean * jnp.log(mean + EPSILON)))


def bit_entropies(
    logits: jax.Array, parts: int, epsilon: float = EPSILON, clip: bool = False
) -> Entropies:
    """Returns the entropies of codes of independent bits, p(bit c is set) = sigmoid(logits[..., c]).

    H_s is the sum over the bits, which is exact. H_m does not factorise: it is the sum over `parts`
    groups of consecutive bits of the entropy of each group's mean assignment, an upper bound that is
    reached where groups are independent. (BSQ, equation 8; one part is the exact value.)

    logits: [..., D]. The logarithm in H_m is that of p + epsilon, or with `clip` that of
    max(p, epsilon) there and in H_s, which is then the sum over the groups.
    """
    rows = logits.reshape(-1, logits.shape[-1])
    width = sub_width(rows.shape[-1], parts)

    def log(p: jax.Array) -> jax.Array:
        return jnp.log(jnp.maximum(p, epsilon) if clip else p + epsilon)

    def sums(rows: jax.Array) -> tuple[jax.Array, jax.Array]:
        p = group_probabilities(rows, parts)
        each = -jnp.sum(p * log(p)) if clip else jnp.sum(bit_entropy(rows))
        return each, p.sum(0)

    total, mass = sum_rows(sums, rows, 4 * parts * 2**width)
    mean = mass / len(rows)
    return Entropies(total / len(rows), -jnp.sum(mean * log(mean)))


def bit_entropy(logits: jax.Array) -> jax.Array:
    """Returns the entropy in nats of each bit under sigmoid(logit), also for large logits."""
    size = jnp.abs(logits)
    return nn.softplus(-size) + size * nn.sigmoid(-size)


def group_probabilities(logits: jax.Array, parts: int) -> jax.Array:
    """Returns the probability of every sub-code of independent bits: logits [N, D] -> [N, parts, 2^(D /
    parts)].

    Sub-codes are in the order of `imgen.latents.bits.sub_codes`.
    """
    width = sub_width(logits.shape[-1], parts)
    signs = 2.0 * from_sub_codes(jnp.arange(2**width)[:, None], width) - 1.0  # [2^width, width]
    groups = logits.reshape(-1, parts, width)
    return nn.softmax(0.5 * jnp.matmul(groups, signs.T, precision=HIGHEST), axis=-1)
