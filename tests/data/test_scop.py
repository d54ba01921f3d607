import json

import numpy as np
import pytest

from imgen.data import scop
from imgen.errors import UserError

CAT, DOG = [10, 60, 60, 60], [110, 50, 80, 60]  # x, y, width, height


def coco(**changes):
    return {
        "images": [
            {"id": 7, "file_name": "a.jpg", "width": 200, "height": 160},
            {"id": 8, "file_name": "b.jpg", "width": 200, "height": 160},
        ],
        "categories": [{"id": 1, "name": "cat"}, {"id": 5, "name": "orange"}],
        "annotations": [
            {"image_id": 7, "category_id": 1, "bbox": CAT},
            {"image_id": 7, "category_id": 5, "bbox": DOG},
            {"image_id": 7, "category_id": 5, "bbox": [0, 0, 20, 20]},
            {"image_id": 8, "category_id": 1, "bbox": CAT},
        ],
    } | changes


def test_a_picture_with_one_clear_pair_gets_its_captions(tmp_path):
    (record,) = scop.curate(coco())
    assert record["file_name"] == "a.jpg"
    (pair,) = record["pairs"]
    assert pair["names"] == ("cat", "orange")
    assert pair["captions"] == [
        "a photo of a cat left of an orange",
        "a photo of an orange right of a cat",
    ]
    (tmp_path / "coco.json").write_text(json.dumps(coco()))
    counts = scop.curate_file(tmp_path / "coco.json", tmp_path / "pairs.jsonl")
    assert counts == {"images": 1, "pairs": 1}
    lines = [json.loads(line) for line in (tmp_path / "pairs.jsonl").read_text().splitlines()]
    assert scop.caption_choices(lines) == {"a.jpg": pair["captions"]}


def test_a_diagonal_is_told_both_ways():
    pair = scop.Pair(("cat", "dog"), (), tuple(scop.relations([0, 0, 40, 40], [50, 50, 40, 40])))
    assert pair.captions() == [
        "a photo of a cat left of and above a dog",
        "a photo of a cat above and left of a dog",
        "a photo of a dog right of and below a cat",
        "a photo of a dog below and right of a cat",
    ]


@pytest.mark.parametrize(
    ("change", "failing"),
    [
        ([10, 60, 60, 60], "overlap"),
        ([110, 50, 30, 30], "small_ok"),
        ([110, 50, 60, 22], "balance"),
    ],
)
def test_a_pair_that_is_not_clear_is_left_out(change, failing):
    found = scop.checks([CAT, change], [1, 2], 200, 160)
    assert not found[failing] and not found["all"]
    assert not scop.checks([CAT, DOG], [1, 1], 200, 160)["semantic"]
    assert scop.checks([CAT, DOG], [1, 2], 200, 160)["all"]
    assert not scop.checks([CAT, DOG], [1, 2], 2000, 160)["visual"]
    assert not scop.checks([CAT, np.add(DOG, [200, 0, 0, 0])], [1, 2], 400, 160)["clarity"]


def test_the_crop_holds_both_and_stays_inside():
    pair = scop.Pair(("cat", "dog"), (CAT, DOG), ())
    x0, y0, x1, y1 = scop.square(pair, 200, 160)
    assert (x0, y0, x1, y1) == (
        20,
        5,
        180,
        160,
    )  # no wider than the shorter side; cut at the bottom
    wide = scop.square(pair, 400, 400, 1.1)
    assert wide == (1, 0, 199, 184)


def test_a_long_caption_says_places_and_relations():
    told = scop.spatial_caption([CAT, DOG], ["cat", "dog"], 200, 160, np.random.default_rng(0))
    assert told == (
        "The picture shows a dog and a cat. The dog is on the right. The cat is on the left. "
        "The dog is to the right of the cat."
    )
    assert scop.spatial_caption([], [], 9, 9, np.random.default_rng(0)) == "an empty picture"


def test_annotations_of_another_kind_are_one_line(tmp_path):
    with pytest.raises(UserError, match="not COCO's: they lack 'categories'"):
        list(scop.curate({"images": []}))
    with pytest.raises(UserError, match="cannot read annotations"):
        scop.curate_file(tmp_path / "none.json", tmp_path / "out")
