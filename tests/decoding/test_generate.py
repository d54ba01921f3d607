"""Decoding: guidance, filters, numbers of images, orders and precision; plans stand in test_models.py."""

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
    draw_latents,
    generate,
    network_calls,
)
from imgen.decoding.guidance import guidance_weights
from imgen.decoding.schedule import cut_calls
from imgen.errors import UserError
from imgen.generators.filters import draw, draw_bits, filter_logits
from imgen.generators.orders import next_neighbour, random_order_parallel, raster
from tests.generators.test_generator import build

GREEDY = Filters(temperature=0)
LIKELIEST = Sampling(filters=GREEDY)


def test_padding_the_calls_changes_nothing():
    generator, params = build("nar", (3, 4), depth=1)
    logits = [
        generate(
            generator,
            decoding_params(params),
            {"label": jnp.array([0, 1])},
            jax.random.key(0),
            sampling=LIKELIEST,
            segments=segments,
            return_out=True,
        )[1]
        for segments in (1, 7)
    ]
    np.testing.assert_allclose(*logits, atol=2e-5)


def test_bfloat16_decoding_is_float32_decoding_to_its_precision():
    cond, logits = {"label": jnp.array([0, 1])}, {}
    for dtype in (jnp.float32, jnp.bfloat16):
        generator, params = build(grid=(2, 3), depth=1, dtype=dtype)
        weights = decoding_params(params, dtype)
        _, logits[dtype] = generate(
            generator, weights, cond, jax.random.key(0), sampling=LIKELIEST, return_out=True
        )
        assert logits[dtype].dtype == jnp.float32
    first = [v[:, 0] for v in logits.values()]  # later codes may differ
    np.testing.assert_allclose(*first, atol=0.05 * float(jnp.abs(first[0]).max()))


def test_text_padding_changes_nothing():
    """A caption's features give the same image whatever stands in the padding."""
    text = {"name": "text", "text_width": 6, "num_slots": 5}
    generator, params = build(grid=(2, 3), depth=1, conditioning=text, cond_rope="identity")
    features = jax.random.normal(jax.random.key(3), (2, 5, 6))
    mask = jnp.array([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    run = [
        generate(
            generator,
            decoding_params(params),
            {"text": f, "text_mask": mask},
            jax.random.key(0),
            sampling=LIKELIEST,
            return_out=True,
        )[1]
        for f in (features, features.at[0, :2].set(9.0), features.at[0, 4].set(9.0))
    ]
    np.testing.assert_allclose(run[0], run[1], atol=1e-5)
    assert jnp.abs(run[0] - run[2])[0].max() > 1e-3


@pytest.mark.parametrize("plan, interval", [("raster", None), ("nar", None), ("nar", (0, 5))])
def test_guided_logits_are_those_of_two_full_forward_passes(plan, interval):
    generator, params = build(plan, (3, 3), depth=1)
    cond, guidance = {"label": jnp.array([0, 1])}, Guidance(3.0, interval=interval)
    latents, logits = generate(
        generator,
        decoding_params(params),
        cond,
        jax.random.key(0),
        sampling=Sampling(guidance, GREEDY),
        return_out=True,
    )
    forward, codes = jax.jit(generator.apply), generator.to_codes(latents)
    given, null = (forward({"params": params}, codes, cond, jnp.full(2, n)) for n in (False, True))
    weight = guidance_weights(guidance, generator.plan)[generator.plan.decided_at][:, None]
    assert (weight == 1).any() == (interval is not None) and (weight == 3).any()
    np.testing.assert_allclose(logits, null + weight * (given - null), atol=2e-4)


def test_guidance_of_one_is_no_guidance_bit_for_bit():
    generator, params = build(grid=(2, 3), depth=1)
    cond, weights = {"label": jnp.array([0, 1])}, decoding_params(params)
    plain, linear = (
        generate(
            generator,
            weights,
            cond,
            jax.random.key(0),
            sampling=Sampling(guidance, GREEDY),
            return_out=True,
        )[1]
        for guidance in (Guidance(1.0), Guidance(1.0, schedule="linear"))
    )
    np.testing.assert_array_equal(plain, linear)


def test_an_image_depends_on_its_number_not_on_its_batch_or_the_compilation():
    generator, params = build("nar", (2, 3), depth=1)
    weights, key, labels = decoding_params(params), jax.random.key(5), jnp.arange(6) % 3

    def run(ids, **kwargs):
        ids = jnp.asarray(ids)
        return generate(generator, weights, {"label": labels[ids]}, key, sample_ids=ids, **kwargs)

    together = run(range(6), sampling=Sampling(Guidance(2.0)))
    np.testing.assert_array_equal(together[4:], run([4, 5], sampling=Sampling(Guidance(2.0))))
    np.testing.assert_array_equal(
        together, run(range(6), sampling=Sampling(Guidance(2.0)), segments=4)
    )
    assert len({row.tobytes() for row in np.asarray(together)}) > 1


def test_draws_follow_the_filtered_distribution():
    logits = jnp.array([2.0, 1.0, 0.0, -1.0, -2.0])
    filters = Filters(temperature=1.5, top_k=4, top_p=0.9)
    uniform = (jnp.arange(20_000) + 0.5) / 20_000  # a stratified stand-in for random numbers
    codes = draw(jnp.tile(logits, (20_000, 1)), uniform, filters)
    expected = jax.nn.softmax(filter_logits(logits, filters))
    np.testing.assert_allclose(jnp.bincount(codes, length=5) / 20_000, expected, atol=2e-4)
    assert (expected == 0).sum() >= 1


@pytest.mark.parametrize("edge", [0.0, 1.0 - 2**-24])
def test_draws_never_leave_the_survivors(edge):
    logits = jnp.array([-jnp.inf, 0.0, -jnp.inf, 1.0, -jnp.inf])
    assert int(draw(logits, jnp.float32(edge), Filters())) in (1, 3)


def test_guidance_schedules():
    plan = raster((3, 3))
    np.testing.assert_allclose(guidance_weights(Guidance(3.0), plan), 3.0)
    linear = guidance_weights(Guidance(3.0, schedule="linear"), plan)
    np.testing.assert_allclose(linear, np.linspace(1, 3, 9))
    cosine = guidance_weights(Guidance(3.0, schedule="cosine"), plan)
    assert cosine[0] == 1 and cosine[-1] == 3 and (np.diff(cosine) > 0).all()
    halfway = guidance_weights(Guidance(3.0, schedule="half_linear"), raster((2, 4)))
    np.testing.assert_allclose(halfway, [1, 1.5, 2, 2.5, 3, 3, 3, 3])
    open_ended = guidance_weights(
        Guidance(3.0, schedule="linear_before", start=2.0), raster((2, 2))
    )
    np.testing.assert_allclose(open_ended, [2, 2.25, 2.5, 2.75])
    by_power = guidance_weights(Guidance(16.0, "pow_cosine", power=2.75), raster((2, 2)))
    expected = 1 + 15 * (1 - np.cos(np.pi * (np.arange(4) / 4) ** 2.75)) / 2
    np.testing.assert_allclose(by_power, expected, rtol=1e-6)
    np.testing.assert_array_equal(
        guidance_weights(Guidance(4.0, "pow_cosine", power=0.0), raster((2, 2))), 4.0
    )
    steps = random_order_parallel((4, 4), steps=7)
    by_step = guidance_weights(Guidance(4.0, schedule="linear_before"), steps)
    np.testing.assert_allclose(by_step, 1 + 3 * np.array([0, 1, 2, 4, 7, 10, 13]) / 16)
    # LlamaGen: the prefill and decode calls 0 ... k are guided. NAR: while at most k codes are decided.
    assert (guidance_weights(Guidance(3.0, interval=(-1, 2)), plan) == 3).sum() == 4
    assert (
        guidance_weights(Guidance(3.0, interval=(-1, 3)), next_neighbour((3, 3))) == 3
    ).sum() == 3


def test_random_orders_differ_by_image_and_come_from_its_number():
    generator, params = build("random", (3, 3), depth=1)
    plan = random_order_parallel((3, 3), steps=4)
    weights, key = decoding_params(params), jax.random.key(5)

    def run(ids, **kwargs):
        cond = {"label": jnp.zeros(len(ids), jnp.int32)}
        ids = jnp.asarray(ids)
        return generate(
            generator, weights, cond, key, sample_ids=ids, sampling=LIKELIEST, plan=plan, **kwargs
        )

    together = run([0, 1, 2, 3])
    np.testing.assert_array_equal(together[2:], run([2, 3]))
    assert (
        len({row.tobytes() for row in np.asarray(together)}) > 1
    )  # greedy: only the orders differ
    fixed = jnp.tile(jnp.arange(9), (4, 1))
    assert len({row.tobytes() for row in np.asarray(run([0, 1, 2, 3], order=fixed))}) == 1


def test_bits_are_drawn_with_their_probabilities():
    logits, uniform = jnp.array([0.5, -1.0]), (jnp.arange(10_000) + 0.5) / 10_000
    bits = draw_bits(jnp.tile(logits, (10_000, 1)), uniform[:, None], Filters(temperature=0.5))
    np.testing.assert_allclose(bits.mean(0), jax.nn.sigmoid(logits / 0.5), atol=2e-4)


def test_calls_are_cut_where_it_pays():
    widths, reads = np.array([1, 1, 8, 8, 1, 1]), np.zeros(6)
    assert cut_calls(widths, reads, 1, 1.0) == [0, 6]
    assert cut_calls(widths, reads, 3, 1.0) == [0, 2, 4, 6]
    # As few as waste a tenth at most: one for calls of a kind, more where widths differ.
    assert cut_calls(np.ones(60, int), np.arange(60), None, 600.0) == [0, 60]
    nar = np.concatenate([np.arange(1, 9), np.arange(7, 0, -1)])
    bounds = cut_calls(nar, np.cumsum(nar), None, 600.0)
    padded = sum((b - a) * nar[a:b].max() for a, b in zip(bounds[:-1], bounds[1:], strict=True))
    assert 3 < len(bounds) <= 9 and padded <= 1.12 * nar.sum()
    assert cut_calls(np.ones(4, int), np.array([1, 2, 30, 31]), 2, 0.0) == [0, 2, 4]


@pytest.mark.parametrize(
    "build_it",
    [
        lambda: Filters(temperature=-1),
        lambda: Filters(top_p=0),
        lambda: Filters(temperature=float("nan")),
        lambda: Guidance(0.5),
        lambda: Guidance(2.0, schedule="step"),
        lambda: Guidance(2.0, start=0.5),
        lambda: Guidance(float("nan")),
        lambda: Guidance(2.0, interval=(3, 1)),
        lambda: Guidance(2.0, interval=(3,)),
        lambda: Sampling(steps=0),
        lambda: Sampling(solver="rk4"),
        lambda: draw_bits(jnp.zeros(3), jnp.zeros(3), Filters(top_k=2)),
    ],
)
def test_impossible_settings_are_refused(build_it):
    with pytest.raises(UserError):
        build_it()


MASKED = dict(plan="masked", grid=(3, 3))


@pytest.mark.parametrize(
    "model, sampling, message",
    [
        (dict(plan="nar", grid=(3, 3)), Sampling(steps=4), "fixes its 5 calls"),
        (dict(), Sampling(solver="heun"), "heads that denoise"),
        (dict(), Sampling(solver_steps=4), "heads that denoise"),
        (dict(), Sampling(method="masked"), "it takes cached"),
        (dict(), Sampling(method="beam"), "it takes cached"),
        (MASKED, Sampling(steps=10), "takes 1 to 9 steps"),
        (MASKED | dict(channels=2), Sampling(method="masked"), "it takes mar"),
        (MASKED | dict(bits=4), Sampling(method="titok"), "needs a categorical head"),
        (dict(channels=2), Sampling(filters=Filters(top_k=2)), "continuous latents have none"),
        (dict(channels=2, head="diffusion"), Sampling(solver="euler"), "no solver to choose"),
        (dict(bits=4), Sampling(filters=Filters(top_p=0.5)), "bits have none"),
    ],
)
def test_settings_that_a_model_has_no_use_for_are_refused(model, sampling, message):
    generator, _ = build(**{**model, "depth": 1, "start": False})
    with pytest.raises(UserError, match=message):
        check_sampling(generator, sampling)


def test_steps_change_the_calls_of_a_random_order():
    generator, params = build("random", (3, 3), depth=1)
    cond, key, ids = {"label": jnp.arange(2)}, jax.random.key(0), jnp.arange(2)
    calls, drawn = [], []
    for steps in (None, 3):
        sampling = Sampling(steps=steps, filters=GREEDY)
        calls.append(network_calls(generator, sampling))
        drawn.append(draw_latents(generator, params, cond, key, ids, sampling))
    assert calls == [9, 3]
    weights, plan = decoding_params(params), random_order_parallel((3, 3), steps=3)
    found = generate(generator, weights, cond, key, sampling=LIKELIEST, plan=plan)
    np.testing.assert_array_equal(drawn[1], found)
    one_by_one = generate(generator, weights, cond, key, sampling=LIKELIEST)
    np.testing.assert_array_equal(drawn[0], one_by_one)
