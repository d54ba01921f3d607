"""MaskGIT and TiTok's generators: sizes, masks and losses in training, the recipes through the commands."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgen import config
from imgen.decoding.masked import TITOK, steps_of
from imgen.generators.code_heads import CategoricalHead
from imgen.runs.experiment import Experiment
from tests.systems.commands import draw, losses, measure, refused, run_recipe


def build(name: str) -> Experiment:
    return Experiment.build(config.load_config(f"configs/maskgit.py:{name}"))


def test_maskgit_has_the_official_size():
    model = build("maskgit_256").model
    shapes = jax.eval_shape(model.init_params, jax.random.key(0))
    ours = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))
    # Official: no row for "no class", a bias also for each class and the mask.
    assert (ours - model.width + 1001) / 1e6 == pytest.approx(172.5, abs=0.05)


@pytest.mark.parametrize("name", ["maskgit_256", "titok_b64"])
def test_how_many_codes_training_hides(name):
    """MaskGIT: cos(pi r / 2) of them, at least half; TiTok: arccos(r) / (pi / 2)."""
    model = build(name).model
    positions = model.plan.positions
    teacher = model.scheme.training(jax.random.key(0), model.plan, 2000, 0.0)
    hidden = np.asarray(teacher.hidden).sum(axis=1)
    if name == "maskgit_256":
        assert hidden.min() == positions / 2 and hidden.max() == positions
        # The mean of max(cos(pi r / 2), 1/2) over r in [0, 1]; the cosine is 1/2 at r = 2/3.
        mean = 2 / np.pi * np.sin(np.pi / 3) + 1 / 6
        assert hidden.mean() / positions == pytest.approx(mean, abs=0.01)
        np.testing.assert_allclose(np.asarray(teacher.weight).sum(axis=1), 1, rtol=1e-5)
    else:
        assert hidden.min() >= 1
        assert hidden.mean() / positions == pytest.approx(2 / np.pi, abs=0.01)
        shown = np.asarray(teacher.weight)[~np.asarray(teacher.hidden)]
        np.testing.assert_allclose(shown, 0.1)


def test_label_smoothing_is_the_cross_entropy_with_the_smoothed_target():
    head = CategoricalHead(hidden=4, size=5, label_smoothing=0.2)
    logits = jax.random.normal(jax.random.key(0), (2, 3, 5))
    codes = jnp.asarray([[0, 4, 2], [1, 1, 3]])
    target = 0.8 * jax.nn.one_hot(codes, 5) + 0.2 / 5
    expected = -jnp.sum(target * jax.nn.log_softmax(logits), axis=-1)
    np.testing.assert_allclose(head.loss(logits, codes), expected, rtol=1e-5)
    np.testing.assert_allclose(  # evaluation is of nats
        head.nll(logits, codes), -jnp.sum(jax.nn.one_hot(codes, 5) * jax.nn.log_softmax(logits), -1),
        rtol=1e-5,
    )  # fmt: skip


def test_titoks_guidance_in_our_form():
    """c + s (c - u) with s = w k / K, 0 at first."""
    sampling = build("titok_b64").sampling
    table = steps_of(64, TITOK, sampling)
    np.testing.assert_allclose(table.weight, 1 + 3.0 * np.arange(8) / 8, rtol=1e-6)
    assert table.spread[-1] == 0  # the last step is greedy


@pytest.mark.parametrize("name", ["maskgit_256", "titok_b64", "titok_s128"])
def test_masked_codes_do_not_leak(name):
    model = build(f"{name},smoke").model
    params = jax.jit(model.init_params)(jax.random.key(0))
    codes = jax.random.randint(jax.random.key(1), (2, model.plan.positions), 0, 64)
    hidden = jax.random.bernoulli(jax.random.key(2), 0.5, codes.shape)

    @jax.jit
    def logits(codes):
        cond = {"label": jnp.arange(2)}
        return model.apply({"params": params}, codes, cond, None, None, hidden)

    np.testing.assert_array_equal(logits(codes), logits(jnp.where(hidden, 0, codes)))
    assert (logits(codes) != logits(jnp.where(hidden, codes, 0))).any(axis=-1).all()


def test_the_recipe_trains_evaluates_samples_and_resumes(tmp_path, capsys):
    run, recipe = tmp_path / "run", "configs/maskgit.py:titok_s128,smoke"
    rows = run_recipe(recipe, run)
    assert len(losses(rows)) == 4 and np.isfinite(losses(rows)).all()
    measure(run, "likelihood", capsys)
    assert draw(run, tmp_path / "samples").shape == (3, 32, 32, 3)
    fewer = draw(run, tmp_path / "fewer", "--steps", "2", "--method", "maskbit")
    assert fewer.shape == (3, 32, 32, 3)
    for flags in (["--steps", "9999"], ["--method", "cached"], ["--solver", "heun"]):
        assert refused(run, tmp_path / "no", *flags), flags
    assert len(losses(run_recipe(recipe, run, "train.generator.steps=5"))) == 5
