"""The adversarial half of tokenizer training: what the discriminator adds to both players' losses.

Source: LlamaGen, tokenizer/tokenizer_image/vq_loss.py and vq_train.py; LeCam and a weight for each
player as in bytedance/1d-tokenizer, modeling/modules/losses.py.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from imgen.errors import UserError
from imgen.tokenizers.discriminators import Stats
from imgen.tokenizers.losses import D_LOSSES, G_LOSSES, adaptive_weight, delayed_weight, lecam_loss


class LastLayer(NamedTuple):
    """The decoder's last convolution as a function of its kernel, and that kernel."""

    apply: Callable[[jax.Array], jax.Array]
    kernel: jax.Array


class AdversarialTerms(NamedTuple):
    """generator: the tokenizer's term, weighted; discriminator: its loss, weighted; stats: batch
    norm statistics after the three passes (reconstruction for the tokenizer, real, fake), and under
    "lecam", where it is in use, the new running means of the logits."""

    generator: jax.Array
    discriminator: jax.Array
    stats: Stats


@dataclasses.dataclass(frozen=True)
class Adversary:
    """A discriminator with its losses.

    weight: of the tokenizer's term from step `start` on (steps count from 1); before, both players'
        terms are 0 and so are the discriminator's gradients. A discriminator with batch norms sees images
        all the same, for its running statistics, as LlamaGen's does; any other is not run (see `idle`).
    disc_weight: of the discriminator's loss; None (LlamaGen): `weight`. TiTok has 1.
    lecam_weight: of LeCam, added to the discriminator's loss; 0 leaves it out. TiTok has 0.001.
    lecam_decay: of the running means of real and fake logits that LeCam compares with. They are taken
        over the GLOBAL batch (officially per device), used before they are updated, and stand still
        before `start`.
    d_loss: "hinge" or "vanilla"; g_loss: "hinge" or "non_saturating".
    adaptive: scales the tokenizer's term by VQGAN's adaptive weight. LlamaGen trains without.
    adaptive_most: the largest such weight; 1 in Binary Latent Diffusion.
    """

    discriminator: nn.Module
    weight: float = 0.5
    start: int = 20000
    d_loss: str = "hinge"
    g_loss: str = "hinge"
    adaptive: bool = False
    adaptive_most: float = 1e4
    disc_weight: float | None = None
    lecam_weight: float = 0.0
    lecam_decay: float = 0.999

    def __post_init__(self):
        for given, known in ((self.d_loss, D_LOSSES), (self.g_loss, G_LOSSES)):
            if given not in known:
                raise UserError(f"adversarial loss {given!r} is none of {', '.join(known)}")

    def init(self, rng: jax.Array, images: jax.Array) -> tuple[Any, Stats]:
        """Parameters and statistics of the discriminator for images [B, H, W, 3]."""
        stats = self.discriminator.init_stats()
        params = self.discriminator.init(rng, images, stats)["params"]
        if self.lecam_weight:
            stats = {**stats, "lecam": {"real": jnp.zeros(()), "fake": jnp.zeros(())}}
        return params, stats

    def idle(self, stats: Stats, step: jax.Array) -> jax.Array | bool:
        """Whether nothing happens to the discriminator at a step, counted from 1: before its start, unless it
        has running statistics (`stats`) to keep. Its optimiser rests too, and its schedule (TiTok)."""
        if stats.keys() - {"lecam"}:
            return False
        return step < self.start

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

        def play() -> AdversarialTerms:
            return self._play(params, stats, images, recon, step, similarity, last_layer)

        def wait() -> AdversarialTerms:
            return AdversarialTerms(jnp.zeros(()), jnp.zeros(()), stats)

        idle = self.idle(stats, step)
        return play() if idle is False else jax.lax.cond(idle, wait, play)

    def _play(self, params, stats, images, recon, step, similarity, last_layer) -> AdversarialTerms:
        fixed_params, fixed_recon = jax.lax.stop_gradient((params, recon))
        usual = stats.get("lecam")
        stats = {name: value for name, value in stats.items() if name != "lecam"}

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
                last_layer.apply,
                kernel,
                jax.grad(similarity)(fixed_recon),
                adv_cotangent,
                self.adaptive_most,
            )
        real, after = judge(params, images, after)
        fake, after = judge(params, fixed_recon, after)
        discriminator = D_LOSSES[self.d_loss](real, fake)
        if self.lecam_weight:
            discriminator += self.lecam_weight * lecam_loss(real, fake, usual)
            means = {"real": jnp.mean(real), "fake": jnp.mean(fake)}
            step_size = delayed_weight(1.0 - self.lecam_decay, step, self.start)
            after = {**after, "lecam": _towards(usual, means, step_size)}
        own = self.weight if self.disc_weight is None else self.disc_weight
        disc_weight = delayed_weight(own, step, self.start)
        return AdversarialTerms(weight * generator, disc_weight * discriminator, after)


def _towards(old: Stats, new: Stats, step_size: jax.Array) -> Stats:
    """old + step_size (new - old), a constant."""
    moved = jax.tree.map(lambda a, b: a + step_size * (b - a), old, new)
    return jax.lax.stop_gradient(moved)
