"""Reconstruction and adversarial losses of tokenizer training, and the adaptive weight.

Source: LlamaGen, tokenizer/tokenizer_image/vq_loss.py. Its "non-saturating" losses call the binary
cross entropy with logits and targets swapped; the ones here are the right way round. LeCam: "Regularizing
Generative Adversarial Networks under Limited Data", as bytedance/1d-tokenizer, modeling/modules/losses.py.
R1: "Which Training Methods for GANs do actually Converge?".
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn


def smooth_l1(x: jax.Array, y: jax.Array) -> jax.Array:
    """Returns the mean of d^2 / 2 where the difference |d| is below 1, of |d| - 1/2 elsewhere."""
    return jnp.mean(optax.huber_loss(x, y, delta=1.0))


RECONSTRUCTION = {
    "l1": lambda x, y: jnp.mean(jnp.abs(x - y)),
    "l2": lambda x, y: jnp.mean(jnp.square(x - y)),
    "smooth_l1": smooth_l1,
}


def hinge_d_loss(real: jax.Array, fake: jax.Array) -> jax.Array:
    """Returns the discriminator's loss: half of mean relu(1 - D(x)) + mean relu(1 + D(x_hat))."""
    return 0.5 * (jnp.mean(nn.relu(1.0 - real)) + jnp.mean(nn.relu(1.0 + fake)))


def vanilla_d_loss(real: jax.Array, fake: jax.Array) -> jax.Array:
    """Returns the discriminator's loss: half of the binary cross entropies; goes with either generator
    loss."""
    return 0.5 * (jnp.mean(nn.softplus(-real)) + jnp.mean(nn.softplus(fake)))


def hinge_g_loss(fake: jax.Array) -> jax.Array:
    """Returns the generator's loss: -mean D(x_hat)."""
    return -jnp.mean(fake)


def non_saturating_g_loss(fake: jax.Array) -> jax.Array:
    """Returns the generator's loss: -mean log sigmoid(D(x_hat))."""
    return jnp.mean(nn.softplus(-fake))


def lecam_loss(real: jax.Array, fake: jax.Array, usual: dict[str, jax.Array]) -> jax.Array:
    """Returns what pulls the discriminator's mean logits towards the other side's usual one.

    real, fake: logits. usual: running means of both, {"real": scalar, "fake": scalar}.
    """
    above = nn.relu(jnp.mean(real) - usual["fake"])
    below = nn.relu(usual["real"] - jnp.mean(fake))
    return jnp.square(above) + jnp.square(below)


def r1_penalty(slope: jax.Array) -> jax.Array:
    """Returns, for the discriminator, the mean over the images of their gradients' squared norms.

    slope: gradient of the logits' sum by the real images [B, H, W, 3].
    """
    return jnp.mean(jnp.sum(jnp.square(slope), axis=(1, 2, 3)))


D_LOSSES = {"hinge": hinge_d_loss, "vanilla": vanilla_d_loss}
G_LOSSES = {"hinge": hinge_g_loss, "non_saturating": non_saturating_g_loss}


def annealed(step: jax.Array, extra: float, steps: int) -> jax.Array:
    """Returns 1 + extra at step 0, 1 from step `steps` on, a straight line between. Steps count from 0, as
    in MaskBit (modeling/quantizer/lookup_free.py) and bsq-vit (losses/vqperceptual.py)."""
    return 1.0 + extra * jnp.maximum(0.0, 1.0 - step / steps)


def adaptive_weight(
    last_layer: Callable[[jax.Array], jax.Array],
    kernel: jax.Array,
    rec_cotangent: jax.Array,
    adv_cotangent: jax.Array,
    most: float = 1e4,
) -> jax.Array:
    """Returns VQGAN's lambda: |d rec / d kernel| / (|d adv / d kernel| + 1e-4), at most `most`, a constant.

    last_layer: kernel -> reconstruction, from the decoder's last hidden features.
    rec_cotangent, adv_cotangent: the two losses' gradients by the reconstruction [B, H, W, 3]; they
    are pulled back through the last layer only, instead of twice through the whole decoder.
    """
    _, pull_back = jax.vjp(last_layer, kernel)
    rec = optax.global_norm(pull_back(rec_cotangent))
    adv = optax.global_norm(pull_back(adv_cotangent))
    return jax.lax.stop_gradient(jnp.clip(rec / (adv + 1e-4), 0.0, most))
