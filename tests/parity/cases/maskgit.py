"""MaskGIT and TiTok's generators: logits, the training loss, and decoding with recorded noise."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np

from imgen.decoding import masked
from imgen.decoding.guidance import Guidance
from imgen.decoding.sampling import Sampling
from imgen.generators.filters import Filters
from imgen.generators.generator import Generator
from imgen.generators.mask_schedules import masked_share
from imgen.generators.schemes import RATIOS
from imgen.interop import maskgit as interop
from imgen.interop.table import from_official, to_official
from imgen.training.generator_task import mean_nll
from tests.parity.compare import assert_close
from tests.parity.golden import Golden


def load(generator: Generator, table: list, state: dict, ignored=()) -> dict:
    """Official weights as ours; what decoding cuts off of the original MaskGIT comes back as zero."""
    like = jax.eval_shape(generator.init_params, jax.random.key(0))
    params = from_official(table, state, like, ignored)
    back = to_official(table, params)
    assert back.keys() == state.keys()
    for key, value in state.items():
        if key.endswith("mlm_bias/bias"):
            value = np.where(np.arange(len(value)) < generator.head.size, value, 0)
        np.testing.assert_array_equal(back[key], value)
    return params


def build(g: Golden) -> tuple[Generator, list, dict]:
    options = {}
    if "label_smoothing" in g.config:
        options = dict(
            head_options=dict(bias=True, label_smoothing=g.config["label_smoothing"]),
            scheme_options=dict(
                ratio="arccos", shown_weight=g.config["loss_weight_unmasked_token"]
            ),
        )
    generator = interop.titok_from_config(g.config, **options)
    table = interop.titok_rows(generator, g.config["model_type"])
    return generator, table, load(generator, table, g.params(), interop.IGNORED)


def forward(g: Golden) -> None:
    generator, table, params = build(g)
    codes, cond = jnp.asarray(g.input("tokens")), {"label": jnp.asarray(g.input("labels"))}
    positions, tolerance = codes.shape[1], g.meta["tolerance"].replace(",", "")
    count = np.maximum(1, np.round(positions * RATIOS["arccos"](g.input("r"))))
    hidden = np.argsort(g.input("perm_noise"), axis=1) < count[:, None]
    np.testing.assert_array_equal(hidden, g.out("mask").astype(bool))
    shown = np.where(hidden, generator.head.size, codes)
    np.testing.assert_array_equal(shown, g.out("masked_tokens"))

    def logits(params, null):
        null = jnp.full(len(codes), null)
        return generator.apply({"params": params}, codes, cond, null, None, jnp.asarray(hidden))

    for name, null in (("cond", False), ("uncond", True)):
        assert_close(logits(params, null), g.out(f"logits_{name}"), tolerance)

    weight = jnp.where(hidden, 1.0, generator.scheme.shown_weight)

    @jax.jit
    @jax.value_and_grad
    def loss_fn(params):
        return mean_nll(generator.head.loss(logits(params, False), codes), weight)

    loss, gradient = loss_fn(params)
    assert_close(loss, g.out("loss"), tolerance)
    official = to_official(table, jax.device_get(gradient))
    for key, norm in g.meta.get("grad_norms", {}).items():
        np.testing.assert_allclose(
            np.linalg.norm(official[key]), norm, rtol=1e-3, atol=1e-6, err_msg=key
        )


def guidance_of(run: dict) -> Guidance:
    """c + s (c - u) as u + (1 + s)(c - u); the power-cosine is official in our form."""
    scale, kind = run["guidance_scale"], run["guidance_decay"]
    if kind == "power-cosine":
        return Guidance(scale, schedule="pow_cosine", power=run["guidance_scale_pow"])
    return Guidance(1 + scale, schedule={"constant": "constant", "linear": "linear_before"}[kind])


def decode(g: Golden) -> None:
    generator, _, params = build(g)
    cond = {"label": jnp.asarray(g.input("labels"))}
    for name, run in g.meta["runs"].items():
        dialect = dataclasses.replace(masked.TITOK, annealed=run["softmax_temperature_annealing"])
        sampling = Sampling(
            guidance_of(run),
            Filters(choice_temperature=run["randomize_temperature"]),
            steps=run["num_sample_steps"],
        )
        numbers, choices = (
            np.stack([g.input(f"{name}_u_{kind}_{i}") for i in range(sampling.steps)])
            for kind in ("token", "conf")
        )
        states = steps(
            generator, params, cond, sampling, dialect,
            lambda number, n=numbers, c=choices: (jnp.asarray(n)[number], jnp.asarray(c)[number]),
        )  # fmt: skip
        for i, state in enumerate(states[:-1]):
            fed = np.where(state.masked, generator.head.size, state.codes)
            np.testing.assert_array_equal(fed, g.out(f"{name}_ids_{i}"))
        np.testing.assert_array_equal(states[-1].codes, g.out(f"{name}_tokens"))


def steps(generator, params, cond, sampling, dialect, random) -> list[masked.Masks]:
    """The states before each step and at the end."""
    table = masked.steps_of(generator.plan.positions, dialect, sampling)
    guided = bool((table.weight != 1).any())
    predict, decide = masked.networks(generator, params, cond, guided, sampling)
    step = masked.by_confidence(generator.head, predict, decide, random, dialect)
    states = [masked.everything_masked(generator, len(cond["label"]))]
    step = jax.jit(step)
    for now in zip(*table, strict=True):
        states.append(step(states[-1], masked.Steps(*now)))
    return states


def original(g: Golden) -> None:
    """The Flax code: its logits over codes, classes and mask; its decoding; its mask schedules."""
    config = g.config
    generator = interop.flax_from_config(config)
    table = interop.flax_rows(config["codebook_size"], config["num_class"])
    params = load(generator, table, g.params())
    close = float(re.search(r"atol (\S+);", g.meta["tolerance"])[1])
    vocabulary = g.params()["Embed_0/word_embeddings/embedding"]
    ids = np.array(g.input("input_ids"))
    x = jnp.asarray(vocabulary[ids])  # the mask is number -1, the last row
    network = generator.transformer.network
    hidden = network.apply({"params": params["transformer"]}, x, jnp.ones(ids.shape, bool))
    logits = hidden @ vocabulary.T + g.params()["MlmLayer_0/mlm_bias/bias"]
    assert_close(logits, g.out("logits"), close)

    size = generator.head.size
    codes, unknown = ids[:, 1:], ids[:, 1:] < 0
    cond = {"label": jnp.asarray(ids[:, 0] - size)}
    own = generator.apply(
        {"params": params}, jnp.asarray(np.where(unknown, 0, codes)), cond, None, None,
        jnp.asarray(unknown),
    )  # fmt: skip
    assert_close(own, g.out("logits")[:, 1:, :size], close)
    check_decoding(g, generator, params)
    check_schedules(g)


def check_decoding(g: Golden, generator, params) -> None:
    """The official draw adds noise to all logits, ours inverts the distribution: the numbers that make ours
    draw the official codes are found from the official states."""
    size, given = generator.head.size, g.input("decode_input")
    assert (given[:, 1:] < 0).all()  # everything is masked at first
    cond = {"label": jnp.asarray(given[:, 0] - size)}
    sampling = Sampling(
        filters=Filters(choice_temperature=g.config["choice_temperature"]), steps=g.config["steps"]
    )
    fed, drawn = g.out("fed_ids")[:, :, 1:], g.out("sampled_ids")[:, :, 1:]
    numbers = []
    for i, noise in enumerate(g.input("gumbel_token")[:, :, 1:]):
        unknown = fed[:, i] < 0
        unknown |= fed[:, i] == g.config["vocab_size"] - 1
        logits = generator.apply(
            {"params": params}, jnp.asarray(np.where(unknown, 0, fed[:, i])), cond, None, None,
            jnp.asarray(unknown),
        )  # fmt: skip
        codes = np.argmax(logits + noise, axis=-1)
        np.testing.assert_array_equal(np.where(unknown, codes, fed[:, i]), drawn[:, i])
        ends = np.cumsum(jax.nn.softmax(logits), axis=-1)
        share = np.asarray(jax.nn.softmax(logits))
        middle = ends - share / 2
        numbers.append(np.take_along_axis(middle, codes[..., None], axis=-1)[..., 0])
    numbers = jnp.asarray(np.stack(numbers))
    choices = jnp.exp(-jnp.exp(-jnp.asarray(g.input("gumbel_conf")[:, :, 1:])))
    states = steps(
        generator, params, cond, sampling, masked.MASKGIT, lambda n: (numbers[n], choices[n])
    )
    for i, state in enumerate(states[:-1]):
        unknown = (fed[:, i] < 0) | (fed[:, i] == g.config["vocab_size"] - 1)
        np.testing.assert_array_equal(state.masked, unknown)
        np.testing.assert_array_equal(state.codes[~unknown], fed[:, i][~unknown])
    np.testing.assert_array_equal(states[-1].codes, g.out("tokens"))


def check_schedules(g: Golden) -> None:
    done = g.input("schedule_ratio")
    # How many positions the file's logarithms are of stands in its figures alone.
    positions = round(float(2 ** (-np.log2(done[0]) / g.out("schedule_log")[0])))
    for name, value in g.outs("schedule_").items():
        np.testing.assert_allclose(masked_share(name, done, positions), value, atol=1e-6)


CASES = {
    "maskgit_vit_forward": forward,
    "maskgit_vit_decode": decode,
    "maskgit_uvit_forward": forward,
    "maskgit_uvit_decode": decode,
    "maskgit_jax": original,
}
