import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from imgen.data.scenes import RELATIONS, Ask, Noun, Thing, render, scene_of
from imgen.data.shapes import COLOUR_NAMES, SHAPE_NAMES
from imgen.errors import UserError
from imgen.evaluation.detectors.shapes_oracle import ShapesOracle
from imgen.evaluation.prompts import geneval, geneval_shapes

ORACLE = ShapesOracle()


def judged(asks, images):
    verdicts = [
        geneval_shapes.correct(ask, found, ORACLE.threshold, ORACLE.counting_threshold)
        for ask, found in zip(asks, ORACLE.detect(images), strict=True)
    ]
    return geneval_shapes.score(asks, verdicts)


def as_they_are(images, rng):
    return images


def noisy(images, rng):
    return np.clip(images + rng.normal(0, 20, images.shape), 0, 255).astype(np.uint8)


def blurred(images, rng):
    return gaussian_filter(images, (0, 1, 1, 0))


@pytest.mark.parametrize("held_out", [False, True])
@pytest.mark.parametrize("spoil", [as_they_are, noisy, blurred])
def test_pictures_of_what_was_asked_for_are_right(held_out, spoil):
    rng = np.random.default_rng(0)
    asks = geneval_shapes.prompts(held_out, per_task=20)
    images = np.stack([render(scene_of(ask, rng)) for ask in asks])
    scores = judged(asks, spoil(images, rng))
    assert min(scores.values()) >= 0.99, scores


def test_pictures_of_something_else_are_wrong():
    rng = np.random.default_rng(0)
    red_circle, blue_square = Noun(0, 0), Noun(1, 5)
    pairs = [
        (Ask("colors", (red_circle,)), Ask("colors", (Noun(0, 5),))),
        (Ask("single_object", (Noun(0),)), Ask("single_object", (Noun(5),))),
        (Ask("counting", (Noun(2, None, 3),)), Ask("counting", (Noun(2, None, 4),))),
        (Ask("counting", (Noun(2, None, 3),)), Ask("counting", (Noun(2, None, 2),))),
        (
            Ask("color_attr", (red_circle, blue_square)),
            Ask("color_attr", (Noun(0, 5), Noun(1, 0))),
        ),
        (
            Ask("position", (red_circle, blue_square), "above"),
            Ask("position", (red_circle, blue_square), "below"),
        ),
    ]
    asks = [ask for ask, _ in pairs]
    images = np.stack([render(scene_of(shown, rng)) for _, shown in pairs])
    found = ORACLE.detect(images)
    for ask, objects in zip(asks, found, strict=True):
        assert not geneval_shapes.correct(ask, objects, 0.5, 0.5), ask
    assert len(ORACLE.detect(np.full((1, 32, 32, 3), 128, np.uint8))[0]) == 0


def test_boxes_shapes_and_colours_are_those_that_were_drawn():
    things = [Thing(shape, colour, *at) for shape, colour, at in
              [(0, 2, (6, 6)), (3, 4, (20, 7)), (4, 7, (8, 24)), (5, 0, (25, 20))]]  # fmt: skip
    for size in (32, 64):
        scale = size // 32
        larger = [t._replace(x=t.x * scale, y=t.y * scale) for t in things]
        (found,) = ORACLE.detect(render(larger, size)[None])
        strong = found.scores > 0.9
        assert strong.sum() == len(found) == 4
        got = {
            (SHAPE_NAMES[s], color, *box)
            for s, color, box in zip(found.classes, found.colors, found.boxes, strict=True)
        }
        assert got == {
            (SHAPE_NAMES[t.shape], COLOUR_NAMES[t.colour],
             t.x - 5 * scale, t.y - 5 * scale, t.x + 5 * scale, t.y + 5 * scale)
            for t in larger
        }  # fmt: skip


def test_prompts_are_shared_out_evenly_in_genevals_form():
    asks = geneval_shapes.prompts(False, per_task=60)
    assert len(asks) == 360 and geneval_shapes.prompts(False) == asks
    texts = [geneval_shapes.metadata(ask)["prompt"] for ask in asks]
    assert all(texts[:60].count(text) == 10 for text in texts[:60])  # six shapes
    ask = Ask("position", (Noun(0), Noun(1)), "left of")
    assert geneval_shapes.metadata(ask) == {
        "tag": "position",
        "include": [
            {"class": "square", "count": 1},
            {"class": "circle", "count": 1, "position": ["left of", 0]},
        ],
        "prompt": "a circle left of a square",
    }
    counting = geneval_shapes.metadata(Ask("counting", (Noun(0, None, 2),)))
    assert counting["exclude"] == [{"class": "circle", "count": 3}]
    assert RELATIONS == geneval.RELATIONS and geneval_shapes.TASKS == geneval.TASKS
    scores = geneval_shapes.score(asks, [ask.task != "counting" for ask in asks])
    assert scores["counting"] == 0 and scores["overall"] == pytest.approx(5 / 6)


def test_pictures_of_another_form_are_refused():
    with pytest.raises(UserError, match="squares of a multiple of 32"):
        ORACLE.detect(np.zeros((1, 40, 40, 3), np.uint8))
