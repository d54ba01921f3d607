"""The Inception Score of samples and of reconstructions."""

import numpy as np
import pytest

from imgen.evaluation.networks.extractor import Features
from imgen.evaluation.sets import distances


def test_reconstructions_in_the_order_of_classes_have_one_score_over_all():
    sure = 200.0 * np.eye(4, dtype=np.float32)[np.arange(12_000) // 3000]
    found = Features("sorted", len(sure), logits=sure)
    of_samples, of_all = (
        known["is"] for known in (distances.DISTANCES, distances.OF_RECONSTRUCTIONS)
    )
    assert of_all.measure(found, None)["is"] == pytest.approx(4)
    assert of_all.settings(found, None) == {"splits": 1, "split_size": 12_000}
    assert of_samples.measure(found, None)["is"] < 2.5  # two classes in each 5,000 at most
    assert of_samples.settings(found, None) == {"splits": 3, "split_size": 5000}
