"""MingTok's semantic features as a generator gets them: one after the other."""

import jax
import jax.numpy as jnp

from imgen.tokenizers.mingtok import MingTok


def token_by_token(model: MingTok, variables: dict, latents: jax.Array) -> jax.Array:
    """Semantic features [B, N, D] of latents [B, N, C], each made while those behind it are not there yet."""

    def feature(number: jax.Array) -> jax.Array:
        here = jnp.where(jnp.arange(latents.shape[1])[:, None] <= number, latents, 1e3)
        run = lambda m: m.semantic_decoder(m.quantizer.decode(here))  # noqa: E731
        return model.apply(variables, method=run)[:, number]

    return jnp.moveaxis(jax.lax.map(feature, jnp.arange(latents.shape[1])), 0, 1)
