from itertools import combinations

import numpy as np
import pytest

from imgen.data import scenes
from imgen.data.scenes import RADIUS, TASKS, Ask, Noun, Scenes, Thing, caption
from imgen.data.shapes import COLOUR_NAMES, SHAPE_NAMES
from imgen.errors import UserError

R = round(32 * RADIUS)


def test_a_picture_is_a_function_of_its_index():
    one, two = Scenes("train", num=20), Scenes("train")
    for i in (0, 7, 19):
        np.testing.assert_array_equal(one[i]["image"], two[i]["image"])
        assert one[i]["caption"] == two[i]["caption"]
    assert one[0]["image"].shape == (32, 32, 3) and one[0]["image"].dtype == np.uint8
    assert any((Scenes("test")[i]["image"] != one[i]["image"]).any() for i in range(3))
    with pytest.raises(IndexError):
        one[20]
    for wrong in (dict(split="val"), dict(split="train", size=48), dict(split="train", num=0)):
        with pytest.raises(UserError):
            Scenes(**wrong)


def test_captions_are_true_and_in_few_words():
    words, source = set(), Scenes("train")
    for i in range(300):
        ask, things = source.scene(i)
        text = caption(ask)
        words |= set(text.split())
        assert len(text.split()) <= 8
        assert len(things) == sum(noun.count for noun in ask.nouns)
        for noun in ask.nouns:
            mine = [t for t in things if t.shape == noun.shape]
            assert len(mine) == noun.count
            assert noun.colour is None or {t.colour for t in mine} == {noun.colour}
        if ask.relation:
            assert ask.relation in scenes.relations(*things, R)
    assert len(words) <= 31
    ask = Ask("position", (Noun(3, 1), Noun(0)), "left of")
    assert caption(ask) == "an orange star left of a circle"
    assert caption(Ask("counting", (Noun(4, None, 3),))) == "three crosses"
    assert caption(Ask("counting", (Noun(2, 3, 2),))) == "two green triangles"


def test_shapes_keep_apart_and_inside():
    source = Scenes("test")
    for i in range(200):
        _, things = source.scene(i)
        for a, b in combinations(things, 2):
            assert max(abs(a.x - b.x), abs(a.y - b.y)) >= 2 * R + 2
        assert all(R <= at <= 32 - R for thing in things for at in thing[2:])


def test_what_is_held_out_is_never_shown():
    for split in ("train", "test"):
        source = Scenes(split)
        assert not any(scenes.is_held_out(source.scene(i)[1], R) for i in range(300))
    source = Scenes("held_out")
    for i in range(100):
        ask, things = source.scene(i)
        assert scenes.asks_held_out(ask) and scenes.is_held_out(things, R)


def test_each_shape_colour_number_and_relation_is_shown():
    seen, source = set(), Scenes("train")
    for i in range(1500):
        ask, things = source.scene(i)
        seen |= {(t.shape, t.colour) for t in things} | {ask.relation}
        seen |= {(SHAPE_NAMES[n.shape], n.count) for n in ask.nouns}
    kinds = {(s, c) for s in range(6) for c in range(8)}
    assert kinds - seen == scenes.HELD_KINDS
    assert set(scenes.RELATIONS) <= seen
    counts = {(name, n) for name in SHAPE_NAMES for n in (1, 2, 3, 4)}
    assert counts - seen == {(SHAPE_NAMES[s], n) for s, n in scenes.HELD_COUNTS}


def test_held_out_combinations_do_not_depend_on_the_order():
    for a in range(6):
        for b in range(6):
            for relation in scenes.RELATIONS:
                inverse = scenes.INVERSE[relation]
                assert scenes.held_relation(a, relation, b) == scenes.held_relation(b, inverse, a)
    things = [Thing(0, 0, 6, 6), Thing(1, 5, 20, 25)]
    assert scenes.is_held_out(things, R) == scenes.is_held_out(things[::-1], R)


def test_every_task_has_shown_asks_and_all_but_one_held_out_ones():
    for task in TASKS:
        held = [scenes.asks_held_out(ask) for ask in scenes.asks(task)]
        assert not all(held) and any(held) == (task != "single_object")


def test_a_larger_picture_is_the_same_scene_in_larger():
    source = Scenes("train", size=64)
    assert source[0]["image"].shape == (64, 64, 3)
    _, things = source.scene(0)
    assert all(10 <= at <= 54 for thing in things for at in thing[2:])
    assert 0 <= min(t.colour for t in things) < len(COLOUR_NAMES)
