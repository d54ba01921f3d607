"""CMMD: squared maximum mean discrepancy of CLIP image embeddings under a Gaussian kernel, times 1000.

Sources: Jayasumana et al. 2024, "Rethinking FID"; google-research/cmmd, distance.py. It is the estimate with
bias: pairs of a row with itself count.

Embeddings are unit vectors and sigma is 10, so that k(x, y) = exp(-|x - y|^2 / 200) lies in [0.98, 1] and the
difference of such means loses all its digits in float32. With c = x . y it is proportional to exp(c / 100),
and a constant that is taken off k cancels: what is summed here is expm1((c - c0) / 100), near 0.
"""

import jax
import jax.numpy as jnp
import numpy as np

from imgen.evaluation.definition import Metric
from imgen.evaluation.sets.feature_matrix import checked_pair, unit
from imgen.parallel.hosts import SPLIT, WHOLE, local_mesh, put

SIGMA = 10.0
BLOCK = 4096


def cmmd(samples, reference) -> float:
    """Of embeddings [N, D] and [M, D], which are normalised here. Near 0 for equal sets, never far below.

    Raises UserError for embeddings that are not finite floats of one width, and for zero vectors.
    """
    samples, reference = checked_pair(samples, reference)
    x, y = unit(samples), unit(reference)
    centre = float(x.mean(axis=0) @ y.mean(axis=0))  # c0, the mean of x . y
    x_pairs, y_pairs, mixed_pairs = (_mean(*pair, centre) for pair in ((x, x), (y, y), (x, y)))
    return float(1000 * np.exp((centre - 1) / SIGMA**2) * (x_pairs + y_pairs - 2 * mixed_pairs))


def _mean(x: np.ndarray, y: np.ndarray, centre: float) -> float:
    """Mean of expm1((x_i . y_j - centre) / sigma^2) over all pairs, in blocks; half of them where x is y."""
    total, same, mesh = 0.0, x is y, local_mesh()
    for i in range(0, len(x), BLOCK):
        rows = x[i : i + BLOCK].astype(np.float32)
        some = len(rows)
        rows = put(np.pad(rows, ((0, -some % mesh.size), (0, 0))), mesh, SPLIT)
        for j in range(i if same else 0, len(y), BLOCK):
            others = put(y[j : j + BLOCK].astype(np.float32), mesh, WHOLE)
            with jax.set_mesh(mesh):
                sums = np.asarray(_row_sums(rows, others, centre), np.float64)[:some]
            times = 2 if same and j > i else 1
            total += times * sums.sum()
    return total / (len(x) * len(y))


@jax.jit
def _row_sums(x: jax.Array, y: jax.Array, centre: float) -> jax.Array:
    cosines = jnp.matmul(x, y.T, precision="highest")
    return jnp.expm1((cosines - centre) / SIGMA**2).sum(axis=1)


CMMD = Metric(
    ("embeddings",),
    lambda samples, reference: {"cmmd": cmmd(samples.embeddings, reference.embeddings)},
)
