"""Improved precision and recall: which samples lie within the reference's manifold, and the reverse.

Sources: Kynkaanniemi et al. 2019, "Improved Precision and Recall Metric for Assessing Generative Models";
openai/guided-diffusion, evaluations/evaluator.py. The convention is 10,000 images of the reference against
all 50,000 samples, pool3 features, k = 3; recall grows with the number of samples. ADM's code computes
distances in float16, which changes the third decimal; here they are float32 of features that are centred
first, so that little cancels.

A manifold is the union of balls, one about each point, that reach to its k-th nearest other point. Distances
are computed in blocks on the default device and never held all at once.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from imgen.errors import UserError
from imgen.evaluation.feature_matrix import checked_pair

BLOCK = 4096  # rows of a block of distances; 64 MiB
GROUP = 32  # columns of which only the smallest is looked at first


def precision_recall(samples, reference, k: int = 3) -> tuple[float, float]:
    """Of features [N, D] and [M, D].

    precision: share of the samples within the reference's manifold. recall: share of the reference within
    that of the samples.

    Raises UserError for features that are not finite floats of one width, and for k points or fewer.
    """
    samples, reference = checked_pair(samples, reference)
    _check_neighbours(min(len(samples), len(reference)), k)
    centre = reference.mean(axis=0, dtype=np.float64)
    ours, theirs = _blocks(samples, centre), _blocks(reference, centre)
    sample_radii, reference_radii = _radii(ours, k), _radii(theirs, k)
    in_reference = [jnp.zeros(len(norms), bool) for _, norms in ours]
    in_samples = [jnp.zeros(len(norms), bool) for _, norms in theirs]
    for i, x in enumerate(ours):
        for j, y in enumerate(theirs):
            real, sampled = _inside(x, y, sample_radii[i], reference_radii[j])
            in_reference[i], in_samples[j] = in_reference[i] | real, in_samples[j] | sampled
    return _share(in_reference, len(samples)), _share(in_samples, len(reference))


def squared_radii(features, k: int = 3) -> np.ndarray:
    """Squared distance of each of features [N, D] to its k-th nearest other one: float32 [N]."""
    features, _ = checked_pair(features, features)
    _check_neighbours(len(features), k)
    blocks = _blocks(features, features.mean(axis=0, dtype=np.float64))
    return np.concatenate(jax.device_get(_radii(blocks, k)))[: len(features)]


def _check_neighbours(points: int, k: int) -> None:
    if not 0 < k < points:
        raise UserError(
            f"the {k}th nearest other one of {points} points does not exist: k must be from 1 to {points - 1}"
        )


def _blocks(features: np.ndarray, centre: np.ndarray) -> list[tuple[jax.Array, jax.Array]]:
    """Rows [B, D] and their squared norms [B]; rows of padding are infinitely far away."""
    n, width = features.shape
    size = min(BLOCK, -(-n // GROUP) * GROUP)
    blocks = []
    for start in range(0, n, size):
        rows = features[start : start + size].astype(np.float64) - centre
        padding = size - len(rows)
        norms = np.pad(np.square(rows).sum(axis=1), (0, padding), constant_values=np.inf)
        rows = np.pad(rows, ((0, padding), (0, 0)))
        blocks.append((jnp.asarray(rows, jnp.float32), jnp.asarray(norms, jnp.float32)))
    return blocks


def _radii(blocks: list, k: int) -> list[jax.Array]:
    """Squared radii of each block's rows [B], infinite for padding."""
    nearest = [jnp.full((len(norms), k), jnp.inf) for _, norms in blocks]
    for i, x in enumerate(blocks):
        for j, y in enumerate(blocks[: i + 1]):
            nearest[i], nearest[j] = _nearer(x, y, nearest[i], nearest[j], same=i == j)
    return [distances[:, -1] for distances in nearest]


def _distances(x, y) -> jax.Array:
    (x, x_norms), (y, y_norms) = x, y
    products = jnp.matmul(x, y.T, precision="highest")
    return jnp.maximum(x_norms[:, None] - 2 * products + y_norms, 0.0)


@functools.partial(jax.jit, static_argnames="same")
def _nearer(x, y, nearest_x, nearest_y, same: bool):
    """The k smallest squared distances so far, [B, k] each, with those between x and y among them."""
    distances = _distances(x, y)
    if same:
        distances = jnp.where(jnp.eye(len(distances), dtype=bool), jnp.inf, distances)
        nearest_x = _smallest(distances, nearest_x)
        return nearest_x, nearest_x
    return _smallest(distances, nearest_x), _smallest(distances.T, nearest_y)


def _smallest(distances: jax.Array, nearest: jax.Array) -> jax.Array:
    """The k smallest of each row of [B, C] and [B, k]. They lie in the k groups of smallest minima."""
    k = nearest.shape[1]
    groups = distances.reshape(len(distances), -1, GROUP)
    _, best = jax.lax.top_k(-groups.min(axis=-1), min(k, groups.shape[1]))
    found = jnp.take_along_axis(groups, best[..., None], axis=1).reshape(len(distances), -1)
    return -jax.lax.top_k(-jnp.concatenate([found, nearest], axis=1), k)[0]


@jax.jit
def _inside(samples, reference, sample_radii, reference_radii):
    """Which samples are within a ball of the reference [B], and which of the reference in one of theirs."""
    distances = _distances(samples, reference)
    exists = jnp.isfinite(distances)
    in_reference = jnp.any(exists & (distances <= reference_radii), axis=1)
    return in_reference, jnp.any(exists & (distances <= sample_radii[:, None]), axis=0)


def _share(inside: list[jax.Array], count: int) -> float:
    return float(np.concatenate(jax.device_get(inside))[:count].mean())
