"""LlamaGen, NAR and PAR generators: teacher-forced logits and greedy decoding with the cache."""

import jax
import jax.numpy as jnp
import numpy as np

from imgen.decoding import Filters, Guidance, Sampling, decoding_params, generate
from imgen.generators import Generator
from imgen.generators.code_heads import categorical_nll
from imgen.interop.llamagen import IGNORED, generator_from_config, rows
from imgen.interop.table import Row, from_official, to_official
from imgen.nn.norms import RMSNorm
from imgen.training.generator_task import mean_nll
from tests.parity.golden import Golden


def build(golden: Golden) -> tuple[Generator, dict]:
    """Our model of the golden's configuration, holding its parameters."""
    config = golden.config
    plan = {"par": "par", "nar": "nar"}.get(golden.case.split("_")[0], "raster")
    options = {"groups": config["ar_token_num"]} if plan == "par" else {}
    grid = tuple(config["latent_shape"]) if "latent_shape" in config else (golden.meta["grid"],) * 2
    generator = generator_from_config(config, grid, plan=plan, **options)
    return generator, import_params(generator, golden.params())


def import_params(generator: Generator, state: dict, table: list[Row] | None = None) -> dict:
    """Official weights as ours, by LlamaGen's table or another; the way back must give them again."""
    table = rows(generator) if table is None else table
    like = jax.eval_shape(lambda: init(generator))["params"]
    params = from_official(table, state, like, IGNORED)
    back = to_official(table, params)
    assert all(np.array_equal(back[key], value) for key, value in state.items() if key in back)
    assert back.keys() == {k for k in state if k not in IGNORED}
    return params


def init(generator: Generator) -> dict:
    codes = generator.example_codes(1)
    return generator.init(jax.random.key(0), codes, generator.conditioner.example(1))


def condition(generator: Generator, golden: Golden) -> dict:
    if generator.conditioner.inputs == ("label",):
        return {"label": jnp.asarray(golden.input("labels"), jnp.int32)}
    return {"text": golden.input("caption"), "text_mask": golden.input("emb_mask")}


def forward(golden: Golden) -> None:
    generator, params = build(golden)
    close = golden.meta["tolerance"]
    name = "tokens" if golden.has("in/tokens") else "tokens_raster"
    codes = jnp.asarray(golden.input(name), jnp.int32).reshape(-1, generator.plan.positions)
    cond = condition(generator, golden)
    logits, intermediates = generator.apply(
        {"params": params},
        codes,
        cond,
        capture_intermediates=lambda module, _: module.name == "transformer",
    )
    order = golden.out("order") if golden.has("out/order") else np.arange(codes.shape[1])
    np.testing.assert_allclose(
        logits[:, order], golden.out("logits"), atol=close["logits_atol"], rtol=0
    )

    nll = categorical_nll(logits, codes)
    for key, value in (
        ("loss", nll.mean()),
        ("loss_all", nll.mean()),
        ("nll", nll[:, order]),
        ("loss_valid", weighted_mean(nll, golden)),
    ):
        if golden.has(f"out/{key}"):
            tolerance = close["loss_atol"] if np.ndim(value) == 0 else close["logits_atol"]
            np.testing.assert_allclose(value, golden.out(key), atol=tolerance, rtol=0)
    check_mask(generator, golden)
    check_hidden(generator, params, intermediates, golden)
    check_condition(generator, params, golden)


def weighted_mean(nll, golden: Golden):
    if not golden.has("in/valid"):
        return None
    return mean_nll(nll, jnp.asarray(golden.input("valid")))


def check_mask(generator: Generator, golden: Golden) -> None:
    """The official masks, over our slots in their slot order; ours leaves out slots that nobody reads."""
    plan = generator.plan
    mask = np.arange(plan.slots) < plan.visible[:, None]
    if golden.case.startswith("nar"):
        slot = np.where(
            plan.rope < 0, plan.src, plan.num_cond + plan.rope
        )  # official slots are in raster order
    else:
        slot = np.arange(plan.slots)
    if golden.has("out/attn_mask"):
        official = golden.out("attn_mask").astype(bool)
        official = official if official.ndim == 3 else official[None]
        masks = np.repeat(mask[None], len(official), 0)
        if golden.has("in/emb_mask"):  # some files hold the first sample's mask only
            masks[:, :, : plan.num_cond] &= golden.input("emb_mask").astype(bool)[
                : len(masks), None
            ]
            masks |= np.eye(plan.slots, dtype=bool)
        np.testing.assert_array_equal(masks, official[:, slot][:, :, slot])
    if golden.has("out/group_mask"):
        n = plan.slots
        np.testing.assert_array_equal(mask, golden.out("group_mask").astype(bool)[:n, :n])
    if golden.has("out/attn_mask_b0"):
        valid = np.ones(plan.slots, bool)
        valid[: plan.num_cond] = golden.input("emb_mask")[0].astype(bool)
        official = golden.out("attn_mask_b0").astype(bool)[: plan.slots, : plan.slots]
        # The official diagonal only keeps padded rows from being empty; image logits don't depend on it.
        np.testing.assert_array_equal(mask & valid | np.eye(plan.slots, dtype=bool), official)
    if golden.has("out/rope_table"):
        positions = generator.positions(np.arange(plan.slots))
        cos, sin = positions.cos, positions.sin
        official = golden.out("rope_table")[: plan.slots]
        np.testing.assert_allclose(np.stack([cos, sin], -1), official, atol=1e-6)


def check_hidden(generator: Generator, params: dict, intermediates: dict, golden: Golden) -> None:
    """Residual streams at the exits, and each head's own logits."""
    plan = generator.plan
    hidden = intermediates["intermediates"]["transformer"]["__call__"][0]
    atol = golden.meta["tolerance"]["logits_atol"]
    # Official slots stand in raster order, NAR feeds the last code too, and some files hold only the end.
    official_slot = np.where(plan.rope < 0, plan.src, plan.num_cond + plan.rope)
    fed = plan.num_cond + plan.positions - (0 if golden.case.startswith("nar") else 1)
    for head, depth in enumerate(generator.transformer.exits):
        for key in (f"layer_{depth - 1}", f"layer_{depth - 1}_last"):
            if golden.has(f"out/{key}"):
                official = golden.out(key)
                held = official_slot - (fed - official.shape[1])
                ours = hidden[head][:, held >= 0]
                np.testing.assert_allclose(ours, official[:, held[held >= 0]], atol=atol, rtol=1e-5)
        name = "R" if head == 0 else "RDB"[head] if plan.heads == 3 else "B"
        if golden.has(f"out/logits_{name}_raw"):
            raw = generator.apply(
                {"params": params}, head, hidden[head][:, plan.num_cond - 1 :], method="read"
            )
            held = official_slot[plan.num_cond - 1 :] - plan.num_cond + 1
            official = golden.out(f"logits_{name}_raw")[:, held]
            np.testing.assert_allclose(raw, official, atol=atol, rtol=0)
    if golden.has("out/final_norm"):
        state = {"params": params[f"norm_{plan.heads - 1}"]}
        normed = RMSNorm(generator.head.norm_eps).apply(state, hidden[-1])
        np.testing.assert_allclose(normed, golden.out("final_norm"), atol=atol, rtol=0)


def check_condition(generator: Generator, params: dict, golden: Golden) -> None:
    """The caption embedder, also with captions dropped."""
    if not golden.has("in/caption"):
        return
    inputs, batch = condition(generator, golden), golden.input("caption").shape[0]
    for name, null in (
        ("cond_embed_last4", np.zeros(batch, bool)),
        (
            "cond_embed_drop_last4",
            golden.input("drop_ids").astype(bool) if golden.has("in/drop_ids") else None,
        ),
    ):
        if golden.has(f"out/{name}"):
            given = generator.apply({"params": params}, inputs, null, method="condition")
            features = given.slots
            official = golden.out(name)
            np.testing.assert_allclose(
                features[:, -official.shape[1] :], official, atol=1e-4, rtol=0
            )


def generation(golden: Golden) -> None:
    """Greedy decoding, guided, guided over an interval, and unguided: the same codes, the same logits."""
    generator, params = build(golden)
    cond = condition(generator, golden)
    plan = generator.plan
    scale = golden.meta["cfg_scale"]
    visits = np.lexsort((np.arange(plan.positions), plan.decided_at))  # raster order inside a call
    if golden.has("out/visit_pos"):
        np.testing.assert_array_equal(visits, golden.out("visit_pos").reshape(-1)[: plan.positions])
        np.testing.assert_array_equal(plan.decided_at[visits], golden.out("visit_step").reshape(-1))
    if golden.has("out/order"):
        visits = golden.out("order")
    codes_name = "tokens_reordered" if golden.has("out/tokens_reordered") else "tokens"
    runs = [
        (f"{codes_name}", "cfg_logits", Guidance(scale)),
        (f"{codes_name}_nocfg", "logits_nocfg", Guidance()),
    ]
    runs += [
        (
            key,
            key.replace("tokens", "cfg_logits"),
            Guidance(scale, interval=(-1, int(key.split("interval")[1]))),
        )
        for key in golden.outs()
        if "tokens_interval" in key
    ]
    for codes_key, logits_key, guidance in runs:
        if not golden.has(f"out/{codes_key}"):
            continue
        for segments in (1, 3):
            codes, logits = generate(
                generator,
                decoding_params(params),
                cond,
                jax.random.key(0),
                sampling=Sampling(guidance, Filters(temperature=0)),
                segments=segments,
                return_out=True,
            )
            codes = np.asarray(codes).reshape(len(codes), -1)
            if "reordered" in codes_key:
                codes = codes[:, visits]
            np.testing.assert_array_equal(codes, golden.out(codes_key).reshape(codes.shape))
            np.testing.assert_allclose(
                logits[:, visits],
                golden.out(logits_key),
                atol=golden.meta["tolerance"]["logits_atol"],
                rtol=1e-5,
            )
    if golden.has("out/tokens_raster"):
        np.testing.assert_array_equal(
            golden.out("tokens_raster")[:, visits], golden.out("tokens_reordered")
        )


CASES = {
    **{
        f"{name}_forward": forward
        for name in ("llamagen_c2i", "llamagen_t2i", "nar_c2i", "nar_t2i", "nar_video", "par_c2i")
    },
    **{
        f"{name}_generate": generation
        for name in ("llamagen_c2i", "llamagen_t2i", "nar_c2i", "nar_t2i", "nar_video", "par_c2i")
    },
}
