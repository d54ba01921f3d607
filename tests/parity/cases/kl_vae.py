"""The KL autoencoder of LDM and MAR: moments, posterior, scaled latents, reconstructions."""

import functools
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from imgen.interop import kl_vae
from imgen.tokenizers.kl import kl
from imgen.tokenizers.quantizers import gaussian
from tests.parity.compare import nchw, nhwc
from tests.parity.golden import Golden


def kl_vae_case(g: Golden) -> None:
    config, images = g.config, nhwc(g.input("image"))
    close = functools.partial(np.testing.assert_allclose, **g.meta["tolerance"])
    sides = [config["resolution"] >> level for level in range(len(config["ch_mult"]))]

    def levels(half: str) -> list[int]:
        resolutions = config[f"{half}_attn_resolutions"]
        return [level for level, side in enumerate(sides) if side in resolutions]

    model = kl(
        ch=config["ch"],
        ch_mult=tuple(config["ch_mult"]),
        num_res_blocks=config["num_res_blocks"],
        z_channels=config["z_channels"],
        embed_dim=config["embed_dim"],
        encoder_attention_levels=levels("encoder"),
        decoder_attention_levels=levels("decoder"),
        groups=config["groups"],
        kl_weight=float(images[0].size),  # of the sum: 1
    )
    assert config["double_z"] and config["gn_eps"] == 1e-6
    like = jax.eval_shape(model.init, jax.random.key(0), images)["params"]
    params = kl_vae.convert(g.params(), like, config["scale"])
    back = kl_vae.convert_back(params)
    assert back.keys() == g.params().keys()
    assert all(np.array_equal(back[key], value) for key, value in g.params().items())

    def passes(m, x, key):
        z = m.features(x)
        kl_each = [m.quantizer(z[i : i + 1]).losses["kl"] for i in range(len(z))]
        latents = m.encode(x, key)
        return m.encoder(x), z, m.moments(x), kl_each, latents, m(x, key), m.decode(latents)

    def passes_with(key):
        run = functools.partial(model.apply, method=passes)
        return jax.jit(lambda params, images: run({"params": params}, images, key))(params, images)

    eps = jnp.asarray(nhwc(g.input("eps")))
    with mock.patch.object(gaussian.jax.random, "normal", lambda key, shape: eps):
        encoded, z, stored, each, latents, out, decoded = passes_with(jax.random.key(0))
        again = gaussian.sample(*gaussian.posterior(stored), jax.random.key(0))
    close(nchw(encoded), g.out("encoder_h"))
    close(nchw(z), g.out("moments"))
    mean, log_variance = gaussian.posterior(z)
    close(nchw(mean), g.out("mean"))
    close(nchw(log_variance), g.out("logvar"))
    _, clamped = gaussian.posterior(jnp.asarray(nhwc(g.input("moments_big"))))
    close(nchw(clamped), g.out("clamp_logvar"))
    nll = 0.5 * (jnp.log(2.0 * jnp.pi) + log_variance + jnp.square(eps)).sum((1, 2, 3))
    close(nll, g.out("nll_z"))

    for drawn in (latents, out["latents"], again):
        close(nchw(drawn), g.out("z_scaled"))
        close(nchw(drawn / config["scale"]), g.out("z"))
    close(each, g.out("kl"))
    close(out["losses"]["kl"], g.out("kl").mean())
    for recon in (decoded, out["recon"]):
        close(nchw(recon), g.out("recon"))

    *_, latents, out, decoded = passes_with(None)
    close(nchw(latents / config["scale"]), g.out("mean"))
    for recon in (decoded, out["recon"]):
        close(nchw(recon), g.out("recon_mode"))


CASES = {"kl_vae": kl_vae_case}
