"""RAR: teacher forcing in raster and permuted orders, and decoding with the cache."""

import jax
import jax.numpy as jnp
import numpy as np

from imgen.decoding.cached import decoding_params, generate
from imgen.decoding.guidance import Guidance, guidance_weights
from imgen.decoding.sampling import Sampling
from imgen.generators.filters import Filters
from imgen.generators.generator import Generator
from imgen.generators.transformer import Transformer
from imgen.interop.rar import generator_from_config, rows
from imgen.interop.table import from_official, to_official
from tests.parity.compare import assert_close
from tests.parity.golden import Golden


def build(g: Golden) -> tuple[Generator, list, dict]:
    """Our model of the golden's configuration, its table, and its parameters."""
    generator = generator_from_config(g.config)
    table, official = rows(generator), g.params()
    params = from_official(
        table, official, jax.eval_shape(generator.init_params, jax.random.key(0))
    )
    back = to_official(table, params)
    assert back.keys() == official.keys()
    for key, value in official.items():  # rows that nothing reads come back as zero
        assert back[key].shape == value.shape
        np.testing.assert_array_equal(back[key], np.where(back[key] == 0, 0, value))
    return generator, table, params


def in_order(x, order: np.ndarray) -> np.ndarray:
    x = np.asarray(x)
    return np.take_along_axis(x, order.reshape(*order.shape, *(1,) * (x.ndim - 2)), axis=1)


def forward(g: Golden) -> None:
    generator, table, params = build(g)
    codes, null = jnp.asarray(g.input("tokens")), jnp.asarray(g.input("drop"))
    cond = {"label": jnp.asarray(g.input("labels"))}
    positions = codes.shape[1]
    raster = np.tile(np.arange(positions), (len(codes), 1))
    tolerance = g.meta["tolerance"].replace(",", "")

    @jax.jit
    def nll(params, order):
        logits = generator.apply({"params": params}, codes, cond, null, order=order)
        return generator.head.nll(logits, codes), logits

    for name, order in (("raster", raster), ("perm", g.input("orders"))):
        found, logits = nll(params, order)
        assert_close(in_order(logits, order), g.out(f"logits_{name}")[:, :positions], tolerance)
        np.testing.assert_array_equal(in_order(codes, order), g.out(f"labels_{name}"))
        assert_close(found.mean(), g.out(f"loss_{name}"), tolerance)
        if name == "perm":
            assert_close(in_order(found, order), g.out("nll_perm"), tolerance)
    plain = nll(params, None)[1]
    np.testing.assert_array_equal(plain, nll(params, raster)[1])
    check_blocks(g, generator, params, codes, cond, null, tolerance)

    gradient = jax.jit(jax.grad(lambda p: nll(p, g.input("orders"))[0].mean()))(params)
    official = to_official(table, jax.device_get(gradient))
    assert official.keys() == g.meta["grad_norms"].keys()
    for key, norm in g.meta["grad_norms"].items():
        np.testing.assert_allclose(
            np.linalg.norm(official[key]), norm, rtol=1e-3, atol=1e-6, err_msg=key
        )


def check_blocks(g: Golden, generator, params, codes, cond, null, tolerance) -> None:
    """The residual stream after each block. The official code also feeds the last code, read by nobody."""
    stacked = params["transformer"]["blocks_0"]
    for depth in range(1, generator.transformer.layers + 1):
        first = {"blocks_0": jax.tree.map(lambda leaf, n=depth: leaf[:n], stacked)}
        shallow = generator.clone(transformer=Transformer(generator.transformer.spec, (depth,)))
        _, found = shallow.apply(
            {"params": {**params, "transformer": first}},
            codes,
            cond,
            null,
            order=g.input("orders"),
            capture_intermediates=lambda module, _: module.name == "transformer",
        )
        (stream,) = found["intermediates"]["transformer"]["__call__"][0]
        expected = g.out(f"block_perm_{depth - 1}")[:, : generator.plan.slots]
        assert_close(stream, expected, tolerance)


def generation(g: Golden) -> None:
    generator, _, params = build(g)
    powcos = g.meta["powcos"]
    scheduled = Guidance(
        powcos["guidance_scale"], schedule="pow_cosine", power=powcos["guidance_scale_pow"]
    )
    assert_close(guidance_weights(scheduled, generator.plan), g.out("scale_powcos"), "rtol 1e-5")
    for name, guidance, temperature in (
        ("powcos", scheduled, powcos["temperature"]),
        ("const", Guidance(3.0, schedule="pow_cosine", power=0.0), 1.0),  # as the description says
        ("uncond_off", Guidance(), 1.0),
    ):
        codes, logits = generate(
            generator,
            decoding_params(params),
            {"label": jnp.asarray(g.input("labels"))},
            jax.random.key(0),
            sampling=Sampling(guidance, Filters(temperature=0)),
            return_out=True,
        )
        codes = np.asarray(codes).reshape(len(codes), -1)
        np.testing.assert_array_equal(codes, g.out(f"tokens_{name}"))
        if g.has(f"out/logits_{name}"):
            atol = float(g.meta["tolerance"].split("atol ")[1])
            assert_close(logits / temperature, g.out(f"logits_{name}"), atol)


CASES = {"rar_forward": forward, "rar_generate": generation}
