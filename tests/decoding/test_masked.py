"""Masked plans (MaskGIT): training masks, confidence-ordered decoding, the bound of the likelihood."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgen.decoding import Filters, Guidance, Sampling, network_calls
from imgen.decoding.masked import MAR, MASKGIT, TITOK, generate, gumbel, steps_of, still_masked
from imgen.errors import UserError
from imgen.generators.arrays import sample_keys
from imgen.generators.orders import masked
from imgen.generators.plan import Plan
from imgen.generators.schemes import Masked, likelihood_mask, random_orders, still_masked_counts
from tests.generators.test_generator import (
    HEADS,
    build,
    is_bits,
    random_codes,
    random_condition,
)

SUREST = Filters(temperature=0, choice_temperature=0)


def test_the_published_counts():
    """16 x 16 codes in 10 steps: floor(256 cos(pi/2 c/10)) are masked after c of them."""
    left = [math.floor(256 * math.cos(math.pi / 2 * c / 10)) for c in range(1, 10)]
    np.testing.assert_array_equal(still_masked_counts(256, 10), [256, *left, 0])
    plan = masked((16, 16))
    assert plan.slots == 257 and (plan.visible == 257).all()
    np.testing.assert_array_equal(still_masked_counts(6, 6), np.arange(7)[::-1])
    # TiTok's arccos decides about as many in each call: the specification's example.
    few = steps_of(16, TITOK, Sampling(steps=4))
    np.testing.assert_array_equal(few.before, [16, 13, 10, 7])
    for steps in (1, 5, 9):
        left = still_masked_counts(9, steps)
        assert (np.diff(left) < 0).all() and len(left) == steps + 1


@pytest.mark.parametrize(
    "change",
    [
        {"rank": [0, 0, 0, 0, 1]},
        {"read_weight": np.full((4, 1), 0.5)},
        {"scratch": [0, 0, 0, 0, 1]},
        {"kind": [0, 0, 4, 4, 4], "src": [0, 1, 1, 2, 3]},
    ],
)
def test_a_broken_masked_plan_is_refused(change):
    plan = masked((2, 2))
    fields = {name: getattr(plan, name) for name in Plan.__dataclass_fields__}
    with pytest.raises(UserError, match="plan masked"):
        Plan(**{**fields, **change})
    with pytest.raises(UserError, match="takes 1 to 4 steps, not 5"):
        still_masked_counts(4, 5)


@pytest.mark.parametrize("head", HEADS)
def test_a_masked_code_is_not_seen_and_all_others_are(head):
    generator, params = build("masked", (2, 3), **head)
    codes, cond = random_codes(generator, 1), {"label": jnp.array([1])}
    is_masked = jnp.array([[True, False, True, True, False, True]])

    @jax.jit
    def logits(codes):
        return generator.apply({"params": params}, codes, cond, hidden=is_masked)[0]

    for position in range(6):
        changed = codes.at[:, position].set(1 - jnp.minimum(codes[:, position], 1))
        moved = jnp.abs(logits(changed) - logits(codes)).reshape(6, -1).max(axis=1)
        assert (moved == 0).all() if is_masked[0, position] else (moved > 1e-5).all()


@pytest.mark.parametrize(
    "more, guidance",
    [
        (HEADS[0], 3.0),
        (HEADS[1], 1.0),
        (HEADS[2], 1.0),
        ({"window": 2, "position": "learned"}, 1.0),
        ({"conditioning": "layer_text", "position": "block"}, 2.0),
        ({"conditioning": "text_tokens", "cond_rope": "identity"}, 1.0),
    ],
)
def test_decoding_is_what_a_loop_over_full_forward_passes_gives(more, guidance):
    generator, params = build("masked", (4, 4), **more)
    plan, batch = generator.plan, 2
    cond, rng = random_condition(generator, batch), jax.random.key(0)
    sampling = Sampling(
        Guidance(guidance, schedule="linear_after"), SUREST, steps=min(4, plan.positions)
    )
    latents, logits = generate(generator, params, cond, rng, sampling=sampling, return_out=True)
    table = steps_of(plan.positions, MASKGIT, sampling)
    weights = table.weight
    np.testing.assert_allclose(
        weights, 1 + (guidance - 1) * (1 - table.after / plan.positions), rtol=1e-6
    )
    forward = jax.jit(lambda *args: generator.apply({"params": params}, *args[:3], hidden=args[3]))
    codes = np.zeros((batch, plan.positions, *generator.head.code_shape), np.int32)
    unknown, kept = np.ones((batch, plan.positions), bool), np.zeros(logits.shape, np.float32)
    for call, count in enumerate(plan.positions - table.after):
        given, null = (forward(codes, cond, jnp.full(batch, n), unknown) for n in (False, True))
        now = np.asarray(null + weights[call] * (given - null))
        drawn = now > 0 if is_bits(generator) else now.argmax(-1)
        drawn = drawn.astype(np.int32)
        sure = -np.asarray(generator.head.nll(jnp.asarray(now), jnp.asarray(drawn)))
        for row in range(batch):
            free = np.flatnonzero(unknown[row])
            left = int(unknown[row].sum()) - (plan.positions - count)
            chosen = free[np.argsort(-sure[row, free], kind="stable")[:left]]
            codes[row, chosen], kept[row, chosen] = drawn[row, chosen], now[row, chosen]
            unknown[row, chosen] = False
    np.testing.assert_array_equal(generator.to_codes(latents), codes)
    np.testing.assert_allclose(logits, kept, atol=2e-4)


def test_samples_depend_on_their_numbers_and_differ():
    generator, params = build("masked", (3, 3))
    key = jax.random.key(5)

    def run(ids):
        cond, how = {"label": jnp.zeros(len(ids), jnp.int32)}, Sampling(steps=4)
        ids = jnp.asarray(ids)
        return generate(generator, params, cond, key, sample_ids=ids, sampling=how)

    together = run([0, 1, 2, 3])
    np.testing.assert_array_equal(together[2:], run([2, 3]))
    assert len({row.tobytes() for row in np.asarray(together)}) == 4


def test_noise_decides_more_at_first_and_nothing_at_the_end():
    """The choice follows log p + 4.5 (1 - (c + 1) / C) Gumbel: its last call is by confidence alone."""
    generator, _ = build("masked", (3, 3), start=False)
    logits = jax.random.normal(jax.random.key(0), (1, 9, generator.head.size))
    codes, uniform = logits.argmax(-1), jax.random.uniform(jax.random.key(1), (1, 9))
    log_p = jnp.take_along_axis(jax.nn.log_softmax(logits), codes[..., None], -1)[..., 0]
    np.testing.assert_allclose(generator.head.confidence(logits, codes), log_p, atol=1e-6)
    np.testing.assert_allclose(gumbel(uniform), -np.log(-np.log(np.asarray(uniform))), rtol=1e-4)
    spread = steps_of(9, MASKGIT, Sampling(steps=4)).spread
    np.testing.assert_allclose(spread, 4.5 * np.array([0.75, 0.5, 0.25, 0.0]))


def test_what_is_decided_stays_decided():
    is_masked = jnp.array([[True, True, False, True]])
    sure = jnp.array([[-3.0, -1.0, -9.0, -2.0]])
    assert still_masked(sure, is_masked, jnp.int32(3)).tolist() == [[True, False, False, False]]


def test_training_masks_as_many_as_decoding_meets():
    teacher = Masked(steps=4).training(jax.random.key(0), masked((3, 3)), 2000, 0.0)
    np.testing.assert_array_equal(teacher.weight, teacher.hidden)
    counts = teacher.hidden.sum(axis=1)
    met = still_masked_counts(9, 4)[:-1]
    values, often = np.unique(counts, return_counts=True)
    np.testing.assert_array_equal(values, sorted(met))
    np.testing.assert_allclose(often / 2000, 1 / 4, atol=0.04)


def test_the_bound_is_the_mean_over_all_orders():
    """Three positions: the estimator against all six orders, one code at a time."""
    generator, params = build("masked", (3,))
    codes, cond = random_codes(generator, 1), {"label": jnp.array([1])}

    @jax.jit
    def nll(is_masked):
        logits = generator.apply({"params": params}, codes, cond, hidden=is_masked[None])
        return generator.head.nll(logits, codes)[0]

    by_order = []
    for order in itertools.permutations(range(3)):
        terms = [nll(jnp.isin(jnp.arange(3), jnp.array(order[i:])))[order[i]] for i in range(3)]
        by_order.append(sum(map(float, terms)))
    subsets = np.array([s for s in itertools.product([False, True], repeat=3) if any(s)])
    value = {tuple(s): float((nll(jnp.asarray(s)) * s).sum()) for s in subsets}
    is_masked, weight = likelihood_mask(jax.random.split(jax.random.key(0), 20_000), 3)
    drawn = [value[tuple(row)] for row in np.asarray(is_masked).tolist()]
    assert np.mean(drawn * np.asarray(weight)) == pytest.approx(np.mean(by_order), rel=0.01)


@pytest.mark.parametrize(
    "ratio, mean", [("cosine", 2 / np.pi), ("arccos", 2 / np.pi), ("uniform", 0.5)]
)
def test_ratio_laws_hide_their_share(ratio, mean):
    teacher = Masked(ratio, shown_weight=0.1).training(jax.random.key(0), masked((64,)), 4000, 0.0)
    assert float(teacher.hidden.mean()) == pytest.approx(mean, abs=0.02)
    assert teacher.hidden.any(axis=1).all()
    np.testing.assert_array_equal(
        teacher.weight, np.where(teacher.hidden, np.float32(1), np.float32(0.1))
    )


def test_mars_ratio_is_a_truncated_normal_that_a_batch_shares():
    scheme, plan = Masked("truncated_normal", rounding="ceil", shared=True), masked((256,))
    draw = jax.jit(jax.vmap(lambda key: scheme.training(key, plan, 3, 0.0).hidden))
    hidden = np.asarray(draw(jax.random.split(jax.random.key(0), 200)))  # [200, 3, 256]
    counts = hidden.sum(axis=2)
    assert (counts == counts[:, :1]).all()
    counts = counts[:, 0]
    alike = (hidden[:, 0] == hidden[:, 1]).all(axis=1)
    np.testing.assert_array_equal(alike, counts == 256)  # where not all are hidden
    assert 180 <= min(counts) and max(counts) <= 256
    # Mean of a normal (1, 0.25) cut to [0.7, 1].
    assert np.mean(counts) / 256 == pytest.approx(0.864, abs=0.02)


def test_a_fixed_order_decides_each_position_once_from_what_came_before():
    """MAR: each step's codes are those of a full forward pass on what was decided; the order is consumed from
    its end."""
    generator, params = build("masked", (3, 3))
    cond, key = {"label": jnp.array([0, 2])}, jax.random.key(3)
    how = Sampling(Guidance(2.0), Filters(temperature=0), steps=4)
    latents, out = generate(
        generator, params, cond, key, sampling=how, dialect=MAR, return_out=True
    )
    order = np.asarray(random_orders(sample_keys(key, jnp.arange(2)), 9))
    left = still_masked_counts(9, 4)
    forward = jax.jit(lambda c, n, h: generator.apply({"params": params}, c, cond, n, hidden=h))
    codes, rank = np.zeros((2, 9), np.int32), np.argsort(order, axis=1)
    for before, after in zip(left[:-1], left[1:], strict=True):
        given, null = (forward(codes, np.full(2, n), rank < before) for n in (False, True))
        now = np.asarray(null + 2.0 * (given - null))
        fresh = (rank >= after) & (rank < before)
        np.testing.assert_allclose(out[fresh], now[fresh], atol=2e-4)
        codes[fresh] = now.argmax(-1)[fresh]
    np.testing.assert_array_equal(latents.reshape(2, 9), codes)


def test_titoks_last_step_is_greedy_and_its_guidance_counts_steps():
    generator, params = build("masked", (2, 2))
    cond, how = {"label": jnp.array([0, 1])}, Sampling(Guidance(3.0, "linear_before"), steps=1)
    table = steps_of(4, TITOK, Sampling(Guidance(5.0, "linear_before"), steps=4))
    np.testing.assert_allclose(table.weight, [1, 2, 3, 4])
    drawn = [
        generate(generator, params, cond, jax.random.key(n), sampling=how, dialect=TITOK)
        for n in range(2)
    ]
    np.testing.assert_array_equal(*drawn)
    logits = generator.apply({"params": params}, jnp.zeros((2, 4), jnp.int32), cond)
    np.testing.assert_array_equal(drawn[0].reshape(2, 4), logits.argmax(-1))
    assert network_calls(generator, Sampling(steps=3)) == 3
    assert network_calls(generator, Sampling()) == 4
