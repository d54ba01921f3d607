"""GenEval's rules at their edges."""

import numpy as np
import pytest

from imgen.errors import UserError
from imgen.evaluation.prompts import geneval
from imgen.evaluation.prompts.detections import Detection


def dog(score=0.95, box=(100, 100, 140, 140), color=None, name="dog"):
    return Detection(name, box, score, color)


def prompt(tag, *include, exclude=()):
    clauses = [
        dict(zip(("class", "count"), c[:2], strict=True)) | (c[2:] or ({},))[0] for c in include
    ]
    found = {"tag": tag, "include": clauses, "prompt": "a photo"}
    return found | ({"exclude": [{"class": c, "count": n} for c, n in exclude]} if exclude else {})


def test_classes_are_cocos_by_number_with_three_renamed():
    assert len(set(geneval.CLASSES)) == 80 and geneval.CLASSES[0] == "person"
    assert geneval.CLASSES[64:67] == ("computer mouse", "tv remote", "computer keyboard")


@pytest.mark.parametrize(
    "tag, score, correct",
    [
        ("single_object", 0.3, False),
        ("single_object", float(np.float32(0.3)), False),  # above 0.3 in float64 only
        ("single_object", float(np.nextafter(np.float32(0.3), np.float32(1))), True),
        ("counting", 0.9, False),
        ("counting", float(np.nextafter(np.float32(0.9), np.float32(1))), True),
        ("colors", 0.5, True),
    ],
)
def test_a_score_must_be_above_the_tasks_threshold_in_float32(tag, score, correct):
    assert geneval.judge([dog(score)], prompt(tag, ("dog", 1))).correct == correct


def test_at_most_16_objects_of_a_class_count_and_the_most_confident_do():
    dogs = [dog(0.4 + i / 100) for i in range(20)]
    verdict = geneval.judge(dogs, prompt("two_object", ("dog", 16), exclude=[("dog", 17)]))
    assert verdict.correct
    assert verdict.kept["dog"] == dogs[:3:-1]


def test_of_equal_scores_the_later_detection_is_first():
    dogs = [dog(color="red"), dog(color="blue")]
    assert geneval.judge(dogs, prompt("colors", ("dog", 1, {"color": "blue"}))).correct
    assert not geneval.judge(dogs, prompt("colors", ("dog", 1, {"color": "red"}))).correct


def test_exclude_fires_at_its_count():
    two = prompt("counting", ("dog", 2), exclude=[("dog", 3)])
    assert [geneval.judge([dog()] * n, two).correct for n in (1, 2, 3)] == [False, True, False]


def test_overlap_counts_the_last_pixel_and_is_off_by_default():
    a, b = (0, 0, 9, 9), (5, 0, 14, 9)
    assert geneval.iou(a, b) == np.float32(50 / 150)
    assert geneval.iou(a, (10, 0, 19, 9)) == 0
    same = [dog(), dog(0.94)]
    assert len(geneval.keep(same, 0.3, 16, 1.0)["dog"]) == 2
    assert geneval.keep(same, 0.3, 16, 0.99)["dog"] == same[:1]


def test_overlap_is_dropped_from_its_limit_on_and_a_dropped_object_drops_none():
    # b overlaps a and c by a third, a and c do not overlap each other.
    a, b, c = dog(0.9, (0, 0, 9, 9)), dog(0.8, (5, 0, 14, 9)), dog(0.7, (10, 0, 19, 9))
    assert geneval.keep([c, b, a], 0.3, 16, float(np.float32(1 / 3)))["dog"] == [a, c]
    assert geneval.keep([c, b, a], 0.3, 16, 0.34)["dog"] == [a, b, c]


@pytest.mark.parametrize(
    "shift, expected",
    [
        ((0, 0), ()),
        ((8, 0), ()),  # all of the offset is forgiven: 0.1 * (40 + 40)
        ((9, 0), ()),  # 1 / 9
        ((16, 0), ()),  # 8 / 16 is not above a half
        ((17, 0), ("right of",)),
        ((-17, 0), ("left of",)),
        ((0, -17), ("above",)),
        ((100, 100), ("right of", "below")),
        ((-1000, -1000), ("left of", "above")),
        ((100, 50), ("right of",)),  # 42 / 112 along y
    ],
)
def test_relations(shift, expected):
    x, y = shift
    box = (100 + x, 100 + y, 140 + x, 140 + y)
    assert geneval.relations(box, (100, 100, 140, 140)) == expected


def test_colour_and_position_look_at_the_most_confident_objects_only():
    dogs = [dog(0.8, color="blue"), dog(0.9, color="red")]
    verdict = geneval.judge(dogs, prompt("colors", ("dog", 1, {"color": "blue"})))
    assert verdict.reasons == ("expected blue dog>=1, found 0 blue; and 1 red",)
    cat = dog(name="cat")
    right = prompt("position", ("cat", 1), ("dog", 1, {"position": ["right of", 0]}))
    near, far = (150, 100, 190, 140), (10, 100, 50, 140)
    assert geneval.judge([cat, dog(0.9, near), dog(0.8, far)], right).correct
    assert not geneval.judge([cat, dog(0.8, near), dog(0.9, far)], right).correct


def test_a_classifier_is_asked_for_the_objects_of_colour_clauses_only():
    asked = []

    def blue(name, objects):
        asked.append((name, objects))
        return ["blue"] * len(objects)

    cat, best = dog(name="cat"), dog(0.96)
    clauses = ("dog", 1, {"color": "blue"}), ("cat", 1)
    assert geneval.judge([cat, dog(0.4), best], prompt("color_attr", *clauses), blue).correct
    assert asked == [("dog", [best])]


def test_a_missing_colour_answer_is_a_clear_error():
    with pytest.raises(UserError, match="dog lacks 'color'"):
        geneval.judge([dog()], prompt("colors", ("dog", 1, {"color": "blue"})))


def test_a_failed_clause_is_no_target():
    clauses = ("cat", 1, {"color": "red"}), ("dog", 1, {"position": ["right of", 0]})
    detections = [dog(name="cat", color="blue"), dog(box=(200, 100, 240, 140))]
    verdict = geneval.judge(detections, prompt("position", *clauses))
    assert verdict.reasons[1] == "no target for dog to be right of"
    assert geneval.judge(
        [dog(name="cat", color="red"), detections[1]], prompt("position", *clauses)
    ).correct


def test_every_pair_must_stand_in_the_relation():
    cats = [dog(name="cat"), dog(name="cat", box=(300, 100, 340, 140))]
    right = prompt("position", ("cat", 2), ("dog", 1, {"position": ["right of", 0]}))
    assert geneval.judge([*cats, dog(box=(400, 100, 440, 140))], right).correct
    assert not geneval.judge([*cats, dog(box=(200, 100, 240, 140))], right).correct


def test_one_object_can_satisfy_two_clauses():
    assert geneval.judge([dog()], prompt("two_object", ("dog", 1), ("dog", 1))).correct


def test_overall_is_the_mean_of_the_tasks_and_not_of_the_images():
    one, two = prompt("single_object", ("dog", 1)), prompt("counting", ("dog", 2))
    judged = [(one, True), (one, False), (one, False), (dict(one, prompt="x"), False), (two, True)]
    scores = geneval.summarize(judged)
    assert scores["tasks"] == {"single_object": 0.25, "counting": 1.0}
    assert scores["overall"] == 0.625 and scores["image_accuracy"] == 0.4
    assert scores["prompt_any"] == pytest.approx(2 / 3)
    assert scores["counts"] == {"single_object": [1, 4], "counting": [1, 1]}
    assert not scores["complete"]


def test_complete_is_553_prompts_with_four_images_each():
    one = prompt("single_object", ("dog", 1))
    judged = [(dict(one, prompt=f"{i}"), True) for i in range(553)] * 4
    assert geneval.summarize(judged)["complete"]
    assert not geneval.summarize(judged[:-1])["complete"]
