"""Denoising heads on plans: causality, cached decoding, guidance, noise by sample, training."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgen.decoding import (
    Filters,
    Guidance,
    Sampling,
    check_sampling,
    decoding_params,
    generate,
)
from imgen.decoding.guidance import guidance_weights
from imgen.errors import UserError
from imgen.generators.arrays import Purpose, content_keys, fold, sample_keys
from imgen.generators.head import token_noise
from imgen.generators.orders import raster
from imgen.generators.plan import Kind
from imgen.parallel.mesh import make_mesh, specs
from imgen.training.generator_task import GeneratorTask
from tests.generators.test_generator import build

CHANNELS = 3
MLP = {"width": 16, "depth": 1}
FLOW = {"head": "flow", "head_options": MLP}
MING = {"head_options": {**MLP, "ffn": "swiglu", "features": 8}}
DIFFUSION = {"head": "diffusion", "head_options": {**MLP, "train_steps": 20}}
MODELS = {
    "raster": ((2, 3), DIFFUSION),
    "nar": ((3, 3), FLOW),
    "random": ((2, 3), MING),
    "token_shuffle": ((4, 4), {**FLOW, "shuffle_blocks": 0}),
}
SOLVERS = {
    "raster": dict(solver_steps=4),
    "nar": dict(solver_steps=3),
    "random": dict(solver_steps=2, solver="heun"),
    "token_shuffle": dict(solver_steps=3),
}


@functools.cache
def model(plan):
    """A generator of MODELS, parameters, one order for P + 1 samples, the jitted forward pass of so many."""
    grid, head = MODELS[plan]
    generator, params = build(plan, grid, channels=CHANNELS, depth=1, **head)
    positions, order = generator.plan.positions, None
    if plan == "random":
        order = np.random.default_rng(0).permutation(positions)
        order = jnp.tile(jnp.asarray(order), (positions + 1, 1))

    @jax.jit
    def forward(codes, null):
        cond = {"label": jnp.arange(positions + 1) % 3}
        return generator.apply({"params": params}, codes, cond, null, order)

    return generator, params, order, forward


@pytest.mark.parametrize("plan", MODELS)
def test_changing_a_latent_changes_nothing_decided_at_the_same_time_or_before(plan):
    generator, _, order, forward = model(plan)
    positions, each = generator.plan.positions, np.arange(generator.plan.positions)
    codes = np.random.default_rng(1).normal(size=generator.example_codes(1).shape)
    codes = np.repeat(codes.astype(np.float32), positions + 1, axis=0)
    changed = codes.copy()
    changed[each, each] += 1.0
    null = np.ones(positions + 1, bool)  # the same condition for all
    difference = np.asarray(forward(changed, null)) - np.asarray(forward(codes, null))
    moved = np.abs(difference[:-1]).reshape(positions, positions, -1).max(-1) > 1e-5
    decided, fed = generator.plan.decided_at, generator.plan.src[generator.plan.kind == Kind.TOKEN]
    if order is not None:
        decided, fed = decided[np.argsort(order[0])], np.asarray(order[0])[fed]
    assert not (moved & ~(decided[None, :] > decided[:, None])).any()
    assert moved[np.isin(each, fed)][:, decided == decided.max()].all()


@pytest.mark.parametrize("plan", MODELS)
def test_guided_cached_decoding_is_the_head_on_two_full_forward_passes(plan):
    generator, params, order, forward = model(plan)
    positions, key = generator.plan.positions, jax.random.key(0)
    batch = positions + 1
    latents, features = generate(
        generator, decoding_params(params), {"label": jnp.arange(batch) % 3}, key, order=order,
        sampling=Sampling(Guidance(2.0), Filters(temperature=0.9), **SOLVERS[plan]), segments=1,
        return_out=True,
    )  # fmt: skip
    assert latents.shape == (batch, *MODELS[plan][0], CHANNELS) and latents.dtype == jnp.float32
    codes = np.asarray(generator.to_codes(latents))
    given, null = (np.asarray(forward(codes, np.full(batch, n))) for n in (False, True))
    np.testing.assert_allclose(features, given, atol=2e-4)
    assert np.abs(given - null).max() > 1e-2

    if order is not None:  # decoding counts along the order
        codes, given, null = (x[:, np.asarray(order[0])] for x in (codes, given, null))
    head = generator.head.inner if plan == "token_shuffle" else generator.head
    mlp, how = head.network(), SOLVERS[plan]
    solver = head.solver(how.get("solver"), how["solver_steps"], None)

    @jax.jit
    def draw():
        keys = fold(sample_keys(key, jnp.arange(batch)), Purpose.DRAWS)
        noise = token_noise(keys, jnp.arange(positions), generator.head.code_shape)

        def run(method, *args):
            return mlp.apply({"params": params["denoiser"]}, *args, method=method)

        return head.sample(run, given, null, 2.0, noise, solver, 0.9)

    drawn = np.asarray(draw())
    np.testing.assert_allclose(codes, drawn, atol=1e-3 * np.abs(drawn).max())


def test_an_image_depends_on_its_number_not_on_its_batch_or_the_compilation():
    generator, params, *_ = model("random")
    weights, labels = decoding_params(params), np.arange(6) % 3

    def run(ids, segments):
        cond, ids = {"label": labels[ids]}, np.array(ids)
        return np.asarray(
            generate(
                generator,
                weights,
                cond,
                jax.random.key(5),
                sample_ids=ids,
                segments=segments,
                sampling=Sampling(**SOLVERS["random"]),
            )  # fmt: skip
        )

    together = run(range(6), 1)
    np.testing.assert_allclose(together[4:], run([4, 5], 3), atol=1e-3 * np.abs(together).max())
    assert (np.std(together.reshape(6, -1), axis=0) > 0.1).all()  # every number is an image's own


def test_guidance_of_one_is_no_guidance_bit_for_bit():
    generator, params, *_ = model("raster")
    cond, weights = {"label": jnp.array([0, 1])}, decoding_params(params)
    plain, linear = (
        generate(
            generator,
            weights,
            cond,
            jax.random.key(0),
            sampling=Sampling(guidance, **SOLVERS["raster"]),
        )  # fmt: skip
        for guidance in (Guidance(1.0), Guidance(1.0, schedule="linear"))
    )
    np.testing.assert_array_equal(plain, linear)


def test_mars_linear_guidance_is_linear_after_but_for_the_last_token():
    """Official: 1 + (w - 1)(L - m) / L with m left to decide after the step, but never less than 1."""
    length, scale = 16, 2.9
    left = np.maximum(1, length - 1 - np.arange(length))
    official = 1 + (scale - 1) * (length - left) / length
    ours = guidance_weights(Guidance(scale, "linear_after"), raster((length,)))
    np.testing.assert_allclose(ours[:-1], official[:-1], rtol=1e-6)
    assert ours[-1] - official[-1] == pytest.approx((scale - 1) / length, rel=1e-5)


def test_latents_that_differ_are_evaluated_in_different_random_orders():
    """Latents of all sizes: the whole numbers in most of them are 0."""
    latents = 0.4 * np.random.default_rng(0).normal(size=(6, 16, CHANNELS)).astype(np.float32)
    keys = jax.random.key_data(content_keys(jnp.asarray(latents)))
    assert len(np.unique(keys, axis=0)) == 6
    again = jax.random.key_data(content_keys(jnp.asarray(latents[2:3])))
    np.testing.assert_array_equal(again[0], keys[2])


@pytest.mark.parametrize("plan", ["nar", "raster"])
def test_training_lowers_the_loss_which_evaluation_draws_for_each_image(plan):
    generator, *_ = model(plan)
    task = GeneratorTask(generator, None, None, {"learning_rate": 3e-3}, 60, condition_dropout=0.0)
    rng, label = np.random.default_rng(0), np.arange(12) % 3
    spread = rng.normal(size=(12, *MODELS[plan][0], CHANNELS)).astype(np.float32)
    latents = (label - 1.0)[:, None, None, None].astype(np.float32) + 0.1 * spread
    batch = {"codes": latents, "label": label, "mask": np.eye(12, dtype=np.float32)[0]}
    state = jax.jit(task.init)(jax.random.key(0), batch)
    assess = jax.jit(task.eval_step)
    first = float(assess(state, batch)["nll"])  # of the first image alone
    rolled = {name: np.roll(value, 5, axis=0) for name, value in batch.items()}
    assert float(assess(state, rolled)["nll"]) == pytest.approx(first, rel=1e-4)
    batch["mask"] = np.ones(12, np.float32)
    before = task.summarize(assess(state, batch))
    step, losses = jax.jit(task.train_step), []
    for i in range(40):
        state, metrics = step(state, batch, jax.random.key(i))
        losses.append(float(metrics["loss"]))
    after = task.summarize(assess(state, batch))
    assert "nats_per_image" not in {**metrics, **after}  # no likelihood
    assert after["loss"] < 0.8 * before["loss"]
    if plan == "nar":  # the flow's is E (eps - x0)^2 at first, a mean over channels
        assert losses[0] == pytest.approx(1 + np.mean(latents**2), rel=0.15)


def test_the_mlp_is_cut_over_both_axes_and_not_decayed():
    for plan in ("random", "raster"):
        generator, params, *_ = model(plan)
        task = GeneratorTask(generator, None, None, {"learning_rate": 1.0, "weight_decay": 0.1}, 1)
        found = specs({"params": params}, task.sharding_rules, make_mesh(2, 2, 2))
        axes = {path: set(spec) - {None} for path, (spec, _) in found.items()}
        mlp = {path: names for path, names in axes.items() if path.startswith("params/denoiser/")}
        assert {"fsdp", "tensor"} in mlp.values()
        notes = task.parameter_notes(params)
        assert all(notes[path.removeprefix("params/")] == "no decay" for path in mlp)


def test_filters_of_codes_are_refused():
    generator, *_ = model("nar")
    check_sampling(generator, Sampling(Guidance(2.0), Filters(temperature=0.5)))
    for filters in (Filters(top_k=3), Filters(top_p=0.5)):
        with pytest.raises(UserError, match="continuous latents have none"):
            check_sampling(generator, Sampling(filters=filters))
