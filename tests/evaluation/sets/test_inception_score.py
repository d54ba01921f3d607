"""The Inception Score of samples and of reconstructions, in the order of their classes and mixed."""

import logging

import numpy as np
import pytest

from imgen.evaluation.metrics import METRICS
from imgen.evaluation.networks.extractor import Features


def sure(order):
    """Logits of 12,000 images that show one of 4 classes for certain."""
    return Features("set", len(order), logits=200.0 * np.eye(4, dtype=np.float32)[order])


def test_reconstructions_in_the_order_of_classes_have_one_score_over_all():
    found = sure(np.arange(12_000) // 3000)
    assert METRICS["ris"].run(found, None)["is"] == pytest.approx(4)
    assert METRICS["ris"].settings(found, None) == {"splits": 1, "split_size": 12_000}
    assert METRICS["is"].run(found, None)["is"] < 2.5  # two classes in each 5,000 at most


def test_samples_sorted_by_class_are_warned_of_and_have_the_score_of_one_group_too(caplog):
    caplog.set_level(logging.WARNING, "imgen.evaluate")
    one, mixed = np.arange(12_000) // 3000, np.arange(12_000) % 4
    drawn = np.random.default_rng(0).integers(4, size=12_000)
    for order, is_sorted in ((one, True), (mixed, False), (drawn, False)):
        caplog.clear()
        found = sure(order)
        score = METRICS["is"].run(found, None)["is"]
        about = METRICS["is"].settings(found, None)
        assert (about["splits"], about["split_size"]) == (3, 5000)
        assert about["score_of_one_group"] == pytest.approx(4, rel=1e-3)
        assert (score < 2.5) == is_sorted == ("sorted by class" in caplog.text)
        if is_sorted:
            assert "of all as one group 4;" in caplog.text
    few = sure(one[::3])  # a single group, whose order plays no part
    assert METRICS["is"].settings(few, None) == {"splits": 1, "split_size": 5000}
    caplog.clear()
    assert METRICS["is"].run(few, None)["is"] == pytest.approx(4) and not caplog.text
