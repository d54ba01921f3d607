"""Improved precision and recall: which samples lie within the reference's manifold, and the reverse.

Sources: Kynkaanniemi et al. 2019, "Improved Precision and Recall Metric for Assessing Generative Models";
openai/guided-diffusion, evaluations/evaluator.py. The convention is 10,000 images of the reference against
all 50,000 samples, pool3 features, k = 3; recall grows with the number of samples. ADM's code computes
distances in float16, which changes the third decimal; here they are float32 of features that are centred
first, so that little cancels.

A manifold is the union of balls, one about each point, that reach to its k-th nearest other point.
"""

import numpy as np

from imgen.errors import UserError
from imgen.evaluation import neighbours
from imgen.evaluation.feature_matrix import checked_pair


def precision_recall(samples, reference, k: int = 3) -> tuple[float, float]:
    """Of features [N, D] and [M, D].

    precision: share of the samples within the reference's manifold. recall: share of the reference within
    that of the samples.

    Raises UserError for features that are not finite floats of one width, and for k points or fewer.
    """
    samples, reference = checked_pair(samples, reference)
    _check_neighbours(min(len(samples), len(reference)), k)
    centre = reference.mean(axis=0, dtype=np.float64)
    xs, ys = _blocks(samples, centre), _blocks(reference, centre)
    x_radii, y_radii = _radii(xs, len(samples), k), _radii(ys, len(reference), k)
    x_inside, y_inside = np.zeros(len(samples), bool), np.zeros(len(reference), bool)
    for x, y, x_in, y_in, _ in neighbours.balls(xs, ys, x_radii, y_radii):
        _mark(x_inside, x.start, x_in)
        _mark(y_inside, y.start, y_in)
    return float(x_inside.mean()), float(y_inside.mean())


def squared_radii(features, k: int = 3) -> np.ndarray:
    """Squared distance of each of features [N, D] to its k-th nearest other one: float32 [N]."""
    features, _ = checked_pair(features, features)
    _check_neighbours(len(features), k)
    return _radii(_blocks(features, features.mean(axis=0, dtype=np.float64)), len(features), k)


def _check_neighbours(points: int, k: int) -> None:
    if not 0 < k < points:
        raise UserError(
            f"the {k}th nearest other one of {points} points does not exist: k must be from 1 to {points - 1}"
        )


def _blocks(features: np.ndarray, centre: np.ndarray) -> list[neighbours.Block]:
    centred, norms = neighbours.centred(features, centre)
    return neighbours.split(centred, norms)


def _radii(blocks: list[neighbours.Block], points: int, k: int) -> np.ndarray:
    return neighbours.nearest(blocks, k)[0][:points, -1]


def _mark(inside: np.ndarray, start: int, found) -> None:
    inside[start : start + len(found)] |= np.asarray(found)[: len(inside) - start]
