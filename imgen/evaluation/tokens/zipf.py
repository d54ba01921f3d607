"""Laws that frequencies are held against: Zipf, log-normal, Heaps, Yule-Simon, Benford.

Plain numpy in float64. Counts are how often each type (a code, or several in a row) occurred; types that
never did are left out. What a law cannot be fitted to is nan. Definitions are ours, the programme is that
of "Analyzing The Language of Visual Tokens" (arXiv 2411.05001), whose estimators are not public.
"""

from collections.abc import Callable

import numpy as np


def least_squares(x: np.ndarray, y: np.ndarray) -> tuple[float, float, float]:
    """Slope, intercept and R^2 of y on x."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    dx, dy = x - x.mean(), y - y.mean()
    if not dx.any():
        return np.nan, np.nan, np.nan
    slope = (dx @ dy) / (dx @ dx)
    left = dy - slope * dx
    r2 = 1.0 - (left @ left) / (dy @ dy) if dy.any() else np.nan
    return float(slope), float(y.mean() - slope * x.mean()), float(r2)


def zipf_ols(counts: np.ndarray) -> dict[str, float]:
    """log frequency = intercept - alpha log rank by least squares over all ranks.

    counts: from the largest.
    """
    ranks = np.log(np.arange(1, len(counts) + 1))
    slope, intercept, r2 = least_squares(ranks, np.log(counts))
    return {"zipf_ols_alpha": -slope, "zipf_ols_intercept": intercept, "zipf_ols_r2": r2}


def zipf_mle(counts: np.ndarray) -> dict[str, float]:
    """The likeliest alpha in [0, 20] of p(rank) ~ rank^-alpha over the ranks that occurred, and the
    divergence KL(observed || fitted) in bits. counts: from the largest."""
    log_rank = np.log(np.arange(1, len(counts) + 1))
    p = counts / counts.sum()
    observed = p @ log_rank

    def log_model(alpha: float) -> np.ndarray:
        return -alpha * log_rank - np.log(np.sum(np.exp(-alpha * log_rank)))

    def excess(alpha: float) -> float:
        return np.exp(log_model(alpha)) @ log_rank - observed

    alpha = root(excess, 0.0, 20.0) if len(counts) > 1 else np.nan
    divergence = p @ (np.log(p) - log_model(alpha)) / np.log(2)
    return {"zipf_mle_alpha": alpha, "zipf_mle_kl_bits": float(divergence)}


def lognormal(counts: np.ndarray) -> dict[str, float]:
    """Mean and deviation of log frequency over the types."""
    logs = np.log(counts)
    return {"lognormal_mu": float(logs.mean()), "lognormal_sigma": float(logs.std())}


def heaps(is_new: np.ndarray) -> dict[str, float]:
    """log(types so far) = log_k + beta log(tokens so far), by least squares over all tokens.

    is_new: bool [T], whether a token is the first of its type.
    """
    tokens = np.arange(1, len(is_new) + 1)
    beta, log_k, _ = least_squares(np.log(tokens), np.log(np.cumsum(is_new)))
    return {"heaps_beta": beta, "heaps_log_k": log_k}


def yule_simon(counts: np.ndarray) -> dict[str, float]:
    """The likeliest rho of P(c) = rho B(c, rho + 1) for the counts of the types; inf where none occurs
    twice."""
    if counts.max() < 2:
        return {"yule_simon_rho": np.inf}
    at_least = np.cumsum(np.bincount(counts)[::-1])[::-1][1:]  # types with a count of 1, 2, ...
    times = np.arange(1, len(at_least) + 1)

    def excess(log_rho: float) -> float:
        rho = np.exp(log_rho)
        return len(counts) - rho * np.sum(at_least / (rho + times))

    return {"yule_simon_rho": float(np.exp(root(excess, -30.0, 30.0)))}


def benford(counts: np.ndarray) -> dict[str, object]:
    """Shares of the counts' leading digits 1..9, their mean distance from log10(1 + 1/d) and
    chi-squared."""
    digits = np.array([int(str(count)[0]) for count in counts.tolist()])
    shares = np.bincount(digits, minlength=10)[1:] / len(counts)
    expected = np.log10(1 + 1 / np.arange(1, 10))
    difference = shares - expected
    return {
        "benford_digits": shares,
        "benford_mad": float(np.abs(difference).mean()),
        "benford_chi2": float(len(counts) * np.sum(difference**2 / expected)),
    }


def root(falling: Callable[[float], float], low: float, high: float) -> float:
    """Where a falling function crosses 0, or the end of the interval that is nearer to that."""
    for _ in range(80):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if falling(middle) > 0 else (low, middle)
    return 0.5 * (low + high)
