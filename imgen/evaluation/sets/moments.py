"""Mean and covariance of features that come in batches, on any number of hosts, in float64.

Source: Chan, Golub and LeVeque 1979, "Updating formulae and a pairwise algorithm for computing sample
variances". Statistics of parts merge into those of the whole without loss, so that the result depends on
neither the batch size nor the number of hosts.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy.linalg import blas

from imgen.evaluation.sets.feature_matrix import ROWS, checked


@dataclasses.dataclass(frozen=True)
class Gaussian:
    """What the Frechet distance knows of a set of features.

    mean: float64 [D]. covariance: float64 [D, D], with n - 1 in the denominator. count: n, None where a
    file of statistics does not say.
    """

    mean: np.ndarray
    covariance: np.ndarray
    count: int | None = None


class Moments:
    """Running count n, mean [D] and scatter [D, D], the sum of outer products of x - mean.

    Of the scatter only the lower triangle is kept up, in place: batches may be small.
    """

    def __init__(self, width: int):
        self.count = 0
        self.mean = np.zeros(width)
        self.scatter = np.zeros((width, width), order="F")

    def add(self, features, mask=None) -> None:
        """Takes in a batch [B, D]. mask: [B], 0 on padding, whose features are not looked at.

        Raises UserError for features that are not finite floats [B, D].
        """
        features = np.asarray(features)
        if mask is not None:
            features = features[np.asarray(mask) > 0]
            if not len(features):
                return
        features = checked(features, width=len(self.mean))
        for start in range(0, len(features), ROWS):
            self._add(features[start : start + ROWS])

    def _add(self, block: np.ndarray) -> None:
        n, total = len(block), self.count + len(block)
        mean = block.mean(axis=0, dtype=np.float64)
        shift = mean - self.mean
        rows = np.empty((n + 1, len(mean)))
        np.subtract(block, mean, out=rows[:n])
        rows[n] = np.sqrt(self.count * n / total) * shift  # as if it were one more row
        self.scatter = blas.dsyrk(1.0, rows.T, 1.0, self.scatter, lower=True, overwrite_c=True)
        self.mean = self.mean + shift * (n / total)
        self.count = total

    def gaussian(self, count: int | None = None) -> Gaussian:
        """count: how many samples there must have been; ValueError if there were not, or fewer than 2."""
        if count is not None and self.count != count:
            raise ValueError(f"statistics of {self.count} samples where {count} were to be counted")
        if self.count < 2:
            raise ValueError(f"a covariance needs at least 2 samples, not {self.count}")
        covariance = np.tril(self.scatter) / (self.count - 1)
        covariance += np.tril(covariance, -1).T
        return Gaussian(self.mean, covariance, self.count)

    def pack(self) -> np.ndarray:
        """uint8, to be gathered between hosts: JAX would cut float64 down to float32 without a word. Of the
        scatter its lower triangle, row by row."""
        triangle = self.scatter[np.tril_indices(len(self.mean))]
        parts = [np.array([self.count], np.float64), self.mean, triangle]
        return np.concatenate(parts).view(np.uint8)

    @staticmethod
    def unpack(data: np.ndarray) -> "Moments":
        numbers = np.ascontiguousarray(data, np.uint8).view(np.float64)
        width = int(round((np.sqrt(8 * len(numbers) + 1) - 3) / 2))  # 1 + D + D (D + 1) / 2 numbers
        moments = Moments(width)
        moments.count = int(numbers[0])
        moments.mean = numbers[1 : 1 + width].copy()
        moments.scatter[np.tril_indices(width)] = numbers[1 + width :]
        return moments


def merge(parts: Sequence[Moments]) -> Moments:
    """The moments of all parts together, which share no sample. The parts stay as they are."""
    whole = Moments(len(parts[0].mean))
    for part in parts:
        if not part.count:
            continue
        total = whole.count + part.count
        shift = part.mean - whole.mean
        whole.scatter += part.scatter
        whole.scatter += np.outer(shift, shift * (whole.count * part.count / total))
        whole.mean = whole.mean + shift * (part.count / total)
        whole.count = total
    return whole


def gaussian(features) -> Gaussian:
    """Of all features [N, D] at once."""
    moments = Moments(np.shape(features)[-1])
    moments.add(features)
    return moments.gaussian(len(features))
