"""xAR: who sees whom, and that sampling with a cache is sampling without one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgen.conditioning import ClassLabels
from imgen.decoding import (
    Filters,
    Guidance,
    Sampling,
    check_sampling,
    entity_flow,
    network_calls,
)
from imgen.diffusion import flow
from imgen.errors import UserError
from imgen.generators import ENTITIES, make_xar
from imgen.generators.entities import Entities
from imgen.generators.xar import XAR, evaluation_times, time_index
from imgen.latents import LatentSpec

GRID, CHANNELS, WIDTH = (4, 4), 3, 24
KINDS = {
    "token": {},
    "cell": {"side": 2},
    "subsample": {"stride": 2},
    "scale": {"shares": (4, 2, 1)},
    "image": {},
}
COND = {"label": jnp.array([0, 2])}


@functools.cache
def build(kind, **arguments):
    arguments = {"dropout": 0.0, **arguments}
    model = XAR(
        ENTITIES[kind](GRID, **KINDS[kind]),
        CHANNELS,
        ClassLabels(3, WIDTH),
        WIDTH,
        (1, 1),
        2,
        **arguments,
    )
    return model, jax.jit(model.init_params)(jax.random.key(0))


STEPS = 3


def noise_of(model, batch=2):
    """Start [B, L, C] and solver noise [T - 1, B, L, C]."""
    shape = (batch, model.entities.length, CHANNELS)
    return (
        jax.random.normal(jax.random.key(1), shape),
        jax.random.normal(jax.random.key(2), (STEPS - 1, *shape)),
    )


@pytest.mark.parametrize("kind", KINDS)
def test_an_entity_depends_on_itself_and_those_before_it_only(kind):
    model, params = build(kind)
    entities = model.entities
    x, t = noise_of(model, 1)[0], jnp.full((1, entities.count), 0.4)
    run = jax.jit(lambda x, t: model.apply({"params": params}, x, t, {"label": jnp.array([1])}))
    base = run(x, t)
    for number in (0, entities.count // 2, entities.count - 1):
        first = int(entities.starts[number])
        for other in (run(x.at[:, first].add(1.0), t), run(x, t.at[:, number].set(0.9))):
            changed = np.abs(np.asarray(other - base)).max(axis=(0, 2)) > 1e-6
            np.testing.assert_array_equal(changed, entities.of_token >= number)


SAMPLING = {  # every solver, and guidance on some of its times
    "token": dict(solver="euler_maruyama"),
    "cell": dict(solver="heun", interval=(0.2, 0.7)),
    "subsample": dict(solver="euler", interval=(0.5, 1.0)),
    "scale": dict(solver="euler_maruyama", interval=(0.1, 0.9)),
    "image": dict(solver="heun"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_cached_sampling_is_sampling_without_a_cache(kind):
    model, params = build(kind)
    how = dict(SAMPLING[kind])
    guidance = Guidance(3.0, "linear", interval=how.pop("interval", None))
    sampling = Sampling(guidance, steps=STEPS, **how)
    entities, times = model.entities, entity_flow.solver_of(sampling).times()
    start, xi = noise_of(model)
    noise = entity_flow.given_noise(start, xi, entities.starts)
    drawn = jax.jit(lambda params: entity_flow.sample_from(model, params, COND, noise, sampling))(
        params
    )

    weight = entity_flow.weights(model, guidance)
    assert weight[0] == (3 if kind == "image" else 1)
    assert weight[-1] == 3
    low, high = guidance.interval or (0, 1)
    null, both = jnp.arange(4) >= 2, {"label": jnp.tile(COND["label"], 2)}
    run = jax.jit(lambda x, t: model.apply({"params": params}, x, t, both, null))

    def velocity(x, number, i, guided):
        t = np.zeros((4, entities.count), np.float32)
        t[:, number] = (time_index(times)[i] + 0.5) / 1000
        v = run(jnp.tile(x, (2, 1, 1)), t)[:, entities.of_token == number]
        return v[2:] + (weight[number] if guided else 1.0) * (v[:2] - v[2:])

    x = jnp.zeros_like(start)
    for number in range(entities.count):
        own = entities.of_token == number
        x = x.at[:, own].set(start[:, own])
        for i in range(STEPS):
            dt, old, guided = times[i + 1] - times[i], x[:, own], low <= times[i] <= high
            v = velocity(x, number, i, guided)
            if sampling.solver == "euler_maruyama":
                new = old + dt * ((2 - times[i]) * v + old)
                if i < STEPS - 1:
                    new += np.sqrt(-2 * times[i] * dt) * xi[i][:, own]
            else:
                new = old + dt * v
                if sampling.solver == "heun" and times[i + 1] > 0:
                    ahead = velocity(x.at[:, own].set(new), number, i + 1, guided)
                    new = old + dt * (v + ahead) / 2
            x = x.at[:, own].set(new)
    np.testing.assert_allclose(drawn, x, atol=2e-4)


def test_guidance_one_is_no_guidance_bit_for_bit():
    model, params = build("cell")
    ids, key = jnp.arange(2), jax.random.key(3)

    def draw(guidance):
        return jax.jit(
            lambda params: entity_flow.sample(
                model, params, COND, key, ids, Sampling(guidance, steps=STEPS)
            )
        )(params)

    plain, guided = draw(Guidance(1.0)), draw(Guidance(4.0, "linear"))
    # Growing from 1 the guidance leaves the first entity alone, in a program that has rows without the
    # condition too, and changes the others.
    np.testing.assert_array_equal(plain[:, :4], guided[:, :4])
    assert np.abs(plain - guided)[:, 4:].max() > 1e-2


def test_an_image_depends_on_its_number_and_not_on_its_batch():
    model, params = build("subsample")
    how = Sampling(solver="heun", steps=2)

    def draw(ids):
        cond = {"label": jnp.asarray(ids) % 3}
        run = jax.jit(lambda p, c, i: entity_flow.sample(model, p, c, jax.random.key(0), i, how))
        return run(params, cond, jnp.asarray(ids))

    three = draw([5, 7, 9])
    np.testing.assert_allclose(three[1:2], draw([7]), atol=1e-5)
    assert np.abs(three[0] - three[1]).max() > 0.1


def test_the_order_inside_an_entity_is_a_matter_of_names():
    """With the tokens of each cell, and their positions, in another order nothing else changes."""
    model, params = build("cell")
    rng = np.random.default_rng(0)
    moved = np.concatenate([4 * cell + rng.permutation(4) for cell in range(4)])
    order = tuple(model.entities.order[i] for i in moved)
    other = model.clone(entities=Entities(GRID, model.entities.sizes, order))
    names = [f"positions_{i}" for i in range(2)]
    other_params = {**params, **{name: params[name][moved] for name in names}}
    latents = jax.random.normal(jax.random.key(5), (2, *GRID, CHANNELS))
    t = jnp.asarray(rng.uniform(size=(2, 4)), jnp.float32)
    start, xi = noise_of(model)

    def outcome(model, params, moved):
        velocity = jax.jit(model.apply)({"params": params}, model.to_codes(latents), t, COND)
        noise = entity_flow.given_noise(start[:, moved], xi[:, :, moved], model.entities.starts)
        drawn = jax.jit(
            lambda p: entity_flow.sample_from(model, p, COND, noise, Sampling(steps=STEPS))
        )(params)
        return model.to_latents(velocity), model.to_latents(drawn)

    for one, two in zip(
        outcome(model, params, np.arange(16)), outcome(other, other_params, moved), strict=True
    ):
        np.testing.assert_allclose(one, two, atol=1e-5)


def test_training_draws_a_time_for_each_entity_and_lowers_the_loss():
    model, params = build("cell", dropout=0.1)
    codes = jnp.ones((8, 16, CHANNELS)) * jnp.arange(3.0)
    cond, null = {"label": jnp.arange(8) % 3}, jnp.zeros(8, bool)

    @jax.jit
    def step(params, key):
        def loss(params):
            error, weight, extra = model.apply(
                {"params": params},
                codes,
                cond,
                null,
                key,
                rngs={"dropout": key},
                method="loss",
            )
            assert error.shape == weight.shape == (8, 16)
            assert extra == {}
            return jnp.mean(error) / CHANNELS

        value, gradient = jax.value_and_grad(loss)(params)
        return value, jax.tree.map(lambda p, g: p - 0.03 * g, params, gradient)

    losses = []
    for i in range(60):
        value, params = step(params, jax.random.key(i))
        losses.append(float(value))
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:10])


def test_evaluation_is_of_each_image_alone():
    model, params = build("cell")
    codes = jax.random.normal(jax.random.key(0), (2, 16, CHANNELS))
    run = jax.jit(lambda *args: model.apply({"params": params}, *args, method="evaluate"))
    both = run(codes, COND)
    alone = run(codes[1:], {"label": COND["label"][1:]})
    np.testing.assert_allclose(both[1:], alone, rtol=1e-5)
    # Near latents have a near loss: what is drawn is not theirs.
    np.testing.assert_allclose(run(codes + 1e-4, COND), both, rtol=1e-2)


def test_evaluation_looks_at_the_whole_range_of_times_of_every_entity_by_itself():
    times = evaluation_times(6)
    expected = np.sort(times[:, 0])
    np.testing.assert_allclose(np.sort(times, axis=0), np.repeat(expected[:, None], 6, 1))
    assert expected[0] < 0.2 and expected[-1] > 0.8
    np.testing.assert_allclose(expected, 1 - expected[::-1], atol=1e-6)
    steps = np.diff(np.argsort(times, axis=0), axis=1)
    assert (steps.std(axis=0) > 0).all()  # no entity's time tells its neighbour's


def test_evaluations_are_counted():
    model, _ = build("cell")
    assert network_calls(model, Sampling(steps=10)) == 4 * 10 + 3
    assert network_calls(model, Sampling(steps=10, solver="heun")) == 4 * 19 + 3
    assert network_calls(model, Sampling()) == 4 * 50 + 3
    assert len(flow.sde_times(10)) == 11


SPEC = LatentSpec("continuous", GRID, CHANNELS)
CLASSES = {"name": "class", "num_classes": 3}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"entity": "cel"}, "entity 'cel' is none of"),
        ({"entity": "cell", "entity_options": {"stride": 2}}, "stride"),
        ({"heads": 5}, "not divisible by 5"),
        ({"steps": 3}, "steps"),
        ({"depth": (1, 0)}, "depth"),
        ({"depth": (1,)}, "two numbers"),
        ({"depth": 4}, "a tuple such as"),
        ({"remat": True}, "remat"),
        ({"spec": LatentSpec("index", GRID, 8)}, "continuous"),
        ({"conditioning": {"name": "text", "num_slots": 4}}, "class"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes, message):
    base = dict(entity="token", conditioning=CLASSES, width=24, depth=(1, 1), heads=2)
    with pytest.raises(UserError, match=message):
        make_xar(**{"spec": SPEC, **base, **changes})


@pytest.mark.parametrize(
    ("guidance", "filters", "message"),
    [
        (Guidance(), Filters(top_k=5), "top_k"),
        (Guidance(), Filters(temperature=0.9), "temperature"),
        (Guidance(2.0, interval=(-1, 3)), Filters(), "guided by times"),
        (Guidance(2.0, interval=(0.5, 1.5)), Filters(), "guided by times"),
    ],
)
def test_flows_refuse_what_filters_codes(guidance, filters, message):
    model, _ = build("cell")
    with pytest.raises(UserError, match=message):
        check_sampling(model, Sampling(guidance, filters))


def test_the_two_layers_of_the_feed_forward_start_as_two():
    """Xavier's bound counts the outputs of one of them, not of both."""
    _, params = build("image")
    kernel = params["stack_0"]["ffn"]["gate_up"]["kernel"]
    bound = np.sqrt(6 / (WIDTH + kernel.shape[-1]))
    assert 0.95 * bound < np.abs(kernel).max() <= bound


def test_scales_are_guided_by_their_number():
    model, _ = build("scale")
    found = entity_flow.weights(model, Guidance(3.0, "linear"))
    np.testing.assert_allclose(found, [1, 2, 3])
