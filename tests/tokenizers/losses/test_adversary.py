import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from imgen.tokenizers.losses.adversary import Adversary, LastLayer
from imgen.tokenizers.losses.discriminators import (
    NLayerDiscriminator,
    PatchGAN,
    StyleGANDiscriminator,
    adaptive_max_pool,
    low_pass,
)
from imgen.tokenizers.losses.terms import RECONSTRUCTION


class Brightness(nn.Module):
    """Judges an image by its mean alone: logits [B] = gain * mean."""

    def init_stats(self):
        return {}

    @nn.compact
    def __call__(self, images, stats):
        gain = self.param("gain", nn.initializers.ones, ())
        return gain * images.mean((1, 2, 3)), stats


LECAM = Adversary(Brightness(), weight=0.1, start=3, disc_weight=1.0, lecam_weight=0.5)


def play(adversary, params, stats, images, recon, step):
    unused = LastLayer(lambda kernel: kernel, recon)
    return adversary.terms(params, stats, images, recon, jnp.int32(step), jnp.sum, unused)


def flat(*means):
    return jnp.stack([jnp.full((4, 4, 3), mean) for mean in means])


@pytest.mark.parametrize("model", [Brightness(), PatchGAN(ndf=4, n_layers=1)])
def test_before_its_start_a_discriminator_is_run_neither_forward_nor_backward(model):
    images, recon = jax.random.normal(jax.random.key(0), (2, 2, 8, 8, 3))
    adversary = Adversary(model, start=3, adaptive=True, lecam_weight=0.5)
    params, stats = adversary.init(jax.random.key(1), images)
    broken = jax.tree.map(lambda p: p * jnp.nan, params)  # NaN times 0 is NaN

    @jax.jit
    def both(params, recon, step):
        layer = LastLayer(lambda kernel: kernel * images, jnp.ones(()))
        terms = adversary.terms(params, stats, images, recon, step, jnp.sum, layer)
        return terms.generator + terms.discriminator, terms.stats

    take = jax.jit(jax.value_and_grad(both, (0, 1), has_aux=True))
    (loss, after), gradients = take(broken, recon, 2)
    assert loss == 0 and not any(np.any(leaf) for leaf in jax.tree.leaves(gradients))
    jax.tree.map(np.testing.assert_array_equal, after, stats)
    (loss, _), gradients = take(broken, recon, 3)
    assert np.isnan(loss) and any(np.isnan(leaf).any() for leaf in jax.tree.leaves(gradients))


def test_lecam_compares_with_the_running_means_from_before_the_step():
    images, recon = flat(0.2, 0.6), flat(-0.5, -0.1)  # mean logits 0.4 and -0.3
    params, stats = LECAM.init(jax.random.key(0), images)
    assert stats["lecam"] == {"real": 0.0, "fake": 0.0}
    hinge = 0.5 * ((0.8 + 0.4) / 2 + (0.5 + 0.9) / 2)

    terms = play(LECAM, params, stats, images, recon, 3)
    expected = hinge + 0.5 * ((0.4 - 0.0) ** 2 + (0.0 + 0.3) ** 2)
    np.testing.assert_allclose(terms.discriminator, expected, rtol=1e-6)
    np.testing.assert_allclose(terms.generator, 0.1 * 0.3, rtol=1e-6)
    np.testing.assert_allclose(terms.stats["lecam"]["real"], 0.001 * 0.4, rtol=1e-4)
    np.testing.assert_allclose(terms.stats["lecam"]["fake"], -0.001 * 0.3, rtol=1e-4)

    usual = {"lecam": {"real": jnp.float32(-0.5), "fake": jnp.float32(0.3)}}
    terms = play(LECAM, params, usual, images, recon, 4)
    # Fakes are above what is usual for real images: only the other half pulls.
    np.testing.assert_allclose(terms.discriminator, hinge + 0.5 * (0.4 - 0.3) ** 2, rtol=1e-6)


def test_lecam_is_a_loss_of_the_discriminator_alone():
    images, recon = flat(0.2, 0.6), flat(-0.5, -0.1)
    params, stats = LECAM.init(jax.random.key(0), images)

    def loss(params, recon, adversary):
        own = stats if adversary.lecam_weight else {}
        terms = play(adversary, params, own, images, recon, 3)
        return terms.generator + terms.discriminator

    gradient = jax.grad(loss, (0, 1))
    (with_gain, with_recon) = gradient(params, recon, LECAM)
    plain = dataclasses.replace(LECAM, lecam_weight=0.0)
    (gain, by_recon) = gradient(params, recon, plain)
    np.testing.assert_array_equal(with_recon, by_recon)
    # d/dgain of 0.5 ((0.4 gain)^2 + (0.3 gain)^2) at 1
    np.testing.assert_allclose(with_gain["gain"] - gain["gain"], 0.4**2 + 0.3**2, rtol=1e-5)


def test_the_bound_of_an_adaptive_weight_may_be_that_of_summed_losses():
    images, recon = flat(0.2, 0.6), flat(-0.5, -0.1)  # mean logit of recon: -0.3
    layer = LastLayer(lambda kernel: kernel * recon, jnp.ones(()))
    for sums, most in ((False, 0.02), (True, 0.02 / 48)):  # 48 values an image
        adversary = Adversary(
            Brightness(), 0.5, start=0, adaptive=True, adaptive_most=0.02, adaptive_sums=sums
        )
        params, stats = adversary.init(jax.random.key(0), images)
        terms = adversary.terms(params, stats, images, recon, jnp.int32(1), jnp.sum, layer)
        np.testing.assert_allclose(terms.generator, 0.5 * most * 0.3, rtol=1e-5)


def test_without_lecam_the_state_is_the_discriminators_own_and_both_terms_have_one_weight():
    model = PatchGAN(ndf=4, n_layers=1)
    images = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))
    adversary = Adversary(model, weight=0.5, start=1)
    params, stats = adversary.init(jax.random.key(1), images)
    assert stats.keys() == model.init_stats().keys()
    terms = play(adversary, params, stats, images, -images, 1)
    whole = play(dataclasses.replace(adversary, disc_weight=1.0), params, stats, images, -images, 1)
    assert terms.generator == whole.generator
    np.testing.assert_allclose(2 * terms.discriminator, whole.discriminator, rtol=1e-6)
    with_lecam = dataclasses.replace(adversary, lecam_weight=0.1)
    params, stats = with_lecam.init(jax.random.key(1), images)
    after = play(with_lecam, params, stats, images, -images, 1).stats
    assert after.keys() == stats.keys() == {*model.init_stats(), "lecam"}


@pytest.mark.parametrize("devices", [2, 8])
def test_lecam_sees_the_global_batch_on_any_number_of_devices(devices):
    images = jax.random.uniform(jax.random.key(0), (8, 4, 4, 3))
    recon = -jnp.linspace(0.0, 2.0, 8)[:, None, None, None] * images
    params, _ = LECAM.init(jax.random.key(1), images)
    stats = {"lecam": {"real": jnp.float32(0.2), "fake": jnp.float32(-0.1)}}

    @jax.jit
    def both(images, recon):
        terms = play(LECAM, params, stats, images, recon, 5)
        return terms.discriminator, terms.stats["lecam"]

    mesh = Mesh(np.array(jax.devices()[:devices]), ("data",))
    cut = NamedSharding(mesh, PartitionSpec("data"))
    spread = both(*jax.device_put((images, recon), cut))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), spread, both(images, recon)
    )


@pytest.mark.parametrize("length", [5, 16, 20, 33, 48])
def test_adaptive_max_pool_takes_torchs_windows(length):
    x = np.random.default_rng(0).normal(size=(2, length, 7, 3)).astype(np.float32)
    pooled = adaptive_max_pool(jnp.asarray(x), 16)
    assert pooled.shape == (2, 16, 16, 3)
    for i in (0, 3, 7, 15):
        for j in (0, 9, 15):
            rows = slice(math.floor(i * length / 16), math.ceil((i + 1) * length / 16))
            columns = slice(math.floor(j * 7 / 16), math.ceil((j + 1) * 7 / 16))
            np.testing.assert_array_equal(pooled[:, i, j], x[:, rows, columns].max((1, 2)))


class Squares(nn.Module):
    """Logits [B, 2]: gain times the mean square of an image's two halves. Its gradient: gain x 4 / pixels."""

    def init_stats(self):
        return {}

    @nn.compact
    def __call__(self, images, stats):
        gain = self.param("gain", nn.initializers.ones, ())
        return gain * jnp.square(images.reshape(len(images), 2, -1)).mean(-1), stats


@pytest.mark.parametrize("devices", [1, 8])
def test_r1_is_the_mean_square_of_the_gradient_by_real_images_of_the_global_batch(devices):
    images = jnp.linspace(0.1, 2.0, 8)[:, None, None, None] * jnp.ones((8, 4, 4, 3))
    plain = Adversary(Squares(), start=0, disc_weight=3.0)
    params = {"gain": jnp.float32(0.3)}

    @jax.jit
    def penalty(params, images):
        terms = [
            play(adversary, params, {}, images, -images, 1)
            for adversary in (dataclasses.replace(plain, r1_weight=0.7), plain)
        ]
        return terms[0].discriminator - terms[1].discriminator

    mesh = Mesh(np.array(jax.devices()[:devices]), ("data",))
    cut = jax.device_put(images, NamedSharding(mesh, PartitionSpec("data")))
    # |gradient|^2 of an image: the sum of (2 gain x / 24)^2 over its 48 values x
    slopes = np.square(2 * np.asarray(images) / 24).sum((1, 2, 3)).mean()
    value, gradient = jax.value_and_grad(penalty)(params, cut)
    np.testing.assert_allclose(value, 3.0 * 0.7 * 0.3**2 * slopes, rtol=1e-4)
    np.testing.assert_allclose(gradient["gain"], 3.0 * 0.7 * 2 * 0.3 * slopes, rtol=1e-4)


@pytest.mark.parametrize("name", ["patchgan", "stylegan", "nlayer"])
def test_the_gradient_of_r1_is_that_of_finite_differences(name):
    model = {
        "patchgan": PatchGAN(ndf=4, n_layers=1),
        "stylegan": StyleGANDiscriminator(max_ch=4, blur=(1, 3, 3, 1)),
        "nlayer": NLayerDiscriminator(hidden_channels=4, num_stages=1, groups=2),
    }[name]
    images = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))
    adversary = Adversary(model, start=0, disc_weight=1.0)
    params, stats = adversary.init(jax.random.key(1), images)
    along = jax.tree.map(lambda p: p / 10, params)

    @jax.jit
    def penalty(t):
        moved = jax.tree.map(lambda p, d: p + t * d, params, along)
        with_r1 = dataclasses.replace(adversary, r1_weight=100.0)
        terms = [play(a, moved, stats, images, -images, 1) for a in (with_r1, adversary)]
        return terms[0].discriminator - terms[1].discriminator

    slope = jax.grad(penalty)(0.0)
    np.testing.assert_allclose(slope, (penalty(0.02) - penalty(-0.02)) / 0.04, rtol=0.02)
    assert abs(slope) > 1e-3


@pytest.mark.parametrize("taps, stride", [((1, 3, 3, 1), 2), ((1, 3, 3, 1), 1), ((1, 2, 1), 1)])
def test_a_low_pass_filter_keeps_flat_regions_and_removes_the_finest_stripes(taps, stride):
    flat, stripes = jnp.ones((1, 9, 8, 1)), (-1.0) ** jnp.arange(8)[None, None, :, None]
    filtered = low_pass(flat, taps, stride, border="constant")
    assert filtered.shape == (1, -(-9 // stride), 8 // stride, 1)
    np.testing.assert_allclose(
        low_pass(flat, taps, stride), 1.0, rtol=1e-6
    )  # its border is reflected
    inside = np.s_[0, 2:-2, 1:-2]
    np.testing.assert_allclose(filtered[inside], 1.0, rtol=1e-6)
    np.testing.assert_allclose(low_pass(stripes * flat, taps, stride)[inside], 0.0, atol=1e-6)


def test_nlayer_discriminator_has_the_published_widths_and_a_fixed_grid():
    model = NLayerDiscriminator()

    def logits(side):
        images = jnp.zeros((1, side, side, 3))
        return jax.eval_shape(
            lambda key: model.init_with_output(key, images, {}), jax.random.key(0)
        )

    ((at_256, _), variables), ((at_96, _), _) = logits(256), logits(96)
    assert at_256.shape == at_96.shape == (1, 16, 16, 1)
    widths = [128, 128, 256, 512]
    count = 25 * 3 * 128 + 128 + (512 + 1) * 512 + 25 * 512 + 1
    for before, after in zip(widths[:-1], widths[1:], strict=True):
        count += 9 * before * after + 3 * after
    assert sum(leaf.size for leaf in jax.tree.leaves(variables)) == count


def test_smooth_l1_is_square_below_one_and_straight_above():
    x, y = jnp.array([0.0, 0.5, -1.0, 3.0]), jnp.zeros(4)
    np.testing.assert_allclose(
        RECONSTRUCTION["smooth_l1"](x, y), (0 + 0.125 + 0.5 + 2.5) / 4, rtol=1e-6
    )
