"""What a generator is trained on and evaluated by, for every kind of plan and head."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgen.decoding import Filters, Sampling
from imgen.errors import UserError
from imgen.generators.arrays import Purpose, content_keys, fold
from imgen.generators.schemes import likelihood_mask
from imgen.training.generator_task import GeneratorTask
from tests.generators.test_generator import HEADS, VOCAB, build, is_bits, random_codes

KINDS = [
    ("raster", {}, HEADS[0]),
    ("nar", {}, HEADS[1]),
    ("random", {}, HEADS[2]),
    ("token_shuffle", {}, HEADS[0]),
    ("masked", {}, HEADS[1]),
]


def make_task(plan, options, head, **more):
    generator, params = build(plan, (4, 4), options, **head)
    task = GeneratorTask(generator, None, None, {"learning_rate": 1e-3}, 10, **more)
    codes = random_codes(generator, 8)
    latents = generator.to_latents(codes)
    batch = {"codes": latents, "label": jnp.arange(8) % 3, "mask": jnp.ones(8).at[-1].set(0)}
    return task, start(task, params, batch), batch, codes


def start(task, params, batch):
    """The state at step 0 with these parameters; what else is in it starts at zero."""
    shapes = jax.eval_shape(task.init, jax.random.key(0), batch)
    return {**jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes), "params": params}


@pytest.mark.parametrize("plan, options, head", KINDS)
def test_evaluation_is_the_sum_over_what_is_decided(plan, options, head):
    """Nats of an image = sum over its codes, their sub-codes, bits and windows; padding doesn't count."""
    task, state, batch, codes = make_task(plan, options, head)
    generator, more, weight, counts = task.generator, {}, 1.0, 1.0
    if plan == "random":
        more["order"] = generator.scheme.decoding(content_keys(codes), generator.plan)
    if plan == "masked":
        counts, weight = likelihood_mask(fold(content_keys(codes), Purpose.MASK), 16)
        more["hidden"] = counts
    cond = {"label": batch["label"]}
    logits = jax.jit(generator.apply)({"params": state["params"]}, codes, cond, **more)
    if is_bits(generator):
        log_p = jnp.where(codes == 1, jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits))
    else:
        picked = jnp.take_along_axis(jax.nn.log_softmax(logits), codes[..., None], axis=-1)
        log_p = picked[..., 0]
    by_position = log_p.reshape(8, generator.plan.positions, -1).sum(axis=2)
    nats = -(by_position * counts).sum(axis=1) * weight
    variables = codes[0].size
    summary = task.summarize(jax.jit(task.eval_step)(state, batch))
    assert summary["nats_per_image"] == pytest.approx(float(nats[:-1].mean()), rel=1e-4)
    assert summary["loss"] == pytest.approx(summary["nats_per_image"] / variables)


@pytest.mark.parametrize("plan, options, head", KINDS)
def test_the_loss_is_the_mean_over_what_was_hidden_and_every_step_draws_anew(plan, options, head):
    task, state, batch, codes = make_task(plan, options, head, condition_dropout=0.0)
    step = jax.jit(task.train_step)
    losses = [float(step(state, batch, jax.random.key(n))[1]["loss"]) for n in range(3)]
    drawn = plan in ("random", "masked")
    assert (len(set(losses)) == 3) == drawn
    null = jnp.zeros(8, bool)
    key = jax.random.fold_in(jax.random.key(0), 2)
    loss = jax.jit(functools.partial(task.generator.apply, method="loss"))
    nll, weight, extra = loss(
        {"params": state["params"]}, codes, {"label": batch["label"]}, null, key
    )
    assert set(np.unique(weight)) == ({0.0, 1.0} if plan == "masked" else {1.0})
    by_hand = float((nll * weight).sum() / weight.sum()) / task.generator.variables_per_position
    assert losses[0] == pytest.approx(by_hand, rel=1e-5)
    metrics = step(state, batch, jax.random.key(0))[1]
    assert ("nats_per_image" in metrics) == (plan != "masked")


def test_dropped_conditions_reach_the_model_and_the_z_loss_the_loss():
    task, state, batch, _ = make_task(*KINDS[0], condition_dropout=1.0)
    other = {**batch, "label": (batch["label"] + 1) % 3}
    step, key = jax.jit(task.train_step), jax.random.key(0)
    assert step(state, batch, key)[1]["loss"] == step(state, other, key)[1]["loss"]
    plain, _, _, _ = make_task(*KINDS[0], condition_dropout=0.0)
    step = jax.jit(plain.train_step)
    assert step(state, batch, key)[1]["loss"] != step(state, other, key)[1]["loss"]
    heavier, _, _, _ = make_task(*KINDS[0], condition_dropout=0.0, z_loss=0.5)
    difference = (
        jax.jit(heavier.train_step)(state, batch, key)[1]["loss"]
        - step(state, batch, key)[1]["loss"]
    )
    logits = jax.jit(plain.generator.apply)(
        {"params": state["params"]}, batch["codes"].reshape(8, 16), {"label": batch["label"]}
    )
    assert logits.shape[-1] == VOCAB
    z = jnp.mean(jax.nn.logsumexp(logits, axis=-1) ** 2)
    assert float(difference) == pytest.approx(0.5 * float(z), rel=1e-4)


def test_settings_without_use_are_refused_before_training():
    generator, _ = build("raster", (4,), {}, **HEADS[2])
    with pytest.raises(UserError, match="temperature only"):
        GeneratorTask(
            generator, None, None, {"learning_rate": 1.0}, 1,
            sampling=Sampling(filters=Filters(top_k=3)),
        )  # fmt: skip


def test_microbatches_of_a_masked_model_weigh_what_they_hide():
    """The loss and its gradient are sums over the whole batch by the sum of its weights."""
    generator, params = build("masked", (4, 4), depth=1)
    codes = random_codes(generator, 8)
    batch = {"codes": codes, "label": jnp.arange(8) % 3}

    def mean(params, rng, parts):
        """By hand: each part draws its masks from its own key."""
        total = weights = 0.0
        for m in range(parts):
            part = jax.tree.map(lambda x, m=m: x[m::parts], batch)
            key = jax.random.fold_in(jax.random.fold_in(rng, m), 2)
            found = generator.apply(
                {"params": params}, part["codes"], {"label": part["label"]}, jnp.zeros(8 // parts, bool),
                key, 0.0, method="loss",
            )  # fmt: skip
            total += jnp.sum(found.per_position * found.weight)
            weights += jnp.sum(found.weight)
        return total / weights

    task = GeneratorTask(
        generator, None, None, {"learning_rate": 1e-3}, 10, condition_dropout=0.0, microbatches=4
    )
    state = start(task, params, batch)
    rng = jax.random.key(5)
    _, metrics = jax.jit(task.train_step)(
        state, {**batch, "codes": generator.to_latents(codes)}, rng
    )
    loss, gradient = jax.jit(jax.value_and_grad(lambda p: mean(p, rng, 4)))(params)
    assert float(metrics["loss"]) == pytest.approx(float(loss), rel=1e-5)
    norm = jnp.sqrt(sum(jnp.sum(g**2) for g in jax.tree.leaves(gradient)))
    assert float(metrics["grad_norm"]) == pytest.approx(float(norm), rel=1e-4)
