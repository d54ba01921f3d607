"""MAR: the encoder and decoder, the loss, and the whole sampling loop with recorded noise."""

import re

import jax
import jax.numpy as jnp
import numpy as np

from imgen.decoding import masked
from imgen.decoding.guidance import Guidance
from imgen.decoding.sampling import Sampling
from imgen.diffusion import gaussian
from imgen.generators.filters import Filters
from imgen.generators.generator import Generator
from imgen.generators.mask_schedules import still_masked_counts
from imgen.interop.mar import generator_from_config, rows
from imgen.interop.table import from_official, to_official
from tests.parity.compare import assert_close
from tests.parity.golden import Golden


def build(g: Golden) -> tuple[Generator, list, dict]:
    generator = generator_from_config(g.config)
    table, official = rows(generator), g.params()
    params = from_official(
        table, official, jax.eval_shape(generator.init_params, jax.random.key(0))
    )
    back = to_official(table, params)
    assert back.keys() == official.keys()
    for key, value in official.items():
        np.testing.assert_array_equal(back[key], value)
    return generator, table, params


def patchify(latents: np.ndarray, patch: int) -> np.ndarray:
    """n c (h p) (w q) -> n (h w) (c p q)."""
    n, c, height, width = latents.shape
    h, w = height // patch, width // patch
    x = latents.reshape(n, c, h, patch, w, patch).transpose(0, 2, 4, 1, 3, 5)
    return x.reshape(n, h * w, c * patch**2)


def to_largest(actual, expected, share: float) -> None:
    expected = np.asarray(expected)
    assert np.abs(np.asarray(actual) - expected).max() < share * np.abs(expected).max()


def forward(g: Golden) -> None:
    generator, table, params = build(g)
    tolerance = g.meta["tolerance"].replace(",", "").split(" (")[0]
    of_bound = re.search(r"\(vb (rtol \S+)\)", g.meta["tolerance"])[1]
    codes = patchify(g.input("latents"), g.config["patch_size"])
    np.testing.assert_array_equal(codes, g.out("tokens"))
    batch, positions = codes.shape[:2]
    hidden = g.input("mask") > 0
    place = np.argsort(g.input("orders"), axis=1)
    np.testing.assert_array_equal(place < g.config["num_masked"], hidden)
    cond, null = {"label": jnp.asarray(g.input("labels"))}, jnp.asarray(g.input("drop") > 0)

    def features(params, **options):
        return generator.apply(
            {"params": params}, jnp.asarray(codes), cond, null, None, jnp.asarray(hidden), **options
        )

    z, found = features(params, capture_intermediates=lambda m, _: m.name == "encoder_norm")
    assert_close(z, g.out("z"), tolerance)
    (encoded,) = jax.tree.leaves(found)
    shown = np.concatenate([np.ones((batch, generator.plan.num_cond), bool), ~hidden], axis=1)
    kept = np.asarray(encoded)[shown].reshape(batch, -1, encoded.shape[-1])
    assert_close(kept, g.out("encoder"), tolerance)

    head, t, eps = generator.head, jnp.asarray(g.input("t")), jnp.asarray(g.input("noise"))
    copies = head.repeats
    target = jnp.tile(codes.reshape(batch * positions, -1), (copies, 1))
    mask = np.tile(hidden.reshape(-1), copies)
    process = gaussian.cosine_process(head.train_steps).tables()

    @jax.jit
    def terms(params):
        z = jnp.tile(features(params).reshape(batch * positions, -1), (copies, 1))
        output = head.network().apply(
            {"params": params["denoiser"]}, gaussian.noised(process, target, eps, t), t, z
        )
        return gaussian.loss_terms(process, output, target, eps, t)

    mse, bound = terms(params)
    assert_close(mse, g.out("mse"), tolerance)
    assert_close(bound, g.out("vb"), of_bound)
    assert_close(mse + bound, g.out("loss_per_token"), of_bound)
    mean = jax.jit(jax.value_and_grad(lambda p: jnp.sum(sum(terms(p)) * mask) / mask.sum()))
    loss, gradient = mean(params)
    assert_close(loss, g.out("loss"), tolerance)
    official = to_official(table, jax.device_get(gradient))
    for key, norm in g.meta["grad_norms"].items():
        np.testing.assert_allclose(
            np.linalg.norm(official[key]), norm, rtol=1e-3, atol=1e-6, err_msg=key
        )


def sample(g: Golden) -> None:
    """The official loop. Networks that were never trained blow up: values are compared to the largest."""
    generator, _, params = build(g)
    share, close = (float(x) for x in re.findall(r"\d+e-\d+", g.meta["tolerance"]))
    ramp = {"linear": "linear_after", "constant": "constant"}[g.meta["cfg_schedule"]]
    sampling = Sampling(
        Guidance(g.meta["cfg"], schedule=ramp),
        Filters(temperature=g.meta["temperature"]),
        steps=g.meta["num_iter"],
        solver_steps=int(g.config["num_sampling_steps"]),
    )
    table = masked.steps_of(generator.plan.positions, masked.MAR, sampling)
    assert_close(table.weight, g.out("cfg_iter"), close)
    order = g.input("orders")
    decided = [masks_of(g, order, i, table) for i in range(sampling.steps)]
    noises = [noise_of(g, i, at) for i, at in enumerate(decided)]

    def random(number, places, at):
        return lambda step: masked.take_rows(jnp.asarray(noises[number])[step + 1], at)

    cond = {"label": jnp.asarray(g.input("labels"))}
    guided = bool((table.weight != 1).any())
    predict, decide = masked.networks(generator, params, cond, guided, sampling)
    state, predict = masked.everything_masked(generator, len(order)), jax.jit(predict)
    step = masked.by_order(predict, decide, table, jnp.asarray(order), random)
    for i, now in enumerate(zip(*table, strict=True)):
        np.testing.assert_array_equal(state.masked, g.out(f"mask_before_{i}").astype(bool))
        z = np.concatenate(
            [np.asarray(x)[decided[i]] for x in predict(*state[:2]) if x is not None]
        )
        if i == 0:
            assert_close(z, g.out("z_0"), close)
        to_largest(z, g.out(f"z_{i}"), share)
        state = step(state, masked.Steps(i, *now[1:]))
        drawn = np.asarray(state.codes)[decided[i]]
        # The second half is drawn without the condition and thrown away.
        to_largest(drawn, g.out(f"sampled_{i}")[: len(drawn)], share)
    assert not state.masked.any()
    latents = patchify(g.out("latents"), g.config["patch_size"])
    to_largest(state.codes, latents, share)
    for name, counts in g.outs("counts_").items():
        positions, steps = map(int, name.split("_"))
        np.testing.assert_array_equal(-np.diff(still_masked_counts(positions, steps)), counts)


def masks_of(g: Golden, order: np.ndarray, i: int, table: masked.Steps) -> np.ndarray:
    """The positions that iteration i decides, bool [B, P]."""
    rank = np.argsort(order, axis=1)
    return (rank >= table.after[i]) & (rank < table.before[i])


def noise_of(g: Golden, i: int, decided: np.ndarray) -> np.ndarray:
    """An iteration's noise by step (the start first) and position, [1 + diffusion steps, B, P, C]."""
    start, steps = g.input(f"init_noise_{i}"), g.input(f"step_noise_{i}")
    rows = np.concatenate([start[None], steps[:, : len(start)]])
    out = np.zeros((len(rows), *decided.shape, rows.shape[-1]), np.float32)
    out[:, decided] = rows
    return out


CASES = {"mar_forward": forward, "mar_sample": sample}
