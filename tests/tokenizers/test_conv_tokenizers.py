import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgen.config.construct import construct
from imgen.errors import UserError
from imgen.interop import elm_bae, kl_vae, maskgit_vqgan, taming
from imgen.interop.table import from_official, to_official
from imgen.params import paths
from imgen.tokenizers import TOKENIZERS
from imgen.tokenizers.quantizers import QUANTIZERS
from imgen.tokenizers.quantizers.gaussian import Gaussian, posterior, sample

LAYOUT = {"ch": 8, "ch_mult": (1, 2), "num_res_blocks": 1, "groups": 4}
CODES = {"codebook_size": 32, "codebook_dim": 4}
TINY = {
    "maskgit_vqgan": {**LAYOUT, **CODES},
    "taming_vqgan": {**LAYOUT, **CODES, "z_channels": 8},
    "bae": {**LAYOUT, "z_channels": 8, "bits": 5},
    "kl": {**LAYOUT, "z_channels": 6, "embed_dim": 3, "patch": 2},
    "conv": {**LAYOUT, "z_channels": 8, "quantizer": {"name": "fsq", "levels": [4, 3]}},
}
SAMPLED = ("bae", "kl")
CODEBOOK = ("maskgit_vqgan", "taming_vqgan")


def tiny(name, **changes):
    return TOKENIZERS[name](**{**TINY[name], **changes})


def shapes(model, size=32):
    images = jnp.zeros((1, size, size, 3))
    return jax.eval_shape(model.init, jax.random.key(0), images)["params"]


def filled(tree):
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda s: 0.2 * rng.standard_normal(s.shape).astype(np.float32), tree)


def run(model, params, function, *arguments):
    """function(bound model, *arguments), compiled as one program."""
    return jax.jit(functools.partial(model.apply, method=function))({"params": params}, *arguments)


def pictures(*shape):
    return jax.random.uniform(jax.random.key(0), (*shape, 3), minval=-1.0)


def millions(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree)) / 1e6


def test_published_size_of_kl16():
    params = shapes(TOKENIZERS["kl16"]())
    for part, expected in ((params, 66.46), (params["encoder"], 28.27), (params["decoder"], 38.19)):
        assert abs(millions(part) / expected - 1) < 1e-3


@pytest.mark.parametrize("name", TINY)
def test_stored_latents_decode_to_the_reconstruction(name):
    model, images = tiny(name), pictures(2, 8, 16)
    params = filled(shapes(model))

    def passes(model, images, keys):
        out, latents = model(images), model.encode(images)
        recon = model.decode(latents)
        drawn = [model.encode(images, key) for key in keys]
        return out, latents, recon, model.project(out["hidden"]), drawn

    keys = jax.random.split(jax.random.key(2))
    out, latents, recon, projected, drawn = run(model, params, passes, images, keys)
    spec = model.spec((8, 16))
    axes = () if spec.kind == "index" else (spec.size,)
    assert latents.shape == (2, *spec.grid, *axes)
    assert latents.dtype == (jnp.float32 if spec.kind == "continuous" else jnp.int32)
    np.testing.assert_allclose(latents, out["latents"], atol=1e-5)
    assert ("z" in out) == (name in CODEBOOK)
    assert recon.shape == images.shape and recon.dtype == jnp.float32
    for same in (out["recon"], projected):
        np.testing.assert_allclose(recon, same, atol=1e-5)
    folder, layer = model.last_layer
    assert "kernel" in params[folder][layer]
    assert np.array_equal(*drawn) == (name not in SAMPLED)


@pytest.mark.parametrize("name", ["bae", "kl", "conv"])
def test_reconstruction_teaches_the_encoder_through_the_quantizer(name):
    model, images = tiny(name, ch_mult=(1,)), pictures(1, 4, 4)
    params = filled(shapes(model))

    @jax.jit
    @jax.grad
    def gradient(params):
        recon = model.apply({"params": params}, images, jax.random.key(2))["recon"]
        return jnp.mean(jnp.square(recon - images))

    leaves = paths.flatten(gradient(params))
    assert np.abs(leaves["encoder/conv_in/kernel"]).max() > 0
    for path in ("quantizer/scale", "quantizer/shift"):
        assert not leaves.get(path, 0)


@pytest.mark.parametrize("name", TINY)
def test_bfloat16_leaves_images_and_latents_as_they_are(name):
    def outputs(dtype):
        images = jnp.zeros((1, 16, 16, 3))
        return jax.eval_shape(
            lambda: tiny(name, dtype=dtype).init_with_output(jax.random.key(0), images)[0]
        )

    assert tiny(name, dtype=jnp.bfloat16).dtype == jnp.bfloat16
    half, full = outputs(jnp.bfloat16), outputs(jnp.float32)
    assert half["hidden"].dtype == jnp.bfloat16
    for what in ("recon", "latents"):
        assert (half[what].shape, half[what].dtype) == (full[what].shape, full[what].dtype)


ARGUMENTS = {
    "vq": CODES,
    "ibq": CODES,
    "rq": {**CODES, "depth": 3},
    "fsq": {"levels": [4, 3]},
    "lfq": {"bits": 5},
    "bsq": {"bits": 5},
    "bernoulli": {"bits": 5, "width": 6},
    "gaussian": {"channels": 3},
}


@pytest.mark.parametrize("name", QUANTIZERS)
def test_any_quantizer_fits_between_the_halves(name):
    model = tiny("conv", quantizer={"name": name, **ARGUMENTS[name]})

    def passes(model, images):
        out = model(images, jax.random.key(0))
        return out["latents"], model.encode(images), model.decode(out["latents"])

    run = functools.partial(model.init_with_output, method=passes)
    images = jnp.zeros((2, 8, 16, 3))
    *latents, recon = jax.eval_shape(run, jax.random.key(0), images)[0]
    spec = model.spec((8, 16))
    axes = () if spec.kind == "index" else (spec.size,)
    assert all(x.shape == (2, *spec.grid, *axes) for x in latents)
    assert recon.shape == images.shape


def test_images_in_the_unit_range_are_half_of_the_signed_ones_plus_a_half():
    unit, images = tiny("bae", ch_mult=(1,)), pictures(1, 4, 4)
    signed, params = unit.clone(image_range="signed"), filled(shapes(unit))
    bits = jax.random.bernoulli(jax.random.key(1), shape=(1, 4, 4, 5)).astype(jnp.int32)

    def passes(model, images, bits):
        return model.features(images), model.decode(bits)

    z, decoded = run(unit, params, passes, images, bits)
    expected_z, in_unit_range = run(signed, params, passes, (images + 1) / 2, bits)
    np.testing.assert_allclose(z, expected_z, atol=1e-5)
    np.testing.assert_allclose(decoded, 2 * in_unit_range - 1, atol=1e-5)


@pytest.mark.parametrize("side", [8, 16])
def test_the_kl_loss_is_ldms_beside_a_sum_of_errors_at_every_size(side):
    model, images = tiny("kl", kl_weight=1e-3), pictures(2, side, side)
    params = filled(shapes(model))
    out = run(model, params, lambda model, images: model(images), images)
    as_sum = out["losses"]["kl"] * 3 * side**2
    np.testing.assert_allclose(as_sum, 1e-3 * out["stats"]["kl_per_image"], rtol=1e-5)


def test_latents_are_drawn_from_the_stored_moments_and_scale_stays_outside_the_network():
    model, images = tiny("kl"), pictures(2, 8, 8)
    params, key = filled(shapes(model)), jax.random.key(2)

    def passes(model, images):
        moments, latents, drawn = (
            model.moments(images),
            model.encode(images),
            model.encode(images, key),
        )
        return moments, latents, drawn, model(images)["recon"], model.decode(latents)

    @jax.jit
    def outputs(scale, shift):
        changed = {**params, "quantizer": {"scale": scale, "shift": shift}}
        return model.apply({"params": changed}, images, method=passes)

    _, latents, _, recon, _ = outputs(jnp.float32(1.0), jnp.float32(0.0))
    moments, scaled, drawn, same, decoded = outputs(jnp.float32(0.25), jnp.float32(2.0))
    assert moments.shape == (2, *model.spec(8).grid, 6) and moments.dtype == jnp.float32
    np.testing.assert_allclose(scaled, (latents - 2.0) * 0.25, atol=1e-6)
    np.testing.assert_allclose(sample(*posterior(moments), key), drawn, atol=1e-6)
    assert not np.allclose(drawn, scaled)
    for again in (same, decoded):
        np.testing.assert_allclose(again, recon, atol=1e-4)


def test_builders_give_equal_modules_for_equal_arguments():
    assert TOKENIZERS["vq16"]() == TOKENIZERS["vq"](ch_mult=[1, 1, 2, 2, 4])
    assert TOKENIZERS["vq16"]() != TOKENIZERS["vq8"]()
    assert tiny("conv", quantizer=Gaussian(3)) == tiny(
        "conv", quantizer={"name": "gaussian", "channels": 3}
    )


@pytest.mark.parametrize("name", ["vq", "vq8", "maskgit_vqgan", "bae", "kl", "conv"])
def test_a_builder_knows_the_arguments_that_it_passes_on(name):
    for wrong, right in (("ch_mul", "ch_mult"), ("num_res_block", "num_res_blocks")):
        with pytest.raises(UserError, match=f"tokenizer has no '{wrong}'; did you mean '{right}'"):
            construct(TOKENIZERS[name], {wrong: 2}, "tokenizer")


def test_mistakes_are_named():
    with pytest.raises(UserError, match=r"8x10.*multiples of 4"):
        tiny("kl").spec((8, 10))
    with pytest.raises(UserError, match=r"tokenizer\.quantizer\.name 'fsk' is none of .*fsq"):
        tiny("conv", quantizer={"name": "fsk"})
    with pytest.raises(UserError, match=r"tokenizer\.quantizer\.name None"):
        tiny("conv", quantizer={"levels": [4]})
    with pytest.raises(UserError, match=r"no 'level'; did you mean 'levels'"):
        tiny("conv", quantizer={"name": "fsq", "level": [4]})
    with pytest.raises(UserError, match="tokenizer.quantizer 'vq': give its name with"):
        tiny("conv", quantizer="vq")
    with pytest.raises(UserError, match="depth 0"):
        tiny("conv", quantizer={"name": "rq", "depth": 0})
    with pytest.raises(UserError, match=r"attention_levels \(3,\): give .* from 0 to 1"):
        tiny("conv", quantizer=Gaussian(3), attention_levels=(3,))
    with pytest.raises(UserError, match="gen_mul 0.1 of 1 ResBlocks leaves the decoder none"):
        tiny("bae", gen_mul=0.1)
    for levels in ([4, 1], [], [1024] * 4, 8):
        with pytest.raises(UserError, match="at least 2, and their product under"):
            tiny("conv", quantizer={"name": "fsq", "levels": levels})


TABLES = {
    "taming": ("taming_vqgan", lambda model: taming.rows()),
    "maskgit": ("maskgit_vqgan", lambda model: maskgit_vqgan.rows()),
    "maskgit_flax": ("maskgit_vqgan", lambda model: maskgit_vqgan.flax_rows(3, 2)),
    "bae": ("bae", elm_bae.rows),
}


@pytest.mark.parametrize("table", TABLES)
def test_official_layouts_round_trip(table):
    name, make_rows = TABLES[table]
    model = tiny(name, ch_mult=(1, 2, 2), num_res_blocks=2)
    rows, like = make_rows(model), shapes(model)
    tree = filled(like)
    state = to_official(rows, tree)
    assert len(state) == len(jax.tree.leaves(tree))
    jax.tree.map(np.testing.assert_array_equal, from_official(rows, state, like), tree)


def test_flax_numbers_maskgits_blocks_in_the_order_in_which_they_run():
    tree = filled(shapes(tiny("maskgit_vqgan", ch_mult=(1, 2, 2), num_res_blocks=2)))
    port = to_official(maskgit_vqgan.rows(), tree)
    flax = to_official(maskgit_vqgan.flax_rows(3, 2), tree)
    for theirs, name in {
        "encoder/ResBlock_7/Conv_0": "encoder.mid.1.conv1",
        "encoder/ResBlock_2/Conv_2": "encoder.down.1.block.0.nin_shortcut",
        "decoder/ResBlock_0/Conv_1": "decoder.mid.0.conv2",
        "decoder/ResBlock_3/Conv_0": "decoder.up.2.block.1.conv1",
        "decoder/Conv_1": "decoder.up.2.upsample_conv",
        "decoder/Conv_3": "decoder.conv_out",
    }.items():
        kernel = flax[f"{theirs}/kernel"].transpose(3, 2, 0, 1)
        np.testing.assert_array_equal(kernel, port[f"{name}.weight"])


def test_unused_convolutions_of_official_binary_autoencoders_are_left_out():
    model = tiny("bae")
    rows, like = elm_bae.rows(model), shapes(model)
    state = to_official(rows, filled(like))
    assert "encoder.blocks.1.conv_out.weight" not in state  # this block keeps its width
    more = {**state, "encoder.blocks.1.conv_out.weight": np.zeros((8, 8, 1, 1))}
    more["generator.logsigma.0.weight"] = np.zeros(3)
    from_official(rows, more, like, elm_bae.IGNORED)
    widens = next(k for k in state if k.startswith("encoder") and k.endswith("conv_out.weight"))
    lacking = {k: v for k, v in state.items() if k != widens}
    with pytest.raises(UserError, match=rf"lacks {widens}"):
        from_official(rows, lacking, like, elm_bae.IGNORED)


def test_a_kl_checkpoint_brings_its_scale_and_only_fits_its_own_attention():
    mar, ldm = tiny("kl"), tiny("kl", decoder_attention_levels=(1,))
    tree = filled(shapes(mar))
    params = kl_vae.convert(kl_vae.convert_back(tree), shapes(mar), scale=0.5)
    assert params["quantizer"] == {"scale": 0.5, "shift": 0.0}
    jax.tree.map(np.testing.assert_array_equal, params["decoder"], tree["decoder"])
    with pytest.raises(UserError, match=r"no place for: decoder\.up\.1\.attn\.0"):
        kl_vae.convert(kl_vae.convert_back(filled(shapes(ldm))), shapes(mar))
