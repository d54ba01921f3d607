import functools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgen.diffusion import flow
from imgen.errors import UserError
from imgen.latents import LatentSpec
from imgen.nn.conv import depth_to_space, space_to_depth
from imgen.nn.positions import sincos_2d
from imgen.parallel.mesh import batch_sharding, make_mesh
from imgen.params import paths
from imgen.tokenizers import TOKENIZERS, Tokenizer
from imgen.tokenizers.flextok import FlexTok, sample_keep
from imgen.tokenizers.flextok_layers import RegisterTransformer, causal_last
from imgen.tokenizers.losses.repa import Projector
from imgen.training.reconstructions import first_tokens
from tests.tokenizers.random_params import compiled

K = 8
TINY = {
    "image_size": 16, "registers": K, "encoder_width": 32, "encoder_depth": 2, "decoder_width": 32,
    "decoder_depth": 2, "head_dim": 16, "patch": 4, "steps": 3, "guidance_scale": 2.0,
}  # fmt: skip


class ToyVAE(Tokenizer):
    """2 x 2 pixels are a position of 12 channels, times a trained scale."""

    def setup(self):
        self.into = self.param("into", nn.initializers.constant(0.5), ())
        self.back = self.param("back", nn.initializers.constant(2.0), ())

    @nn.nowrap
    def spec(self, size):
        return LatentSpec("continuous", (size[0] // 2, size[1] // 2), 12)

    def encode(self, images, rng=None):
        latents = self.into * space_to_depth(images, 2)
        return latents if rng is None else latents + 0.1 * jax.random.normal(rng, latents.shape)

    def decode(self, latents):
        return self.back * depth_to_space(latents, 2)


def images(count=2):
    return jax.random.uniform(jax.random.key(7), (count, 16, 16, 3), minval=-1.0)


@functools.cache
def tiny(**changes):
    """A module, and random parameters: it starts with many zeros."""
    model = FlexTok(**{**TINY, **changes})
    shapes = jax.eval_shape(model.init, jax.random.key(0), images())["params"]
    leaves, tree = jax.tree.flatten(shapes)
    draw = np.random.default_rng(0)
    leaves = [jnp.asarray(0.2 * draw.normal(size=p.shape), jnp.float32) for p in leaves]
    return model, jax.tree.unflatten(tree, leaves)


def run(model, params, method, *arguments, **options):
    return compiled(model, method, **options)({"params": params}, *arguments)


def test_published_sizes():
    """The transformers' blocks, by the page's formulas 12 D^2 L and 24 D^2 L."""
    for name, encoder, decoder in (
        ("flextok_d12_d12", 85e6, 170e6),
        ("flextok_d18_d18", 287e6, 573e6),
        ("flextok_d18_d28", 287e6, 2.16e9),
    ):
        model = TOKENIZERS[name](vae=ToyVAE(), image_size=64)
        shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))["params"]
        for half, published in (("encoder", encoder), ("decoder", decoder)):
            leaves = jax.tree.leaves(shapes[half]["transformer"])
            count = sum(leaf.size for leaf in leaves)
            assert abs(count / published - 1) < 0.01, (name, half, count)


def test_sizes_that_do_not_fit_are_told():
    model = FlexTok(**TINY)
    assert model.spec(16) == LatentSpec("index", (K,), 64000)
    with pytest.raises(UserError, match="16x16, not 32x32"):
        model.spec(32)
    with pytest.raises(UserError, match="patches of 3"):
        FlexTok(**{**TINY, "patch": 3}).spec(16)
    with pytest.raises(UserError, match="heads of 12 channels do not divide a width of 32"):
        jax.eval_shape(FlexTok(**{**TINY, "head_dim": 12}).init, jax.random.key(0), images())
    model, params = tiny()
    codes = jnp.zeros((1, K), jnp.int32)
    for keep in (0, K + 1):
        with pytest.raises(UserError, match=f"from 1 to {K}"):
            model.apply({"params": params}, codes, None, keep, method="draw_latents")
    with pytest.raises(UserError, match="9 codes"):
        longer = jnp.zeros((1, K + 1), jnp.int32)
        model.apply({"params": params}, longer, None, method="draw_latents")


def test_a_code_depends_on_no_later_register():
    model, params = tiny()
    latents = images()
    changed = jax.tree.map(lambda x: x, params)
    changed["encoder"]["registers"] = params["encoder"]["registers"].at[3, ::2].add(1.0)
    before, after = (run(model, p, "features", latents) for p in (params, changed))
    np.testing.assert_array_equal(before[:, :3], after[:, :3])
    assert (np.abs(before - after)[:, 3:].max((0, 2)) > 1e-4).all()
    mask = causal_last(2, 3)
    np.testing.assert_array_equal(mask.sum(1), [2, 2, 3, 4, 5])


def test_any_prefix_decodes_and_what_lies_behind_it_does_not_matter():
    model, params = tiny()
    codes = jax.random.randint(jax.random.key(2), (2, K), 0, 64000)
    other = codes.at[:, 3:].set(1)
    decode = functools.partial(run, model, params, "decode")
    three = decode(codes, jnp.array([3, 3]))
    assert three.shape == (2, 16, 16, 3)
    np.testing.assert_array_equal(three, decode(other, jnp.array([3, 3])))
    np.testing.assert_array_equal(three, decode(codes[:, :3]))
    assert np.abs(three - decode(codes)).max() > 1e-3
    # Each image of a batch has a length of its own.
    mixed = decode(codes, jnp.array([3, K]))
    np.testing.assert_allclose(mixed[0], three[0], atol=1e-5)
    np.testing.assert_allclose(mixed[1], decode(codes)[1], atol=1e-5)


def test_decoding_repeats_itself_unless_another_key_is_given():
    model, params = tiny()
    codes = run(model, params, "encode", images())
    assert codes.dtype == jnp.int32 and codes.shape == (2, K)
    decode = functools.partial(run, model, params, "decode")
    np.testing.assert_array_equal(decode(codes), decode(codes))
    key = jax.random.key(3)
    assert np.abs(decode(codes) - decode(codes, None, key)).max() > 0.1
    # An image does not depend on what else is in the batch, nor on its place there.
    np.testing.assert_allclose(decode(codes)[1:], decode(codes[1:]), atol=1e-5)
    # With keys, each image is that of its own.
    both = decode(codes, None, jax.random.split(key, 2))
    for i, own in enumerate(jax.random.split(key, 2)):
        np.testing.assert_allclose(both[i], decode(codes, None, own)[i], atol=1e-5)


def test_guidance_weighs_against_the_unconditional_velocity():
    """One Euler step from t = 1: x - v with v = v_u + s (v_c - v_u) is linear in s."""
    model, params = tiny()
    codes = jax.random.randint(jax.random.key(2), (2, K), 0, 64000)
    by_scale = [
        run(model, params, "decode", codes, steps=1, guidance=flow.ProjectedGuidance(scale))
        for scale in (1.0, 2.0, 4.0)
    ]
    difference = by_scale[1] - by_scale[0]
    assert np.abs(difference).max() > 1e-3
    np.testing.assert_allclose(by_scale[2] - by_scale[0], 3 * difference, atol=1e-4)
    given = run(model, params, "decode", codes, guidance=flow.apg(4.0))
    own = run(model.clone(guidance_scale=4.0), params, "decode", codes)
    np.testing.assert_array_equal(own, given)


def test_what_training_draws_is_the_same_on_1_2_and_8_devices():
    """The VAE's sample, times, noise, kept registers and null images of each image of the batch."""
    model, params = tiny(vae=ToyVAE(), patch=2, null_dropout=0.5)
    inputs, found = images(8), []
    for devices in (1, 2, 8):
        mesh = make_mesh(devices, devices=jax.devices()[:devices])
        with jax.set_mesh(mesh):
            placed = jax.device_put(inputs, batch_sharding(mesh))
            out = run(model, params, None, placed, jax.random.key(4))
        found.append(jax.device_get((out["losses"]["flow"], out["latents"])))
    for flow_loss, latents in found[1:]:
        np.testing.assert_allclose(flow_loss, found[0][0], rtol=1e-5)
        assert np.mean(latents == found[0][1]) > 0.95  # a rounding error may move one


def test_a_fresh_model_starts_at_zero_velocity_and_zero_features():
    model = FlexTok(**TINY)
    variables = jax.jit(model.init)(jax.random.key(0), images())
    out = jax.jit(model.apply)(variables, images())
    assert (np.asarray(out["latents"]) == np.asarray(out["latents"])[0, 0]).all()
    power = 1 + np.square(images()).mean()
    np.testing.assert_allclose(out["losses"]["flow"], power, rtol=0.1)


def test_training_reaches_all_but_the_vae():
    model, params = tiny(vae=ToyVAE(), patch=2, null_dropout=0.5)
    inputs = images(8)

    def loss(params):
        out = model.apply({"params": params}, inputs, jax.random.key(4))
        return sum(out["losses"].values()), out

    grads, out = jax.jit(jax.grad(loss, has_aux=True))(params)
    assert set(out) == {"latents", "losses", "stats"} and out["latents"].shape == (8, K)
    for path, grad in paths.flatten(grads).items():
        frozen = any(re.search(pattern, path) for pattern in model.frozen)
        assert frozen == path.startswith("vae/")
        assert bool((grad != 0).any()) != frozen, path
    # All of the VAE is there, its decoder too, and pictures come out in pixels.
    assert set(params["vae"]) == {"into", "back"}
    assert run(model, params, "decode", out["latents"]).shape == inputs.shape


def test_the_training_pass_without_a_key_is_that_of_evaluation():
    model, params = tiny()
    first, again = (run(model, params, None, images()) for _ in range(2))
    np.testing.assert_array_equal(first["losses"]["flow"], again["losses"]["flow"])
    codes = run(model, params, "encode", images())
    np.testing.assert_array_equal(first["latents"], codes)
    keyed = [run(model, params, None, images(), jax.random.key(i)) for i in range(2)]
    assert float(keyed[0]["losses"]["flow"]) != float(keyed[1]["losses"]["flow"])


def test_a_quantizer_by_name_with_a_codebook_gives_features_for_its_care():
    vq = {"name": "vq", "codebook_size": 16, "codebook_dim": 4}
    model = FlexTok(**TINY, quantizer=vq)
    assert model.spec(16) == LatentSpec("index", (K,), 16)
    out, variables = jax.eval_shape(model.init_with_output, jax.random.key(0), images())
    assert out["z"].shape == (2, K, 4) and set(out["losses"]) == {"codebook", "commit", "flow"}
    assert variables["params"]["quantizer"]["codebook"].shape == (16, 4)
    rows = jax.eval_shape(
        lambda v, z, codes: model.apply(v, z, codes, method="code_features"),
        variables,
        out["z"],
        out["latents"],
    )
    assert rows.shape == (2 * K, 4)


def test_a_prefix_counts_registers_whatever_their_codes():
    rq = {"name": "rq", "codebook_size": 4, "codebook_dim": 3, "depth": 2}
    model = FlexTok(**TINY, quantizer=rq)
    assert model.spec(16).grid == (K, 2)
    assert first_tokens(model, 16) == first_tokens(FlexTok(**TINY), 16) == [1, 2, 4, K]


def test_nested_dropout_keeps_what_its_rule_says():
    kept = np.asarray(sample_keep(jax.random.key(0), (4000,), 12, "uniform"))
    np.testing.assert_allclose(np.bincount(kept, minlength=13)[1:] / 4000, 1 / 12, atol=0.02)
    kept = np.asarray(sample_keep(jax.random.key(0), (4000,), 12, "pow2"))
    values, counts = np.unique(kept, return_counts=True)
    np.testing.assert_array_equal(values, [1, 2, 4, 8, 12])
    np.testing.assert_allclose(counts / 4000, 1 / 5, atol=0.03)
    assert set(np.asarray(sample_keep(jax.random.key(0), (99,), 8, "pow2"))) == {1, 2, 4, 8}
    with pytest.raises(UserError, match="uniform, pow2"):
        sample_keep(jax.random.key(0), (1,), 8, "linear")


def test_repa_draws_features_of_one_block_to_the_teacher():
    head = Projector(6, layer=0)
    assert FlexTok(**TINY, repa={"features": 6, "layer": 0}).repa == head
    model, params = tiny(repa=head)
    teacher = jax.random.normal(jax.random.key(5), (2, 25, 6))

    def repa(params, teacher=teacher):
        out = model.apply({"params": params}, images(), None, teacher)
        return out["losses"]["repa"]

    loss, grads = jax.jit(jax.value_and_grad(repa))(params)
    assert 0 <= float(loss) <= 2
    blocks = grads["decoder"]["transformer"]["blocks"]["mlp"]["down"]["kernel"]
    norms = np.linalg.norm(blocks, axis=(1, 2))
    assert norms[0] > 0 and norms[1] == 0  # later blocks have no part in it
    assert set(run(model, params, None, images())["losses"]) == {"flow"}
    with pytest.raises(UserError, match="no teacher features"):
        run(model, params, None, images(), jax.random.key(0))
    with pytest.raises(UserError, match="24 features an image are neither 4x4"):
        jax.eval_shape(repa, params, teacher[:, :24])
    for layer in (-1, 2):
        with pytest.raises(UserError, match=f"layer = {layer}, which is none of the decoder's 2"):
            model.clone(repa=Projector(6, layer=layer)).spec(16)


def test_remat_and_bfloat16_change_no_meaning():
    model, params = tiny()
    plain = run(model, params, None, images())["losses"]["flow"]
    saved = run(tiny(remat=True)[0], params, None, images())["losses"]["flow"]
    np.testing.assert_allclose(saved, plain, rtol=1e-5)
    half = run(tiny(dtype=jnp.bfloat16)[0], params, None, images())["losses"]["flow"]
    assert half.dtype == jnp.float32
    np.testing.assert_allclose(half, plain, rtol=0.03)


def test_features_at_a_block_are_a_shallower_transformer():
    x = jax.random.normal(jax.random.key(0), (1, 5, 32))
    deep = RegisterTransformer(3, 16)
    variables = deep.init(jax.random.key(1), x)
    _, features = deep.apply(variables, x, features_at=1)
    first_two = jax.tree.map(lambda leaf: leaf[:2], variables)
    np.testing.assert_allclose(
        RegisterTransformer(2, 16).apply(first_two, x)[0], features, atol=1e-6
    )


def test_positions_of_a_smaller_grid_are_the_corner_of_a_larger_one():
    table = sincos_2d((4, 6), 8)
    np.testing.assert_array_equal(table[:2, :3], sincos_2d((2, 3), 8))
    np.testing.assert_allclose(
        table[3, 5, :4], [np.sin(3), np.sin(0.03), np.cos(3), np.cos(0.03)], atol=1e-6
    )
    np.testing.assert_array_equal(table[0, :, :4], table[0, :1, :4].repeat(6, 0))  # rows come first
    with pytest.raises(UserError, match="multiple of 4"):
        sincos_2d((2, 2), 6)
