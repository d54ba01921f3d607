"""What samples are asked for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgen.conditioning import ClassLabels, Labels, TextFeatures, conditions_for
from imgen.conditioning.conditions import chosen_labels
from imgen.conditioning.unconditional import Unconditional
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
    assert chosen_labels(ClassLabels(3, 8), "2,1", 3).labels.tolist() == [2, 1, 2]
    assert chosen_labels(ClassLabels(3, 8), None, 4).labels.tolist() == [0, 1, 2, 0]


def test_what_a_model_cannot_be_asked_for_is_refused():
    with pytest.raises(UserError, match="classes only so far"):
        conditions_for(TextFeatures(8), 5)
    with pytest.raises(UserError, match="classes are 0 to 2"):
        chosen_labels(ClassLabels(3, 8), "3", 1)


def test_labels_are_names_or_numbers_and_names_come_first():
    """Of folders 1, 2 and 10, class 10 is the third, whatever number that is."""
    classes = ClassLabels(num_classes=3, width=4)
    for text, names, expected in [
        ("10, 1", ("1", "2", "10"), [2, 0, 2, 0]),
        ("red circle,0", ("blue", "red circle", "green"), [1, 0, 1, 0]),
        ("2,1", None, [2, 1, 2, 1]),
        (None, None, [0, 1, 2, 0]),
    ]:
        conditions = chosen_labels(classes, text, 4, names)
        np.testing.assert_array_equal(conditions.rows(np.arange(4))["label"], expected)
    for text in ("3", "-1", "1.0", "blu", "", "²"):
        with pytest.raises(
            UserError, match="no class; the run's classes are 0 to 2, called blue, red, x"
        ):
            chosen_labels(classes, text, 4, ("blue", "red", "x"))


def test_a_model_without_classes_is_asked_for_nothing():
    model = Unconditional(width=4)
    with pytest.raises(UserError, match="the run has no classes"):
        chosen_labels(model, "1", 2)
    assert len(chosen_labels(model, None, 5)) == len(conditions_for(model, 5)) == 5
    null = jnp.array([False, True])
    cond = {"label": jnp.array([0, 7])}
    params = model.init(jax.random.key(0), cond, null)
    found = model.apply(params, cond, null)
    assert found.slots.shape == (2, 1, 4) and found.vector.shape == (2, 4)
    # Whatever the label, and for the null condition.
    assert (found.slots[0] == found.slots[1]).all()
