"""ELM: the sub-code transformer, its guidance schedules and filters; binary codes."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from imgen.decoding import Filters, Guidance, Sampling, decoding_params, generate
from imgen.decoding.guidance import guidance_weights, guide
from imgen.generators.filters import filter_logits
from imgen.interop.elm import generator_from_config, rows
from imgen.latents import bits
from tests.parity.cases.llamagen import import_params
from tests.parity.golden import Golden

SCHEDULES = {
    "linear": "linear_after",
    "cos": "sine_after",
    "log": "log_after",
    "square": "square_after",
    "square_root": "sqrt_before",
}


def autoregressive(golden: Golden) -> None:
    close, meta = golden.meta["tolerance"], golden.meta
    side = math.isqrt(golden.config["block_size"])
    generator = generator_from_config(golden.config, (side, side))
    params = import_params(generator, golden.params(), rows(generator))
    codes = jnp.asarray(golden.input("idx"), jnp.int32)  # [B, P, t]
    cond = {"label": jnp.asarray(golden.input("labels"), jnp.int32)}
    shape = golden.out("logits").shape
    logits = [
        generator.apply({"params": params}, codes, cond, jnp.full(len(codes), null))
        for null in (False, True)
    ]
    for name, ours in zip(("logits", "logits_null"), logits, strict=True):
        np.testing.assert_allclose(ours.reshape(shape), golden.out(name), **close)
    loss = generator.head.nll(logits[0], codes).mean() / generator.variables_per_position
    np.testing.assert_allclose(loss, golden.out("loss"), **close)
    positions = generator.positions(np.arange(generator.plan.slots))
    table = np.stack([positions.cos, positions.sin], -1)
    np.testing.assert_allclose(table, golden.out("rope_table")[: len(table)], **close)

    scale = meta["cfg_scale"]
    guided = guide(logits[0][:, -1], logits[1][:, -1], scale)
    filters = Filters(temperature=meta["temperature"], top_k=meta["top_k"])
    probabilities = jax.nn.softmax(filter_logits(guided, filters))
    np.testing.assert_allclose(probabilities, golden.out("cfg_topk_probs_last"), **close)
    for official, ours in SCHEDULES.items():
        weights = guidance_weights(Guidance(scale, schedule=ours), generator.plan)
        np.testing.assert_allclose(weights, golden.out(f"cfg_schedule_{official}"), **close)

    # The codes of an image are those of its bits, and decoding with the cache gives the same logits.
    latents = bits.from_sub_codes(codes, golden.config["code_dim"])
    np.testing.assert_array_equal(generator.to_codes(latents), codes)
    greedy, kept = generate(
        generator,
        decoding_params(params),
        cond,
        jax.random.key(0),
        sampling=Sampling(filters=Filters(temperature=0)),
        return_out=True,
    )
    full = generator.apply({"params": params}, generator.to_codes(greedy), cond)
    np.testing.assert_allclose(kept, full, atol=1e-4)


def binary_codes(golden: Golden) -> None:
    with jax.enable_x64(True):
        _binary_codes(golden)


def _binary_codes(golden: Golden) -> None:
    close = {k: golden.meta["tolerance"][k] for k in ("atol", "rtol")}
    config = golden.config
    code, logits = golden.input("bits"), jnp.asarray(golden.input("logits"))
    for parts in config["splits"]:
        sub = bits.sub_codes(jnp.asarray(code), parts)
        np.testing.assert_array_equal(sub, golden.out(f"sub_index_{parts}"))
        np.testing.assert_array_equal(bits.from_sub_codes(sub, config["bits"] // parts), code)
    np.testing.assert_array_equal(bits.sub_codes(jnp.asarray(code), 1)[..., 0], golden.out("index"))

    nll = bits.binary_nll(logits, code)
    probabilities = jax.nn.sigmoid(logits)
    unguided = jnp.asarray(golden.input("logits_uncond"))
    temperature = config["temperature"]
    scale = 1 + config["guidance"]
    guided = jax.nn.sigmoid(guide(logits / temperature, unguided / temperature, scale))
    through = jax.grad(
        lambda z: bits.straight_through(jnp.asarray(code, z.dtype), jax.nn.sigmoid(z)).sum()
    )
    for name, value in {
        "bce_per_bit": nll,
        "bce_mean": nll.mean(),
        "nats_per_token": nll.sum(-1),
        "bit_accuracy": bits.accuracy(logits, code),
        "grad_logits_of_mean": jax.grad(lambda z: bits.binary_nll(z, code).mean())(logits),
        "cfg_prob": guided,
        "cfg_prob_scale_form": guided,
        "hard_bits": logits > 0,
        "code_loss": bits.code_loss(probabilities),
        "st_grad_of_sum_bits": through(logits),
        "x0_logits_from_flip": bits.unflip(jnp.asarray(golden.input("flip_logits")), code),
        "z_q": bits.embed(jnp.asarray(code), jnp.asarray(golden.input("bit_embed"))),
    }.items():
        np.testing.assert_allclose(value, golden.out(name), **close, err_msg=name)
    one = jnp.asarray(code[0])
    np.testing.assert_array_equal((one[:, None] != one[None]).sum(-1), golden.out("hamming"))


CASES = {"elm_ar": autoregressive, "binary_codes": binary_codes}
