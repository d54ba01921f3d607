"""KID: squared maximum mean discrepancy of Inception features under a cubic kernel, without bias.

    k(x, y) = (x . y / D + 1)^3

Sources: Binkowski et al. 2018, "Demystifying MMD GANs"; toshas/torch-fidelity, metric_kid.py. Values may be
negative and are often published times 1000.
"""

from typing import Any

import numpy as np

from imgen.errors import UserError
from imgen.evaluation.definition import Metric
from imgen.evaluation.sets.feature_matrix import checked_pair

SUBSETS, SUBSET_SIZE = 100, 1000  # how many, and of how many images where there are so many


def kernel_distance(
    samples, reference, subsets: int = SUBSETS, subset_size: int = SUBSET_SIZE, seed: int = 2020
) -> tuple[float, float]:
    """Gives mean and population deviation of MMD^2 over random subsets of both, features [N, D] and [M, D].

    Subsets are drawn without replacement, for each first that of the samples; with the defaults they are
    torch-fidelity's.

    Raises UserError for features that are not finite floats of one width, and for fewer of either than a
    subset holds.
    """
    samples, reference = checked_pair(samples, reference)
    fewer = min(len(samples), len(reference))
    if fewer < 2:
        raise UserError(
            f"KID needs at least 2 images of either side, not {len(samples)} samples and {len(reference)} of "
            "the reference"
        )
    if subset_size < 2 or subsets < 1 or fewer < subset_size:
        raise UserError(
            f"{subsets} KID subsets of {subset_size} cannot be drawn from {len(samples)} samples and "
            f"{len(reference)} of the reference: subset_size must be from 2 to {fewer}"
        )
    rng = np.random.RandomState(seed)
    distances = []
    for _ in range(subsets):
        x = samples[rng.choice(len(samples), subset_size, replace=False)]
        y = reference[rng.choice(len(reference), subset_size, replace=False)]
        distances.append(squared_mmd(x, y))
    return float(np.mean(distances)), float(np.std(distances))


def squared_mmd(x, y) -> float:
    """Unbiased estimate from x [N, D] and y [M, D], in float64: no pair of a row with itself counts."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    n, m = len(x), len(y)
    within_x, within_y = _kernel(x, x), _kernel(y, y)
    return float(
        (within_x.sum() - np.trace(within_x)) / (n * (n - 1))
        + (within_y.sum() - np.trace(within_y)) / (m * (m - 1))
        - 2 * _kernel(x, y).mean()
    )


def _kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    base = x @ y.T / x.shape[1] + 1
    return base * base * base


def _subsets(samples, reference) -> dict[str, int]:
    size = min(SUBSET_SIZE, len(samples.features), len(reference.features))
    return {"subsets": SUBSETS, "subset_size": size}


def _run(samples, reference) -> dict[str, Any]:
    subsets = _subsets(samples, reference)
    mean, deviation = kernel_distance(samples.features, reference.features, **subsets)
    return {"kid": mean, "kid_std": deviation}


KID = Metric(("features",), _run, settings=_subsets)
