"""The baselines that a generator is compared with."""

import numpy as np
import pytest

from imgen.evaluation.tokens.baselines import bigram_cross_entropy, entropy


def test_entropy_of_a_histogram():
    assert entropy(np.array([5, 5, 0])) == pytest.approx(np.log(2))
    assert entropy(np.array([1, 3])) == pytest.approx(-(0.25 * np.log(0.25) + 0.75 * np.log(0.75)))


def test_bigram_by_hand():
    """Start -> 0 twice, 0 -> 1 twice; one is added to every count of a pair."""
    train, test = np.array([[0, 1], [0, 1]]), np.array([[0, 0]])
    by_hand = -(np.log(3 / 4) + np.log(1 / 4)) / 2
    assert bigram_cross_entropy(train, test, 2) == pytest.approx(by_hand)


def test_bigram_of_a_markov_source_finds_its_entropy_rate():
    rng = np.random.default_rng(0)
    stay = rng.random((4000, 64)) < 0.9
    codes = np.cumsum(~stay, axis=1) % 2
    rate = -(0.9 * np.log(0.9) + 0.1 * np.log(0.1))
    assert bigram_cross_entropy(codes[:2000], codes[2000:], 2) == pytest.approx(rate, abs=0.005)
    assert entropy(np.bincount(codes.reshape(-1))) == pytest.approx(np.log(2), abs=0.05)
