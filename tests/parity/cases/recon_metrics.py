"""PSNR, SSIM, LPIPS of image pairs, and how a codebook is used."""

import jax
import jax.numpy as jnp
import numpy as np

from imgen.evaluation.pairs.reconstruction import psnr, ssim_gauss11, ssim_uniform7
from imgen.evaluation.tokens.baselines import entropy
from imgen.interop import lpips as interop
from imgen.latents import LatentSpec
from imgen.tokenizers import usage
from imgen.tokenizers.losses.lpips import TRUNKS, lpips_per_layer
from tests.parity.golden import Golden


def recon_metrics(g: Golden) -> None:
    real, recon = (g.input(name).astype(np.float32) / 255 for name in ("gt", "rec"))
    found = psnr(real, recon)
    np.testing.assert_allclose(found, g.out("psnr"), atol=1e-4)
    error = 10.0 ** (-np.asarray(found, np.float64) / 10)
    np.testing.assert_allclose(error, g.out("mse"), rtol=1e-4)
    np.testing.assert_allclose(-10 * np.log10(error.mean()), g.out("psnr_of_mean_mse"), atol=1e-4)
    for ours, name in (
        (ssim_gauss11(real, recon), "ssim_gauss11"),
        (ssim_gauss11(real, recon), "ssim_gauss11_valid_own"),
        (ssim_uniform7(real, recon), "ssim_uniform7"),
        (ssim_uniform7(real, recon, 2.0), "ssim_uniform7_range2_llamagen"),
    ):
        np.testing.assert_allclose(ours, g.out(name), atol=1e-4, err_msg=name)
    for name in g.meta["lpips"]:
        _lpips(g, name, 2 * real - 1, 2 * recon - 1)
    _codebook(g)


def _lpips(g: Golden, name: str, real, recon) -> None:
    trunk, given = TRUNKS[name], g.meta["lpips"][name]
    state = {}  # recipe RS1, by the sorted keys
    for i, key in enumerate(sorted(given["shapes"])):
        shape, rng = given["shapes"][key], np.random.RandomState(given["seed"] + i)
        if len(shape) == 4:
            value = rng.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
        else:
            value = 0.1 * rng.standard_normal(shape)
        state[key] = value.astype(np.float32)
    for key, total in given["probe"].items():
        key = key.removesuffix("_sum")
        np.testing.assert_allclose(state[key].sum(dtype=np.float64), total, rtol=1e-6)
    state |= {k.removeprefix(f"{name}/"): v for k, v in g.params().items() if k.startswith(name)}

    layers = jax.jit(lpips_per_layer, static_argnames="trunk")(
        interop.convert(state, trunk=trunk), real, recon, trunk
    )
    np.testing.assert_allclose(layers.T, g.out(f"lpips_{name}_layers"), rtol=1e-4)
    np.testing.assert_allclose(layers.sum(axis=-1), g.out(f"lpips_{name}"), rtol=1e-4)


def _codebook(g: Golden) -> None:
    codes, size = g.input("codes"), g.config["K"]
    sums = usage.tally(LatentSpec("index", codes.shape[1:], size), jnp.asarray(codes))
    np.testing.assert_array_equal(sums["counts"], g.out("code_counts"))
    found, nats = usage.summarize(sums), entropy(np.asarray(sums["counts"]))
    np.testing.assert_allclose(found["codebook_usage"], g.out("code_usage"), rtol=1e-6)
    np.testing.assert_allclose(found["perplexity"], g.out("code_perplexity"), rtol=1e-5)
    np.testing.assert_allclose(nats, g.out("code_entropy_nats"), rtol=1e-6)
    # 1d-tokenizer's logarithm of p + 1e-8 is not ours.
    np.testing.assert_allclose(nats / np.log(2), g.out("code_entropy_bits"), rtol=1e-6)


CASES = {"recon_metrics": recon_metrics}
