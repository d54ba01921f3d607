"""MAR: its published sizes, what masked latents tell, how many are masked, its recipe and the commands."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgen import config
from imgen.decoding import network_calls
from imgen.decoding.masked import MAR, steps_of
from imgen.decoding.sampling import Sampling
from imgen.runs.experiment import Experiment
from tests.systems.commands import draw, losses, measure, refused, run_recipe


@pytest.mark.parametrize(
    ("size", "millions", "of_head"),
    [("b", 207.9, 35.8), ("l", 478.3, 72.2), ("h", 942.4, 151.2)],
)
def test_sizes_are_the_official_codes(size, millions, of_head):
    model = Experiment.build(config.load_config(f"configs/mar.py:{size}")).model
    shapes = jax.eval_shape(model.init_params, jax.random.key(0))

    def count(tree):
        return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))

    unread = model.plan.num_cond * model.width  # rows of the last table of positions
    assert (count(shapes) - unread) / 1e6 == pytest.approx(millions, abs=0.05)
    assert count(shapes["denoiser"]) / 1e6 == pytest.approx(of_head, abs=0.06)


@pytest.fixture(scope="module")
def model():
    generator = Experiment.build(config.load_config("configs/mar.py:b,smoke")).model
    return generator, jax.jit(generator.init_params)(jax.random.key(0))


def test_masked_latents_do_not_leak(model):
    generator, params = model
    codes = jax.random.normal(jax.random.key(1), (2, *generator.example_codes(1).shape[1:]))
    hidden = jax.random.bernoulli(jax.random.key(2), 0.7, codes.shape[:2])
    cond = {"label": jnp.arange(2)}

    @jax.jit
    def features(codes):
        return generator.apply({"params": params}, codes, cond, None, None, hidden)

    others = jnp.where(hidden[..., None], 100 + codes, codes)
    np.testing.assert_array_equal(features(codes), features(others))
    shown = jnp.where(hidden[..., None], codes, 1 + codes)
    assert (np.abs(features(codes) - features(shown)).max(axis=-1) > 1e-6).all()


def test_a_batch_masks_one_number_in_the_published_range(model):
    generator, _ = model
    keys = jax.random.split(jax.random.key(0), 300)
    teacher = jax.vmap(lambda key: generator.scheme.training(key, generator.plan, 3, 0.0))(keys)
    np.testing.assert_array_equal(teacher.weight, teacher.hidden)
    counts = np.asarray(teacher.hidden).sum(axis=2)  # [300, 3]
    assert (counts == counts[:, :1]).all()
    shares = counts[:, 0] / generator.plan.positions
    assert shares.min() >= 0.7 and shares.max() == 1.0
    # Half a normal of deviation 0.25, cut at 1.2 deviations: mean 1 - 0.25 * 0.534.
    assert shares.mean() == pytest.approx(0.867, abs=0.02)


def test_guidance_goes_by_what_is_decided_afterwards():
    model = Experiment.build(config.load_config("configs/mar.py:b"))
    table = steps_of(256, MAR, model.sampling)
    assert table.weight[0] == pytest.approx(1 + 1.9 / 256)
    assert table.weight[-1] == pytest.approx(1 + 1.9 * 255 / 256)
    assert network_calls(model.model, Sampling(steps=64)) == 64


def test_the_recipe_trains_evaluates_samples_and_resumes(tmp_path, capsys):
    run = tmp_path / "run"
    rows = run_recipe("configs/mar.py:b,smoke", run)
    assert len(losses(rows)) == 4 and np.isfinite(losses(rows)).all()
    assert np.isfinite(measure(run, "error", capsys)["error"]["loss"])
    assert draw(run, tmp_path / "samples").shape == (3, 32, 32, 3)
    fewer = draw(run, tmp_path / "fewer", "--steps", "2", "--solver_steps", "2")
    assert fewer.shape == (3, 32, 32, 3)
    for flags in (
        ["--solver", "heun"],
        ["--top_k", "3"],
        ["--steps", "9999"],
        ["--method", "titok"],
    ):
        assert refused(run, tmp_path / "no", *flags), flags
    rows = run_recipe("configs/mar.py:b,smoke", run, "train.generator.steps=5")
    assert len(losses(rows)) == 5
