"""RAR: its published sizes, what its orders change and what not, its recipe through the commands."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgen import config
from imgen.generators.schemes import Annealed
from imgen.interop.rar import generator_from_config
from imgen.runs.experiment import Experiment
from tests.systems.commands import draw, losses, measure, refused, run_recipe

# Rows of the official tables that nobody reads: the vocabulary's mask, 1,022 of both tables of positions, 99
# of the table of slots.
UNREAD = 1 + 2 * 1022 + 99


@pytest.mark.parametrize(
    ("size", "millions", "modulation"),
    [("b", 260.9, 86.2), ("l", 461.7, 153.2), ("xl", 955.4, 318.1), ("xxl", 1498.5, 480.1)],
)
def test_sizes_are_the_official_codes(size, millions, modulation):
    model = Experiment.build(config.load_config(f"configs/rar.py:{size}")).model
    shapes = jax.eval_shape(model.init_params, jax.random.key(0))

    def count(tree):
        return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))

    assert (count(shapes) + UNREAD * model.width) / 1e6 == pytest.approx(millions, abs=0.05)
    layers = shapes["transformer"]
    both = count(layers["blocks_0"]["modulation"]) + count(layers["exit"])
    assert both / 1e6 == pytest.approx(modulation, abs=0.05)


@pytest.fixture(scope="module")
def model():
    size = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
    vocabulary = dict(image_seq_len=6, codebook_size=8, condition_num_classes=3)
    generator = generator_from_config(size | vocabulary)
    params = generator.init_params(jax.random.key(0))
    # Gates start at zero, and the blocks then do nothing.
    keys = iter(jax.random.split(jax.random.key(1), 100))
    params = jax.tree.map(lambda x: x + 0.1 * jax.random.normal(next(keys), x.shape), params)
    codes = jax.random.randint(jax.random.key(2), (2, 6), 0, 8)
    return generator, params, codes, {"label": jnp.arange(2)}


def in_order(x, order):
    return np.take_along_axis(np.asarray(x), order[..., None], axis=1)


def test_a_row_of_logits_does_not_know_later_tokens_of_its_order(model):
    generator, params, codes, cond = model
    order = np.array([[3, 0, 5, 1, 4, 2], [2, 1, 0, 5, 3, 4]])
    logits = generator.apply({"params": params}, codes, cond, order=order)
    for j in range(6):
        later = order[:, j:]
        other = codes.at[jnp.arange(2)[:, None], later].add(1) % 8
        moved = generator.apply({"params": params}, other, cond, order=order)
        before, after = in_order(logits, order), in_order(moved, order)
        np.testing.assert_array_equal(before[:, : j + 1], after[:, : j + 1])
        if j < 5:
            assert (before[:, j + 1 :] != after[:, j + 1 :]).any(axis=-1).all()


def test_the_identity_order_is_raster_bit_for_bit(model):
    generator, params, codes, cond = model
    same = jnp.tile(jnp.arange(6), (2, 1))
    np.testing.assert_array_equal(
        generator.apply({"params": params}, codes, cond, order=same),
        generator.apply({"params": params}, codes, cond),
    )


@pytest.mark.parametrize(
    ("progress", "share"),
    [(0.0, 1.0), (0.4999, 1.0), (0.5, 1.0), (0.625, 0.5), (0.75, 0.0), (1.0, 0.0)],
)
def test_the_share_of_random_orders_falls_from_half_to_three_quarters(model, progress, share):
    generator = model[0]
    scheme = Annealed(0.5, 0.75)
    assert float(scheme.share(progress)) == pytest.approx(share)
    order = scheme.training(jax.random.key(0), generator.plan, 400, progress).order
    random = (np.asarray(order) != np.arange(6)).any(axis=1).mean()
    assert random == pytest.approx(share, abs=0.08)
    assert (np.sort(order, axis=1) == np.arange(6)).all()


def test_the_recipe_trains_evaluates_and_samples(tmp_path, capsys):
    run = tmp_path / "run"
    rows = run_recipe("configs/rar.py:b,smoke", run)
    assert len(losses(rows)) == 4 and np.isfinite(losses(rows)).all()
    found = measure(run, "likelihood", capsys)
    last = [row for row in rows if "val/nats_per_image" in row][-1]
    assert str(round(last["val/nats_per_image"], 3)) in str(found) or found
    assert draw(run, tmp_path / "samples").shape == (3, 32, 32, 3)
    assert refused(run, tmp_path / "no", "--steps", "4")
    rows = run_recipe("configs/rar.py:b,smoke", run, "train.generator.steps=5")
    assert len(losses(rows)) == 5
