"""T2I-CompBench's spatial rule at its edges."""

import pytest

from imgen.evaluation.prompts.detections import Detection
from imgen.evaluation.prompts.t2i_compbench import image_score, locality_of, position_score

BOX = (100, 100, 140, 140)


def moved(dx, dy):
    return (BOX[0] + dx, BOX[1] + dy, BOX[2] + dx, BOX[3] + dy)


@pytest.mark.parametrize(
    "locality, dx, dy, score",
    [
        ("next to", 149, 1000, 1),  # near along one axis is near
        ("near", 1000, 149, 1),
        ("on side of", 150, 150, 1),  # 150 / 150
        ("near", 300, 200, 0.5),
        ("on the left of", 50, 0, 1),
        ("on the left of", -50, 0, 0),
        ("on the left of", 50, 50, 0),
        ("on the right of", -50, 49, 1),
        ("on the top of", 0, 50, 1),
        ("on the top of", 50, 49, 0),
        ("on the bottom of", 0, -50, 1),
        ("on the bottom of", 0, 50, 0),
        ("on the left of", 20, 0, 0.1 / (800 / 2400)),
        ("on the left of", 0, 0, 0),
        ("on top of", 0, 50, 0),  # no rule
        (None, 0, 50, 0),
    ],
)
def test_position(locality, dx, dy, score):
    assert position_score(locality, BOX, moved(dx, dy)) == pytest.approx(score)


def test_boxes_without_area_do_not_overlap():
    assert position_score("on the left of", (1, 1, 1, 1), (2, 1, 2, 1)) == 1


@pytest.mark.parametrize(
    "scores, locality, expected",
    [
        ((0.6, 0.8), "on the left of", 0.85),
        ((0.6, 0.8), "on the right of", 0),  # 0.35 is below a half
        ((1.0, 1.0), "on the right of", 0.5),
        ((0.0, 0.0), "on the left of", 0.5),
    ],
)
def test_image_score(scores, locality, expected):
    dog, cat = Detection("dog", BOX, scores[0]), Detection("cat", moved(50, 0), scores[1])
    assert image_score([cat, dog], "dog", "cat", locality) == pytest.approx(expected)


def test_the_first_detection_of_a_label_counts_and_one_object_scores_nothing():
    dogs = [Detection("dog", BOX, 0.4), Detection("dog", moved(100, 0), 1.0)]
    cat = Detection("cat", moved(50, 0), 0.4)
    assert image_score([*dogs, cat], "dog", "cat", "on the left of") == pytest.approx(0.7)
    assert image_score([*dogs[::-1], cat], "dog", "cat", "on the left of") == 0
    assert image_score(dogs, "dog", "cat", "near") == 0


def test_people_are_detected_as_persons():
    both = [Detection("person", BOX, 1.0), Detection("cat", moved(50, 0), 1.0)]
    assert image_score(both, "woman", "cat", "near") == 1


def test_locality_is_the_first_of_the_list_and_not_of_the_prompt():
    assert locality_of("a cat on the top of a table next to a dog") == "next to"
    assert locality_of("a cat on top of a table") == "on top of"
    assert locality_of("a cat and a dog") is None
