"""LlamaGen's VQLoss with PatchGAN: both players' losses, adaptive weight, batch norm statistics."""

import jax
import jax.numpy as jnp
import numpy as np

from imgen.interop import lpips as lpips_interop
from imgen.interop import patchgan as interop
from imgen.interop.table import CONV, from_official, to_official
from imgen.tokenizers.losses.adversary import Adversary, LastLayer
from imgen.tokenizers.losses.discriminators import PatchGAN
from imgen.tokenizers.losses.lpips import lpips
from imgen.tokenizers.losses.terms import (
    RECONSTRUCTION,
    adaptive_weight,
    hinge_d_loss,
    hinge_g_loss,
    non_saturating_g_loss,
    vanilla_d_loss,
)
from tests.parity.compare import assert_close, nchw, nhwc
from tests.parity.golden import Golden

CODEBOOK_TERMS = 0.11 + 0.022 - 0.03  # the fixed values that meta's description names


def patchgan_vqloss(g: Golden) -> None:
    config, tolerance = g.config, g.meta["tolerance"]
    assert (config["bn_momentum"], config["bn_eps"], config["leaky"]) == (0.1, 1e-5, 0.2)
    model = PatchGAN(config["ndf"], config["n_layers"])
    images = nhwc(g.input("image"))
    stats = model.init_stats()
    like = jax.eval_shape(model.init, jax.random.key(0), images, stats)
    like = {"params": like["params"], "stats": stats}
    rows = interop.rows(config["n_layers"])
    state = _below(g.params(), "discriminator.")
    tree = from_official(rows, state, like, interop.IGNORED)
    back = to_official(rows, tree)
    assert all(np.array_equal(back[k], state[k]) for k in back)
    lpips_state = _below(g.params(), "perceptual_loss.")
    lpips_params = lpips_interop.convert(lpips_state, config["lpips_widths"])
    reconstruction_loss = RECONSTRUCTION[config["reconstruction_loss"]]

    def discriminate(params, x, stats, train=True):
        return model.apply({"params": params}, x, stats, train)

    hidden = nhwc(g.input("feat"))
    kernel, bias = CONV.to_ours(g.input("last_weight")), g.input("last_bias")

    def last_layer(kernel):
        numbers = ("NHWC", "HWIO", "NHWC")
        x = jax.lax.conv_general_dilated(hidden, kernel, (1, 1), "SAME", dimension_numbers=numbers)
        return x + bias

    recon = last_layer(kernel)
    assert_close(nchw(recon), g.out("recon"), tolerance["logits"])

    # Generator pass.
    rec = reconstruction_loss(images, recon)
    perceptual = jnp.mean(lpips(lpips_params, images, recon))
    fake, _ = discriminate(tree["params"], recon, tree["stats"])
    adversarial = hinge_g_loss(fake)
    assert_close(rec, g.out("rec_loss"), tolerance["losses"])
    assert_close(perceptual, g.out("perceptual_loss"), tolerance["losses"])
    assert_close(nchw(fake), g.out("logits_fake_gen"), tolerance["logits"])
    assert_close(adversarial, g.out("gen_adv_loss"), tolerance["losses"])
    assert_close(non_saturating_g_loss(fake), g.out("g_nonsat_correct"), tolerance["losses"])

    def similarity(x):
        distance = jnp.mean(lpips(lpips_params, images, x))
        return reconstruction_loss(images, x) + config["perceptual_weight"] * distance

    def adversary(x):
        return hinge_g_loss(discriminate(tree["params"], x, tree["stats"])[0])

    for loss, name in ((similarity, "grad_norm_nll"), (adversary, "grad_norm_gan")):
        gradient = jax.grad(lambda k, loss=loss: loss(last_layer(k)))(kernel)
        assert_close(jnp.linalg.norm(gradient), g.out(name), tolerance["adaptive_weight"])
    weight = adaptive_weight(
        last_layer, kernel, jax.grad(similarity)(recon), jax.grad(adversary)(recon)
    )
    assert_close(weight, g.out("adaptive_weight"), tolerance["adaptive_weight"])

    both = Adversary(model, config["disc_weight"], config["disc_start"], adaptive=True)
    given = tree["params"], tree["stats"], images, recon
    for step, name in ((11, "gen_total_step11"), (9, "gen_total_step9_before_disc_start")):
        if not g.has(f"out/{name}"):
            continue
        terms = both.terms(*given, jnp.int32(step), similarity, LastLayer(last_layer, kernel))
        total = similarity(recon) + terms.generator + CODEBOOK_TERMS
        assert_close(total, g.out(name), tolerance["losses"])

    # Discriminator pass: real, then fake, each with its own batch statistics.
    def d_loss(params):
        real, stats = discriminate(params, images, tree["stats"])
        fake, stats = discriminate(params, recon, stats)
        return config["disc_weight"] * hinge_d_loss(real, fake), (real, fake, stats)

    grads, (real, fake, new_stats) = jax.jit(jax.grad(d_loss, has_aux=True))(tree["params"])
    assert_close(nchw(real), g.out("logits_real"), tolerance["logits"])
    assert_close(nchw(fake), g.out("logits_fake"), tolerance["logits"])
    assert_close(hinge_d_loss(real, fake), g.out("d_hinge"), tolerance["losses"])
    assert_close(vanilla_d_loss(real, fake), g.out("d_vanilla"), tolerance["losses"])
    assert_close(vanilla_d_loss(real, fake), g.out("d_nonsat_correct"), tolerance["losses"])

    after = to_official(rows, {"params": grads, "stats": new_stats})
    for key, expected in g.outs("bn_after_real_then_fake/").items():
        assert_close(after[key], expected, tolerance["logits"])
    for key, expected in g.outs("grad_d/").items():
        assert_close(after[key], expected, "rtol 2e-3")
    real, _ = discriminate(tree["params"], images, new_stats, train=False)
    assert_close(nchw(real), g.out("logits_real_eval_mode_after"), tolerance["logits"])


def _below(state: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


CASES = {"patchgan_vqloss": patchgan_vqloss}
