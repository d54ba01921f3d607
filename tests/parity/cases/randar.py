"""RandAR: teacher-forced logits in given orders, decoding one by one and in parallel steps."""

import jax
import jax.numpy as jnp
import numpy as np

from imgen.decoding import Filters, Guidance, Sampling, decoding_params, generate
from imgen.generators.code_heads import categorical_nll
from imgen.generators.orders import random_order_parallel
from imgen.generators.plan import Kind
from imgen.interop.randar import generator_from_config, rows
from tests.parity.cases.llamagen import import_params
from tests.parity.golden import Golden


def build(golden: Golden):
    generator = generator_from_config(golden.config, (golden.meta["grid"],) * 2)
    return generator, import_params(generator, golden.params(), rows(generator))


def in_order(x, order):
    return np.take_along_axis(np.asarray(x), order[..., None], axis=1)


def forward(golden: Golden) -> None:
    generator, params = build(golden)
    close = golden.meta["tolerance"]
    codes = jnp.asarray(golden.input("tokens_raster"), jnp.int32)
    order = golden.input("token_order")
    cond = {"label": jnp.asarray(golden.input("labels"), jnp.int32)}
    logits = generator.apply({"params": params}, codes, cond, order=jnp.asarray(order))
    np.testing.assert_allclose(
        in_order(logits, order), golden.out("logits"), atol=close["logits_atol"], rtol=0
    )
    loss = categorical_nll(logits, codes).mean()
    np.testing.assert_allclose(loss, golden.out("loss"), atol=close["loss_atol"], rtol=0)
    slots = np.flatnonzero(generator.plan.kind == Kind.QUERY)
    positions = generator.positions(slots, jnp.asarray(order))
    queries = generator.apply({"params": params}, slots, positions, codes, method="embed_slots")
    np.testing.assert_allclose(
        queries, golden.out("position_instruction_tokens"), atol=close["logits_atol"], rtol=0
    )


def generation(golden: Golden) -> None:
    meta, order = golden.meta, golden.input("token_order")
    for name, steps in (("parallel", meta["num_inference_steps"]), ("sequential", None)):
        generator, params = build(golden)
        plan = random_order_parallel(generator.plan.grid, steps=steps) if steps else None
        if steps:
            widths = np.bincount(plan.decided_at)
            np.testing.assert_array_equal(widths, meta["widths"])
        start, scale = meta[f"cfg_scales_{name}"]
        for segments in (1, 3):
            codes, logits = generate(
                generator,
                decoding_params(params),
                {"label": jnp.asarray(golden.input("labels"), jnp.int32)},
                jax.random.key(0),
                order=jnp.asarray(order),
                sampling=Sampling(
                    Guidance(scale, schedule="linear_before", start=start), Filters(temperature=0)
                ),
                plan=plan,
                segments=segments,
                return_out=True,
            )
            codes = np.asarray(codes).reshape(order.shape)
            np.testing.assert_array_equal(codes, golden.out(f"tokens_{name}_raster"))
            np.testing.assert_allclose(
                in_order(logits, order),
                golden.out(f"cfg_logits_{name}"),
                atol=meta["tolerance"]["logits_atol"],
                rtol=1e-5,
            )


CASES = {"randar_c2i_forward": forward, "randar_c2i_generate": generation}
