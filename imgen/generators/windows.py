"""Token-Shuffle: a head around a head, for which a window of s x s codes is one position.

They are fused into one slot and split again at the output; the transformer runs, whatever its plan, over
windows. Shapes: K windows, m = s * s, D width, c = D / m.
(arXiv 2504.17789; no official code. Windows in raster order, codes inside a window row-major.)
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from imgen.errors import UserError
from imgen.generators.filters import Filters
from imgen.generators.head import Head
from imgen.nn.mlp import GeluMLP
from imgen.nn.norms import RMSNorm


def coarse_grid(grid: tuple[int, ...], window: int) -> tuple[int, ...]:
    """Grid of the windows. Raises UserError where they don't tile a 2-D grid."""
    if window == 1:
        return tuple(grid)
    if window < 1 or len(grid) != 2 or any(n % window for n in grid):
        raise UserError(f"windows of {window} x {window} codes do not tile grid {tuple(grid)}")
    return tuple(n // window for n in grid)


def to_windows(codes: jax.Array, window: int) -> jax.Array:
    """[B, H, W, ...] -> [B, K, m, ...]."""
    batch, height, width, *rest = codes.shape
    x = codes.reshape(batch, height // window, window, width // window, window, *rest)
    return jnp.moveaxis(x, 2, 3).reshape(batch, -1, window**2, *rest)


def from_windows(codes: jax.Array, grid: tuple[int, int], window: int) -> jax.Array:
    """[B, K, m, ...] -> [B, H, W, ...]; `grid` is that of the windows."""
    batch, _, _, *rest = codes.shape
    x = codes.reshape(batch, *grid, window, window, *rest)
    return jnp.moveaxis(x, 3, 2).reshape(batch, grid[0] * window, grid[1] * window, *rest)


class WindowHead(Head):
    """`inner` over windows of window x window codes.   blocks: residual MLPs on either side."""

    inner: Head
    window: int
    blocks: int = 2

    def setup(self):
        nn.share_scope(self, self.inner)
        shared = dict(blocks=self.blocks, dtype=self.dtype)
        self.fuse = Fuse(**shared)
        self.split = [Split(self.window, **shared) for _ in range(self.exits)]

    @property
    def code_dtype(self):
        return self.inner.code_dtype

    @property
    def has_likelihood(self) -> bool:
        return self.inner.has_likelihood

    @property
    def code_shape(self) -> tuple[int, ...]:
        return (self.window**2, *self.inner.code_shape)

    @property
    def latent_shape(self) -> tuple[int, ...]:
        return self.inner.latent_shape

    @property
    def out_shape(self) -> tuple[int, ...]:
        return (self.window**2, *self.inner.out_shape)

    def embed(self, codes: jax.Array, vectors: jax.Array | None = None) -> jax.Array:
        return self.fuse(self.inner.embed(codes, vectors))

    def read(self, exit: int, hidden: jax.Array, vectors: jax.Array | None = None) -> jax.Array:
        return self.inner.read(exit, self.split[exit](hidden), vectors)

    def prepare(self, codes: jax.Array, out: jax.Array) -> None:
        self.inner.prepare(codes, out)

    def nll(self, out: jax.Array, codes: jax.Array, keys: jax.Array | None = None) -> jax.Array:
        return self.inner.nll(out, codes, keys).sum(axis=2)

    def loss(self, out: jax.Array, codes: jax.Array, keys: jax.Array | None = None) -> jax.Array:
        return self.inner.loss(out, codes, keys).sum(axis=2)

    @nn.nowrap
    def log_normalizer(self, out: jax.Array) -> jax.Array | None:
        squares = self.inner.log_normalizer(out)
        return None if squares is None else jnp.mean(squares, axis=2)

    @nn.nowrap
    def check(self, filters: Filters) -> None:
        self.inner.check(filters)

    @nn.nowrap
    def solver(self, name, steps, shift):
        return self.inner.solver(name, steps, shift)

    @nn.nowrap
    def random(self, keys: jax.Array, count: int, shape: tuple[int, ...] | None = None):
        return self.inner.random(keys, count, self.code_shape if shape is None else shape)

    def decide(self, out, null, weight, random, filters, solver=None):
        return self.inner.decide(out, null, weight, random, filters, solver)

    @nn.nowrap
    def to_codes(self, latents: jax.Array, grid: tuple[int, ...]) -> jax.Array:
        fine = tuple(self.window * n for n in grid)
        codes = self.inner.encode(latents.reshape(len(latents), *fine, *self.latent_shape))
        return to_windows(codes, self.window)

    @nn.nowrap
    def to_latents(self, codes: jax.Array, grid: tuple[int, ...]) -> jax.Array:
        return self.inner.decode(from_windows(codes, grid, self.window))


class ResidualMLP(nn.Module):
    """z + W2 gelu_tanh(W1 rmsnorm(z)); starts as the identity. [..., D] -> [..., D]."""

    hidden: int
    norm_eps: float = 1e-6
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, z: jax.Array) -> jax.Array:
        h = RMSNorm(self.norm_eps, name="norm")(z)
        h = GeluMLP(self.hidden, dtype=self.dtype, zero_out=True, name="mlp")(h)
        return z + h


class Fuse(nn.Module):
    """The embeddings of a window's codes [..., m, D] -> one vector [..., D].

    Each is compressed to D / m channels and they are put side by side; `blocks` residual MLPs follow.
    """

    blocks: int = 2
    hidden: int | None = None
    norm_eps: float = 1e-6
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        *lead, m, width = x.shape
        z = nn.Dense(
            _channels(width, m),
            dtype=self.dtype,
            kernel_init=nn.initializers.lecun_normal(),
            name="compress",
        )(x)
        z = z.reshape(*lead, width)
        for i in range(self.blocks):
            hidden = self.hidden or width
            z = ResidualMLP(hidden, norm_eps=self.norm_eps, dtype=self.dtype, name=f"block_{i}")(z)
        return z


class Split(nn.Module):
    """One vector [..., D] -> a vector for each of its window's codes [..., m, D]; the way back of `Fuse`."""

    window: int
    blocks: int = 2
    hidden: int | None = None
    norm_eps: float = 1e-6
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, z: jax.Array) -> jax.Array:
        *lead, width = z.shape
        for i in range(self.blocks):
            hidden = self.hidden or width
            z = ResidualMLP(hidden, norm_eps=self.norm_eps, dtype=self.dtype, name=f"block_{i}")(z)
        m = self.window**2
        z = z.reshape(*lead, m, _channels(width, m))
        return nn.Dense(
            width, dtype=self.dtype, kernel_init=nn.initializers.lecun_normal(), name="expand"
        )(z)


def _channels(width: int, m: int) -> int:
    if width % m:
        raise UserError(
            f"generator width {width} is not divisible by the {m} codes of a window "
            f"of {math.isqrt(m)} x {math.isqrt(m)}"
        )
    return width // m
