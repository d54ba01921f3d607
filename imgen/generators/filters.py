"""Temperature, top-k, top-p and the draw itself (LlamaGen `autoregressive/models/generate.py`).

Order as published: temperature, then top-k keeping ties with the k-th value, then top-p on the survivors
keeping the code that crosses the threshold.
"""

import dataclasses

import jax
import jax.numpy as jnp

from imgen.errors import UserError


@dataclasses.dataclass(frozen=True)
class Filters:
    """temperature 0 takes the most likely code; top_k 0 and top_p 1 filter nothing. Of continuous latents the
    temperature multiplies noise (see the heads of `generators.denoisers`).

    choice_temperature: of masked plans: how far chance, beside confidence, says which codes are kept.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    choice_temperature: float = 4.5  # MaskGIT

    def __post_init__(self):
        if (
            min(self.temperature, self.top_k, self.choice_temperature) < 0
            or not 0 < self.top_p <= 1
        ):
            raise UserError(
                f"temperature {self.temperature}, top_k {self.top_k}, top_p {self.top_p}, "
                f"choice_temperature {self.choice_temperature}: top_p must be in (0, 1], the others 0 or more"
            )


def filter_logits(logits: jax.Array, filters: Filters) -> jax.Array:
    """float32 [..., V] -> logits with the codes that are filtered out at -inf."""
    logits = logits / max(filters.temperature, 1e-5)
    if 0 < filters.top_k < logits.shape[-1]:
        kth = jax.lax.top_k(logits, filters.top_k)[0][..., -1:]
        logits = jnp.where(logits < kth, -jnp.inf, logits)
    if filters.top_p < 1.0:
        order = jnp.argsort(-logits, axis=-1, stable=True)
        ordered = jnp.take_along_axis(jax.nn.softmax(logits, axis=-1), order, axis=-1)
        crossed = jnp.cumsum(ordered, axis=-1) > filters.top_p
        crossed = jnp.roll(crossed, 1, axis=-1).at[..., 0].set(False)  # the crossing code is kept
        dropped = jnp.take_along_axis(crossed, jnp.argsort(order, axis=-1), axis=-1)
        logits = jnp.where(dropped, -jnp.inf, logits)
    return logits


def draw(logits: jax.Array, uniform: jax.Array, filters: Filters) -> jax.Array:
    """Draws a code by inverting the cumulative distribution: logits [..., V], uniform [...] in [0, 1).

    One random number a draw instead of the V of the Gumbel trick.
    """
    if filters.temperature == 0:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    cumulative = jnp.cumsum(jax.nn.softmax(filter_logits(logits, filters), axis=-1), axis=-1)
    target = uniform[..., None] * cumulative[..., -1:]
    code = jnp.sum(cumulative <= target, axis=-1)
    return jnp.minimum(code, logits.shape[-1] - 1).astype(jnp.int32)


def check_temperature_only(filters: Filters, latents: str) -> None:
    """Raises UserError for filters that such latents ("bits", say) have no use for."""
    if filters.top_k or filters.top_p < 1:
        raise UserError(
            f"top_k and top_p choose among codes and {latents} have none: use temperature only"
        )


def draw_bits(logits: jax.Array, uniform: jax.Array, filters: Filters) -> jax.Array:
    """Draws bits from their logits: logits [...], uniform [...] in [0, 1). Temperature 0 thresholds."""
    check_temperature_only(filters, "bits")
    if filters.temperature == 0:
        return (logits > 0).astype(jnp.int32)
    return (uniform < jax.nn.sigmoid(logits / filters.temperature)).astype(jnp.int32)
