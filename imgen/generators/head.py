"""Head: what the code of one position is, how it is embedded, and the distribution that predicts it.

A head owns its parameters; they stand beside the generator's own (`tokens`, `norm_0`, `head_0`, ...).
Shapes: B batch, P positions, N of them in a call, D width of the transformer; [...] any leading axes.
"""

import math
from collections.abc import Callable
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from imgen.diffusion.flow import Solver
from imgen.diffusion.guidance import guide
from imgen.errors import UserError
from imgen.generators.arrays import Purpose, fold
from imgen.generators.filters import Filters, draw
from imgen.nn.mlp import Init
from imgen.nn.norms import RMSNorm

Random = Callable[[jax.Array], Any]


class Head(nn.Module, kw_only=True):
    """The base of all heads; with what the generator gives each.

    hidden: width of the transformer.   exits: of the transformer, each with an output of its own.
    norm_eps: of the RMSNorm before each output; None for none, where the network ends with one.

    code_dtype, latent_shape: of one position's code, and of a tokenizer's latents there.
    has_likelihood: whether `nll` is nats; otherwise an error, and there is no confidence.
    """

    hidden: int
    exits: int = 1
    norm_eps: float | None = 1e-5
    init_std: Init = 0.02
    dtype: Any = jnp.float32

    code_dtype: ClassVar[Any] = jnp.int32
    has_likelihood: ClassVar[bool] = True

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Shape of a tokenizer's latents at one position."""
        return self.code_shape

    @property
    def code_shape(self) -> tuple[int, ...]:
        """Shape of one position's code."""
        raise NotImplementedError

    @property
    def out_shape(self) -> tuple[int, ...]:
        """Shape of what predicts one position."""
        raise NotImplementedError

    @property
    def variables_per_position(self) -> int:
        """Variables predicted a position: published losses are means over them."""
        return math.prod(self.code_shape)

    def make_norms(self) -> list[nn.Module]:
        """Returns the exits' norms, for `setup`."""
        return [] if self.norm_eps is None else [RMSNorm(self.norm_eps) for _ in range(self.exits)]

    def normed(self, exit: int, hidden: jax.Array) -> jax.Array:
        """Returns hidden states [..., D] through the norm of an exit."""
        return hidden if self.norm_eps is None else self.norm[exit](hidden)

    def embed(self, codes: jax.Array, vectors: jax.Array | None = None) -> jax.Array:
        """Returns the vectors [B, N, D] of codes [B, N, *code_shape]; vectors: of `vectors`."""
        return self.tokens(codes)

    def read(self, exit: int, hidden: jax.Array, vectors: jax.Array | None = None) -> jax.Array:
        """Returns what predicts the positions read at an exit: [..., D] -> float32 [..., *out_shape]."""
        return self.head[exit](self.normed(exit, hidden))

    def vectors(self, keys: jax.Array | None, batch: int) -> jax.Array | None:
        """Returns what codes mean in each sequence, [B, ...], drawn from its key; None where all share it.

        keys: None in evaluation.
        """
        return None

    def sampling_vectors(self, keys: jax.Array, batch: int) -> jax.Array | None:
        """Returns `vectors` of samples."""
        return None

    def prepare(self, codes: jax.Array, out: jax.Array) -> None:
        """Makes the parameters that neither `embed` nor `read` use; called in initialisation."""

    def nll(self, out: jax.Array, codes: jax.Array, keys: jax.Array | None = None) -> jax.Array:
        """Returns -log p of each position's code in nats, [B, P]. keys [B]: for heads whose loss is drawn."""
        raise NotImplementedError

    def loss(self, out: jax.Array, codes: jax.Array, keys: jax.Array | None = None) -> jax.Array:
        """Returns what training minimises in place of `nll`, [B, P]."""
        return self.nll(out, codes, keys)

    @nn.nowrap
    def log_normalizer(self, out: jax.Array) -> jax.Array | None:
        """Returns the mean square [B, P] of the log sum exp of a position's logits, which a z-loss keeps
        small; None without logits."""
        return None

    @nn.nowrap
    def check(self, filters: Filters) -> None:
        """Raises UserError for filters that such codes have no use for."""

    @nn.nowrap
    def solver(self, name: str | None, steps: int | None, shift: float | None) -> Solver | None:
        """Returns how a code is drawn from its noise, None where it isn't. Raises UserError for settings that
        do not fit; None for the head's own."""
        if (name, steps, shift) != (None, None, None):
            raise UserError(
                "solver, solver_steps and shift are of heads that denoise (flow, diffusion): leave them out"
            )
        return None

    @nn.nowrap
    def random(self, keys: jax.Array, count: int, shape: tuple[int, ...] | None = None) -> Random:
        """Returns positions [N] -> the random numbers that `decide` takes for them.

        keys [B]: one for each image; the numbers depend on it and the position only.   count: P; position P
        stands for padding.   shape: of a position's numbers, that of its code by default.
        """
        shape = (count, *(self.code_shape if shape is None else shape))
        uniforms = pad_positions(jax.vmap(lambda key: jax.random.uniform(key, shape))(keys))
        return lambda positions: uniforms[:, positions]

    @nn.nowrap
    def guided(self, out: jax.Array, null: jax.Array | None, weight: Any) -> jax.Array:
        """Returns logits [B, N, *out_shape] under guidance; null: without the condition, None for none."""
        return out if null is None else guide(out, null, weight)

    def decide(
        self,
        out: jax.Array,
        null: jax.Array | None,
        weight: Any,
        random: Any,
        filters: Filters,
        solver: Solver | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        """Returns what predicts N positions, guided, and their codes, drawn with `random`'s numbers."""
        out = self.guided(out, null, weight)
        return out, draw(out, random, filters)

    @nn.nowrap
    def confidence(self, out: jax.Array, codes: jax.Array) -> jax.Array:
        """Returns log p of codes, the mean over a position's variables, [B, N]."""
        return -self.nll(out, codes) / self.variables_per_position

    @nn.nowrap
    def encode(self, latents: jax.Array) -> jax.Array:
        """Returns the codes [..., *code_shape] of a tokenizer's latents [..., *latent_shape]."""
        return latents

    @nn.nowrap
    def decode(self, codes: jax.Array) -> jax.Array:
        """Returns the latents of codes."""
        return codes

    @nn.nowrap
    def to_codes(self, latents: jax.Array, grid: tuple[int, ...]) -> jax.Array:
        """Returns the codes [B, P, *code_shape] of latents [B, ...]; grid: of the positions."""
        latents = latents.reshape(len(latents), *grid, *self.latent_shape)
        return self.encode(latents).reshape(len(latents), math.prod(grid), *self.code_shape)

    @nn.nowrap
    def to_latents(self, codes: jax.Array, grid: tuple[int, ...]) -> jax.Array:
        """Returns the latents [B, *grid, *latent_shape] of codes [B, P, *code_shape]."""
        return self.decode(codes.reshape(len(codes), *grid, *self.code_shape))


def pad_positions(x: jax.Array) -> jax.Array:
    """[B, P, ...] -> [B, P + 1, ...]."""
    return jnp.pad(x, ((0, 0), (0, 1)) + ((0, 0),) * (x.ndim - 2))


def token_noise(keys: jax.Array, positions: jax.Array, shape: tuple[int, ...]) -> Random:
    """Returns the number of a solver step, from -1 on -> standard normals [B, N, *shape]. keys [B]."""
    own = jax.vmap(lambda key: jax.vmap(lambda at: jax.random.fold_in(key, at))(positions))(keys)

    def noise(step: jax.Array | int) -> jax.Array:
        def draw(key: jax.Array) -> jax.Array:
            return jax.random.normal(jax.random.fold_in(key, step + 1), shape)

        return jax.vmap(jax.vmap(draw))(own)

    return noise


def drawing_keys(keys: jax.Array) -> jax.Array:
    """Returns the keys [B] that denoising and masked decoding draw codes with."""
    return fold(keys, Purpose.DRAWS)
