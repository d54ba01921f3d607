"""Several steps of the real tasks on a data x fsdp x tensor mesh of 2x2x2 equal those on one device.

Parameters are compared after more than one step: a wrong gradient leaves the first loss right.
"""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import small_tokenizers
from imgen.generators import make_generator, make_xar
from imgen.latents import LatentSpec
from imgen.parallel.mesh import batch_sharding, make_mesh
from imgen.params import paths
from imgen.runs.experiment import Experiment
from imgen.tokenizers.losses.adversary import Adversary
from imgen.tokenizers.losses.discriminators import PatchGAN
from imgen.tokenizers.vq import vq
from imgen.training.generator_task import GeneratorTask
from imgen.training.state import abstract_state, init_state
from imgen.training.tokenizer_task import TokenizerTask

OPTIMIZER = dict(name="adamw", learning_rate=1e-3, eps=1e-3, weight_decay=0.05)


def train(task, batch, mesh, start=None, steps=3):
    """The state before, drawn where none is given, and state and metrics after some steps on one batch."""
    with jax.set_mesh(mesh):
        batch = jax.device_put(batch, batch_sharding(mesh))
        abstract = abstract_state(task, batch, task.sharding_rules, mesh)
        shardings = jax.tree.map(lambda x: x.sharding, abstract)
        if start is None:
            state = init_state(task, 0, batch, abstract)
        else:
            state = jax.device_put(start, shardings)
        start = jax.device_get(state)
        step = jax.jit(task.train_step, out_shardings=(shardings, None))
        for i in range(steps):
            state, metrics = step(state, batch, jax.random.key(i))
        return start, jax.device_get((state, metrics))


def assert_same(task, batch, draws=False):
    """draws: the initial parameters too are drawn on either mesh."""
    start, one = train(task, batch, make_mesh(1, 1, 1, devices=jax.devices()[:1]))
    other_start, eight = train(task, batch, make_mesh(2, 2, 2), None if draws else start)
    for ours, theirs in ((start, other_start), (one, eight)):
        for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
            np.testing.assert_allclose(a, b, atol=3e-5, rtol=1e-3)


@pytest.mark.parametrize("plan", ["raster", "nar"])
def test_generator(plan):
    generator = make_generator(
        LatentSpec("index", (3, 4), 32),
        plan=plan,
        plan_options={},
        width=48,
        depth=2,
        heads=4,
        hidden=64,
        conditioning={"name": "class", "num_classes": 5},
        dropout=0.1,
        remat="dots",
    )
    rng = np.random.default_rng(0)
    batch = {
        "codes": rng.integers(0, 32, (8, 3, 4)).astype(np.int32),
        "label": rng.integers(0, 5, 8).astype(np.int32),
    }
    task = GeneratorTask(generator, None, None, OPTIMIZER, 10, ema_decay=0.9)
    assert_same(task, batch, draws=plan == "raster")


@pytest.mark.parametrize("name", ["xar", "diffusion"])
def test_generators_of_continuous_latents(name):
    spec, classes = LatentSpec("continuous", (4, 4), 3), {"name": "class", "num_classes": 5}
    size = dict(width=48, heads=4, conditioning=classes, dropout=0.1)
    if name == "xar":
        options = {"side": 2}
        model = make_xar(spec, entity="cell", entity_options=options, depth=(1, 1), **size)
    else:
        head = dict(head=name, head_options=dict(width=32, depth=1, repeats=2))
        model = make_generator(
            spec, plan="raster", plan_options={}, depth=1, hidden=64, **head, **size
        )
    rng = np.random.default_rng(0)
    batch = {
        "codes": rng.normal(size=(8, 4, 4, 3)).astype(np.float32),
        "label": rng.integers(0, 5, 8).astype(np.int32),
    }
    assert_same(GeneratorTask(model, None, None, OPTIMIZER, 10, ema_decay=0.9), batch)


def test_generator_shards_what_is_large():
    generator = make_generator(
        LatentSpec("index", (2, 2), 32),
        plan="raster",
        plan_options={},
        width=32,
        depth=2,
        heads=4,
        hidden=64,
        conditioning={"name": "class", "num_classes": 5},
    )
    task = GeneratorTask(generator, None, None, OPTIMIZER, 10)
    batch = {"codes": jnp.zeros((8, 2, 2), jnp.int32), "label": jnp.zeros(8, jnp.int32)}
    state = abstract_state(task, batch, task.sharding_rules, make_mesh(2, 2, 2))
    for path, leaf in jax.tree_util.tree_leaves_with_path(state["params"]):
        split = leaf.size // np.prod(leaf.sharding.shard_shape(leaf.shape))
        name = jax.tree_util.keystr(path)
        assert split == (1 if "scale" in name else 2 if "conditioner" in name else 4), name


def test_tokenizer_with_a_discriminator():
    tokenizer = vq(
        ch=8, ch_mult=(1,), patch=2, num_res_blocks=1, z_channels=8, codebook_size=16, codebook_dim=4,
        groups=4, attention_levels=(), mid_attention=False,
    )  # fmt: skip
    task = TokenizerTask(
        tokenizer,
        OPTIMIZER,
        10,
        adversary=Adversary(PatchGAN(ndf=4, n_layers=1), start=1),
        disc_optimizer=OPTIMIZER,
        ema_decay=0.9,
        kmeans_init=True,
        online_clustering=True,
    )
    images = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 3)).astype(np.uint8)
    assert_same(task, {"image": images})


SMALL = {
    "binary_1d": dict(encoder_heads=2, encoder_layers=1, decoder_heads=2, decoder_layers=1),
    "titok": dict(encoder_size=(32, 2, 2), decoder_size=(32, 2, 2)),
    "dynamic": dict(width=32, encoder_layers=1, merger_layers=1, decoder_layers=1),
    "flextok": dict(
        encoder_width=32,
        decoder_width=32,
        encoder_depth=1,
        decoder_depth=2,
        head_dim=16,
        mlp_ratio=6.0,
    ),
}


def small_tokenizer(name):
    settings = small_tokenizers.get_config(f"{name},cifar10")
    settings.data.image_size = settings.tokenizer.image_size = 8
    settings.tokenizer.update(SMALL[name])
    if name == "flextok":
        settings.tokenizer.vae.update(ch=8, groups=4, num_res_blocks=1)
    return Experiment.build(settings).tokenizer


@pytest.mark.parametrize("name", ["binary_1d", "flextok"])
def test_tokenizers_of_transformers(name):
    images = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 3)).astype(np.uint8)
    assert_same(
        TokenizerTask(small_tokenizer(name), OPTIMIZER, 10, ema_decay=0.9), {"image": images}
    )


@pytest.mark.parametrize("name", SMALL)
def test_large_weights_of_tokenizers_are_split(name):
    task = TokenizerTask(small_tokenizer(name), OPTIMIZER, 10)
    batch = {"image": np.zeros((8, 8, 8, 3), np.uint8)}
    state = abstract_state(task, batch, task.sharding_rules, make_mesh(2, 2, 2))
    for path, leaf in paths.flatten(state["params"]).items():
        if re.search(r"block.*kernel$", path):
            assert leaf.size // np.prod(leaf.sharding.shard_shape(leaf.shape)) == 4, path
