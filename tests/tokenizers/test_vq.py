import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgen.errors import UserError
from imgen.nn.conv import GroupNorm, depth_to_space, space_to_depth
from imgen.tokenizers import TOKENIZERS
from imgen.tokenizers.losses.discriminators import PatchGAN, StyleGANDiscriminator
from imgen.tokenizers.vq import vq

TINY = {
    "ch": 8, "ch_mult": (1, 2), "num_res_blocks": 1, "z_channels": 8, "codebook_size": 32,
    "codebook_dim": 4, "groups": 4,
}  # fmt: skip


@pytest.mark.parametrize("name, millions", [("vq16", 71.88), ("vq8", 70.11)])
def test_published_sizes(name, millions):
    images = jnp.zeros((1, 256, 256, 3))
    shapes = jax.eval_shape(TOKENIZERS[name]().init, jax.random.key(0), images)
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    assert abs(count / 1e6 / millions - 1) < 1e-3


@pytest.mark.parametrize("patch", [1, 2])
def test_stored_codes_decode_to_the_reconstruction(patch):
    model = vq(**TINY, patch=patch)
    images = jax.random.uniform(jax.random.key(0), (2, 8, 16, 3), minval=-1.0)
    variables = jax.jit(model.init)(jax.random.key(1), images)
    out = jax.jit(model.apply)(variables, images)
    codes = jax.jit(functools.partial(model.apply, method="encode"))(variables, images)
    assert codes.shape[1:] == model.spec((8, 16)).grid and codes.dtype == jnp.int32
    np.testing.assert_array_equal(codes, out["latents"])
    recon = jax.jit(functools.partial(model.apply, method="decode"))(variables, codes)
    assert recon.shape == images.shape
    np.testing.assert_allclose(recon, out["recon"], atol=1e-5)


def test_a_grid_that_is_not_whole_names_the_sizes():
    with pytest.raises(UserError, match=r"36x40.*factor 16.*multiples of 16"):
        TOKENIZERS["vq16"]().spec((36, 40))


def test_group_norm_is_the_textbook_one():
    x = 3.0 + 2.0 * jax.random.normal(jax.random.key(0), (2, 4, 6, 8))
    grouped = x.reshape(2, 24, 4, 2)
    mean, variance = grouped.mean((1, 3), keepdims=True), grouped.var((1, 3), keepdims=True)
    expected = ((grouped - mean) / jnp.sqrt(variance + 1e-6)).reshape(x.shape)
    layer = GroupNorm(groups=4)
    y = layer.apply(layer.init(jax.random.key(1), x), x)
    np.testing.assert_allclose(y, expected, atol=2e-6)


def test_depth_to_space_undoes_space_to_depth():
    x = jnp.arange(2 * 4 * 8 * 3).reshape(2, 4, 8, 3)
    y = space_to_depth(x, 2)
    np.testing.assert_array_equal(y[0, 0, 0], x[0, :2, :2].reshape(-1))
    np.testing.assert_array_equal(depth_to_space(y, 2), x)


def test_patchgan_has_the_published_grid_and_keeps_statistics_in_evaluation():
    model = PatchGAN()
    stats = model.init_stats()
    images = jnp.zeros((1, 256, 256, 3))
    shapes = jax.eval_shape(
        lambda k: model.init_with_output(k, images, stats)[0][0], jax.random.key(0)
    )
    assert shapes.shape == (1, 30, 30, 1)

    model, small = PatchGAN(ndf=4), jax.random.normal(jax.random.key(0), (2, 32, 32, 3))
    stats = model.init_stats()
    variables = model.init(jax.random.key(1), small, stats)
    _, trained = model.apply(variables, small, stats, True)
    _, same = model.apply(variables, small, stats, False)
    assert not np.array_equal(trained["norm_1"]["var"], stats["norm_1"]["var"])
    np.testing.assert_array_equal(same["norm_1"]["var"], stats["norm_1"]["var"])


def test_stylegan_discriminator_gives_a_logit_an_image_and_refuses_odd_sizes():
    model = StyleGANDiscriminator(max_ch=8)
    images = jax.random.normal(jax.random.key(0), (3, 16, 16, 3))
    (logits, _), _ = model.init_with_output(jax.random.key(1), images, {})
    assert logits.shape == (3, 1)
    with pytest.raises(UserError, match="24x24"):
        model.init(jax.random.key(1), jnp.zeros((1, 24, 24, 3)), {})
