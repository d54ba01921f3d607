"""Instella's bit-flip diffusion, from training to samples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgen.decoding import Filters, Guidance, Sampling, draw_latents
from imgen.errors import UserError
from imgen.generators import make_generator
from imgen.latents import LatentSpec
from imgen.training.generator_task import GeneratorTask

SPEC = LatentSpec("bits", (4,), 6)
TEXT = {"name": "layer_text", "layers": 1, "context_slots": 2, "text_width": 4}


def make_model(**arguments):
    return make_generator(
        SPEC, plan="bit_diffusion", plan_options={}, conditioning=TEXT, width=32,
        **{"depth": 1, "heads": 2, "hidden": 32, **arguments},
    )  # fmt: skip


def two_texts(repeat: int = 1) -> dict:
    text = np.zeros((2, 1, 2, 4), np.float32)
    text[0], text[1] = 1.0, -1.0
    return {"text": np.tile(text, (repeat, 1, 1, 1)), "text_mask": np.ones((2 * repeat, 2), int)}


@pytest.fixture(scope="module")
def trained():
    """A model that has learnt a code by heart for each of two texts, and those codes."""
    codes = jax.random.bernoulli(jax.random.key(1), 0.5, (2, 4, 6)).astype(jnp.int32)
    task = GeneratorTask(make_model(), None, None, {"learning_rate": 1e-2}, 400)
    batch = {"codes": np.tile(codes, (8, 1, 1)), **two_texts(8)}
    state = jax.jit(task.init)(jax.random.key(0), batch)
    step = jax.jit(task.train_step)
    losses = []
    for number in range(400):
        state, metrics = step(state, batch, jax.random.fold_in(jax.random.key(2), number))
        losses.append(float(metrics["loss"]))
    assert "nats_per_image" not in metrics  # it is no likelihood
    assert losses[0] > 0.5 and np.mean(losses[-20:]) < 0.1
    return task, state, codes


def test_training_learns_and_evaluation_repeats_itself(trained):
    task, state, codes = trained
    batch = {"codes": codes, **two_texts(), "mask": np.ones(2)}
    sums = [jax.jit(task.eval_step)(state, batch) for _ in range(2)]
    assert sums[0]["nll"] == sums[1]["nll"]
    summary = task.summarize(sums[0])
    assert summary.keys() == {"loss"} and summary["loss"] < 0.15


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_samples_are_the_codes_of_their_texts(trained, scale):
    task, state, codes = trained
    drawn = draw_latents(
        task.generator, state["params"], two_texts(4), jax.random.key(0), jnp.arange(8),
        Sampling(Guidance(scale)),
    )  # fmt: skip
    assert drawn.shape == (8, 4, 6)
    assert np.mean(drawn == jnp.tile(codes, (4, 1, 1))) > 0.97


def test_a_sample_is_its_number_s_whatever_the_batch(trained):
    task, state, _ = trained

    def draw(ids):
        cond = {k: v[jnp.asarray(ids) % 2] for k, v in two_texts().items()}
        return draw_latents(
            task.generator, state["params"], cond, jax.random.key(3), jnp.asarray(ids)
        )

    np.testing.assert_array_equal(draw([0, 1, 2, 3])[2:], draw([2, 3]))


def test_what_does_not_fit_is_refused(trained):
    task, state, _ = trained
    args = task.generator, state["params"], two_texts(), jax.random.key(0), jnp.arange(2)
    with pytest.raises(UserError, match="guidance has no schedule"):
        draw_latents(*args, Sampling(Guidance(2.0, schedule="linear")))
    with pytest.raises(UserError, match="temperature only"):
        draw_latents(*args, Sampling(filters=Filters(top_k=3)))
    for spec, conditioning in (
        (LatentSpec("index", (4,), 6), TEXT),
        (SPEC, {"name": "class", "num_classes": 2}),
    ):
        with pytest.raises(UserError, match="needs bits and a text"):
            make_generator(spec, plan="bit_diffusion", plan_options={}, conditioning=conditioning,
                           width=32, depth=1, heads=2, hidden=32)  # fmt: skip
