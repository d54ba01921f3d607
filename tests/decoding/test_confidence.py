"""Masked plans (MaskGIT): training masks, confidence-ordered decoding, the bound of the likelihood."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgen.decoding import Filters, Guidance, decoding_params, generate
from imgen.decoding.confidence import confidence, still_masked
from imgen.decoding.generate import scanned
from imgen.decoding.guidance import guidance_weights
from imgen.decoding.schedule import make_schedule
from imgen.errors import UserError
from imgen.generators.masking import likelihood_mask, training_mask
from imgen.generators.orders import masked
from imgen.generators.plan import Plan
from tests.generators.test_generator import HEADS, build, random_codes, random_condition

SUREST = Filters(temperature=0, choice_temperature=0)


def test_the_published_counts():
    """16 x 16 codes in 10 steps: floor(256 cos(pi/2 c/10)) are masked after c of them."""
    plan = masked((16, 16), steps=10)
    left = [math.floor(256 * math.cos(math.pi / 2 * c / 10)) for c in range(1, 10)]
    np.testing.assert_array_equal(256 - plan.decided, [*left, 0])
    assert plan.calls == 10 and plan.slots == 257 and (plan.visible == 257).all()
    one_by_one = masked((2, 3), steps=6)
    np.testing.assert_array_equal(one_by_one.decided, np.arange(1, 7))


@pytest.mark.parametrize(
    "change",
    [
        {"decided": [2, 2, 4]},
        {"decided": [1, 2, 3]},
        {"rank": [0, 0, 0, 0, 1]},
        {"read_weight": np.full((4, 1), 0.5)},
        {"scratch": [0, 0, 0, 0, 1]},
        {"kind": [0, 0, 4, 4, 4], "src": [0, 1, 1, 2, 3]},
    ],
)
def test_a_broken_masked_plan_is_refused(change):
    plan = masked((2, 2), steps=3)
    fields = {name: getattr(plan, name) for name in Plan.__dataclass_fields__}
    with pytest.raises(UserError, match="plan masked"):
        Plan(**{**fields, **change})
    with pytest.raises(UserError, match="takes 1 to 4 steps"):
        masked((2, 2), steps=5)


@pytest.mark.parametrize("head", HEADS)
def test_a_masked_code_is_not_seen_and_all_others_are(head):
    generator, params = build("masked", (2, 3), {"steps": 3}, **head)
    codes, cond = random_codes(generator, 1), {"label": jnp.array([1])}
    is_masked = jnp.array([[True, False, True, True, False, True]])

    @jax.jit
    def logits(codes):
        return generator.apply({"params": params}, codes, cond, masked=is_masked)[0]

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
        ({"decoding": {"steps": 2}}, 1.0),
    ],
)
def test_decoding_is_what_a_loop_over_full_forward_passes_gives(more, guidance):
    generator, params = build("masked", (4, 4), {"steps": 4}, **more)
    plan, batch = generator.decoding_plan or generator.plan, 2
    cond, rng = random_condition(generator, batch), jax.random.key(0)
    guide = Guidance(guidance, schedule="linear_after")
    latents, logits = generate(
        generator,
        decoding_params(params),
        cond,
        rng,
        guidance=guide,
        filters=SUREST,
        return_logits=True,
    )
    weights = guidance_weights(guide, plan)
    forward = jax.jit(lambda *args: generator.apply({"params": params}, *args[:3], masked=args[3]))
    codes = np.zeros((batch, plan.positions, *generator.unit_shape), np.int32)
    unknown, kept = np.ones((batch, plan.positions), bool), np.zeros(logits.shape, np.float32)
    for call, count in enumerate(plan.decided):
        given, null = (forward(codes, cond, jnp.full(batch, n), unknown) for n in (False, True))
        now = np.asarray(null + weights[call] * (given - null))
        drawn = now > 0 if generator.coding.binary else now.argmax(-1)
        drawn = drawn.astype(np.int32)
        sure = -np.asarray(generator.nll(jnp.asarray(now), jnp.asarray(drawn)))
        for row in range(batch):
            free = np.flatnonzero(unknown[row])
            left = int(unknown[row].sum()) - (plan.positions - count)
            chosen = free[np.argsort(-sure[row, free], kind="stable")[:left]]
            codes[row, chosen], kept[row, chosen] = drawn[row, chosen], now[row, chosen]
            unknown[row, chosen] = False
    np.testing.assert_array_equal(generator.to_codes(latents), codes)
    np.testing.assert_allclose(logits, kept, atol=2e-4)


def test_samples_depend_on_their_numbers_and_differ():
    generator, params = build("masked", (3, 3), {"steps": 4})
    weights, key = decoding_params(params), jax.random.key(5)

    def run(ids):
        cond = {"label": jnp.zeros(len(ids), jnp.int32)}
        return generate(generator, weights, cond, key, sample_ids=jnp.asarray(ids))

    together = run([0, 1, 2, 3])
    np.testing.assert_array_equal(together[2:], run([2, 3]))
    assert len({row.tobytes() for row in np.asarray(together)}) == 4


def test_noise_decides_more_at_first_and_nothing_at_the_end():
    """The choice follows log p + 4.5 (1 - (c + 1) / C) Gumbel: its last call is by confidence alone."""
    generator, _ = build("masked", (3, 3), {"steps": 4})
    logits = jax.random.normal(jax.random.key(0), (1, 9, generator.coding.size))
    codes, uniform = logits.argmax(-1), jax.random.uniform(jax.random.key(1), (1, 9))
    log_p = jnp.take_along_axis(jax.nn.log_softmax(logits), codes[..., None], -1)[..., 0]
    np.testing.assert_allclose(confidence(generator, logits, codes, uniform, 0.0), log_p, atol=1e-6)
    gumbel = -np.log(-np.log(np.asarray(uniform)))
    noisy = confidence(generator, logits, codes, uniform, 2.0)
    np.testing.assert_allclose(noisy, log_p + 2.0 * gumbel, rtol=1e-4)
    (segment,) = make_schedule(generator.plan, np.ones(4, np.float32), None, 48)
    spread = scanned(segment, generator)["spread"]
    np.testing.assert_allclose(spread, [0.75, 0.5, 0.25, 0.0])


def test_what_is_decided_stays_decided():
    is_masked = jnp.array([[True, True, False, True]])
    sure = jnp.array([[-3.0, -1.0, -9.0, -2.0]])
    assert still_masked(sure, is_masked, jnp.int32(3)).tolist() == [[True, False, False, False]]


def test_training_masks_as_many_as_decoding_meets():
    plan = masked((3, 3), steps=4)
    counts = training_mask(jax.random.split(jax.random.key(0), 2000), plan).sum(axis=1)
    met = 9 - np.array([0, *plan.decided[:-1]])
    values, often = np.unique(counts, return_counts=True)
    np.testing.assert_array_equal(values, sorted(met))
    np.testing.assert_allclose(often / 2000, 1 / 4, atol=0.04)


def test_the_bound_is_the_mean_over_all_orders():
    """Three positions: the estimator against all six orders, one code at a time."""
    generator, params = build("masked", (3,), {"steps": 2})
    codes, cond = random_codes(generator, 1), {"label": jnp.array([1])}

    @jax.jit
    def nll(is_masked):
        logits = generator.apply({"params": params}, codes, cond, masked=is_masked[None])
        return generator.nll(logits, codes)[0]

    by_order = []
    for order in itertools.permutations(range(3)):
        terms = [nll(jnp.isin(jnp.arange(3), jnp.array(order[i:])))[order[i]] for i in range(3)]
        by_order.append(sum(map(float, terms)))
    subsets = np.array([s for s in itertools.product([False, True], repeat=3) if any(s)])
    value = {tuple(s): float((nll(jnp.asarray(s)) * s).sum()) for s in subsets}
    is_masked, weight = likelihood_mask(jax.random.split(jax.random.key(0), 20_000), 3)
    drawn = [value[tuple(row)] for row in np.asarray(is_masked).tolist()]
    assert np.mean(drawn * np.asarray(weight)) == pytest.approx(np.mean(by_order), rel=0.01)
