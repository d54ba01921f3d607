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
from imgen.evaluation.definition import Metric
from imgen.evaluation.sets import neighbours
from imgen.evaluation.sets.feature_matrix import checked_pair


def precision_recall(samples, reference, k: int = 3) -> tuple[float, float]:
    """Gives precision and recall of features [N, D] and [M, D].

    precision: share of the samples within the reference's manifold. recall: share of the reference within
    that of the samples.

    Raises UserError for features that are not finite floats of one width, and for k points or fewer.
    """
    samples, reference = checked_pair(samples, reference)
    _check_neighbours(min(len(samples), len(reference)), k)
    centre = reference.mean(axis=0, dtype=np.float64)
    x, y = (neighbours.points(features, centre) for features in (samples, reference))
    radii = neighbours.radii(x, k), neighbours.radii(y, k)
    x_inside, y_inside = neighbours.inside(x, y, *radii)
    return float(x_inside.mean()), float(y_inside.mean())


def squared_radii(features, k: int = 3) -> np.ndarray:
    """Gives the squared distance of each of features [N, D] to its k-th nearest other one: float32 [N]."""
    features, _ = checked_pair(features, features)
    _check_neighbours(len(features), k)
    centre = features.mean(axis=0, dtype=np.float64)
    return neighbours.radii(neighbours.points(features, centre), k)


def _check_neighbours(points: int, k: int) -> None:
    if k < 1:
        raise UserError(f"precision and recall need k = 1 neighbour or more, not {k}")
    if points <= k:
        raise UserError(
            f"precision and recall with k = {k} neighbours need at least {k + 1} images of either side, not "
            f"{points}"
        )


PRECISION_RECALL = Metric(
    ("features",),
    lambda samples, reference: dict(
        zip(
            ("precision", "recall"),
            precision_recall(samples.features, reference.features),
            strict=True,
        )
    ),
)
