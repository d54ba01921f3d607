"""FlexTok: encoder mask, registers, codes; velocities, flow loss, guidance and whole decoding loops."""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from imgen.diffusion import flow
from imgen.interop import flextok
from imgen.interop.table import from_official, to_official
from imgen.latents import LatentSpec
from imgen.tokenizers import Tokenizer
from imgen.tokenizers.flextok import FlexTok
from imgen.tokenizers.flextok_layers import causal_last
from imgen.tokenizers.quantizers.fsq import FSQ
from tests.parity.compare import assert_close, nchw, nhwc
from tests.parity.golden import Golden


class Latents(Tokenizer):
    """In place of a VAE: what comes in is latents already."""

    channels: int

    @nn.nowrap
    def spec(self, size: tuple[int, int]) -> LatentSpec:
        return LatentSpec("continuous", size, self.channels)

    def encode(self, images: jax.Array, rng: jax.Array | None = None) -> jax.Array:
        return images

    def decode(self, latents: jax.Array) -> jax.Array:
        return latents


def flextok_case(g: Golden) -> None:
    config, tolerance = g.config, g.meta["tolerance"]
    default, decode = tolerance["default"], tolerance["decode"]
    latents, noise = nhwc(g.input("vae_latents")), nhwc(g.input("noise"))
    sigma, keep = jnp.asarray(g.input("sigma")), jnp.asarray(g.input("eval_keep_k"))
    batch, *size, channels = latents.shape
    assert channels == config["channels"]
    inputs = g.params()[f"{flextok.ENCODER}.enc_patch_emb.patch_proj.weight"].shape[1]
    patch = math.isqrt(inputs // channels)
    model = FlexTok(
        vae=Latents(channels),
        image_size=tuple(size),
        registers=config["num_registers"],
        encoder_width=config["enc_dim"],
        encoder_depth=config["enc_depth"],
        decoder_width=config["dec_dim"],
        decoder_depth=config["dec_depth"],
        head_dim=config["head_dim"],
        mlp_ratio=config["mlp_ratio"],
        patch=patch,
        quantizer=FSQ(tuple(config["fsq_levels"])),
        time_features=config["freq_dim"],
        max_timestep=config["max_timestep"],
        final_modulation=config["final_adaLN"],
    )
    like = jax.eval_shape(model.init, jax.random.key(0), latents)["params"]
    rows, official = flextok.rows(model), g.params()
    params = from_official(rows, official, like, flextok.IGNORED)
    back = to_official(rows, params) | flextok.buffers(model, tuple(config["posemb_max"]))
    assert back.keys() == official.keys()
    for key, value in official.items():
        np.testing.assert_allclose(back[key], value, atol=1e-6 if "posemb_module" in key else 0)
    bound = model.bind({"params": params})

    # The golden mask is that of the two samples packed one behind the other.
    mask = causal_last((size[0] // patch) * (size[1] // patch), model.registers)
    packed = g.out("enc_block_mask")
    np.testing.assert_array_equal(
        np.kron(np.eye(len(packed) // len(mask), dtype=bool), mask), packed
    )

    z = bound.features(latents)
    assert_close(z, g.out("enc_registers"), default)
    bounded = bound.quantizer.bound(z)
    assert_close(bounded, g.out("fsq_bounded"), default)
    fraction = np.asarray(bounded) - np.floor(bounded)
    margin = np.abs(fraction - 0.5)
    assert_close(margin.min(), g.out("fsq_round_margin_min"), default)
    clear = (margin > default).all(-1)
    tokens = np.asarray(bound.encode(latents))
    np.testing.assert_array_equal(tokens[clear], g.out("tokens")[clear])
    codes = jnp.asarray(g.out("tokens"))
    values = bound.quantizer.decode(codes)
    assert_close(values, g.out("quant_from_tokens"), 1e-6)
    assert_close(values, g.out("quant"), 1e-6)

    decoder = bound.decoder
    assert_close(decoder.time(sigma), g.out("time_embedding"), default)
    x_t = flow.interpolate(jnp.asarray(latents), jnp.asarray(noise), sigma)
    assert_close(nchw(x_t), g.out("x_t"), default)
    assert_close(nchw(noise - latents), g.out("velocity_target"), default)
    everything, never = jnp.full(batch, model.registers), jnp.zeros(batch, bool)
    run = jax.jit(
        functools.partial(model.apply, {"params": params}, features_at=1, method=velocity_of)
    )
    kept, features = run(x_t, sigma, values, keep, never)
    assert_close(nchw(kept), g.out("velocity_keep_k"), default)
    error = flow.squared_error(kept, jnp.asarray(latents), jnp.asarray(noise))
    assert_close(error, g.out("flow_mse_per_sample"), default)
    expected = g.out("repa_layer_patches")
    assert_close(features.reshape(expected.shape), expected, default)
    conditional, _ = run(x_t, sigma, values, everything, never)
    assert_close(nchw(conditional), g.out("velocity_all_tokens"), default)
    null, _ = run(x_t, sigma, values, keep, ~never)
    assert_close(nchw(null), g.out("velocity_null"), default)

    # meta["apg"] says which options these two calls were made with.
    once = flow.ProjectedGuidance(7.5, threshold=0.5, eta=0.0)
    assert_close(nchw(flow.guide_velocity(conditional, null, once)[0]), g.out("apg_call1"), default)
    twice = flow.ProjectedGuidance(5.0, momentum=-0.5, threshold=1.0, eta=0.3)
    _, running = flow.guide_velocity(conditional, null, twice)
    second, _ = flow.guide_velocity(conditional, null, twice, running=running)
    assert_close(nchw(second), g.out("apg_momentum_second_call"), default)

    for name, guidance in {
        "decode_noguid": flow.ProjectedGuidance(),
        "decode_cfg3": flow.ProjectedGuidance(3.0),
        "decode_apg7p5": flow.apg(7.5),
    }.items():
        drawn = jax.jit(
            lambda codes, noise, keep, guidance=guidance: model.apply(
                {"params": params},
                codes,
                noise,
                keep,
                g.meta["steps"],
                guidance,
                method="draw_latents",
            )
        )(codes, jnp.asarray(noise), keep)
        assert_close(nchw(drawn), g.out(name), decode)


def velocity_of(model: FlexTok, x_t, t, values, keep, null, features_at):
    condition = model.decoder.condition(values, keep, null)
    return model.decoder(x_t, t, condition, features_at)


CASES = {"flextok": flextok_case}
