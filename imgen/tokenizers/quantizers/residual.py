"""Residual quantisation: several codes a position, each for what the ones before leave over.

Source: "Autoregressive Image Generation using Residual Quantization", section 3.1; kakaobrain/
rq-vae-transformer, rqvae/models/rqvae/quantizations.py.
"""

import jax
import jax.numpy as jnp

from imgen.errors import UserError
from imgen.params.fields import training
from imgen.tokenizers.quantizers.base import (
    Layout,
    Quantized,
    Quantizer,
    codebook_init,
    straight_through,
)
from imgen.tokenizers.quantizers.nearest import nearest_codes


class ResidualQuantizer(Quantizer):
    """Turns features [..., C] into `depth` codes [..., depth] of one codebook [K, C] that all depths share.

    Code i is the nearest to the residual r_i = z - (e_1 + ... + e_{i-1}); the value is the sum of all.

    commit_weight: of the sum over i of mean |z - sg(e_1 + ... + e_i)|^2. (The released code takes the
        mean over the depths where the paper has the sum.)
    The codebook's loss is the sum over i of mean |e_i - sg(r_i)|^2; the published models have a running
    mean of the residuals (`residuals`) in its place.
    """

    codebook_size: int = 16384
    codebook_dim: int = 256
    depth: int = 4
    commit_weight: float = training(0.25)

    has_codebook = True

    def __post_init__(self):
        if not isinstance(self.depth, int) or self.depth < 1:
            raise UserError(f"residual quantizer: depth {self.depth} must be a whole number from 1")
        super().__post_init__()

    def setup(self):
        init = codebook_init(1 / self.codebook_size)
        self.codebook = self.param("codebook", init, (self.codebook_size, self.codebook_dim))

    @property
    def layout(self) -> Layout:
        return Layout("index", self.codebook_size, self.codebook_dim, self.codebook_dim, self.depth)

    def __call__(self, z: jax.Array, rng: jax.Array | None = None) -> Quantized:
        del rng
        z = z.astype(jnp.float32)
        codes = self.encode(z)
        residuals = self._residuals(z, codes)
        embedded = jnp.take(self.codebook, codes, axis=0)  # [..., depth, C]
        sums = self.partial_sums(codes)
        depths = (*range(codes.ndim - 1), -1)  # all but the depth
        commit = jnp.mean(jnp.square(z[..., None, :] - jax.lax.stop_gradient(sums)), axis=depths)
        losses = {
            "codebook": jnp.sum(jnp.mean(jnp.square(embedded - residuals), axis=depths)),
            "commit": self.commit_weight * jnp.sum(commit),
        }
        return Quantized(straight_through(sums[..., -1, :], z), codes, losses)

    def encode(self, z: jax.Array, rng: jax.Array | None = None) -> jax.Array:
        """Turns features [..., C] into int32 codes [..., depth]; the same with or without a key."""
        del rng
        table, residual = jax.lax.stop_gradient((self.codebook, z.astype(jnp.float32)))
        codes = []
        for _ in range(self.depth):
            codes.append(nearest_codes(residual, table))
            residual = residual - jnp.take(table, codes[-1], axis=0)
        return jnp.stack(codes, -1)

    def decode(self, latents: jax.Array) -> jax.Array:
        """Turns codes [..., depth] into float32 values [..., C]."""
        return self.partial_sums(latents)[..., -1, :]

    def partial_sums(self, latents: jax.Array) -> jax.Array:
        """Returns the values by the first 1, 2, ... codes: [..., depth] -> [..., depth, C]."""
        return jnp.cumsum(jnp.take(self.codebook, latents, axis=0), axis=-2)

    def code_features(self, z: jax.Array, codes: jax.Array) -> jax.Array:
        """Returns what each code of z stands for, without gradient: [..., C], [..., depth] -> [N depth,
        C]."""
        return self._residuals(z, codes).reshape(-1, self.codebook_dim)

    def _residuals(self, z: jax.Array, codes: jax.Array) -> jax.Array:
        """Returns what is left for each code by those before it: [..., depth, C], without gradient."""
        table, residual = jax.lax.stop_gradient((self.codebook, z.astype(jnp.float32)))
        residuals = []
        for i in range(self.depth):
            residuals.append(residual)
            residual = residual - jnp.take(table, codes[..., i], axis=0)
        return jnp.stack(residuals, -2)
