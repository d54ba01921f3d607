"""Mean and covariance in batches, and the Frechet distance of what they give."""

import logging

import numpy as np
import pytest

from imgen.errors import UserError
from imgen.evaluation.sets.frechet import frechet_distance
from imgen.evaluation.sets.moments import Gaussian, Moments, gaussian, merge


def features(n=300, width=12, seed=0, mean=5.0):
    rng = np.random.default_rng(seed)
    return (mean + rng.standard_normal((n, width)) @ rng.random((width, width))).astype(np.float32)


def test_batches_shards_and_padding_give_the_moments_of_one_pass():
    x = features()
    whole = gaussian(x)
    np.testing.assert_allclose(whole.covariance, np.cov(x.astype(np.float64).T), atol=1e-9)
    shards = [Moments(x.shape[1]) for _ in range(4)]  # the last one stays empty
    for i, start in enumerate(range(0, 300, 7)):
        batch = np.full((7, x.shape[1]), np.nan, np.float32)
        rest = x[start : start + 7]
        batch[: len(rest)] = rest
        shards[i % 3].add(batch, mask=np.arange(7) < len(rest))
    shards[1].add(batch, mask=np.zeros(7))
    width = x.shape[1]  # float64: the count, the mean and half of the symmetric scatter
    assert len(shards[0].pack()) == 8 * (1 + width + width * (width + 1) // 2)
    gathered = [Moments.unpack(shard.pack()) for shard in shards]
    for parts in (shards, gathered, [merge(shards[:2]), merge(shards[2:])]):
        merged = merge(parts).gaussian(300)
        np.testing.assert_allclose(merged.mean, whole.mean, atol=1e-9)
        np.testing.assert_allclose(merged.covariance, whole.covariance, atol=1e-9)
    with pytest.raises(ValueError, match="300 samples where 301"):
        merge(shards).gaussian(301)
    with pytest.raises(ValueError, match="at least 2"):
        shards[3].gaussian()


def test_a_large_mean_costs_no_digits():
    x = features(mean=0.0).astype(np.float64)
    far = Moments(x.shape[1])
    for start in range(0, 300, 50):
        far.add(x[start : start + 50] + 1e6)
    np.testing.assert_allclose(far.gaussian().covariance, gaussian(x).covariance, atol=1e-8)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_features_that_are_none_are_refused(bad):
    x = features(n=10)
    x[7, 2] = bad
    with pytest.raises(UserError, match="sample 7 are not finite"):
        gaussian(x)
    with pytest.raises(UserError, match="uint8, not floating point"):
        gaussian(np.zeros((4, 12), np.uint8))
    with pytest.raises(UserError, match="not \\[samples, features\\]"):
        Moments(12).add(np.zeros((2, 2, 12), np.float32))
    with pytest.raises(UserError, match="same network"):
        Moments(12).add(np.zeros((2, 11), np.float32))


def by_square_root(first: Gaussian, second: Gaussian) -> float:
    """The published formula, by the eigenvalues of S1 S2."""
    roots = np.sqrt(np.linalg.eigvals(first.covariance @ second.covariance).astype(complex)).real
    traces = np.trace(first.covariance + second.covariance)
    return np.sum((first.mean - second.mean) ** 2) + traces - 2 * roots.sum()


def test_frechet_distance_is_the_published_formula_and_symmetric():
    first, second = gaussian(features(seed=1)), gaussian(features(seed=2, mean=5.5))
    found = frechet_distance(first, second)
    assert found == pytest.approx(by_square_root(first, second), rel=1e-9)
    assert found == pytest.approx(frechet_distance(second, first), rel=1e-9)
    assert frechet_distance(first, first) < 1e-9
    shifted = Gaussian(first.mean + 2.0, first.covariance, first.count)
    assert frechet_distance(first, shifted) == pytest.approx(4 * 12, rel=1e-9)
    wider = Gaussian(first.mean, 9 * first.covariance, first.count)
    assert frechet_distance(first, wider) == pytest.approx(4 * np.trace(first.covariance), rel=1e-9)


def test_fewer_samples_than_features_are_measured_and_warned_of(caplog):
    x, y = features(n=30, width=200), features(n=900, width=200, seed=3)
    few, many = gaussian(x), gaussian(y)
    caplog.set_level(logging.WARNING, "imgen.evaluate")
    found = frechet_distance(few, many)
    assert "30 samples for 200 features" in caplog.text
    assert found == pytest.approx(by_square_root(few, many), rel=1e-5)  # itself not better
    # The same trace from the samples: the singular values of X Y^T, both centred.
    x, y = ((v - v.mean(0)) / np.sqrt(len(v) - 1) for v in (x.astype(float), y.astype(float)))
    shift, traces = np.sum((few.mean - many.mean) ** 2), np.sum(x**2) + np.sum(y**2)
    exact = shift + traces - 2 * np.linalg.svd(x @ y.T, compute_uv=False).sum()
    assert found == pytest.approx(exact, rel=1e-9)
    assert found == pytest.approx(frechet_distance(many, few), rel=1e-9)
    assert frechet_distance(few, few) < 1e-9 * np.trace(few.covariance)
    constant = Gaussian(np.zeros(200), np.zeros((200, 200)))
    total = np.sum(few.mean**2) + np.trace(few.covariance)
    assert frechet_distance(few, constant) == pytest.approx(total, rel=1e-12)
    caplog.clear()
    frechet_distance(many, constant)
    assert not caplog.text


def test_statistics_that_do_not_fit_are_refused():
    good, other = gaussian(features()), gaussian(features(width=8))
    with pytest.raises(UserError, match="12 features, the reference 8"):
        frechet_distance(good, other)
    with pytest.raises(UserError, match="samples are not finite"):
        frechet_distance(Gaussian(good.mean * np.nan, good.covariance), good)
    with pytest.raises(UserError, match="negative variances"):
        frechet_distance(good, Gaussian(good.mean, -good.covariance))
    with pytest.raises(UserError, match="covariance the shape"):
        frechet_distance(good, Gaussian(good.mean, other.covariance))
