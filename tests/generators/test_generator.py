"""The generator: stacked layers, regularisation, published sizes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgen.errors import UserError
from imgen.generators import make_generator
from imgen.generators.code_heads import BernoulliHead
from imgen.generators.presets import LLAMAGEN
from imgen.generators.windows import WindowHead
from imgen.latents import LatentSpec
from imgen.nn.attention import attend

HEADS = [
    {},
    {"bits": 6, "head": "subcodes", "head_options": {"parts": 2}},
    {"bits": 6, "head": "bernoulli"},
]
VOCAB = 11
CONDITIONING = {
    "class": {"num_classes": 3},
    "text_tokens": {"vocab": 5, "num_slots": 4},
    "layer_text": {"layers": 2, "context_slots": 4, "text_width": 6},
}


def build(
    plan="raster",
    grid=(3, 4),
    options=None,
    conditioning="class",
    bits=None,
    channels=None,
    start=True,
    **arguments,
):
    """A small generator with parameters that leave no layer idle; without `start` there are none."""
    arguments = {"width": 48, "depth": 2, "heads": 2, "hidden": 32, "dropout": 0.0, **arguments}
    if isinstance(conditioning, str):
        conditioning = {"name": conditioning, **CONDITIONING.get(conditioning, {})}
    spec = LatentSpec("bits", grid, bits) if bits else LatentSpec("index", grid, VOCAB)
    generator = make_generator(
        LatentSpec("continuous", grid, channels) if channels else spec,
        plan=plan,
        plan_options=options or {},
        conditioning=conditioning,
        **arguments,
    )

    return generator, random_params(generator) if start else None


def random_params(generator):
    """Parameters of the generator's shapes, drawn on the host: nothing is compiled for them."""
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        noise = 0.2 * rng.normal(size=leaf.shape)
        return jnp.asarray(noise + (path[-1].key == "scale"), leaf.dtype)

    shapes = jax.eval_shape(generator.init_params, jax.random.key(0))
    return jax.tree_util.tree_map_with_path(draw, shapes)


def inner(head):
    """The head of single codes inside windows."""
    return head.inner if isinstance(head, WindowHead) else head


def is_bits(generator):
    return isinstance(inner(generator.head), BernoulliHead)


def vocabulary(generator):
    return 2 if is_bits(generator) else inner(generator.head).size


def random_codes(generator, batch=2):
    shape = (batch, *generator.example_codes(1).shape[1:])
    return jax.random.randint(jax.random.key(2), shape, 0, vocabulary(generator))


def random_condition(generator, batch):
    """Inputs of the conditioner that differ from sample to sample, text left-padded."""
    example = generator.conditioner.example(batch)
    if "label" in example:
        return {"label": jnp.arange(batch) % 3}
    slots = example["text_mask"].shape[1]
    padded = jnp.arange(slots) < (jnp.arange(batch) % 3)[:, None]
    example["text_mask"] = 1 - padded.astype(jnp.int32)
    if "tokens" in example:
        example["tokens"] = jax.random.randint(jax.random.key(3), example["tokens"].shape, 0, 5)
    else:
        example["text"] = jax.random.normal(jax.random.key(3), example["text"].shape)
    return example


def test_remat_and_scan_do_not_change_the_gradient():
    generator, params = build(grid=(2, 3), depth=3)
    codes, cond = random_codes(generator), {"label": jnp.array([0, 2])}

    def gradient(remat):
        model = generator.clone(transformer=generator.transformer.clone(remat=remat))
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

    @jax.jit
    def logits(**rngs):
        return generator.apply({"params": params}, codes, cond, rngs=rngs)

    np.testing.assert_array_equal(logits(), logits())
    first, second = (logits(dropout=jax.random.key(n)) for n in range(2))
    assert jnp.abs(first - logits()).max() > 1e-3
    assert jnp.abs(first - second).max() > 1e-3


def test_drop_path_drops_whole_samples():
    generator, params = build(drop_path=0.9, depth=4)
    codes, cond = jnp.tile(random_codes(generator, 1), (64, 1)), {"label": jnp.zeros(64, jnp.int32)}
    apply, rngs = jax.jit(generator.apply), {"dropout": jax.random.key(0)}
    logits = apply({"params": params}, codes, cond, rngs=rngs)
    distinct = np.unique(np.asarray(logits[:, -1, 0]).round(4))
    assert 1 < len(distinct) < 64  # a few patterns of surviving branches, shared by samples


def test_a_dropped_condition_is_the_null_class():
    generator, params = build()
    codes, apply = random_codes(generator), jax.jit(generator.apply)
    # num_classes = 3
    null = apply({"params": params}, codes, {"label": jnp.array([3, 3])}, jnp.zeros(2, bool))
    dropped = apply({"params": params}, codes, {"label": jnp.array([0, 2])}, jnp.ones(2, bool))
    np.testing.assert_array_equal(null, dropped)


def test_grouped_heads_equal_repeated_ones():
    q, k, v = (
        jax.random.normal(jax.random.key(i), (2, 5, n, 8)) for i, n in ((0, 6), (1, 2), (2, 2))
    )
    visible = jnp.array([1, 2, 4, 4, 5])
    of = jax.jit(attend)
    repeated = of(q, jnp.repeat(k, 3, axis=2), jnp.repeat(v, 3, axis=2), visible)
    np.testing.assert_allclose(of(q, k, v, visible), repeated, atol=1e-6)


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
        (dict(cond_rope="identiy"), "one of zero, identity"),
        (dict(conditioning={"name": "poem"}), "none of class"),
        (dict(head="subcodes"), "needs bits latents"),
        (dict(head="categorical", bits=6), "needs index latents"),
        (dict(head="poisson"), "none of categorical"),
        (dict(head="flow"), "needs continuous latents"),
        (dict(channels=3, head="bernoulli"), "those: diffusion, flow"),
        (dict(channels=3, head_options={"ffn": "relu"}), "none of silu, swiglu"),
        (dict(channels=3, lexinvariant=1.0), "categorical head"),
        (dict(head="subcodes", bits=6, head_options={"parts": 4}), "6 bits cannot be cut"),
        (dict(window=3), "do not tile"),
        (dict(window=2, grid=(4, 4), width=54, position="learned"), "divisible by the 4 codes"),
        (dict(window=2, grid=(16,)), "do not tile"),
        (dict(window=2, lexinvariant=1.0), "no windows"),
        (dict(lexinvariant=1.0, bits=6), "categorical head"),
        (dict(lexinvariant=2.0), "a share"),
        (dict(scheme="mask"), "none of fixed, random, annealed, masked"),
        (dict(plan="masked", scheme_options={"ratio": "sine"}), "one of steps, cosine"),
        (dict(scheme="annealed", scheme_options={"start": 0.9}), "start 0.9"),
        (dict(plan="nar", scheme="annealed"), "goes with scheme fixed, not annealed"),
        (dict(plan="masked", scheme="fixed"), "goes with scheme masked"),
        (dict(backbone="mamba"), "none of transformer"),
        (dict(backbone="bert"), "with plan masked only"),
        (dict(remat="all"), "none of none, full"),
        (dict(ffn="relu"), "none of swiglu"),
        (dict(conditioning="layer_text", depth=1), "only 1"),
    ],
)
def test_impossible_models_are_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        build(**arguments)
