"""FSQ, LFQ, BSQ, IBQ and CVQ's codebook step against their public implementations."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from imgen.latents import bits
from imgen.tokenizers import codebook
from imgen.tokenizers.quantizers import BSQ, FSQ, IBQ, LFQ, VectorQuantizer
from imgen.tokenizers.quantizers.base import l2_normalize
from imgen.tokenizers.quantizers.entropy import group_probabilities
from imgen.tokenizers.quantizers.nearest import squared_distances
from tests.parity.compare import assert_close, nchw, nhwc
from tests.parity.golden import Golden


def quantizers_case(g: Golden) -> None:
    for case in (fsq, lfq, lfq_openmagvit2, ibq, cvq):
        case(g)
    for name in ("bsq_group", "bsq_analytical"):
        bsq(g, name)


def tolerances(g: Golden) -> tuple[str, str, str]:
    given = g.meta["tolerance"]
    return given["default"], given["grads"], given["entropies"]


def fsq(g: Golden) -> None:
    default, grads, _ = tolerances(g)
    quantizer = FSQ(g.config["fsq"]["levels"], g.config["fsq"]["eps"])
    z, cotangent = g.input("fsq/z"), g.input("fsq/cotangent")
    out = quantizer.apply({}, z)
    assert_close(quantizer.apply({}, z, method="bound"), g.out("fsq/bounded"), default)
    assert_close(out.values, g.out("fsq/quant"), default)
    np.testing.assert_array_equal(out.latents, g.out("fsq/indices"))
    grad = jax.grad(lambda z: jnp.sum(quantizer.apply({}, z).values * cotangent))(z)
    assert_close(grad, g.out("fsq/grad_z"), grads)
    codes = quantizer.apply({}, g.out("fsq/some_indices"), method="decode")
    assert_close(codes, g.out("fsq/some_codes"), default)


def lfq(g: Golden) -> None:
    default, grads, entropies = tolerances(g)
    config = g.config["lfq"]
    quantizer = LFQ(
        config["bits"],
        config["commitment_cost"],
        config["entropy_loss_weight"],
        config["temperature"],
        config["gamma"],
    )
    z = nhwc(g.input("lfq/z"))
    out = quantizer.apply({}, z)
    assert_close(nchw(out.values), g.out("lfq/quant"), default)
    index = bits.sub_codes_low_first(out.latents, 1)[..., 0]
    np.testing.assert_array_equal(index, g.out("lfq/indices"))
    assert_close(out.losses["commit"], g.out("lfq/commitment_loss"), default)
    assert_close(out.stats["sample_entropy"], g.out("lfq/per_sample_entropy"), entropies)
    assert_close(out.stats["code_entropy"], g.out("lfq/avg_entropy"), default)
    assert_close(out.losses["entropy"], g.out("lfq/entropy_loss"), default)

    def loss(z):
        return sum(quantizer.apply({}, z).losses.values())

    assert_close(loss(z), g.out("lfq/loss"), default)
    assert_close(nchw(jax.grad(loss)(z)), g.out("lfq/grad_z_of_loss"), grads)
    every = bits.from_sub_codes_low_first(jnp.arange(2 ** config["bits"])[:, None], config["bits"])
    codes = quantizer.apply({}, every, method="decode")
    np.testing.assert_array_equal(codes, g.out("lfq/codebook"))


def lfq_openmagvit2(g: Golden) -> None:
    default, _, entropies = tolerances(g)
    config = g.config["lfq_openmagvit2"]
    quantizer = LFQ(
        g.config["lfq"]["bits"],
        commit_weight=1.0,
        entropy_weight=1.0,
        entropy_temperature=config["temperature"],
        clip_log=False,
    )
    out = quantizer.apply({}, nhwc(g.input(config["input"])))
    name = "lfq_openmagvit2/"
    assert_close(nchw(out.values), g.out(name + "quant"), default)
    flat = out.latents.reshape(-1, out.latents.shape[-1])
    index = bits.sub_codes_low_first(flat, 1)[..., 0]
    np.testing.assert_array_equal(index, g.out(name + "indices"))
    low, high = config["factorized_bits"]
    factors = (flat[:, :low], flat[:, low : low + high])
    if low == high:
        np.testing.assert_array_equal(
            bits.sub_codes_low_first(flat, 2),
            np.stack([g.out(name + "factorized_pre"), g.out(name + "factorized_post")], -1),
        )
    for factor, which in zip(factors, ("pre", "post"), strict=True):
        index = bits.sub_codes_low_first(factor, 1)[..., 0]
        np.testing.assert_array_equal(index, g.out(name + f"factorized_{which}"))
    assert_close(out.losses["commit"], g.out(name + "commitment"), default)
    assert_close(out.stats["sample_entropy"], g.out(name + "per_sample_entropy"), entropies)
    assert_close(out.stats["code_entropy"], g.out(name + "codebook_entropy"), default)
    assert_close(out.losses["entropy"], g.out(name + "entropy_aux"), default)


def bsq(g: Golden, name: str) -> None:
    default, grads, entropies = tolerances(g)
    config = g.config[name]
    size, d = config["group_size"], config["bits"]
    quantizer = BSQ(
        d,
        commit_weight=config["beta"],
        entropy_weight=config["zeta"],
        gamma0=config["gamma0"],
        gamma=config["gamma"],
        inv_temperature=config["inv_temperature"],
        group_size=size,
    )
    z = jnp.asarray(nhwc(g.input("bsq/u")))
    out = quantizer.apply({}, z)
    assert_close(nchw(out.values), g.out(f"{name}/quant"), default)
    groups = bits.sub_codes(out.latents, d // size)
    np.testing.assert_array_equal(groups, g.out(f"{name}/group_indices"))
    index = bits.sub_codes(out.latents, 1)[..., 0]
    np.testing.assert_array_equal(index, g.out(f"{name}/indices"))
    decoded = quantizer.apply(
        {},
        bits.from_sub_codes(jnp.asarray(g.out(f"{name}/indices"))[..., None], d),
        method="decode",
    )
    assert_close(decoded, g.out(f"{name}/codes_from_indices_blc"), default)
    assert_close(out.stats["sample_entropy"], g.out(f"{name}/persample_entropy"), entropies)
    assert_close(out.stats["code_entropy"], g.out(f"{name}/codebook_entropy"), entropies)
    u = l2_normalize(z)
    logits = 4 * config["inv_temperature"] / math.sqrt(d) * u
    mean = group_probabilities(logits.reshape(-1, d), d // size).mean(0)
    assert_close(mean, g.out(f"{name}/avg_prob"), default)

    def loss(z):
        return sum(quantizer.apply({}, z).losses.values())

    assert_close(loss(z), g.out(f"{name}/loss"), default)
    # The official gradient is by the unit vector; ours passes on through the normalisation.
    _, through = jax.vjp(l2_normalize, z)
    (expected,) = through(jnp.asarray(nhwc(g.out(f"{name}/grad_unit_z_of_loss"))))
    assert_close(jax.grad(loss)(z), expected, grads)


def ibq(g: Golden) -> None:
    default, grads, entropies = tolerances(g)
    config = g.config["ibq"]
    weight = 0.05  # of the entropy in the stored gradient
    quantizer = IBQ(config["n"], config["d"], config["beta"], weight, config["entropy_temperature"])
    z, cotangent = nhwc(g.input("ibq/z")), nhwc(g.input("ibq/cotangent"))
    params = {"params": {"codebook": jnp.asarray(g.input("ibq/codebook"))}}
    out = quantizer.apply(params, z)
    products = np.sort(z @ g.input("ibq/codebook").T, axis=-1)
    clear = products[..., -1] - products[..., -2] > 1e-4
    np.testing.assert_array_equal(np.asarray(out.latents)[clear], g.out("ibq/indices")[clear])
    if not clear.all():
        return
    assert_close(nchw(out.values), g.out("ibq/quant"), default)
    losses = out.losses
    quant_loss = losses["quantization"] + losses["commit"] + losses["codebook"]
    assert_close(quant_loss, g.out("ibq/quant_loss"), default)
    assert_close(out.stats["sample_entropy"], g.out("ibq/sample_entropy"), entropies)
    assert_close(out.stats["code_entropy"], g.out("ibq/avg_entropy"), entropies)
    assert_close(losses["entropy"] / weight, g.out("ibq/entropy_loss"), entropies)

    def total(params, z):
        out = quantizer.apply(params, z)
        return jnp.sum(out.values * cotangent) + sum(out.losses.values())

    by_params, by_z = jax.grad(total, (0, 1))(params, z)
    assert_close(nchw(by_z), g.out("ibq/grad_z"), grads)
    assert_close(by_params["params"]["codebook"], g.out("ibq/grad_codebook"), grads)


def cvq(g: Golden) -> None:
    default, _, _ = tolerances(g)
    config = g.config["cvq"]
    table, z = jnp.asarray(g.input("cvq/codebook_before")), nhwc(g.input("cvq/z"))
    quantizer = VectorQuantizer(config["n"], config["d"], l2_norm=False)
    out = quantizer.apply({"params": {"codebook": table}}, z)
    rows = z.reshape(-1, config["d"])
    distances = np.asarray(squared_distances(rows, table))
    nearest = np.sort(distances, axis=-1)
    clear = (nearest[:, 1] - nearest[:, 0] > 1e-4).reshape(out.latents.shape)
    np.testing.assert_array_equal(np.asarray(out.latents)[clear], g.out("cvq/indices")[clear])
    codes = jnp.asarray(g.out("cvq/indices")).reshape(-1)
    share, moved = jax.jit(codebook.cluster_online, static_argnames="decay")(
        jnp.asarray(g.input("cvq/embed_prob_before")), table, rows, codes, decay=config["decay"]
    )
    assert_close(share, g.out("cvq/embed_prob_after"), default)
    by_code = np.sort(distances, axis=0)
    sure = by_code[1] - by_code[0] > 1e-4
    assert_close(np.asarray(moved)[sure], g.out("cvq/codebook_after")[sure], default)
    if clear.all():
        assert_close(nchw(out.values), g.out("cvq/quant"), default)
        assert_close(out.losses["codebook"], g.out("cvq/codebook_loss"), default)
        assert_close(out.losses["commit"], g.out("cvq/commitment_loss"), default)


CASES = {"quantizers": quantizers_case}
