"""What every generator is: a model of latents that trains, is evaluated and says which samplers draw from it.

Shapes: B batch, P positions; `...` a position's code.
"""

from typing import Any, Literal, NamedTuple, Protocol

import flax.linen as nn
import jax

from imgen.latents import LatentSpec

Likelihood = Literal["exact", "bound", "none"]


class Loss(NamedTuple):
    """per_position [B, P]: nats of each position, or an error summed over its channels.

    weight [B, P]: of each in the mean that is minimised.
    extra: further terms [B, P] by name, whose mean has the same weights ("log_normalizer": squared).
    """

    per_position: jax.Array
    weight: jax.Array
    extra: dict[str, jax.Array]


class LatentModel(Protocol):
    """A Linen module over the latents of `spec`: Generator, XAR and BitDiffusion.

    likelihood: of `evaluate`: "exact" nats, nats that bound them from above, or "none": an error.
    trains_on_likelihood: whether the training loss is nats of whole images.
    variables_per_position, variables: predicted codes, sub-codes, bits or channels of a position, an image.
    samplers: keys of `decoding.SAMPLERS` that draw from it; the first one unless another is asked for.
    """

    spec: LatentSpec
    conditioner: nn.Module
    likelihood: Likelihood
    trains_on_likelihood: bool
    variables_per_position: int
    variables: int
    samplers: tuple[str, ...]

    def init_params(self, rng: jax.Array) -> dict:
        """Returns fresh parameters."""

    def to_codes(self, latents: jax.Array) -> jax.Array:
        """Returns the codes [B, P, ...] of a tokenizer's latents [B, *grid, ...]."""

    def to_latents(self, codes: jax.Array) -> jax.Array:
        """Returns the latents [B, *grid, ...] of codes [B, P, ...]."""

    def loss(
        self, codes: jax.Array, cond: dict, null: jax.Array, key: jax.Array, progress: Any
    ) -> Loss:
        """Returns what is minimised. null [B]: whose condition is dropped; `key` draws what training draws;
        progress: share of the run that is done, in [0, 1]."""

    def evaluate(self, codes: jax.Array, cond: dict) -> jax.Array:
        """Returns nats of each image, or its error, [B]; the same for the same codes."""
