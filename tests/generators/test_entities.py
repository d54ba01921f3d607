"""Entities: which positions belong together, and in which order."""

import numpy as np
import pytest

from imgen.errors import UserError
from imgen.generators.entities import ENTITIES, cell, image, scale, subsample, token

KINDS = [
    ("token", {}, 64, 1),
    ("cell", {"side": 4}, 4, 16),
    ("cell", {"side": 2}, 16, 4),
    ("subsample", {"stride": 2}, 4, 16),
    ("subsample", {"stride": 4}, 16, 4),
    ("image", {}, 1, 64),
]


@pytest.mark.parametrize(("kind", "options", "count", "size"), KINDS)
def test_an_entity_is_a_permutation_and_a_count(kind, options, count, size):
    entities = ENTITIES[kind]((8, 8), **options)
    assert entities.sizes == (size,) * count
    assert sorted(entities.order) == list(range(64))
    latents = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32)
    tokens = entities.tokens(latents)
    rows, columns = entities.coordinates.astype(int).T
    np.testing.assert_array_equal(tokens, latents[:, rows, columns])
    np.testing.assert_array_equal(entities.latents(tokens), latents)


def test_members_of_cells_and_subsamples():
    # Entity 1 of each, by hand: the upper right block, and the columns between those of entity 0.
    assert cell((4, 4), side=2).order[4:8] == (2, 3, 6, 7)
    assert subsample((4, 4), stride=2).order[4:8] == (1, 3, 9, 11)
    assert token((2, 2)).order == image((2, 2)).order == (0, 1, 2, 3)


def test_grids_of_other_dimensions():
    assert cell((2, 4, 4), side=2).sizes == (8,) * 4
    assert cell((6,), side=3).order == tuple(range(6))
    assert subsample((6,), stride=3).order == (0, 3, 1, 4, 2, 5)


def test_scales_are_means_over_areas_and_end_with_the_grid():
    entities = scale((6, 4), shares=(4, 2, 1))
    assert entities.scales == ((2, 1), (3, 2), (6, 4))
    assert entities.sizes == (2, 6, 24)
    latents = np.random.default_rng(0).normal(size=(1, 6, 4, 2)).astype(np.float32)
    tokens = np.asarray(entities.tokens(latents))
    np.testing.assert_allclose(tokens[0, 0], latents[0, :3].mean((0, 1)), atol=1e-6)
    np.testing.assert_allclose(tokens[0, 2], latents[0, :2, :2].mean((0, 1)), atol=1e-6)
    np.testing.assert_allclose(entities.latents(tokens), latents, atol=1e-6)
    # Centres of the coarse cells lie in the middle of their areas.
    np.testing.assert_allclose(entities.coordinates[:2], [[1, 1.5], [4, 1.5]])
    np.testing.assert_array_equal(entities.of_token, [0] * 2 + [1] * 6 + [2] * 24)


def test_scales_that_divide_nothing_evenly_still_are_means():
    tokens = scale((5, 5), shares=(2, 1)).tokens(np.ones((1, 5, 5, 1), np.float32))
    np.testing.assert_allclose(tokens, 1, rtol=1e-6)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: cell((8, 8), side=3), "side"),
        (lambda: subsample((8, 6), stride=4), "stride"),
        (lambda: scale((8, 8), shares=(2, 4, 1)), "fall"),
        (lambda: scale((2, 2), shares=(8, 4, 2, 1)), "repeat"),
    ],
)
def test_what_does_not_fit_is_refused(build, message):
    with pytest.raises(UserError, match=message):
        build()
