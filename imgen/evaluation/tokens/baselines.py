"""Statistics of index codes, and the simplest models of them to compare a generator with."""

import numpy as np


def entropy(counts: np.ndarray) -> float:
    """Entropy in nats of a histogram."""
    p = counts[counts > 0] / counts.sum()
    return float(-(p * np.log(p)).sum())


def bigram_cross_entropy(train: np.ndarray, test: np.ndarray, size: int) -> float:
    """Nats per code of an add-one bigram model along the raster order.

    train, test: codes [N, P]. The first code of an image is predicted from a start symbol.
    """

    def pairs(codes):
        start = np.full((len(codes), 1), size)
        previous = np.concatenate([start, codes[:, :-1]], axis=1)
        return previous.reshape(-1), codes.reshape(-1)

    counts = np.ones((size + 1, size))
    np.add.at(counts, pairs(train), 1)
    log_p = np.log(counts) - np.log(counts.sum(axis=1, keepdims=True))
    return float(-log_p[pairs(test)].mean())
