"""The adversarial half of tokenizer training: what the discriminator adds to both players' losses.

Source: LlamaGen, tokenizer/tokenizer_image/vq_loss.py and vq_train.py; LeCam and a weight for each
player as in bytedance/1d-tokenizer, modeling/modules/losses.py; R1 as in MaskGIT's configuration.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from imgen.errors import UserError
from imgen.tokenizers.losses.discriminators import Stats
from imgen.tokenizers.losses.terms import (
    D_LOSSES,
    G_LOSSES,
    adaptive_weight,
    lecam_loss,
    r1_penalty,
)


class LastLayer(NamedTuple):
    """Holds the decoder's last convolution as a function of its kernel, and that kernel."""

    apply: Callable[[jax.Array], jax.Array]
    kernel: jax.Array


class AdversarialTerms(NamedTuple):
    """Holds generator: the tokenizer's term, weighted; discriminator: its loss, weighted; stats: batch
    norm statistics after the three passes (reconstruction for the tokenizer, real, fake), and under
    "lecam", where it is in use, the new running means of the logits."""

    generator: jax.Array
    discriminator: jax.Array
    stats: Stats


@dataclasses.dataclass(frozen=True)
class Adversary:
    """Judges by a discriminator with its losses.

    weight: of the tokenizer's term from step `start` on (steps count from 1). Before, both players' terms and
        the discriminator's gradients are 0 and it is not run. (LlamaGen runs it for its running statistics,
        which training doesn't use and which forget those steps within a hundred others.)
    optimizer_waits: the discriminator's optimiser and its schedule begin at `start` (TiTok); if not, they
        take the zero gradients before it as any others (LlamaGen, LDM).
    disc_weight: of the discriminator's loss; None (LlamaGen): `weight`. TiTok has 1.
    lecam_weight: of LeCam, added to the discriminator's loss; 0 leaves it out. TiTok has 0.001.
    lecam_decay: of the running means of real and fake logits that LeCam compares with. They are taken
        over the GLOBAL batch (officially per device), used before they are updated, and stand still
        before `start`.
    r1_weight: of the penalty on the discriminator's gradient by the real images (`losses.r1_penalty`, over
        the GLOBAL batch), added to its loss; 0 leaves it out.
    d_loss: "hinge" or "vanilla"; g_loss: "hinge" or "non_saturating".
    adaptive: scales the tokenizer's term by VQGAN's adaptive weight. LlamaGen trains without.
    adaptive_most: the largest such weight; 1 in Binary Latent Diffusion.
    adaptive_sums: `adaptive_most` is of the weight that losses summed over an image's values would have, as
        LDM's are; the ones here are means.
    """

    discriminator: nn.Module
    weight: float = 0.5
    start: int = 20000
    optimizer_waits: bool = False
    d_loss: str = "hinge"
    g_loss: str = "hinge"
    adaptive: bool = False
    adaptive_most: float = 1e4
    adaptive_sums: bool = False
    disc_weight: float | None = None
    lecam_weight: float = 0.0
    lecam_decay: float = 0.999
    r1_weight: float = 0.0

    def __post_init__(self):
        for given, known in ((self.d_loss, D_LOSSES), (self.g_loss, G_LOSSES)):
            if given not in known:
                raise UserError(f"adversarial loss {given!r} is none of {', '.join(known)}")

    def init(self, rng: jax.Array, images: jax.Array) -> tuple[Any, Stats]:
        """Makes parameters and statistics of the discriminator for images [B, H, W, 3]."""
        stats = self.discriminator.init_stats()
        params = self.discriminator.init(rng, images, stats)["params"]
        if self.lecam_weight:
            stats = {**stats, "lecam": {"real": jnp.zeros(()), "fake": jnp.zeros(())}}
        return params, stats

    def rests(self, step: jax.Array) -> jax.Array | bool:
        """Says whether the discriminator's optimiser leaves a step, counted from 1, out."""
        return self.optimizer_waits and step < self.start

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
        """Returns both players' terms on one reconstruction.

        The generator's term has no gradient by `params`, the discriminator's none by `recon`: the
        gradient of the sum is each player's own. step: counted from 1. similarity: reconstruction
        -> the loss that the adaptive weight compares with.
        """

        # The forward pass of `similarity` is the loss's own, which XLA finds outside of the branch alone.
        similarity_at = (
            jax.vjp(similarity, jax.lax.stop_gradient(recon))[1] if self.adaptive else None
        )

        def play() -> AdversarialTerms:
            return self._play(params, stats, images, recon, similarity_at, last_layer)

        def wait() -> AdversarialTerms:
            return AdversarialTerms(jnp.zeros(()), jnp.zeros(()), stats)

        return play() if self.start <= 1 else jax.lax.cond(step < self.start, wait, play)

    def _play(self, params, stats, images, recon, similarity_at, last_layer) -> AdversarialTerms:
        fixed_params, fixed_recon = jax.lax.stop_gradient((params, recon))
        usual = stats.get("lecam")
        stats = {name: value for name, value in stats.items() if name != "lecam"}

        def judge(params: Any, x: jax.Array, stats: Stats) -> tuple[jax.Array, Stats]:
            return self.discriminator.apply({"params": params}, x, stats)

        def opposition(x: jax.Array) -> tuple[jax.Array, Stats]:
            logits, after = judge(fixed_params, x, stats)
            return G_LOSSES[self.g_loss](logits), after

        generator, after = opposition(recon)
        if self.adaptive:
            kernel = jax.lax.stop_gradient(last_layer.kernel)
            (rec_cotangent,) = similarity_at(jnp.ones(()))
            adv_cotangent, _ = jax.grad(opposition, has_aux=True)(fixed_recon)
            generator *= adaptive_weight(
                last_layer.apply,
                kernel,
                rec_cotangent,
                adv_cotangent,
                self.adaptive_most / (images[0].size if self.adaptive_sums else 1),
            )
        real, after = judge(params, images, after)
        fake, after = judge(params, fixed_recon, after)
        discriminator = D_LOSSES[self.d_loss](real, fake)
        if self.r1_weight:
            slope = jax.grad(lambda x: jnp.sum(judge(params, x, stats)[0]))(images)
            discriminator += self.r1_weight * r1_penalty(slope)
        if self.lecam_weight:
            discriminator += self.lecam_weight * lecam_loss(real, fake, usual)
            means = {"real": jnp.mean(real), "fake": jnp.mean(fake)}
            after = {**after, "lecam": _towards(usual, means, 1.0 - self.lecam_decay)}
        own = self.weight if self.disc_weight is None else self.disc_weight
        return AdversarialTerms(self.weight * generator, own * discriminator, after)


def _towards(old: Stats, new: Stats, step_size: float) -> Stats:
    """Returns old + step_size (new - old), a constant."""
    moved = jax.tree.map(lambda a, b: a + step_size * (b - a), old, new)
    return jax.lax.stop_gradient(moved)
