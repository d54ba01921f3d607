"""The generator: causality, stacked layers, regularisation, published sizes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgen.errors import UserError
from imgen.generators import make_generator
from imgen.generators.presets import LLAMAGEN
from imgen.latents import LatentSpec
from imgen.nn.attention import attend

PLANS = [
    ("raster", (3, 4), {}),
    ("raster", (10,), {}),
    ("nar", (3, 4), {}),
    ("nar", (2, 3, 2), {}),
    ("par", (4, 4), {"groups": 4}),
]
VOCAB = 11


def build(plan="raster", grid=(3, 4), options=None, conditioning=None, **arguments):
    """A small generator with parameters that leave no layer idle."""
    arguments = {"width": 48, "depth": 2, "heads": 2, "hidden": 32, "dropout": 0.0, **arguments}
    generator = make_generator(
        LatentSpec("index", grid, VOCAB),
        plan=plan,
        plan_options=options or {},
        conditioning=conditioning or {"name": "class", "num_classes": 3},
        **arguments,
    )
    codes = jnp.zeros((1, generator.plan.positions), jnp.int32)
    params = generator.init(jax.random.key(0), codes, generator.conditioner.example(1))["params"]
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    noisy = [p + 0.2 * jax.random.normal(k, p.shape) for p, k in zip(leaves, keys, strict=True)]
    return generator, jax.tree.unflatten(tree, noisy)


def random_codes(generator, batch=2):
    return jax.random.randint(jax.random.key(2), (batch, generator.plan.positions), 0, VOCAB)


@pytest.mark.parametrize("plan, grid, options", PLANS)
def test_changing_a_code_changes_no_logit_decided_at_the_same_time_or_before(plan, grid, options):
    generator, params = build(plan, grid, options)
    codes = random_codes(generator, 1)
    positions = generator.plan.positions
    changed = jnp.where(jnp.eye(positions, dtype=bool), (codes + 1) % VOCAB, codes)  # [P, P]
    cond = {"label": jnp.ones(positions, jnp.int32)}
    apply = jax.jit(lambda codes: generator.apply({"params": params}, codes, cond))
    difference = jnp.abs(apply(changed) - apply(jnp.tile(codes, (positions, 1))))
    moved = np.asarray(difference.max(axis=-1) > 1e-5)  # [changed position, position of the logits]
    decided = generator.plan.decided_at
    later = decided[None, :] > decided[:, None]
    assert not (moved & ~later).any()
    fed = np.isin(np.arange(positions), generator.plan.src[generator.plan.kind == 1])
    assert moved[fed][:, decided == decided.max()].all(), (
        "the last codes must depend on all that were fed"
    )


def test_remat_and_scan_do_not_change_the_gradient():
    generator, params = build(depth=3)
    codes, cond = random_codes(generator), {"label": jnp.array([0, 2])}

    def gradient(remat):
        model = generator.clone(remat=remat)
        return jax.jit(jax.grad(lambda p: (model.apply({"params": p}, codes, cond) ** 2).mean()))(
            params
        )

    plain = gradient("none")
    for remat in ("full", "dots"):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5, rtol=1e-4),
            plain,
            gradient(remat),
        )


def test_dropout_acts_with_a_key_only():
    generator, params = build(dropout=0.5)
    codes, cond = random_codes(generator), {"label": jnp.array([0, 2])}

    def logits(**rngs):
        return generator.apply({"params": params}, codes, cond, rngs=rngs)

    np.testing.assert_array_equal(logits(), logits())
    assert jnp.abs(logits(dropout=jax.random.key(0)) - logits()).max() > 1e-3
    assert (
        jnp.abs(logits(dropout=jax.random.key(0)) - logits(dropout=jax.random.key(1))).max() > 1e-3
    )


def test_drop_path_drops_whole_samples():
    generator, params = build(drop_path=0.9, depth=4)
    codes, cond = jnp.tile(random_codes(generator, 1), (64, 1)), {"label": jnp.zeros(64, jnp.int32)}
    logits = generator.apply({"params": params}, codes, cond, rngs={"dropout": jax.random.key(0)})
    distinct = np.unique(np.asarray(logits[:, -1, 0]).round(4))
    assert 1 < len(distinct) < 64  # a few patterns of surviving branches, shared by samples


def test_a_dropped_condition_is_the_null_class():
    generator, params = build()
    codes = random_codes(generator)
    null = generator.apply(
        {"params": params}, codes, {"label": jnp.array([3, 3])}
    )  # num_classes = 3
    dropped = generator.apply(
        {"params": params}, codes, {"label": jnp.array([0, 2])}, jnp.array([True, True])
    )
    np.testing.assert_array_equal(null, dropped)


def test_grouped_heads_equal_repeated_ones():
    q, k, v = (
        jax.random.normal(jax.random.key(i), (2, 5, n, 8)) for i, n in ((0, 6), (1, 2), (2, 2))
    )
    visible = jnp.array([1, 2, 4, 4, 5])
    repeated = attend(q, jnp.repeat(k, 3, axis=2), jnp.repeat(v, 3, axis=2), visible)
    np.testing.assert_allclose(attend(q, k, v, visible), repeated, atol=1e-6)


# LlamaGen's counts; they agree with the paper's 111M, 343M, 775M, 1.4B, 3.1B.
COUNTS = {
    "B": 110_888_448,
    "L": 342_910_976,
    "XL": 774_699_520,
    "XXL": 1_410_972_672,
    "3B": 3_096_659_200,
}


@pytest.mark.parametrize("size", COUNTS)
def test_published_sizes_have_the_published_numbers_of_parameters(size):
    generator = make_generator(
        LatentSpec("index", (16, 16), 16384),
        plan="raster",
        plan_options={},
        conditioning={"name": "class", "num_classes": 1000},
        **LLAMAGEN[size],
    )
    shapes = jax.eval_shape(
        lambda: generator.init(
            jax.random.key(0), jnp.zeros((1, 256), jnp.int32), generator.conditioner.example(1)
        )
    )
    assert sum(x.size for x in jax.tree.leaves(shapes)) == COUNTS[size]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(width=50, heads=4), "not divisible"),
        (dict(width=36, heads=6), "multiple of 4"),
        (dict(plan="spiral"), "none of raster"),
        (dict(conditioning={"name": "poem"}), "none of class"),
    ],
)
def test_impossible_models_are_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        build(**arguments)
