import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from imgen.errors import UserError
from imgen.training.gradients import accumulate
from imgen.training.optim import (
    describe,
    doubts,
    ema_decay_at,
    ema_update,
    make_optimizer,
    make_schedule,
    schedule_position,
)

PARAMS = {
    "embed": {"table": jnp.ones((4, 3))},
    "blocks": {"kernel": jnp.ones((2, 3, 3)), "bias": jnp.ones((2, 3))},
}
GRADIENT = jax.tree.map(lambda p: 0.5 * p, PARAMS)
DECAY = [("bias$", 0.0), ("embed|kernel", 1.0)]


def steps(optimizer, params, gradient, n=3):
    state = optimizer.init(params)
    for _ in range(n):
        updates, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
    return params, state


def test_adamw_equals_optax_adamw():
    ours, _ = make_optimizer(learning_rate=0.1, total_steps=9, weight_decay=0.3, clip_norm=None)
    theirs = optax.adamw(0.1, 0.9, 0.95, 1e-8, weight_decay=0.3)
    a, b = steps(ours, PARAMS, GRADIENT)[0], steps(theirs, PARAMS, GRADIENT)[0]
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), a, b)


def test_decay_goes_by_path_not_by_axes():
    """The stacked bias has two axes; a rule on ndim would decay it."""
    zero = jax.tree.map(jnp.zeros_like, GRADIENT)
    optimizer, _ = make_optimizer(learning_rate=0.1, total_steps=9, weight_decay=0.5, decay=DECAY)
    params, _ = steps(optimizer, PARAMS, zero, n=1)
    assert np.all(params["blocks"]["bias"] == 1.0)
    np.testing.assert_allclose(params["blocks"]["kernel"], 0.95)
    np.testing.assert_allclose(params["embed"]["table"], 0.95)


def test_a_parameter_without_decay_rule_is_named():
    optimizer, _ = make_optimizer(
        learning_rate=0.1, total_steps=9, weight_decay=0.5, decay=[("kernel", 1.0)]
    )
    with pytest.raises(UserError, match="no weight-decay rule matches 'blocks/bias'"):
        steps(optimizer, PARAMS, GRADIENT)


def test_frozen_parameters_stay_and_have_no_moments_and_no_part_in_the_norm():
    kwargs = {"learning_rate": 0.1, "total_steps": 9, "weight_decay": 0.5, "clip_norm": 1.0}
    optimizer, _ = make_optimizer(**kwargs, name="lion", frozen=["^embed"])
    huge = {**GRADIENT, "embed": {"table": jnp.full((4, 3), 1e9)}}
    params, state = steps(optimizer, PARAMS, huge)
    assert np.array_equal(params["embed"]["table"], PARAMS["embed"]["table"])
    assert not any(x.shape == (4, 3) for x in jax.tree.leaves(state))
    assert np.all(params["blocks"]["kernel"] != 1.0)
    without, _ = make_optimizer(**{**kwargs, "weight_decay": 0.0}, frozen=["^embed"])
    a = steps(without, PARAMS, huge)[1]
    b = steps(without, PARAMS, GRADIENT)[1]
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert np.array_equal(x, y)


def test_description_says_what_is_done():
    notes = describe(PARAMS, weight_decay=0.5, decay=DECAY, frozen=["^embed"], learning_rate=1)
    assert notes == {
        "embed/table": "frozen",
        "blocks/kernel": "decay 0.5",
        "blocks/bias": "no decay",
    }


@pytest.mark.parametrize(
    "schedule, expected",
    [
        ({"name": "constant"}, {0: 1.0, 99: 1.0}),
        ({"name": "constant", "warmup_steps": 10}, {0: 0.1, 4: 0.5, 9: 1.0, 10: 1.0, 99: 1.0}),
        ({"name": "cosine", "warmup_steps": 20}, {0: 0.05, 20: 1.0, 60: 0.5, 100: 0.0}),
        ({"name": "cosine", "final": 0.1}, {0: 1.0, 50: 0.55, 100: 0.1}),
        ({"name": "linear", "final": 0.5}, {0: 1.0, 50: 0.75, 100: 0.5}),
        ({"name": "step", "at": (0.5, 0.75)}, {49: 1.0, 51: 0.1, 76: 0.01}),
        ({"name": "wsd", "warmup_steps": 1}, {0: 1.0, 80: 1.0, 90: 0.5263, 100: 0.0}),
    ],
)
def test_schedules(schedule, expected):
    lr = make_schedule(1.0, 100, **schedule)
    for step, rate in expected.items():
        np.testing.assert_allclose(lr(step), rate, atol=2e-3)


def test_updates_of_large_gradients_are_left_out_after_the_first_hundred():
    optimizer, _ = make_optimizer(
        learning_rate=1.0, total_steps=200, skip_norm=10.0, clip_norm=None, frozen=("frozen",)
    )
    params = {"w": jnp.zeros(2), "frozen": jnp.zeros(2)}
    state = optimizer.init(params)
    small, large = ({"w": jnp.full(2, x), "frozen": jnp.full(2, 99.0)} for x in (0.1, 20.0))
    update = jax.jit(optimizer.update)
    moved, _ = update(large, state, params)
    assert moved["w"][0] < 0
    for _ in range(100):
        _, state = update(small, state, params)
    moved, after = update(large, state, params)
    np.testing.assert_array_equal(moved["w"], 0)
    kept = [np.asarray(x) for x in jax.tree.leaves(state) if x.shape == (2,)]
    for before, now in zip(
        kept, [x for x in jax.tree.leaves(after) if x.shape == (2,)], strict=True
    ):
        np.testing.assert_array_equal(before, now)
    assert update(small, after, params)[0]["w"][0] < 0


def test_unknown_names_list_the_known():
    with pytest.raises(UserError, match="'adamv' is none of adamw, adam"):
        make_optimizer(name="adamv", learning_rate=1, total_steps=1)
    with pytest.raises(UserError, match="'cosin' is none of constant, cosine"):
        make_schedule(1.0, 10, name="cosin")


def test_ema_is_float32_whatever_the_parameters_are():
    ema = {"w": jnp.ones(2)}
    params = {"w": jnp.zeros(2, jnp.bfloat16)}
    new = ema_update(ema, params, 0.9999)["w"]
    assert new.dtype == jnp.float32
    np.testing.assert_allclose(new, 0.9999, rtol=1e-6)


def test_accumulated_gradient_is_that_of_the_whole_batch():
    batch = {"x": jax.random.normal(jax.random.key(0), (12, 3))}

    def loss_fn(params, batch, rng):
        y = batch["x"] @ params["w"]
        return jnp.mean(y**4), {"mean": jnp.mean(y)}

    params = {"w": jnp.arange(6.0).reshape(3, 2)}
    whole = accumulate(loss_fn, params, batch, jax.random.key(1))
    parts = jax.jit(lambda: accumulate(loss_fn, params, batch, jax.random.key(1), 4))()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), whole, parts)
    with pytest.raises(UserError, match="12 is not a multiple of 5"):
        accumulate(loss_fn, params, batch, jax.random.key(1), 5)


def test_each_part_has_its_own_key():
    def loss_fn(params, batch, rng):
        return params * jax.random.uniform(rng), {}

    loss, _, _ = accumulate(loss_fn, 1.0, {"x": jnp.zeros(2)}, jax.random.key(0), 2)
    keys = [jax.random.fold_in(jax.random.key(0), m) for m in range(2)]
    draws = [float(jax.random.uniform(k)) for k in keys]
    assert draws[0] != draws[1]
    np.testing.assert_allclose(loss, np.mean(draws), rtol=1e-6)


def test_the_logged_learning_rate_is_the_one_of_the_updates_that_are_made():
    optimizer, learning_rate = make_optimizer(
        learning_rate=1.0, total_steps=400, schedule={"name": "linear"}, skip_norm=10.0,
        frozen=("kept",),
    )  # fmt: skip
    params = {"w": jnp.zeros(2), "kept": jnp.zeros(2)}
    state, update = optimizer.init(params), jax.jit(optimizer.update)
    small, large = ({"w": jnp.full(2, x), "kept": jnp.zeros(2)} for x in (0.1, 20.0))
    for gradient in [small] * 110 + [large] * 30:
        _, state = update(gradient, state, params)
    assert schedule_position(state) == 110  # not 140: left-out updates don't count
    moved, _ = update(small, state, params)
    assert abs(float(moved["w"][0])) <= float(learning_rate(schedule_position(state))) + 1e-6


def test_a_run_can_go_on_with_another_clip_norm():
    params = {"w": jnp.zeros(2)}
    states = [
        make_optimizer(learning_rate=1.0, total_steps=9, clip_norm=norm)[0].init(params)
        for norm in (1.0, 0.5, 0, None)
    ]
    assert len({str(jax.tree.structure(state)) for state in states}) == 1


def test_a_young_average_forgets_the_initial_weights():
    average = jnp.ones(())
    for step in range(1, 11):
        decay = ema_decay_at(0.9999, jnp.asarray(step))
        average = ema_update({"w": average}, {"w": jnp.zeros(())}, decay)["w"]
    assert average < 0.002  # 0.999 without warm-up
    assert ema_decay_at(0.99, jnp.asarray(10_000)) == jnp.float32(0.99)
    assert ema_decay_at(0.99, jnp.asarray(1), warmup=False) == 0.99


def test_a_warm_up_as_long_as_the_run_is_warned_of():
    assert doubts(1.0, 100, schedule={"name": "cosine", "warmup_steps": 99}) == doubts(1.0, 1) == []
    (found,) = doubts(1.0, 100, schedule={"name": "cosine", "warmup_steps": 100})
    assert "the warm-up of 100 steps is no shorter than the run of 100" in found
