import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgen import config
from imgen.errors import UserError
from imgen.parallel.mesh import batch_sharding, make_mesh
from imgen.params.paths import flatten
from imgen.runs.stages import evaluation_task
from imgen.tokenizers.binary_1d import vq_1d
from imgen.tokenizers.losses.adversary import Adversary
from imgen.tokenizers.losses.discriminators import PatchGAN
from imgen.tokenizers.losses.lpips import abstract_params
from imgen.tokenizers.losses.terms import annealed
from imgen.tokenizers.vq import vq
from imgen.training.state import abstract_state, init_state
from imgen.training.tokenizer_task import TokenizerTask
from tests.tokenizers.random_params import random_params
from tests.tokenizers.test_adversary import Brightness

SIZES = dict(
    ch=8, ch_mult=(1,), patch=2, num_res_blocks=1, z_channels=8, codebook_size=32, codebook_dim=4,
    groups=4, mid_attention=False, attention_levels=(), entropy_weight=0.1,
)  # fmt: skip
MODEL = vq(**SIZES)
TASK = TokenizerTask(MODEL, {"learning_rate": 1e-3}, total_steps=100)


def photos(n=16, seed=0):
    """Smooth random pictures, uint8 [n, 8, 8, 3]."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (n, 2, 2, 3), dtype=np.uint8)
    return {"image": small.repeat(4, 1).repeat(4, 2)}


def fresh(task, batch):
    return jax.jit(task.init)(jax.random.key(0), batch)


def run(step, state, batch, steps=1):
    """step: a jitted train_step."""
    for _ in range(steps):
        state, metrics = step(state, batch, jax.random.fold_in(jax.random.key(1), state["step"]))
    return state, metrics


def test_eight_devices_take_the_step_of_one():
    task = dataclasses.replace(
        TASK,
        adversary=Adversary(PatchGAN(ndf=4, n_layers=1), start=1, adaptive=True),
        ema_decay=0.9, ema_codebook=True, kmeans_init=True, restart_every=1,
    )  # fmt: skip
    batch = photos()
    results = {}
    for count in (1, 8):
        mesh = make_mesh(fsdp=count // 4 or 1, devices=jax.devices()[:count])
        with jax.set_mesh(mesh):
            abstract = abstract_state(task, batch, task.sharding_rules, mesh)
            state = init_state(task, 0, batch, abstract)
            split = jax.device_put(batch, batch_sharding(mesh))
            results[count] = run(jax.jit(task.train_step), state, split, 2)
    (one, one_metrics), (eight, eight_metrics) = results[1], results[8]
    for name, value in one_metrics.items():
        np.testing.assert_allclose(eight_metrics[name], value, rtol=2e-3, atol=1e-5, err_msg=name)
    eight = flatten({"codebook": eight["usage"], "table": eight["params"]["quantizer"]})
    one = flatten({"codebook": one["usage"], "table": one["params"]["quantizer"]})
    for name, value in one.items():
        np.testing.assert_allclose(eight[name], value, atol=1e-4, err_msg=name)


def test_the_weight_of_the_entropy_loss_comes_down_to_its_own():
    for step, factor in ((0, 3.0), (500, 2.5), (1999, 1.001), (2000, 1.0), (9999, 1.0)):
        assert float(annealed(jnp.int32(step), 2.0, 2000)) == pytest.approx(factor, rel=1e-6)

    batch = photos(8)
    tasks = TASK, dataclasses.replace(TASK, entropy_extra=2.0, entropy_extra_steps=4)
    key, params = jax.random.key(0), random_params(MODEL, jnp.zeros((1, 8, 8, 3)))["params"]

    @jax.jit
    def losses(step):
        state = {"step": step, "params": params, "usage": {}}
        both = [task._loss(state, {"params": params}, batch, key) for task in tasks]
        return [(loss, aux["metrics"]["entropy_loss"]) for loss, aux in both]

    for step, factor in ((0, 3.0), (1, 2.5), (3, 1.5), (4, 1.0), (7, 1.0)):
        (plain, entropy), (loss, weighted) = losses(jnp.int32(step))
        np.testing.assert_allclose(weighted, factor * entropy, rtol=1e-5)
        np.testing.assert_allclose(loss - plain, (factor - 1) * entropy, atol=1e-5)
    without = dataclasses.replace(tasks[1], tokenizer=vq(**SIZES | {"entropy_weight": 0.0}))
    with pytest.raises(UserError, match="entropy_extra.*set entropy_weight"):
        jax.eval_shape(without.init, key, batch)


def test_microbatches_give_the_gradient_of_the_whole_batch():
    model = vq(
        **SIZES | {"entropy_weight": 0.0}
    )  # the entropy of a batch is not a mean over its parts
    batch = photos()
    whole = dataclasses.replace(
        TASK, tokenizer=model, ema_codebook=True, kmeans_init=True, restart_every=1
    )
    state = fresh(whole, batch)
    tasks = whole, dataclasses.replace(whole, microbatches=4)
    ends = []
    for task in tasks:
        step, end = jax.jit(task.train_step), state
        for _ in range(2):  # k-means before the first, restarts and the moving average after it
            end, metrics = run(step, end, batch)
        ends.append((end, metrics))
    for name, value in ends[0][1].items():
        np.testing.assert_allclose(ends[1][1][name], value, rtol=1e-3, err_msg=name)
    for name, value in ends[0][0]["usage"].items():
        np.testing.assert_allclose(ends[1][0]["usage"][name], value, atol=1e-5, err_msg=name)
    tables = (end["params"]["quantizer"]["codebook"] for end, _ in ends)
    np.testing.assert_allclose(*tables, atol=1e-5)


# The others are trained through the commands: tests/commands/test_tokenizers.py, tests/test_configs.py.
@pytest.mark.parametrize("name", ["ibq", "rq", "titok_vae", "dynamic"])
def test_every_kind_of_tokenizer_learns_its_batch(name):
    settings = config.load_config(f"configs/small_tokenizers.py:{name},smoke")
    task = evaluation_task("tokenizer", settings)
    optimizer = {"learning_rate": 3e-3, "clip_norm": 1.0}
    task = dataclasses.replace(task, optimizer=optimizer, ema_decay=0.0, restart_every=0)
    batch = {"image": photos(8)["image"].repeat(4, 1).repeat(4, 2)}  # 32x32
    step, state = jax.jit(task.train_step, donate_argnums=0), fresh(task, batch)
    state, first = run(step, state, batch)
    first = float(first["loss"])
    state, last = run(step, state, batch, 25)
    assert float(last["loss"]) < 0.9 * first
    sums = jax.jit(task.eval_step)(state, {**batch, "mask": np.ones(8, np.float32)})
    found = task.summarize(jax.device_get(sums))
    assert np.isfinite(list(found.values())).all() and found["psnr"] > 5
    if name == "titok_vae":  # mean and deviation of continuous latents are measured
        quantizer, images = state["params"]["quantizer"], batch["image"] / np.float32(127.5) - 1
        apply = functools.partial(task.tokenizer.apply, {"params": state["params"]}, images)
        drawn = np.stack([apply(jax.random.key(i), method="encode") for i in range(4)])
        assert float(quantizer["scale"]) != 1.0
        assert abs(drawn.mean()) < 0.2 and 0.7 < drawn.std() < 1.4


def test_features_of_a_teacher_are_predicted_or_asked_for():
    tokenizer = vq_1d(
        codebook_size=16, codebook_dim=4, image_size=8, patch_size=4, num_latents=3, head_dim=8,
        encoder_heads=2, encoder_layers=1, downsample_idx=(), decoder_heads=2, decoder_layers=1,
        upsample_idx=(), semantic_target=dict(queries=2, features=5),
    )  # fmt: skip
    task = TokenizerTask(tokenizer, {"learning_rate": 3e-3}, total_steps=100)
    teacher = np.random.default_rng(0).normal(size=(16, 2, 5)).astype(np.float32)
    batch = photos() | {"teacher": teacher}
    step, state = jax.jit(task.train_step), fresh(task, batch)
    state, first = run(step, state, batch)
    _, last = run(step, state, batch, 30)
    assert last["semantic_target_loss"] < first["semantic_target_loss"]
    with pytest.raises(UserError, match="teacher"):
        jax.eval_shape(task.init, jax.random.key(0), photos())
    headless = TokenizerTask(tokenizer.clone(semantic_target=None), {"learning_rate": 1e-3}, 100)
    with pytest.raises(UserError, match="predicts no features: leave it out, or switch on a head"):
        jax.eval_shape(headless.init, jax.random.key(0), batch)
    with pytest.raises(UserError, match="predicts no features"):
        jax.eval_shape(TASK.init, jax.random.key(0), batch)


def test_discriminator_stands_still_before_its_start_and_each_player_gets_its_own_gradient():
    task = dataclasses.replace(TASK, adversary=Adversary(PatchGAN(ndf=4, n_layers=1), start=2))
    batch = photos()
    step = jax.jit(task.train_step)
    first, metrics = run(step, fresh(task, batch), batch)
    assert metrics["disc_grad_norm"] == 0 and metrics["adversarial_loss"] == 0
    second, metrics = run(step, first, batch)
    assert metrics["disc_grad_norm"] > 0 and metrics["adversarial_loss"] != 0

    # Without an adversary the tokenizer's first step is the same: no gradient leaks before the start.
    again = {**first, "step": jnp.int32(0), "params": second["params"]}
    alone, _ = run(jax.jit(TASK.train_step), again, batch)
    quiet, _ = run(step, again, batch)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), alone["params"], quiet["params"]
    )

    players = {"params": second["params"], "disc": second["disc"]}

    @jax.jit
    def gradients(players):
        def loss(players, key=None):
            total, aux = task._loss(second, players, batch, jax.random.key(0))
            return aux["metrics"][key] if key else total

        own = (
            jax.grad(loss)(players, "loss")["params"],
            jax.grad(loss)(players, "disc_loss")["disc"],
        )
        return own, jax.grad(loss)(players)

    (params, disc), together = gradients(players)
    for a, b in ((params, together["params"]), (disc, together["disc"])):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), a, b)


@pytest.mark.parametrize("waits", [True, False])
def test_the_optimizer_of_a_discriminator_waits_for_its_start_or_takes_zero_gradients(waits):
    warmup = dict(learning_rate=0.1, betas=(0.9, 0.96), clip_norm=None)
    warmup["schedule"] = dict(name="constant", warmup_steps=10)
    adversary = Adversary(Brightness(), start=3, optimizer_waits=waits)
    task = dataclasses.replace(TASK, adversary=adversary, disc_optimizer=warmup)
    gains, disc = [1.0], {"gain": jnp.ones(())}
    opt = task._disc_optimizer.init(disc)
    for step, gradient in enumerate((0.0, 0.0, 0.7)):
        state = {"step": jnp.int32(step), "disc": disc, "disc_opt": opt}
        disc, opt = task._update_discriminator(state, {"gain": jnp.float32(gradient)})
        gains.append(float(disc["gain"]))
    # Adam's first other update than 0, its n-th: the rate times (1 - b1) / (1 - b1^n) over the root of
    # (1 - b2) / (1 - b2^n).
    n = 1 if waits else 3
    adam = 0.1 / (1 - 0.9**n) / np.sqrt(0.04 / (1 - 0.96**n))
    np.testing.assert_allclose(gains, [1.0, 1.0, 1.0, 1.0 - 0.1 * n / 10 * adam], rtol=1e-5)


@pytest.mark.parametrize("ema_codebook", [False, True])
def test_dead_codes_revive(ema_codebook):
    batch = photos(64)
    task = dataclasses.replace(
        TASK, restart_every=5, restart_threshold=0.3, usage_decay=0.7, ema_codebook=ema_codebook,
        ema_decay=0.5, usage_window=10,
    )  # fmt: skip
    state = fresh(task, batch)
    # All codes but the first point away from every feature.
    z = MODEL.apply({"params": state["params"]}, batch["image"] / 127.5 - 1, method="features")
    away = -z.mean((0, 1, 2)) / jnp.linalg.norm(z.mean((0, 1, 2)))
    table = jnp.tile(away, (32, 1)).at[0].set(-away)
    state["params"]["quantizer"]["codebook"] = state["ema"]["quantizer"]["codebook"] = table
    if ema_codebook:
        state["usage"]["sums"] = table
    step = jax.jit(task.train_step)
    state, metrics = run(step, state, batch, 4)
    assert metrics["codebook_usage"] < 0.2
    state, metrics = run(step, state, batch, 40)
    assert metrics["codebook_usage"] > 0.7
    averaged = flatten(state["ema"])["quantizer/codebook"]
    assert np.abs(averaged - table).max(axis=-1)[1:].min() > 1e-3  # the average moved along


def test_evaluation_leaves_padding_out_and_scores_each_image_alone():
    small_vgg = jax.tree.map(lambda s: np.full(s.shape, 0.1, np.float32), abstract_params((2,) * 5))
    task = dataclasses.replace(TASK, lpips_params=small_vgg)
    batch = {"image": photos(4)["image"].repeat(2, 1).repeat(2, 2)}  # VGG halves four times
    state = fresh(task, batch) | task.frozen_items
    evaluate = jax.jit(task.eval_step)
    whole = evaluate(state, {**batch, "mask": np.array([1, 1, 0, 0], np.float32)})
    part = evaluate(state, {"image": batch["image"][:2], "mask": np.ones(2, np.float32)})
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), whole, part)

    apply = jax.jit(MODEL.apply)
    recon = apply({"params": state["params"]}, batch["image"][:2] / np.float32(127.5) - 1)["recon"]
    rounded = np.floor(np.clip(127.5 * np.asarray(recon) + 128, 0, 255))
    error = np.square(rounded - batch["image"][:2]).mean((1, 2, 3))
    summary = task.summarize(jax.device_get(whole))
    np.testing.assert_allclose(summary["psnr"], np.mean(10 * np.log10(255**2 / error)), atol=0.01)
    assert summary["lpips"] > 0
    picture = task.visualize(state, batch, jax.random.key(0))["reconstructions"]
    assert picture.dtype == np.uint8 and picture.shape[-1] == 3


def test_bfloat16_computes_like_float32_and_keeps_float32_state():
    task = dataclasses.replace(TASK, tokenizer=vq(**SIZES, dtype=jnp.bfloat16))
    batch = photos()
    start = fresh(TASK, batch)
    state, metrics = run(jax.jit(task.train_step), start, batch)
    _, exact = run(jax.jit(TASK.train_step), start, batch)
    assert {x.dtype for x in jax.tree.leaves(state["params"])} == {jnp.dtype("float32")}
    np.testing.assert_allclose(metrics["rec_loss"], exact["rec_loss"], rtol=0.02)
