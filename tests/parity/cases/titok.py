"""TiTok: one stage (codes and Gaussian latents), two stages, and its discriminator with LeCam."""

from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from imgen.interop import titok as interop
from imgen.interop.table import Row, from_official, to_official
from imgen.tokenizers.conv import ConvTokenizer
from imgen.tokenizers.losses.adversary import Adversary, LastLayer
from imgen.tokenizers.losses.discriminators import NLayerDiscriminator, low_pass
from imgen.tokenizers.losses.terms import hinge_d_loss, lecam_loss
from imgen.tokenizers.quantizers import Gaussian, VectorQuantizer
from imgen.tokenizers.quantizers.gaussian import posterior
from imgen.tokenizers.quantizers.nearest import squared_distances
from imgen.tokenizers.titok import TiTok
from imgen.tokenizers.vq import maskgit_vqgan
from tests.parity.compare import assert_close, nchw, nhwc
from tests.parity.golden import Golden


def from_zero_one(x: np.ndarray) -> np.ndarray:
    """Official images NCHW in [0, 1] -> ours."""
    return 2.0 * nhwc(x) - 1.0


def to_zero_one(x: jax.Array) -> np.ndarray:
    return (nchw(x) + 1.0) / 2.0


def row_of_tokens(x: jax.Array) -> np.ndarray:
    """Ours [B, K, C] -> official [B, C, 1, K]."""
    return np.asarray(x).transpose(0, 2, 1)[:, :, None]


def size(config: dict, half: str) -> tuple[int, int, int]:
    return tuple(config[name][half] for name in ("width", "layers", "heads"))


def load(table: list[Row], state: dict, like: dict) -> dict:
    """Official weights -> ours, after a check that they come back unchanged."""
    params = from_official(table, state, like)
    back = to_official(table, params)
    assert back.keys() == state.keys()
    assert all(np.array_equal(back[key], value) for key, value in state.items())
    return params


def single_stage(g: Golden) -> None:
    config, tolerance = g.config, g.meta["tolerance"]["default"]
    gaussian = config["quantize_mode"] == "vae"
    channels = config["token_size"]
    model = TiTok(
        Gaussian(channels)
        if gaussian
        else VectorQuantizer(config["codebook_size"], channels, config["use_l2_norm"]),
        num_latents=config["num_latent_tokens"],
        image_size=config["image"],
        encoder_size=size(config, "enc"),
        decoder_size=size(config, "dec"),
        encoder_patch=config["patch"],
        decoder_patch=config["patch"],
        legacy=config["is_legacy"],
    )
    images = jnp.asarray(from_zero_one(g.input("image")))
    like = jax.eval_shape(model.init, jax.random.key(0), images)["params"]
    own = {"quantizer": like.pop("quantizer")} if gaussian else {}
    params = load(interop.rows("pixels", gaussian), g.params(), like)
    own = {"quantizer": {"shift": 0.0, "scale": 1.0}} if own else {}
    bound = model.bind({"params": params | own})
    z = bound.features(images)
    assert_close(row_of_tokens(z), g.out("z"), tolerance)
    if gaussian:
        _gaussian_latents(g, bound, images, z, tolerance)
    else:
        _codes(g, bound, images, z, tolerance)


def _gaussian_latents(g: Golden, bound: TiTok, images, z, tolerance: float) -> None:
    mean, log_variance = posterior(z)
    assert_close(row_of_tokens(mean), g.out("mean"), tolerance)
    assert_close(row_of_tokens(log_variance), g.out("logvar"), tolerance)
    eps = jnp.asarray(g.input("eps")[:, :, 0].transpose(0, 2, 1))
    with mock.patch.object(jax.random, "normal", return_value=eps):
        out = bound(images, jax.random.key(0))
    assert_close(row_of_tokens(out["latents"]), g.out("z_sample"), tolerance)
    assert_close(to_zero_one(out["recon"]), g.out("image"), tolerance)
    assert_close(to_zero_one(bound.decode(out["latents"])), g.out("image"), tolerance)
    kl = 0.5 * (mean**2 + jnp.exp(log_variance) - 1 - log_variance).sum(-1)  # [B, K]
    assert_close(kl, g.out("kl_official"), "rtol 1e-3")
    assert_close(out["stats"]["kl_per_image"], g.out("kl_loss"), "rtol 1e-3")
    assert_close(out["losses"]["kl"], 1e-6 * g.out("kl_loss"), "rtol 1e-3")


def _clear(g: Golden, bound: TiTok, z: jax.Array, out: dict) -> bool:
    """Compares the codes, and says whether none was too near to call."""
    quantizer = bound.quantizer
    rows, table = bound.code_features(z, out["latents"]), quantizer.normed(quantizer.codebook)
    nearest = np.sort(np.asarray(squared_distances(rows, table)), axis=-1)
    clear = (nearest[:, 1] - nearest[:, 0] > 1e-4).reshape(out["latents"].shape)
    codes, expected = np.asarray(out["latents"]), g.out("indices")[:, 0]
    np.testing.assert_array_equal(codes[clear], expected[clear])
    return bool(clear.all())


def _quantizer(g: Golden, bound: TiTok, losses: dict, tolerance: float) -> None:
    assert_close(losses["codebook"], g.out("codebook_loss"), tolerance)
    assert_close(losses["commit"], g.out("commitment_loss_times_cost"), tolerance)
    both = losses["codebook"] + losses["commit"]
    assert_close(both, g.out("quantizer_loss"), tolerance)


def _codes(g: Golden, bound: TiTok, images, z, tolerance: float) -> None:
    out = bound(images)
    clear = _clear(g, bound, z, out)
    codes = jnp.asarray(g.out("indices")[:, 0])
    values = bound.quantizer.decode(codes)
    assert_close(row_of_tokens(values), g.out("z_quantized"), tolerance)
    assert_close(to_zero_one(bound.decode(codes)), g.out("image"), tolerance)
    if clear:
        assert_close(to_zero_one(out["recon"]), g.out("image"), tolerance)
        _quantizer(g, bound, out["losses"], tolerance)


def two_stages(g: Golden) -> None:
    config, tolerance = g.config, g.meta["tolerance"]["default"]
    within = g.meta["tolerance"]["image"]
    pixel = config["pixel_decoder"]
    assert pixel["dropout"] == 0.0 and pixel["num_channels"] == 3
    assert len(pixel["channel_mult"]) == pixel["num_resolutions"]
    second = TiTok(
        VectorQuantizer(
            config["codebook_size"],
            config["token_size"],
            config["use_l2_norm"],
            config["commitment_cost"],
        ),
        num_latents=config["num_latent_tokens"],
        image_size=config["image"],
        encoder_size=size(config, "enc"),
        decoder_size=size(config, "dec"),
        encoder_patch=config["patch_enc"],
        decoder_patch=config["patch_dec"],
        head="mixture",
        proxy=maskgit_vqgan(
            ch=pixel["hidden_channels"],
            ch_mult=pixel["channel_mult"],
            num_res_blocks=pixel["num_res_blocks"],
            codebook_size=config["proxy_codebook"],
            codebook_dim=pixel["z_channels"],
        ),
        legacy=config["is_legacy"],
    )
    images = jnp.asarray(from_zero_one(g.input("image")))
    like = jax.eval_shape(second.init, jax.random.key(0), images)["params"]
    params = load(interop.rows("mixture"), g.params(), like)

    # The first stage, whose proxy says that the images have the given codes.
    first = second.clone(head="codes")
    with_codes = g.input("proxy_codes").reshape(g.out("proxy_logits")[:, 0].shape)
    with mock.patch.object(ConvTokenizer, "encode", lambda proxy, images: jnp.asarray(with_codes)):
        out = first.apply({"params": params}, images)
    bound = first.bind({"params": params})
    assert_close(row_of_tokens(out["z"]), g.out("z"), tolerance)
    clear = _clear(g, bound, out["z"], out)
    codes = jnp.asarray(g.out("indices")[:, 0])
    values = bound.quantizer.decode(codes)
    assert_close(row_of_tokens(values), g.out("z_quantized"), tolerance)
    logits = bound.proxy_logits(values)
    assert_close(nchw(logits), g.out("proxy_logits"), tolerance)
    if clear:
        _quantizer(g, bound, out["losses"], tolerance)
        assert_close(out["losses"]["proxy"], g.out("stage1_ce"), tolerance)
        assert_close(sum(out["losses"].values()), g.out("stage1_total"), tolerance)
    best = np.sort(np.asarray(logits), axis=-1)
    if (best[..., -1] - best[..., -2]).min() > 1e-4:
        expected = g.out("stage1_argmax_image")
        likeliest = to_zero_one(bound.decode(codes))
        assert_close(likeliest, expected, within)

    bound = second.bind({"params": params})
    assert_close(nchw(bound.mixture(logits)), g.out("stage2_soft_latent"), tolerance)
    assert_close(to_zero_one(bound.decode(codes)), g.out("stage2_image_from_tokens"), within)
    if clear:
        out = bound(images)
        assert_close(to_zero_one(out["recon"]), g.out("stage2_image"), within)
        assert out["losses"] == {}


def discriminator(g: Golden) -> None:
    config, tolerance = g.config, g.meta["tolerance"]["default"]
    assert (config["gn_eps"], config["leaky"], config["pool"]) == (1e-5, 0.1, 16)
    model = NLayerDiscriminator(
        config["hidden_channels"], config["num_stages"], blur=tuple(config["blur"])
    )
    real, fake = (jnp.asarray(from_zero_one(g.input(name))) for name in ("real", "fake"))
    like = jax.eval_shape(model.init, jax.random.key(0), real, {})["params"]
    state = {k: v for k, v in g.params().items() if not k.endswith(".1.kernel")}
    params = load(interop.discriminator_rows(), state, like)
    from_official(
        interop.discriminator_rows(), g.params(), like, interop.DISCRIMINATOR_IGNORED
    )  # the filter may stay in the checkpoint

    logits = {name: model.apply({"params": params}, x, {})[0] for name, x in
              (("real", real), ("fake", fake))}  # fmt: skip
    for name, value in logits.items():
        assert_close(nchw(value), g.out(f"logits_{name}"), tolerance)
    assert_close(hinge_d_loss(logits["real"], logits["fake"]), g.out("d_hinge"), tolerance)
    usual = {side: jnp.asarray(g.input(f"ema_{side}")[0]) for side in ("real", "fake")}
    lecam = lecam_loss(logits["real"], logits["fake"], usual)
    assert_close(lecam, g.out("lecam_unweighted"), tolerance)

    adversary = Adversary(model, start=1, disc_weight=1.0, lecam_weight=0.5)
    last_layer = LastLayer(lambda kernel: kernel, fake)  # of adaptive weights, which are off
    terms = adversary.terms(params, {"lecam": usual}, real, fake, jnp.int32(1), jnp.sum, last_layer)
    assert_close(terms.discriminator, g.out("d_hinge") + 0.5 * g.out("lecam_unweighted"), tolerance)
    for side in ("real", "fake"):
        after = terms.stats["lecam"][side]
        assert_close(after, g.out(f"ema_{side}_next")[0], 1e-5)

    ramp = jnp.arange(1.0, 6.0) * jnp.ones((5, 1))
    filtered = low_pass(ramp[None, :, :, None], config["blur"], stride=2, border="constant")
    assert_close(nchw(filtered), g.out("blur_cumsum_ones_5x5"), tolerance)


CASES = {
    "titok_twostage": two_stages,
    "titok_singlestage_vq": single_stage,
    "titok_singlestage_vae": single_stage,
    "titok_disc": discriminator,
}
