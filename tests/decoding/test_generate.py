"""Decoding: the cached loop against the full forward pass, for every plan."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgen.decoding import Filters, Guidance, decoding_params, generate
from imgen.decoding.filters import draw, filter_logits
from imgen.decoding.guidance import guidance_weights
from imgen.decoding.schedule import cut_calls
from imgen.errors import UserError
from imgen.generators.orders import next_neighbour, raster
from tests.generators.test_generator import PLANS, build

GREEDY = Filters(temperature=0)


@pytest.mark.parametrize("plan, grid, options", PLANS)
@pytest.mark.parametrize("segments", [1, 3])
def test_cached_decoding_equals_the_full_forward_pass(plan, grid, options, segments):
    generator, params = build(plan, grid, options, kv_heads=1)
    cond = {"label": jnp.array([0, 1, 2])}
    codes, logits = generate(
        generator,
        decoding_params(params),
        cond,
        jax.random.key(0),
        filters=GREEDY,
        segments=segments,
        return_logits=True,
    )
    assert codes.shape == (3, *grid)
    codes = codes.reshape(3, -1)
    full = generator.apply({"params": params}, codes, cond)
    np.testing.assert_allclose(logits, full, atol=2e-5)
    np.testing.assert_array_equal(codes, full.argmax(-1))


def test_bfloat16_decoding_is_float32_decoding_to_its_precision():
    cond, logits = {"label": jnp.array([0, 1])}, {}
    for dtype in (jnp.float32, jnp.bfloat16):
        generator, params = build(dtype=dtype)
        weights = decoding_params(params, dtype)
        _, logits[dtype] = generate(
            generator, weights, cond, jax.random.key(0), filters=GREEDY, return_logits=True
        )
        assert logits[dtype].dtype == jnp.float32
    first = [v[:, 0] for v in logits.values()]  # later codes may differ
    np.testing.assert_allclose(*first, atol=0.05 * float(jnp.abs(first[0]).max()))


def test_text_padding_changes_nothing():
    """A caption's features give the same image whatever stands in the padding."""
    text = {"name": "text", "text_width": 6, "num_slots": 5}
    generator, params = build(conditioning=text, cond_rope="identity")
    features = jax.random.normal(jax.random.key(3), (2, 5, 6))
    mask = jnp.array([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    run = [
        generate(
            generator,
            decoding_params(params),
            {"text": f, "text_mask": mask},
            jax.random.key(0),
            filters=GREEDY,
            return_logits=True,
        )[1]
        for f in (features, features.at[0, :2].set(9.0), features.at[0, 4].set(9.0))
    ]
    np.testing.assert_allclose(run[0], run[1], atol=1e-5)
    assert jnp.abs(run[0] - run[2])[0].max() > 1e-3


def test_guidance_of_one_is_no_guidance_bit_for_bit_and_guidance_guides():
    generator, params = build()
    cond, weights = {"label": jnp.array([0, 1])}, decoding_params(params)

    def logits(guidance):
        return generate(
            generator,
            weights,
            cond,
            jax.random.key(0),
            filters=GREEDY,
            guidance=guidance,
            return_logits=True,
        )[1]

    null = generate(
        generator,
        weights,
        {"label": jnp.array([3, 3])},
        jax.random.key(0),
        filters=GREEDY,
        return_logits=True,
    )[1]
    plain = logits(Guidance(1.0))
    np.testing.assert_array_equal(plain, logits(Guidance(1.0, schedule="linear")))
    first = null[:, 0] + 3.0 * (plain[:, 0] - null[:, 0])  # later codes may differ
    np.testing.assert_allclose(logits(Guidance(3.0))[:, 0], first, atol=1e-4)


def test_an_image_depends_on_its_number_not_on_its_batch_or_the_compilation():
    generator, params = build("nar")
    weights, key, labels = decoding_params(params), jax.random.key(5), jnp.arange(6) % 3

    def run(ids, **kwargs):
        ids = jnp.asarray(ids)
        return generate(generator, weights, {"label": labels[ids]}, key, sample_ids=ids, **kwargs)

    together = run(range(6), guidance=Guidance(2.0))
    np.testing.assert_array_equal(together[4:], run([4, 5], guidance=Guidance(2.0)))
    np.testing.assert_array_equal(together, run(range(6), guidance=Guidance(2.0), segments=4))
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
    # LlamaGen: the prefill and decode calls 0 ... k are guided. NAR: while at most k codes are decided.
    assert (guidance_weights(Guidance(3.0, interval=2), plan) == 3).sum() == 4
    assert (guidance_weights(Guidance(3.0, interval=3), next_neighbour((3, 3))) == 3).sum() == 3


def test_calls_are_cut_where_it_pays():
    widths, reads = np.array([1, 1, 8, 8, 1, 1]), np.zeros(6)
    assert cut_calls(widths, reads, 1, 1.0) == [0, 6]
    assert cut_calls(widths, reads, 3, 1.0) == [0, 2, 4, 6]
    assert cut_calls(np.ones(4, int), np.array([1, 2, 30, 31]), 2, 0.0) == [0, 2, 4]


@pytest.mark.parametrize(
    "build_it",
    [
        lambda: Filters(temperature=-1),
        lambda: Filters(top_p=0),
        lambda: Guidance(0.5),
        lambda: Guidance(2.0, schedule="step"),
    ],
)
def test_impossible_settings_are_refused(build_it):
    with pytest.raises(UserError):
        build_it()
