"""Continuous latents: the diagonal Gaussian posterior of a variational autoencoder.

Source: CompVis/latent-diffusion, ldm/modules/distributions; LTH14/mar, models/vae.py.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from imgen.params.fields import training
from imgen.tokenizers.quantizers.base import Layout, Quantized, Quantizer


class Normalizer(Quantizer):
    """Takes channels [..., C] as they are and normalises them; nothing is random.

    Latents leave as (z - shift) * scale, so that generators see mean 0 and deviation 1. `shift` and
    `scale` are scalars among the parameters: whoever trains the tokenizer measures them (0.2325 is the
    scale of MAR's KL-16). The decoder sees z itself.
    """

    def setup(self):
        self.shift = self.param("shift", nn.initializers.zeros, ())
        self.scale = self.param("scale", nn.initializers.ones, ())

    def normalize(self, values: jax.Array) -> jax.Array:
        """Centres and scales values of the network: [..., C] -> [..., C]."""
        return (values - self.shift) * self.scale

    def encode(self, z: jax.Array, rng: jax.Array | None = None) -> jax.Array:
        """Normalises; the same with or without a key."""
        return self.normalize(z)

    def decode(self, latents: jax.Array) -> jax.Array:
        """Turns normalised latents into float32 values for the decoder."""
        return latents.astype(jnp.float32) / self.scale + self.shift


class Gaussian(Normalizer):
    """Turns moments [..., 2 C] = [mean, log variance] into C channels a position, normalised.

    kl_weight: of KL(posterior || N(0, 1)), summed over one image and averaged over the batch.
    position_values: pixel values that a position stands for. Where it is given, the sum is divided by the
        image's values, as reconstruction losses are: one weight then does for every size.
    """

    channels: int
    kl_weight: float = training(1e-6)
    position_values: int | None = training(None)

    has_moments = True

    @property
    def layout(self) -> Layout:
        return Layout("continuous", self.channels, 2 * self.channels, self.channels)

    def __call__(self, z: jax.Array, rng: jax.Array | None = None) -> Quantized:
        mean, log_variance = posterior(z)
        kl = 0.5 * jnp.sum(jnp.square(mean) + jnp.exp(log_variance) - 1.0 - log_variance)
        kl /= z.shape[0]
        positions = z[0, ..., 0].size
        weight = self.kl_weight / (positions * self.position_values if self.position_values else 1)
        values = sample(mean, log_variance, rng)
        latents = jax.lax.stop_gradient(self.normalize(values))
        return Quantized(values, latents, {"kl": weight * kl}, {"kl_per_image": kl})

    def encode(self, z: jax.Array, rng: jax.Array | None = None) -> jax.Array:
        """Turns moments into normalised latents: the posterior's mean, or drawn from it with a key."""
        return self.normalize(sample(*posterior(z), rng))

    def moments(self, z: jax.Array) -> jax.Array:
        """Returns moments as they are stored: [mean, log variance] [..., 2 C] of the normalised latents."""
        mean, log_variance = posterior(z)
        log_variance += 2.0 * jnp.log(self.scale)
        return jnp.concatenate([self.normalize(mean), log_variance], axis=-1)


def posterior(moments: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Splits [..., 2 C] into mean and log variance [..., C], the latter within [-30, 20]."""
    mean, log_variance = jnp.split(moments.astype(jnp.float32), 2, axis=-1)
    return mean, jnp.clip(log_variance, -30.0, 20.0)


def sample(mean: jax.Array, log_variance: jax.Array, rng: jax.Array | None) -> jax.Array:
    """Returns the mean, or a draw with a key."""
    if rng is None:
        return mean
    return mean + jnp.exp(0.5 * log_variance) * jax.random.normal(rng, mean.shape)
