import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgen.errors import UserError
from imgen.nn.axial_rope import Rotation, rotate, rotation
from imgen.tokenizers.binary_1d import Binary1D, binary_1d, vq_1d
from imgen.tokenizers.quantizers import FSQ, Gaussian
from tests.tokenizers.random_params import compiled, random_params

BODY = {
    "image_size": 16, "patch_size": 4, "num_latents": 5, "head_dim": 16, "encoder_layers": 2,
    "encoder_heads": 2, "downsample_idx": (0,), "decoder_layers": 2, "decoder_heads": 3,
    "upsample_idx": (1,),
}  # fmt: skip


def pictures(*size, batch=2):
    return jax.random.uniform(jax.random.key(0), (batch, *size, 3), minval=-1.0)


def run(model, variables, *args, method=None, **options):
    return compiled(model, method, **options)(variables, *args)


def test_published_sizes():
    shapes = jax.eval_shape(binary_1d().init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    shapes = shapes["params"]
    millions = {
        name: sum(leaf.size for leaf in jax.tree.leaves(tree)) / 1e6
        for name, tree in shapes.items()
    }
    assert abs(millions["encoder"] / 119.9 - 1) < 1e-3
    assert abs((millions["decoder"]) / 307.0 - 1) < 1e-3
    assert abs(sum(millions.values()) / 427.8 - 1) < 1e-3
    assert binary_1d().spec(1024).grid == (128,) and binary_1d().spec(1024).size == 64


QUANTIZED = {
    "bits": (binary_1d(bits=6, **BODY), "bits", 6),
    "vq": (vq_1d(codebook_size=32, codebook_dim=4, **BODY), "index", 32),
    "fsq": (Binary1D(FSQ((5, 3)), **BODY), "index", 15),
    "gaussian": (Binary1D(Gaussian(4), **BODY), "continuous", 4),
}


@pytest.mark.parametrize("name", QUANTIZED)
def test_any_quantizer_fits_and_its_latents_decode_to_the_reconstruction(name):
    model, kind, size = QUANTIZED[name]
    images = pictures(16, 16)
    variables = random_params(model, pictures(16, 16))
    spec = model.spec(16)
    assert (spec.kind, spec.grid, spec.size) == (kind, (5,), size)

    def error(params):
        out = model.apply({"params": params}, images)
        return jnp.mean(jnp.square(out["recon"] - images)), out

    @jax.jit
    def everything(params):
        (_, out), gradient = jax.value_and_grad(error, has_aux=True)(params)
        bound = model.bind({"params": params})
        latents = bound.encode(images)
        return out, gradient, latents, bound.decode(latents), bound.project(out["hidden"])

    out, gradient, latents, recon, last = everything(variables["params"])
    np.testing.assert_allclose(latents, out["latents"], atol=1e-5)
    assert latents.shape[:2] == (2, 5)
    np.testing.assert_allclose(recon, out["recon"], atol=1e-5)
    np.testing.assert_allclose(last, out["recon"], atol=1e-5)
    assert model.last_layer[0] in variables["params"]
    assert np.abs(gradient["encoder"]["latent_tokens"]).max() > 0
    assert ("z" in out) == (name == "vq")
    if name == "vq":
        bound = model.bind(variables)
        table = bound.quantizer.normed(variables["params"]["quantizer"]["codebook"])
        nearest = jnp.argmax(bound.code_features(out["z"], out["latents"]) @ table.T, axis=-1)
        np.testing.assert_array_equal(nearest.reshape(2, 5), out["latents"])


def test_bits_are_drawn_with_a_key_only():
    model = binary_1d(bits=16, temperature=1.0, **BODY)
    images = pictures(16, 16)
    variables = random_params(model, images)

    @jax.jit
    def draw(key):
        return model.apply(variables, images, key)["latents"]

    first, second = draw(jax.random.key(0)), draw(jax.random.key(1))
    assert set(np.unique(first)) == {0, 1} and not np.array_equal(first, second)
    again = run(model, variables, images, jax.random.key(0), method="encode")
    np.testing.assert_array_equal(again, first)


def test_one_code_decodes_at_other_sizes_and_from_images_of_other_sizes():
    model = binary_1d(bits=6, **BODY)
    variables = random_params(model, pictures(16, 16))
    latents = run(model, variables, pictures(16, 24), method="encode")
    assert latents.shape == (2, 5, 6)
    assert run(model, variables, latents, method="decode").shape == (2, 16, 16, 3)
    wide = run(model, variables, latents, method="decode", image_size=(8, 24))
    assert wide.shape == (2, 8, 24, 3)
    with pytest.raises(UserError, match="20x16.*multiples of 8"):
        model.apply(variables, latents, (20, 16), method="decode")


@pytest.mark.parametrize("causal", [True, False])
def test_causal_1d_keeps_latents_from_seeing_later_ones(causal):
    model = binary_1d(bits=6, causal_1d=causal, **(BODY | {"encoder_layers": 3}))
    images = pictures(16, 16)
    variables = random_params(model, images)
    tokens = jnp.asarray(variables["params"]["encoder"]["latent_tokens"])
    encode = jax.jit(functools.partial(model.apply, method="features"))

    def with_tokens(tokens):
        params = variables["params"]
        return {"params": {**params, "encoder": {**params["encoder"], "latent_tokens": tokens}}}

    before = np.asarray(encode(variables, images))
    after = np.asarray(encode(with_tokens(tokens.at[3].add(1.0)), images))
    changed = (before != after).any((0, 2))
    np.testing.assert_array_equal(changed, [not causal] * 3 + [True] * 2)


def test_position_scale_gives_small_and_large_images_the_same_corners():
    tables = {
        side: binary_1d(**BODY, position_scale=64)._positions().tables((side, side), 2)
        for side in (4, 16)
    }
    for corner in (0, -1):
        small, large = tables[4].cos[:-2][corner], tables[16].cos[:-2][corner]
        np.testing.assert_allclose(small, large, atol=1e-6)
    plain = binary_1d(**BODY)._positions().tables((4, 4), 2)
    assert np.abs(plain.cos[:-2][-1] - tables[4].cos[:-2][-1]).max() > 0.1


def test_only_interleaved_pairing_is_a_rotation_by_differences_of_position():
    q, k = jax.random.normal(jax.random.key(0), (2, 1, 1, 1, 8))

    def score(a, b, pairing):
        at = rotation(np.array([[a, 0.5 * a, 2.0 * a], [b, 0.5 * b, 2.0 * b]]), (2, 2, 4))
        rows = [Rotation(at.cos[i : i + 1], at.sin[i : i + 1]) for i in (0, 1)]
        return float(jnp.sum(rotate(q, rows[0], pairing) * rotate(k, rows[1], pairing)))

    assert abs(score(1.0, 3.0, "interleaved") - score(6.0, 8.0, "interleaved")) < 1e-5
    assert abs(score(1.0, 3.0, "official") - score(6.0, 8.0, "official")) > 1e-2


@pytest.mark.parametrize(
    "changes, message",
    [
        ({}, r"images of 24 would be decoded at 16: set tokenizer.image_size to 24"),
        ({"image_size": 24, "downsample_idx": (2,)}, r"downsample_idx \(2,\): .* the 2 blocks"),
        ({"image_size": 24, "downsample_idx": 7}, "downsample_idx 7: name"),
        ({"image_size": 24, "position_scale": 4}, "position_scale 4 .*at least 16"),
        ({"image_size": 24, "axes_dims": (4, 4, 4)}, "add up to head_dim 16"),
        ({"image_size": 24, "patch_size": 16}, "multiples of 32"),
        ({"image_size": 24, "repa": {"features": 3, "layer": 2}}, "none of the decoder's 2"),
    ],
)
def test_what_does_not_fit_is_told_when_the_tokenizer_is_built(changes, message):
    with pytest.raises(UserError, match=message):
        binary_1d(**(BODY | changes)).spec(24)


def test_an_unknown_argument_is_told_with_the_near_name():
    with pytest.raises(UserError, match="did you mean 'num_latents'"):
        vq_1d(num_latent=3)
