"""What every quantizer is: features [..., features_in] -> latents -> values [..., features_out]."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from imgen.latents import LatentSpec

SHARDING = (  # every device compares its features with all codes
    (r"quantizer/(codebook|embedding)$", ()),
)


class Quantized(NamedTuple):
    """values [..., features_out] with the gradient that training uses; latents, as `encode` gives them,
    without gradient; losses by name, weighted; stats by name: more scalars for the training log."""

    values: jax.Array
    latents: jax.Array
    losses: dict[str, jax.Array]
    stats: dict[str, jax.Array] = {}


class Layout(NamedTuple):
    """Describes what goes in and comes out, per position.

    kind, size: of the `LatentSpec`: ("index", vocabulary), ("bits", bits) or ("continuous", channels).
    features_in, features_out: channels of the features that are taken and of the values given.
    depth: codes a position, a last axis of the latents' grid; None for one without that axis.
    """

    kind: str
    size: int
    features_in: int
    features_out: int
    depth: int | None = None

    def spec(self, grid: tuple[int, ...]) -> LatentSpec:
        """Describes the latents of features on `grid`."""
        return LatentSpec(self.kind, grid if self.depth is None else (*grid, self.depth), self.size)


def codebook_init(bound: float) -> Callable[..., jax.Array]:
    """Draws uniformly in +-bound; the official codes take one over the number of codes."""

    def init(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        return jax.random.uniform(key, shape, jnp.float32, -bound, bound)

    return init


class Quantizer(nn.Module):
    """Turns features into latents and those into values: the face of all quantizers. All computation is
    float32.

    has_codebook: its parameter `codebook` [K, D] may be tended by k-means, restarts and averages; there is
        `code_features`.
    has_moments: its latents are drawn from a distribution; there is `moments`.

    Statistics of a batch are taken over all positions of the GLOBAL batch: under `jax.jit` on a sharded
    batch a plain mean is one. (The official codes take them per device.)
    """

    has_codebook = False
    has_moments = False

    @property
    def layout(self) -> Layout:
        """Describes what goes in and comes out."""
        raise NotImplementedError

    def __call__(self, z: jax.Array, rng: jax.Array | None = None) -> Quantized:
        """Runs the training pass; what is random in it is drawn with `rng`, or takes its likeliest value."""
        raise NotImplementedError

    def encode(self, z: jax.Array, rng: jax.Array | None = None) -> jax.Array:
        """Turns features into latents: int32 codes, int32 bits [..., D] or float32 [..., C]."""
        raise NotImplementedError

    def decode(self, latents: jax.Array) -> jax.Array:
        """Turns latents into float32 values."""
        raise NotImplementedError

    def code_features(self, z: jax.Array, codes: jax.Array) -> jax.Array:
        """Returns what the codes of z stand for, without gradient, in their order: [N, D]."""
        raise NotImplementedError

    def moments(self, z: jax.Array) -> jax.Array:
        """Returns what is stored of continuous latents: mean and log variance [..., 2 C]."""
        raise NotImplementedError


def straight_through(values: jax.Array, z: jax.Array) -> jax.Array:
    """Returns exactly `values`, with the gradient of `z` (the usual z + sg(values - z) is off by
    rounding)."""
    return jax.lax.stop_gradient(values) + (z - jax.lax.stop_gradient(z))


def l2_normalize(x: jax.Array, epsilon: float = 1e-12) -> jax.Array:
    """Returns x / max(|x|, epsilon) over the last axis, with a finite gradient at 0."""
    square = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(square, epsilon**2))
