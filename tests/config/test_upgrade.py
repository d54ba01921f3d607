"""Configs that were written when sampling settings stood in the model."""

import json

import pytest

from imgen.config import from_json
from imgen.config.upgrade import upgrade
from imgen.decoding import Filters, Guidance, Sampling, sampling_from


def old(generator, **stage):
    return {"seed": 0, "generator": generator, "train": {"generator": {"steps": 5, **stage}}}


XAR = dict(name="xar", entity="cell", steps=40, solver="heun", guidance_interval=[0.1, 0.9])
MASKED = dict(plan="masked", plan_options={"steps": 12})
CASES = {
    "xar": (
        old(XAR, guidance={"scale": 2.7}),
        dict(name="xar", entity="cell"),
        Sampling(Guidance(2.7, interval=(0.1, 0.9)), steps=40, solver="heun"),
    ),
    "randar": (
        old(dict(plan="random", plan_options={}, decoding={"steps": 88})),
        dict(plan="random", plan_options={}),
        Sampling(steps=88),
    ),
    "masked": (
        old(MASKED, filters={"top_k": 3}),
        dict(plan="masked", plan_options={}, scheme_options={"steps": 12}),
        Sampling(filters=Filters(top_k=3), steps=12),
    ),
    "masked, decoding otherwise": (
        old({**MASKED, "decoding": {"steps": 4}}),
        dict(plan="masked", plan_options={}, scheme_options={"steps": 12}),
        Sampling(steps=4),
    ),
    "flow head": (
        old(dict(plan="raster", head_options={"width": 8, "steps": 3, "solver": "heun", "shift": 2.0})),
        dict(plan="raster", head_options={"width": 8}),
        Sampling(solver_steps=3, solver="heun", shift=2.0),
    ),
    "LlamaGen's interval": (
        old(dict(plan="raster"), guidance={"scale": 2.0, "interval": 9}),
        dict(plan="raster"),
        Sampling(Guidance(2.0, interval=(-1, 9))),
    ),
    "no interval": (
        old(dict(plan="raster"), guidance={"scale": 2.0, "interval": -1}),
        dict(plan="raster"),
        Sampling(Guidance(2.0)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_settings_move_where_they_stand_today(name):
    config, generator, sampling = CASES[name]
    before = json.dumps(config)
    found = upgrade(config)
    assert json.dumps(config) == before
    assert found["generator"] == generator
    stage = found["train"]["generator"]
    assert stage["steps"] == 5
    assert sampling_from(stage) == sampling
    assert upgrade(found) == found
    read = from_json(before)
    assert sampling_from(read.train.generator) == sampling


def test_a_config_without_a_generator_stays():
    config = {"tokenizer": {"name": "vq"}, "train": {"tokenizer": {"steps": 3}}}
    assert upgrade(config) == config
