import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgen.errors import UserError
from imgen.nn.vit import ViT
from imgen.params.paths import flatten
from imgen.tokenizers import TOKENIZERS, build_tokenizer
from imgen.tokenizers.quantizers import FSQ, Gaussian, VectorQuantizer
from imgen.tokenizers.titok import PRESETS, SIZES, TiTok
from imgen.tokenizers.titok_layers import causal_latents
from imgen.tokenizers.vq import maskgit_vqgan, vq
from tests.tokenizers.random_params import compiled

VQ_SMALL = VectorQuantizer(32, 4)
TINY = TiTok(
    VQ_SMALL,
    num_latents=5,
    image_size=8,
    encoder_size=(16, 2, 2),
    decoder_size=(24, 1, 3),
    encoder_patch=4,
    decoder_patch=2,
)


def photos(count=2, side=8):
    return jax.random.uniform(jax.random.key(0), (count, side, side, 3), minval=-1.0)


def start(model, images):
    """Random parameters, without compiling the model's own initialisation."""
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        noise = 0.1 * rng.normal(size=leaf.shape).astype(np.float32)
        return jnp.asarray(noise + (path[-1].key == "scale"))

    shapes = jax.eval_shape(model.init, jax.random.key(0), images)
    return jax.tree_util.tree_map_with_path(draw, shapes)


def run(model, method, variables, *inputs):
    return compiled(model, method)(variables, *inputs)


@pytest.mark.parametrize(
    "quantizer, shape", [(VQ_SMALL, (5,)), (FSQ((5, 3)), (5,)), (Gaussian(3), (5, 3))]
)
def test_stored_latents_decode_to_the_reconstruction(quantizer, shape):
    model, images = TINY.clone(quantizer=quantizer), photos()
    variables = start(model, images)
    out = run(model, None, variables, images)
    latents = run(model, "encode", variables, images)
    spec = model.spec(8)
    assert spec.grid == (5,) and latents.shape[1:] == shape
    np.testing.assert_array_equal(latents, out["latents"])
    recon = run(model, "decode", variables, latents)
    assert recon.shape == images.shape and recon.dtype == jnp.float32
    np.testing.assert_allclose(recon, out["recon"], atol=1e-5)
    np.testing.assert_allclose(run(model, "project", variables, out["hidden"]), recon, atol=1e-5)
    folder, leaf = model.last_layer
    assert variables["params"][folder][leaf]["kernel"].shape == (3, 3, 3, 3)


def test_gaussian_latents_are_the_mean_without_a_key_and_a_draw_with_one():
    model, images = TINY.clone(quantizer=Gaussian(3)), photos()
    variables = start(model, images)
    mean = run(model, "encode", variables, images)
    features = run(model, "features", variables, images)
    own = variables["params"]["quantizer"]
    np.testing.assert_allclose(mean, (features[..., :3] - own["shift"]) * own["scale"], atol=1e-6)
    draw = run(model, "encode", variables, images, jax.random.key(3))
    assert np.abs(draw - mean).max() > 0.1


@pytest.mark.parametrize("causal", [True, False])
def test_a_latent_does_not_see_later_ones_where_causal(causal):
    model, images = TINY.clone(causal_1d=causal), photos()
    params = start(model, images)["params"]
    noise = jax.random.normal(jax.random.key(2), (16,))

    @jax.jit
    def read(tokens):
        variables = {"params": {**params, "latent_tokens": tokens}}
        z = model.apply(variables, images, method="features")
        return z, model.apply(variables, z, method=lambda self, z: self.quantizer.encode(z))

    tokens = params["latent_tokens"]
    before, codes = read(tokens)
    for query in (1, 4):
        after, moved_codes = read(tokens.at[query].add(noise))
        assert np.array_equal(before[:, :query], after[:, :query]) == causal
        if causal:
            np.testing.assert_array_equal(codes[:, :query], moved_codes[:, :query])
        assert (np.abs(before - after).max((0, 2))[query:] > 1e-5).all()


def test_patches_see_no_latents_and_latents_see_all_patches():
    mask = causal_latents(patches=3, latents=2)
    seen = ["111100"] * 4 + ["111110", "111111"]
    assert ["".join(str(int(x)) for x in row) for row in mask] == seen


def test_legacy_mixes_tokens_as_the_official_reshape_does():
    images = photos()
    plain, legacy = TINY, TINY.clone(legacy=True)
    params = start(plain, images)["params"]
    # The identity shows what the last layer reads.
    plain, legacy = (m.clone(quantizer=FSQ((3,) * 16)) for m in (plain, legacy))
    params["encoder"]["conv_out"] = {"kernel": jnp.eye(16), "bias": jnp.zeros(16)}
    params.pop("quantizer")
    straight, mixed = (
        np.asarray(run(m, "features", {"params": params}, images)) for m in (plain, legacy)
    )
    for token, channel in ((0, 0), (2, 7), (4, 15)):
        flat = channel * 5 + token  # of [D, K]
        np.testing.assert_allclose(
            mixed[:, token, channel], straight[:, flat // 16, flat % 16], atol=1e-6
        )


def test_starts_as_published():
    model = TINY.clone(encoder_size=(256, 2, 4), num_latents=64)
    params = jax.jit(model.init)(jax.random.key(1), photos(1))["params"]
    encoder = params["encoder"]
    blocks = encoder["transformer"]["blocks"]
    for token in (params["latent_tokens"], encoder["latent_positions"]):
        np.testing.assert_allclose(token.std(), 256**-0.5, rtol=0.03)
    for kernel in (
        blocks["up"]["kernel"],
        blocks["out"]["kernel"],
        encoder["patch_embed"]["kernel"],
    ):
        np.testing.assert_allclose(kernel.std(), 0.02, rtol=0.03)
    bound = (6 / (256 + 3 * 256)) ** 0.5
    np.testing.assert_allclose(np.abs(blocks["qkv"]["kernel"]).max(), bound, rtol=1e-3)
    assert not np.allclose(*blocks["up"]["kernel"])  # the two layers differ
    biases = [leaf for path, leaf in flatten(params).items() if path.endswith("bias")]
    assert not any(np.any(b) for b in biases)


def test_bfloat16_decodes_like_float32_and_keeps_float32_parameters():
    images = photos()
    half = TINY.clone(dtype=jnp.bfloat16)
    variables = start(half, images)
    assert {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    codes = run(TINY, "encode", variables, images)
    a, b = (run(model, "decode", variables, codes) for model in (TINY, half))
    assert b.dtype == jnp.float32
    np.testing.assert_allclose(a, b, atol=0.05)


def test_rematerialised_blocks_have_the_same_gradients():
    x = jax.random.normal(jax.random.key(0), (2, 5, 8))
    params = ViT(2, 2).init(jax.random.key(1), x)
    exact, again = (
        jax.jit(jax.grad(lambda p, m=ViT(2, 2, remat=remat): jnp.sum(jnp.sin(m.apply(p, x)))))(
            params
        )
        for remat in (False, True)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), exact, again)


PROXY = maskgit_vqgan(
    ch=8, ch_mult=(1,), num_res_blocks=1, codebook_size=12, codebook_dim=6, groups=4
)
SMALLER = TINY.clone(image_size=4, encoder_patch=2, decoder_patch=1, encoder_size=(16, 1, 2))
FIRST = SMALLER.clone(head="codes", proxy=PROXY)
SECOND = SMALLER.clone(head="mixture", proxy=PROXY)


def is_frozen(model, path):
    return any(re.search(pattern, path) for pattern in model.frozen)


def test_the_second_stage_starts_from_the_first_and_drops_the_proxys_encoder():
    images = photos(side=4)
    shapes = [
        flatten(jax.eval_shape(m.init, jax.random.key(0), images)["params"])
        for m in (FIRST, SECOND)
    ]
    first, second = ({path: leaf.shape for path, leaf in tree.items()} for tree in shapes)
    assert second.items() <= first.items()
    only_first = first.keys() - second.keys()
    assert only_first and all(path.startswith("proxy/encoder/") for path in only_first)


def test_each_stage_trains_all_that_is_not_frozen_and_nothing_else():
    images = photos(side=4)

    def gradients(model):
        def loss(params):
            out = model.apply({"params": params}, images)
            recon = out.get("recon", jnp.zeros(()))
            return jnp.sum(jnp.square(recon)) + sum(out["losses"].values())

        return flatten(jax.jit(jax.grad(loss))(start(model, images)["params"]))

    for model in (FIRST, SECOND):
        for path, gradient in gradients(model).items():
            assert np.any(np.abs(gradient) > 1e-12) != is_frozen(model, path), path


def test_both_stages_agree_where_the_codes_are_certain():
    images = photos(side=4)
    params = start(FIRST, images)["params"]
    logits = params["code_head"]["logits"]
    certain = {"kernel": 1e6 * logits["kernel"], "bias": logits["bias"]}
    params = {**params, "code_head": {**params["code_head"], "logits": certain}}
    codes = run(FIRST, "encode", {"params": params}, images)
    likeliest = run(FIRST, "decode", {"params": params}, codes)
    out = run(SECOND, None, {"params": params}, images)
    np.testing.assert_array_equal(out["latents"], codes)
    np.testing.assert_allclose(out["recon"], likeliest, atol=1e-4)
    assert SECOND.last_layer == ("proxy", "decoder", "conv_out")
    np.testing.assert_allclose(
        run(SECOND, "project", {"params": params}, out["hidden"]), out["recon"], atol=1e-5
    )

    first = run(FIRST, None, {"params": params}, images)
    assert "recon" not in first
    proxy = run(PROXY, "encode", {"params": params["proxy"]}, images)
    guess = run(FIRST, "proxy_logits", {"params": params}, lookup(params, codes))
    np.testing.assert_allclose(
        first["stats"]["proxy_accuracy"], np.mean(np.argmax(guess, -1) == proxy)
    )


def lookup(params, codes):
    table = params["quantizer"]["codebook"]
    return (table / jnp.linalg.norm(table, axis=-1, keepdims=True))[codes]


def test_quantizer_and_proxy_of_a_config_are_given_by_name():
    def build(**proxy):
        fsq = dict(name="fsq", levels=(5, 3))
        tokenizer = dict(name="titok", head="codes", quantizer=fsq, proxy=proxy)
        built = build_tokenizer(tokenizer)
        return built, built.spec(256)

    named, spec = build(name="vq", codebook_size=7, dtype="bfloat16")
    assert spec.size == 15 and named.proxy == vq(codebook_size=7, dtype=jnp.bfloat16)
    with pytest.raises(
        UserError, match="tokenizer.proxy.name 'maskgit' is none of .*maskgit_vqgan"
    ):
        build(name="maskgit")
    with pytest.raises(UserError, match="tokenizer.proxy has no 'codebok_size'; .*'codebook_size'"):
        build(name="vq", codebok_size=7)
    with pytest.raises(UserError, match="proxy must be a convolutional tokenizer with codes"):
        build(name="kl")
    assert TOKENIZERS["titok_s128"](dtype=jnp.bfloat16).proxy == maskgit_vqgan(dtype=jnp.bfloat16)


def transformer(size, positions):
    """Parameters of blocks, both norms, class token and both tables of positions."""
    width, depth, _ = size
    return depth * (12 * width**2 + 13 * width) + (4 + 1 + positions) * width


def count(preset, patches=257, patch=3 * 16**2):
    """Parameters of a published TiTok without its proxy, from the paper's layers."""
    encoder, decoder = (SIZES[preset[f"{half}_size"]] for half in ("encoder", "decoder"))
    latents, quantizer = preset["num_latents"], preset["quantizer"]
    channels = quantizer.get("codebook_dim", quantizer.get("channels"))
    gaussian = quantizer["name"] == "gaussian"
    total = 2 if gaussian else quantizer["codebook_size"] * channels
    for size in (encoder, decoder):
        total += transformer(size, patches + latents)
    total += latents * encoder[0]  # the latent tokens
    total += (patch + 1) * encoder[0] + (encoder[0] + 1) * channels * (2 if gaussian else 1)
    width = decoder[0]
    total += (channels + 1) * width + width  # embedding and mask token
    if preset.get("head") == "mixture":
        return total + (width + 1) * 2 * width + (2 * width + 1) * 1024
    return total + (width + 1) * patch + 9 * 3 * 3 + 3


# Of the paper's tables (quoted from memory): with the decoder of MaskGIT's VQGAN.
MILLIONS = {"titok_l32": 641, "titok_b64": 205, "titok_s128": 83}


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_published_sizes_build(name):
    model = TOKENIZERS[name]()
    images = jnp.zeros((1, 256, 256, 3))
    shapes = flatten(jax.eval_shape(model.init, jax.random.key(0), images)["params"])
    own = sum(leaf.size for path, leaf in shapes.items() if not path.startswith("proxy/"))
    assert own == count(PRESETS[name])
    if name in MILLIONS:
        assert sum(leaf.size for leaf in shapes.values()) / 1e6 == pytest.approx(
            MILLIONS[name], rel=0.01
        )
    assert model.spec(256).grid == (PRESETS[name]["num_latents"],)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"image_size": 10}, "encoder_patch 4 does not divide images of 10"),
        ({"head": "pixel"}, "'pixel' is none of pixels, codes, mixture"),
        ({"head": "codes"}, "proxy goes with the heads"),
        ({"encoder_size": "huge"}, "'huge' is none of small, base, large"),
        ({"encoder_size": (64, 2)}, r"\(64, 2\) is none of .* or give \(width"),
        ({"decoder_size": 5}, "5 is none of small, base, large"),
        ({"encoder_size": (16, 2, 3)}, "3 heads do not divide a width of 16"),
        ({"legacy": True, "causal_1d": True}, "legacy=False"),
        ({"head": "codes", "proxy": PROXY, "decoder_patch": 4}, r"grid of \(8, 8\).*decoder_patch"),
    ],
)
def test_settings_that_do_not_fit_are_named(changes, message):
    model = TINY.clone(**changes)
    with pytest.raises(UserError, match=message):
        jax.eval_shape(model.init, jax.random.key(0), photos(1, model.image_size))


def test_images_of_another_size_are_refused():
    with pytest.raises(UserError, match=r"8x8, not 16x16.*image_size"):
        TINY.spec((16, 16))
