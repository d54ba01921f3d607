"""Frechet distance of two Gaussians: FID of Inception's pool3 features, sFID of its spatial ones.

    |m1 - m2|^2 + tr S1 + tr S2 - 2 tr (S1 S2)^(1/2)

Sources: Heusel et al. 2017, "GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash
Equilibrium"; openai/guided-diffusion, evaluations/evaluator.py. With S1 = A A^T and S2 = B B^T the last trace
is the sum of the singular values of A^T B. Official code takes a matrix square root instead, which is the
same number, but complex or not finite for singular covariances, and slower.
"""

import logging

import numpy as np

from imgen.errors import UserError
from imgen.evaluation.definition import Metric
from imgen.evaluation.sets.moments import Gaussian

log = logging.getLogger("imgen.evaluate")


def frechet_distance(samples: Gaussian, reference: Gaussian) -> float:
    """Gives the distance, symmetric in its arguments; 0 for equal ones, up to rounding.

    Warns where samples are too few for a covariance of full rank. Raises UserError for Gaussians of unlike
    width, numbers that are not finite, and matrices that are no covariances.
    """
    for name, given in (("samples", samples), ("reference", reference)):
        _check(name, given)
    width = len(reference.mean)
    if len(samples.mean) != width:
        raise UserError(
            f"the samples have {len(samples.mean)} features, the reference {width}: take both through the "
            "same network"
        )
    for name, given in (("samples", samples), ("reference", reference)):
        if given.count is not None and given.count <= width:
            log.warning(
                "%d %s for %d features: their covariance is singular and the distance too large; compare it "
                "with distances of as many only",
                given.count, "samples" if name == "samples" else "images of the reference", width,
            )  # fmt: skip
    shift = np.sum(np.square(samples.mean - reference.mean))
    traces = np.trace(samples.covariance) + np.trace(reference.covariance)
    overlap = _nuclear_norm(_factor(samples.covariance).T @ _factor(reference.covariance))
    return max(float(shift + traces - 2 * overlap), 0.0)


def _nuclear_norm(matrix: np.ndarray) -> float:
    """Sum of the singular values. At full rank they are the roots of eigenvalues, which take a fifth of the
    time; where some are 0 the root of their rounding errors would be too large."""
    if not matrix.size:
        return 0.0
    if matrix.shape[0] == matrix.shape[1]:
        squares = np.linalg.eigvalsh(matrix @ matrix.T)
        return float(np.sqrt(np.maximum(squares, 0.0)).sum())
    return float(np.linalg.svd(matrix, compute_uv=False).sum())


def _factor(covariance: np.ndarray) -> np.ndarray:
    """A [D, rank] with A A^T = covariance; directions that hold nothing but rounding errors are left out."""
    try:
        return np.linalg.cholesky(covariance)
    except np.linalg.LinAlgError:  # of less than full rank
        pass
    variances, directions = np.linalg.eigh(covariance)
    largest = max(variances[-1], 0.0)
    if variances[0] < -1e-4 * largest:
        raise UserError("a covariance has negative variances: the file of statistics is damaged")
    kept = variances > len(variances) * np.finfo(np.float64).eps * largest
    return directions[:, kept] * np.sqrt(variances[kept])


def _check(name: str, given: Gaussian) -> None:
    width = len(given.mean)
    if given.covariance.shape != (width, width):
        raise UserError(
            f"the {name}'s mean has {width} numbers, its covariance the shape {given.covariance.shape}"
        )
    if not (np.isfinite(given.mean).all() and np.isfinite(given.covariance).all()):
        raise UserError(f"the statistics of the {name} are not finite: look for NaN in its images")


FID = Metric(("pool",), lambda x, y: {"fid": frechet_distance(x.pool, y.pool)})
SFID = Metric(("spatial",), lambda x, y: {"sfid": frechet_distance(x.spatial, y.spatial)})
