"""Index backpropagation quantisation: every code gets a gradient at every step.

Source: "Scalable Image Tokenization with Index Backpropagation Quantization", section 3;
TencentARC/SEED-Voken, IBQ/modules/vqvae/quantize.py.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from imgen.params.fields import training
from imgen.tokenizers.quantizers.base import Layout, Quantized, Quantizer, codebook_init
from imgen.tokenizers.quantizers.chunks import map_rows
from imgen.tokenizers.quantizers.entropy import assignment_entropies
from imgen.tokenizers.quantizers.nearest import HIGHEST


class IBQ(Quantizer):
    """Turns features [..., D] into the code with the largest inner product, of a codebook E [K, D].

    With p = softmax(z E^T) and h the one-hot vector of its largest entry, the value is
    (h + p - sg(p)) E: the chosen code, while the gradient reaches z and all codes through p.

    commit_weight: beta, of mean |h E - sg(z)|^2; that of the two other terms is 1.
    entropy_weight: of H_s - H_m with softmax(z E^T / entropy_temperature).
    init_bound: codes start uniform in +-init_bound; None for the published 1 / K. Short runs need larger
        ones: with codes near 0 the softmax is flat and the encoder's gradient through it tiny.
    """

    codebook_size: int = 16384
    codebook_dim: int = 256
    commit_weight: float = training(0.25)
    entropy_weight: float = training(0.05)
    entropy_temperature: float = training(0.01)
    init_bound: float | None = training(None)

    def setup(self):
        init = codebook_init(self.init_bound or 1 / self.codebook_size)
        self.codebook = self.param("codebook", init, (self.codebook_size, self.codebook_dim))

    @property
    def layout(self) -> Layout:
        return Layout("index", self.codebook_size, self.codebook_dim, self.codebook_dim)

    def __call__(self, z: jax.Array, rng: jax.Array | None = None) -> Quantized:
        del rng
        z = z.astype(jnp.float32)
        fixed = jax.lax.stop_gradient(self.codebook)

        def assign(rows: jax.Array) -> tuple[jax.Array, jax.Array]:
            logits = self._logits(rows)
            expected = jnp.matmul(nn.softmax(logits), fixed, precision=HIGHEST)
            return jnp.argmax(logits, -1).astype(jnp.int32), expected

        rows = z.reshape(-1, self.codebook_dim)
        codes, expected = map_rows(assign, rows, 4 * self.codebook_size)
        codes, expected = codes.reshape(z.shape[:-1]), expected.reshape(z.shape)
        q = self.decode(codes)
        values = q + (expected - jax.lax.stop_gradient(expected))
        fixed_z, fixed_q = jax.lax.stop_gradient(z), jax.lax.stop_gradient(q)
        losses = {
            "quantization": jnp.mean(jnp.square(values - z)),
            "commit": jnp.mean(jnp.square(fixed_q - z)),
            "codebook": self.commit_weight * jnp.mean(jnp.square(q - fixed_z)),
        }
        stats = {}
        if self.entropy_weight:
            found = assignment_entropies(
                lambda rows: self._logits(rows) / self.entropy_temperature,
                rows,
                self.codebook_size,
            )
            losses["entropy"] = self.entropy_weight * (found.sample - found.code)
            stats = {"sample_entropy": found.sample, "code_entropy": found.code}
        return Quantized(values, codes, losses, stats)

    def encode(self, z: jax.Array, rng: jax.Array | None = None) -> jax.Array:
        """Turns features [..., D] into int32 codes [...]; the same with or without a key."""
        del rng
        rows = z.astype(jnp.float32).reshape(-1, self.codebook_dim)
        codes = map_rows(
            lambda rows: jnp.argmax(self._logits(rows), -1).astype(jnp.int32),
            rows,
            4 * self.codebook_size,
        )
        return codes.reshape(z.shape[:-1])

    def decode(self, latents: jax.Array) -> jax.Array:
        """Turns codes [...] into float32 values [..., D]."""
        return jnp.take(self.codebook, latents, axis=0)

    def _logits(self, rows: jax.Array) -> jax.Array:
        return jnp.matmul(rows, self.codebook.T, precision=HIGHEST)
