"""VISOR's prompts, rules and scores."""

import hashlib
import json
from collections import Counter

import numpy as np
import pytest

from imgen.errors import UserError
from imgen.evaluation.prompts import visor
from imgen.evaluation.prompts.detections import Detection

LEFT, RIGHT, ABOVE, BELOW = (visor.sr2d_prompts()[i] for i in (0, 2, 4, 6))


def found(name, x, y, score=0.5):
    return Detection(name, (x - 10, y - 5, x + 10, y + 5), score)


def test_prompts_are_the_official_file_to_the_byte():
    official = [
        {
            "unique_id": p.unique_id,
            "num_objects": len(p.objects),
            "obj_1_attributes": [p.objects[0]],
            "obj_2_attributes": [p.objects[1] if len(p.objects) == 2 else None],
            "rel_type": p.relation,
            "text": p.text,
        }
        for p in visor.sr2d_prompts()
    ]
    text = json.dumps(official, indent=2).encode()
    blob = hashlib.sha1(b"blob %d\0" % len(text) + text).hexdigest()
    assert blob == "e8c8d38ba166e69dac361a51b2053042335b42ea"
    assert sum(p.relation in visor.RELATIONS for p in visor.sr2d_prompts()) == visor.PROMPTS


@pytest.mark.parametrize(
    "prompt, at, stands",
    [
        (LEFT, (99, 0), True),
        (LEFT, (100, 0), False),
        (RIGHT, (101, 500), True),
        (RIGHT, (100, 50), False),
        (ABOVE, (0, 49), True),
        (ABOVE, (0, 50), False),
        (BELOW, (0, 51), True),
        (BELOW, (0, 49), False),
    ],
)
def test_relations_are_strict_on_centroids_along_one_axis(prompt, at, stands):
    record = visor.judge([found("person", *at), found("bicycle", 100, 50)], prompt)
    assert record["sra"] == stands and record["recall"] == 2


def test_any_pair_of_boxes_will_do_and_both_objects_are_needed():
    people = [found("person", 300, 0), found("person", 0, 0)]
    assert visor.judge([found("bicycle", 100, 0), *people], LEFT)["sra"] == 1
    assert visor.judge(people, LEFT) == {
        "classes": ["person", "person"],
        "centroid": [[300, 0], [0, 0]],
        "recall": 1,
        "sra": 0,
    }


def test_a_score_must_be_above_the_threshold_in_float32():
    at = float(np.float32(0.1))  # above 0.1 in float64 only
    assert visor.judge([found("person", 0, 0, at)], LEFT)["recall"] == 0
    above = float(np.nextafter(np.float32(0.1), np.float32(1)))
    assert visor.judge([found("person", 0, 0, above)], LEFT)["recall"] == 1


def test_scores_by_hand():
    both, first, none = ["person", "bicycle"], ["person"], []
    judged = [
        *[(LEFT, both, 1)] * 3, (LEFT, both, 0),
        (RIGHT, both, 1), (RIGHT, first, 0), (RIGHT, none, 0), (RIGHT, ["bicycle"], 0),
        (ABOVE, none, 0),
        (visor.sr2d_prompts()[8], both, 0),  # "and"
        (visor.sr2d_prompts()[-1], ["toothbrush"], 0),
    ]  # fmt: skip
    scores = visor.summarize(judged)
    expected = {
        "OA": 500 / 9, "OA_A": 600 / 9, "OA_B": 600 / 9, "VISOR_uncond": 400 / 9, "VISOR_cond": 80,
        "VISOR_1": 200 / 3, "VISOR_2": 100 / 3, "VISOR_3": 100 / 3, "VISOR_4": 0,
        "images": 9, "prompts": 3, "complete": False,
    }  # fmt: skip
    assert scores == pytest.approx(expected)


def test_without_both_objects_anywhere_the_conditional_score_is_zero():
    scores = visor.summarize([(LEFT, ["person"], 0)])
    assert scores["VISOR_cond"] == scores["VISOR_uncond"] == scores["VISOR_1"] == 0


def test_no_spatial_prompt_is_a_clear_error():
    with pytest.raises(UserError, match="no image of a spatial prompt"):
        visor.summarize([(visor.sr2d_prompts()[8], [], 0)])


def test_complete_is_every_spatial_prompt_with_four_images():
    prompts = [p for p in visor.sr2d_prompts() if p.relation in visor.RELATIONS]
    assert Counter(p.relation for p in prompts) == dict.fromkeys(visor.RELATIONS, 6320)
    judged = [(p, (), 0) for p in prompts] * 4
    assert visor.summarize(judged)["complete"] and not visor.summarize(judged[1:])["complete"]
