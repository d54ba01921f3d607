"""The adversarial half of tokenizer training: what the discriminator adds to both players' losses.

Source: LlamaGen, tokenizer/tokenizer_image/vq_loss.py and vq_train.py.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from flax import linen as nn

from imgen.errors import UserError
from imgen.tokenizers.discriminators import Stats
from imgen.tokenizers.losses import D_LOSSES, G_LOSSES, adaptive_weight, delayed_weight


class LastLayer(NamedTuple):
    """The decoder's last convolution as a function of its kernel, and that kernel."""

    apply: Callable[[jax.Array], jax.Array]
    kernel: jax.Array


class AdversarialTerms(NamedTuple):
    """generator: the tokenizer's term, weighted; discriminator: its loss, weighted; stats: batch
    norm statistics after the three passes (reconstruction for the tokenizer, real, fake)."""

    generator: jax.Array
    discriminator: jax.Array
    stats: Stats


@dataclasses.dataclass(frozen=True)
class Adversary:
    """A discriminator with its losses.

    weight: of both players' terms from step `start` on (steps count from 1); before, both are 0 and
        so are the discriminator's gradients.
    d_loss: "hinge" or "vanilla"; g_loss: "hinge" or "non_saturating".
    adaptive: scales the tokenizer's term by VQGAN's adaptive weight. LlamaGen trains without.
    """

    discriminator: nn.Module
    weight: float = 0.5
    start: int = 20000
    d_loss: str = "hinge"
    g_loss: str = "hinge"
    adaptive: bool = False

    def __post_init__(self):
        for given, known in ((self.d_loss, D_LOSSES), (self.g_loss, G_LOSSES)):
            if given not in known:
                raise UserError(f"adversarial loss {given!r} is none of {', '.join(known)}")

    def init(self, rng: jax.Array, images: jax.Array) -> tuple[Any, Stats]:
        """Parameters and statistics of the discriminator for images [B, H, W, 3]."""
        stats = self.discriminator.init_stats()
        return self.discriminator.init(rng, images, stats)["params"], stats

    def terms(
        self,
        params: Any,
        stats: Stats,
        images: jax.Array,
        recon: jax.Array,
        step: jax.Array,
        similarity: Callable[[jax.Array], jax.Array],
        last_layer: LastLayer,
    ) -> AdversarialTerms:
        """Both players' terms on one reconstruction.

        The generator's term has no gradient by `params`, the discriminator's none by `recon`: the
        gradient of the sum is each player's own. step: counted from 1. similarity: reconstruction
        -> the loss that the adaptive weight compares with.
        """
        fixed_params, fixed_recon = jax.lax.stop_gradient((params, recon))

        def judge(params: Any, x: jax.Array, stats: Stats) -> tuple[jax.Array, Stats]:
            return self.discriminator.apply({"params": params}, x, stats, True)

        def opposition(x: jax.Array) -> tuple[jax.Array, Stats]:
            logits, after = judge(fixed_params, x, stats)
            return G_LOSSES[self.g_loss](logits), after

        weight = delayed_weight(self.weight, step, self.start)
        generator, after = opposition(recon)
        if self.adaptive:
            kernel = jax.lax.stop_gradient(last_layer.kernel)
            adv_cotangent, _ = jax.grad(opposition, has_aux=True)(fixed_recon)
            generator *= adaptive_weight(
                last_layer.apply, kernel, jax.grad(similarity)(fixed_recon), adv_cotangent
            )
        real, after = judge(params, images, after)
        fake, after = judge(params, fixed_recon, after)
        discriminator = D_LOSSES[self.d_loss](real, fake)
        return AdversarialTerms(weight * generator, weight * discriminator, after)
