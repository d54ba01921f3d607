"""What a tokenizer keeps of held-out images: sums over batches, and the metrics that they come to."""

from typing import Any

import jax
import jax.numpy as jnp

from imgen.evaluation.pairs.reconstruction import likeness
from imgen.report import pixels
from imgen.tokenizers import usage
from imgen.tokenizers.losses.lpips import lpips
from imgen.tokenizers.tokenizer import Tokenizer
from imgen.training.reconstructions import first_tokens
from imgen.training.task import Batch


def reconstruction_sums(
    tokenizer: Tokenizer, params: Any, batch: Batch, lpips_params: Any = None
) -> dict[str, Any]:
    """Sums over the images that count, of reconstructions through the latents. PSNR and SSIM: of each image
    on its own, both sides uint8; an exact reconstruction counts as 98 dB."""
    images, mask, variables = batch["image"], batch["mask"], {"params": params}
    latents = tokenizer.apply(variables, pixels.to_float(images), method="encode")
    recon = tokenizer.apply(variables, latents, method="decode")
    sums = {"images": jnp.sum(mask), **likeness(images, pixels.to_uint8(recon), mask)}
    if lpips_params is not None:
        distance = lpips(lpips_params, pixels.to_float(images), jnp.clip(recon, -1, 1))
        sums["lpips"] = jnp.sum(mask * distance)
    spec = tokenizer.code_spec(images.shape[1:3])
    if tokenizer.padded:
        kept = jnp.sum(latents < spec.size, axis=tuple(range(1, latents.ndim)))
        sums["tokens"] = jnp.sum(mask * kept)
    return {**sums, "usage": usage.tally(spec, latents, mask)}


def prefix_sums(tokenizer: Tokenizer, params: Any, batch: Batch) -> dict[str, Any]:
    """Sums psnr and ssim_gauss11 of what the first 1, 2, 4, ... and all tokens of a nested tokenizer decode
    to: [S], one for each of `first_tokens`."""
    images, mask, variables = batch["image"], batch["mask"], {"params": params}
    latents = tokenizer.apply(variables, pixels.to_float(images), method="encode")

    def of_first(keep: jax.Array) -> dict[str, jax.Array]:
        keeps = jnp.full(len(images), keep)
        recon = tokenizer.apply(variables, latents, keeps, method="decode")
        return likeness(images, pixels.to_uint8(recon), mask)

    lengths = jnp.array(first_tokens(tokenizer, images.shape[1:3]))
    return {"images": jnp.sum(mask), **jax.lax.map(of_first, lengths)}


def summarize(sums: dict[str, Any]) -> dict[str, float]:
    """Returns means over the images (psnr in dB; tokens, where images have unlike numbers of them), and the
    latents' use over the whole evaluation set (`tokenizers.usage.summarize`)."""
    images = max(float(sums["images"]), 1.0)
    means = {k: float(v) / images for k, v in sums.items() if k not in ("usage", "images")}
    return means | usage.summarize(sums["usage"])
