"""What samples are asked for."""

import numpy as np
import pytest

from imgen.conditioning import ClassLabels, Labels, TextFeatures, conditions_for
from imgen.conditioning.conditions import chosen_labels
from imgen.errors import UserError


def test_labels_are_rows_and_names_and_begin_anew():
    labels = Labels(np.array([2, 0, 1]), ["ant", "bee", "cat"])
    assert len(labels) == 3
    rows = labels.rows(np.array([1, 2, 3]))
    assert rows["label"].dtype == np.int32 and rows["label"].tolist() == [0, 1, 2]
    assert labels.names(np.array([0, 2])) == ["cat", "bee"]
    assert Labels(np.array([7])).names(np.array([0])) == ["class 7"]


def test_default_conditions_are_a_models_classes_in_turn():
    found = conditions_for(ClassLabels(3, 8), 5)
    assert found.rows(np.arange(5))["label"].tolist() == [0, 1, 2, 0, 1]
    drawn = conditions_for(ClassLabels(3, 8), 300, "random", 1)
    assert sorted(set(drawn.labels.tolist())) == [0, 1, 2]
    assert chosen_labels(ClassLabels(3, 8), [2, 1], 3).labels.tolist() == [2, 1, 2]
    assert chosen_labels(ClassLabels(3, 8), None, 4).labels.tolist() == [0, 1, 2, 0]


def test_what_a_model_cannot_be_asked_for_is_refused():
    with pytest.raises(UserError, match="classes only so far"):
        conditions_for(TextFeatures(8), 5)
    with pytest.raises(UserError, match="classes are 0 to 2"):
        chosen_labels(ClassLabels(3, 8), [3], 1)
