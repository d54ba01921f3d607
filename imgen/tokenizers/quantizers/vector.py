"""Vector quantisation: features [..., D] <-> codes [...] of a codebook [K, D].

Source: LlamaGen, tokenizer/tokenizer_image/vq_model.py.
"""

import jax
import jax.numpy as jnp

from imgen.params.fields import silent, training
from imgen.tokenizers.quantizers.base import (
    Layout,
    Quantized,
    Quantizer,
    codebook_init,
    l2_normalize,
    straight_through,
)
from imgen.tokenizers.quantizers.entropy import assignment_entropies
from imgen.tokenizers.quantizers.nearest import nearest_codes, squared_distances


class VectorQuantizer(Quantizer):
    """Takes the nearest code by Euclidean distance; with `l2_norm` both sides are put on the unit sphere
    first, at every use, while the stored table stays unconstrained.

    commit_weight: beta of the commitment loss.
    entropy_weight: of H(one position's soft assignment) - H(their mean over the global batch),
        with p = softmax(-distance / entropy_temperature). 0 (LlamaGen's released models) skips it.
    """

    codebook_size: int
    codebook_dim: int
    l2_norm: bool = silent(True)
    commit_weight: float = training(0.25)
    entropy_weight: float = training(0.0)
    entropy_temperature: float = training(0.01)

    has_codebook = True

    def setup(self):
        plain = codebook_init(1 / self.codebook_size)

        def init(key: jax.Array, shape: tuple[int, int]) -> jax.Array:
            return self.normed(plain(key, shape))

        self.codebook = self.param("codebook", init, (self.codebook_size, self.codebook_dim))

    @property
    def layout(self) -> Layout:
        return Layout("index", self.codebook_size, self.codebook_dim, self.codebook_dim)

    def __call__(self, z: jax.Array, rng: jax.Array | None = None) -> Quantized:
        del rng
        z, table = self.normed(z), self.normed(self.codebook)
        codes = nearest_codes(z, table)
        q = jnp.take(table, codes, axis=0)
        fixed_z, fixed_q = jax.lax.stop_gradient(z), jax.lax.stop_gradient(q)
        losses = {
            "codebook": jnp.mean(jnp.square(q - fixed_z)),
            "commit": self.commit_weight * jnp.mean(jnp.square(fixed_q - z)),
        }
        if self.entropy_weight:
            found = assignment_entropies(
                lambda rows: -squared_distances(rows, table) / self.entropy_temperature,
                z.reshape(-1, z.shape[-1]),
                self.codebook_size,
            )
            losses["entropy"] = self.entropy_weight * (found.sample - found.code)
        return Quantized(straight_through(q, z), codes, losses)

    def encode(self, z: jax.Array, rng: jax.Array | None = None) -> jax.Array:
        """Turns features [..., D] into int32 codes [...]; the same with or without a key."""
        del rng
        return nearest_codes(self.normed(z), self.normed(self.codebook))

    def decode(self, codes: jax.Array) -> jax.Array:
        """Turns codes [...] into float32 values [..., D]."""
        return jnp.take(self.normed(self.codebook), codes, axis=0)

    def code_features(self, z: jax.Array, codes: jax.Array) -> jax.Array:
        """Returns features as they are compared with codes, without gradient, a row for each: [..., D] ->
        [N, D]."""
        del codes
        return jax.lax.stop_gradient(self.normed(z)).reshape(-1, self.codebook_dim)

    def normed(self, x: jax.Array) -> jax.Array:
        """Returns features or codes as they are compared: float32, of unit length with `l2_norm`."""
        x = x.astype(jnp.float32)
        return l2_normalize(x) if self.l2_norm else x
