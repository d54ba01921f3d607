"""Every plan with every head and condition: who sees whom, and the cached loop is the full forward pass.

Each model of MODELS has one compiled forward pass, over P + 2 samples, for both facts.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgen.decoding import Filters, Sampling, decoding_params, generate
from imgen.generators.arrays import sample_keys
from imgen.generators.plan import Kind
from tests.generators.test_generator import (
    HEADS,
    build,
    is_bits,
    random_codes,
    random_condition,
    vocabulary,
)

PLANS = {
    "raster": ((2, 3), {}),
    "nar": ((3, 4), {}),
    "par": ((4, 4), {"groups": 4}),
    "random": ((2, 3), {}),
}
CATEGORICAL, SUBCODES, BERNOULLI = HEADS
ONE = {"depth": 1}  # layer, where more would show nothing else
# Every plan, every head, and what else a generator may be made of: the other pairs are traced below.
MODELS = [
    ("raster", *PLANS["raster"], SUBCODES),
    ("nar", *PLANS["nar"], CATEGORICAL),
    ("nar", (2, 3), {}, BERNOULLI),
    ("par", *PLANS["par"], BERNOULLI),
    ("random", *PLANS["random"], SUBCODES),
    ("raster", (10,), {}, ONE),
    ("nar", (2, 3, 2), {}, ONE),
    ("token_shuffle", (4, 6), {}, ONE),
    ("nar", (4, 6), {}, {"window": 2, **SUBCODES, **ONE}),
    ("random", (4, 4), {}, {"window": 2, "position": "learned", **ONE}),
    ("nar", (3, 3), {}, {"position": "block", "ffn": "gelu", "qk_norm": True, **ONE}),
    ("raster", (7,), {}, {"position": "block", "conditioning": "layer_text", **BERNOULLI}),
    ("nar", (3, 3), {}, {"conditioning": "layer_text"}),
    ("raster", (3, 3), {}, {"conditioning": "text_tokens", "cond_rope": "identity", **ONE}),
    ("raster", (3, 3), {}, {"lexinvariant": 1.0, **ONE}),
    ("random", (3, 3), {}, {"lexinvariant": 0.5, **ONE}),
]
IDS = [f"{n}-{plan}" for n, (plan, *_) in enumerate(MODELS)]
DRAWN = 3  # samples of cached decoding


@functools.cache
def model(number):
    """A generator, its parameters and the compiled forward pass over P + 2 samples."""
    plan, grid, options, more = MODELS[number]
    generator, params = build(plan, grid, options, **{"kv_heads": 1, **more})

    @jax.jit
    def forward(codes, cond, order, keys):
        return generator.apply({"params": params}, codes, cond, order=order, keys=keys)

    return generator, params, forward


def vector_keys(number, samples):
    """Where the vectors are drawn for each sequence: the keys that decoding draws them with."""
    if MODELS[number][3].get("lexinvariant") != 1:
        return None
    return sample_keys(jax.random.key(0), jnp.arange(samples))


def repeat(tree, samples):
    return jax.tree.map(lambda x: jnp.tile(x, (samples,) + (1,) * (x.ndim - 1)), tree)


@pytest.mark.parametrize("number", range(len(MODELS)), ids=IDS)
def test_changing_a_code_changes_no_logit_decided_at_the_same_time_or_before(number):
    generator, _, forward = model(number)
    plan, positions = generator.plan, generator.plan.positions
    samples, each = positions + 2, np.arange(positions)
    same = np.repeat(np.asarray(random_codes(generator, 1)), samples, axis=0)
    changed = same.copy()
    changed[each, each] = (changed[each, each] + 1) % vocabulary(generator)
    cond = repeat(jax.tree.map(lambda x: x[1:], random_condition(generator, 2)), samples)
    order = generator.scheme.decoding(jax.random.split(jax.random.key(4), 1), plan)
    order = None if order is None else repeat(order, samples)
    keys = vector_keys(number, samples)
    keys = None if keys is None else keys[jnp.zeros(samples, int)]
    difference = forward(changed, cond, order, keys) - forward(same, cond, order, keys)
    difference = np.abs(difference)[:positions].reshape(positions, positions, -1)
    moved = difference.max(axis=-1) > 1e-5
    decided, fed = plan.decided_at, plan.src[plan.kind == Kind.TOKEN]
    if order is not None:  # the plan counts along the order
        decided, fed = decided[np.argsort(order[0])], np.asarray(order[0])[fed]
    later = decided[None, :] > decided[:, None]
    assert not (moved & ~later).any()
    assert moved[np.isin(each, fed)][:, decided == decided.max()].all(), (
        "the last codes must depend on all that were fed"
    )


@pytest.mark.parametrize("number", range(len(MODELS)), ids=IDS)
def test_cached_decoding_equals_the_full_forward_pass(number):
    generator, params, forward = model(number)
    _, grid, _, more = MODELS[number]
    samples = generator.plan.positions + 2
    cond = random_condition(generator, samples)
    order = generator.scheme.decoding(jax.random.split(jax.random.key(4), samples), generator.plan)
    latents, logits = generate(
        generator,
        decoding_params(params),
        jax.tree.map(lambda x: x[:DRAWN], cond),
        jax.random.key(0),
        order=None if order is None else order[:DRAWN],
        sampling=Sampling(filters=Filters(temperature=0)),
        segments=2,
        return_out=True,
    )
    bits = (more["bits"],) if generator.head.latent_shape else ()
    assert latents.shape == (DRAWN, *grid, *bits)
    codes = np.asarray(generator.to_codes(latents))
    all_codes = np.resize(codes, (samples, *codes.shape[1:]))
    full = forward(all_codes, cond, order, vector_keys(number, samples))[:DRAWN]
    np.testing.assert_allclose(logits, full, atol=5e-5)
    likely = full > 0 if is_bits(generator) else full.argmax(-1)
    np.testing.assert_array_equal(codes, likely)


@pytest.mark.parametrize("head", HEADS, ids=["categorical", "subcodes", "bernoulli"])
@pytest.mark.parametrize("plan", PLANS)
def test_every_head_goes_with_every_plan(plan, head):
    """Traced, not run: cached decoding gives as many latents and logits as the forward pass takes."""
    grid, options = PLANS[plan]
    generator, _ = build(plan, grid, options, **head, start=False)
    cond, key = random_condition(generator, 2), jax.random.key(0)

    def both():
        params = generator.init_params(key)
        latents, logits = generate(
            generator, decoding_params(params), cond, key, sampling=Sampling(), return_out=True
        )
        codes = generator.to_codes(latents)
        order = generator.scheme.decoding(jax.random.split(key, 2), generator.plan)
        return latents, logits, generator.apply({"params": params}, codes, cond, order=order)

    latents, logits, full = jax.eval_shape(both)
    assert latents.shape == (2, *grid, *((6,) if head else ()))
    assert (logits.shape, logits.dtype) == (full.shape, full.dtype)
