"""Binary latents: each bit is drawn from its own Bernoulli distribution.

Source: "Binary Latent Diffusion" (ZeWang95/BinaryLatentDiffusion, models/binaryae.py), which ELM takes
over; Instella-T2I, bae/bnl.py.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from imgen.latents import bits as binary
from imgen.params.fields import training
from imgen.tokenizers.quantizers.base import Layout, Quantized, Quantizer


class Bernoulli(Quantizer):
    """Turns logits [..., D] into D bits a position -> the sum of the embeddings of the bits that are set.

    width: of the embeddings, a table [D, width] shared by all positions.
    temperature: divides the logits that bits are drawn with; the gradient is that of sigmoid(logit)
        without it, as in Instella's code.
    code_weight: of mean p (1 - p), which makes bits sure. 0 in Binary Latent Diffusion.
    """

    bits: int
    width: int
    temperature: float = 1.0
    code_weight: float = training(0.0)
    init_std: float = training(0.02)

    def setup(self):
        init = nn.initializers.normal(self.init_std)
        self.embedding = self.param("embedding", init, (self.bits, self.width))

    @property
    def layout(self) -> Layout:
        return Layout("bits", self.bits, self.bits, self.width)

    def __call__(self, z: jax.Array, rng: jax.Array | None = None) -> Quantized:
        bits, p = self.encode(z, rng), nn.sigmoid(z.astype(jnp.float32))
        values = binary.embed(binary.straight_through(bits.astype(jnp.float32), p), self.embedding)
        losses = {"code": self.code_weight * binary.code_loss(p)} if self.code_weight else {}
        return Quantized(values, bits, losses, {"bit_variance": binary.code_loss(p)})

    def encode(self, z: jax.Array, rng: jax.Array | None = None) -> jax.Array:
        """Turns logits [..., D] into int32 bits: the likelier value, or drawn with a key."""
        z = jax.lax.stop_gradient(z.astype(jnp.float32))
        if rng is None:
            return (z > 0).astype(jnp.int32)
        return jax.random.bernoulli(rng, nn.sigmoid(z / self.temperature)).astype(jnp.int32)

    def decode(self, latents: jax.Array) -> jax.Array:
        """Turns bits [..., D] into float32 values [..., width]."""
        return binary.embed(latents.astype(jnp.float32), self.embedding)
