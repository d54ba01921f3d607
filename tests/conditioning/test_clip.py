"""CLIP's sizes, and who sees whom in its text tower."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgen.conditioning.clip import abstract_params, preset, size_name
from imgen.errors import UserError
from tests.conditioning.tiny_clip import random_params, tiny_clip


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("clip_b32", 151_277_313),
        ("clip_b16", 149_620_737),
        ("clip_l14", 427_616_513),
        ("clip_l14_336", 427_944_193),
    ],
)
def test_presets_have_the_parameters_of_the_released_models(name, parameters):
    leaves = jax.tree.leaves(abstract_params(preset(name)))
    assert sum(math.prod(leaf.shape) for leaf in leaves) == parameters
    assert size_name(preset(name, "gelu", end=49407)) == name


def test_a_size_that_was_not_published_has_no_name():
    assert size_name(tiny_clip()) is None
    with pytest.raises(UserError, match="did you mean 'clip_l14'"):
        preset("clip_l41")


def test_the_hidden_width_is_exact_for_any_width():
    for width in range(1, 200):
        for hidden in range(1, 5 * width, 7):
            assert int((hidden + 0.5) / width * width) == hidden


@pytest.fixture(scope="module")
def text():
    model = tiny_clip().text
    params = random_params(tiny_clip())["text"]
    apply = jax.jit(lambda ids, valid=None: model.apply({"params": params}, ids, valid))
    return model, params, apply


def test_a_later_token_changes_no_earlier_one(text):
    apply = text[2]
    ids = jnp.array([[3, 5, 7, 9, 11, 13, 15, 17]])
    before, _ = apply(ids)
    after, _ = apply(ids.at[0, 4].set(2))
    np.testing.assert_array_equal(before[:, :4], after[:, :4])
    assert np.abs(before[:, 4:] - after[:, 4:]).min(-1).max() > 1e-4


def test_a_text_is_pooled_at_its_end_whatever_pads_it(text):
    model, params, apply = text
    zeros, ends = jnp.array([[18, 4, 19, 0, 0]]), jnp.array([[18, 4, 19, 19, 19]])
    tokens, pooled = apply(zeros)
    np.testing.assert_allclose(pooled, tokens[:, 2], rtol=1e-5, atol=1e-6)  # fused differently
    np.testing.assert_array_equal(pooled, apply(ends)[1])
    first = model.clone(end=4).apply({"params": params}, zeros)  # not the largest id
    np.testing.assert_allclose(first[1], tokens[:, 1], rtol=1e-5, atol=1e-6)


def test_padding_is_seen_by_padding_only(text):
    apply = text[2]
    ids = jnp.array([[18, 4, 19, 19, 19]])
    seen, hidden = (apply(ids, valid)[0] for valid in (ids > 0, jnp.arange(5)[None] < 3))
    np.testing.assert_allclose(seen[:, :3], hidden[:, :3], rtol=1e-5, atol=1e-6)
    assert np.abs(seen[:, 3:] - hidden[:, 3:]).max() > 1e-4


def test_other_sizes_of_images_and_texts_are_refused(text):
    model, params, _ = text
    with pytest.raises(UserError, match="up to 8 tokens, not 9"):
        model.apply({"params": params}, jnp.zeros((1, 9), jnp.int32))
    clip = tiny_clip()
    with pytest.raises(UserError, match=r"images \[8, 8, 3\], not \[12, 12, 3\]"):
        params = {"params": random_params(clip)}
        clip.apply(params, jnp.zeros((1, 12, 12, 3)), method="encode_image")
