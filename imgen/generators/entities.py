"""Entities: the groups of latents that next-X prediction generates one after another.

An entity is a token, a cell of neighbours, a subsample of the whole grid, the grid at a smaller scale, or the
image. All but scales are a permutation of the grid's positions and a count of tokens.

Source: "Beyond Next-Token: Next-X Prediction for Autoregressive Visual Generation", section 3;
OliverRensu/xAR, models/xar.py (cells only).
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from imgen.errors import UserError


@dataclasses.dataclass(frozen=True)
class Entities:
    """Tokens in the order of their entities: sizes[e] of entity e, L in all.

    order: the grid position (in raster order) of every token, a permutation; None for scales.
    scales: the shape of each scale, whose tokens stand in raster order; the last is the grid.
    """

    grid: tuple[int, ...]
    sizes: tuple[int, ...]
    order: tuple[int, ...] | None = None
    scales: tuple[tuple[int, ...], ...] = ()

    @property
    def count(self) -> int:
        """N, entities of an image."""
        return len(self.sizes)

    @property
    def length(self) -> int:
        """L, tokens of an image."""
        return sum(self.sizes)

    @property
    def starts(self) -> np.ndarray:
        """First token of each entity. [N] int32"""
        return (np.cumsum(self.sizes) - self.sizes).astype(np.int32)

    @property
    def of_token(self) -> np.ndarray:
        """The entity of each token. [L] int32"""
        return np.repeat(np.arange(self.count, dtype=np.int32), self.sizes)

    @functools.cached_property
    def coordinates(self) -> np.ndarray:
        """Each token's centre on the grid, [L, axes]; those of the grid's own positions are whole."""
        if self.order is not None:
            return np.stack(np.unravel_index(self.order, self.grid), -1).astype(np.float64)
        return np.concatenate([_centres(shape, self.grid) for shape in self.scales])

    def tokens(self, latents: jax.Array) -> jax.Array:
        """Latents [B, *grid, C] -> tokens [B, L, C]; a scale's are means over the areas of its tokens."""
        batch, channels = len(latents), latents.shape[-1]
        if self.order is not None:
            return latents.reshape(batch, -1, channels)[:, np.asarray(self.order)]
        rows = []
        for shape in self.scales:
            x = latents
            for axis, size in enumerate(shape):
                weights = _area_weights(size, self.grid[axis])
                x = jnp.moveaxis(jnp.tensordot(x, weights, (axis + 1, 1)), -1, axis + 1)
            rows.append(x.reshape(batch, -1, channels))
        return jnp.concatenate(rows, axis=1)

    def latents(self, tokens: jax.Array) -> jax.Array:
        """Tokens [B, L, C] -> latents [B, *grid, C]; of scales, the last one."""
        if self.order is not None:
            tokens = tokens[:, np.argsort(self.order)]
        else:
            tokens = tokens[:, -math.prod(self.grid) :]
        return tokens.reshape(len(tokens), *self.grid, tokens.shape[-1])


def token(grid: tuple[int, ...]) -> Entities:
    """One token each, in raster order: next-token flow."""
    count = math.prod(grid)
    return Entities(grid, (1,) * count, tuple(range(count)))


def cell(grid: tuple[int, ...], side: int = 8) -> Entities:
    """Blocks of `side` positions along every axis, both in raster order. xAR: 8 x 8 of 16 x 16."""
    _check_divides(grid, side, "side")
    axes = range(len(grid))
    blocks = _cut(grid, [(n // side, side) for n in grid])
    blocks = blocks.transpose(*(2 * a for a in axes), *(2 * a + 1 for a in axes))
    return _equal(grid, blocks.reshape(-1, side ** len(grid)))


def subsample(grid: tuple[int, ...], stride: int = 2) -> Entities:
    """Every `stride`-th position along every axis, from each of the stride^axes first ones."""
    _check_divides(grid, stride, "stride")
    axes = range(len(grid))
    lattices = _cut(grid, [(n // stride, stride) for n in grid])
    lattices = lattices.transpose(*(2 * a + 1 for a in axes), *(2 * a for a in axes))
    return _equal(grid, lattices.reshape(stride ** len(grid), -1))


def image(grid: tuple[int, ...]) -> Entities:
    """The whole image: an ordinary flow transformer."""
    count = math.prod(grid)
    return Entities(grid, (count,), tuple(range(count)))


def scale(grid: tuple[int, ...], shares: tuple[int, ...] = (8, 4, 2, 1)) -> Entities:
    """From coarse to fine: the grid divided by each of `shares`, at least 1 along an axis, ending with 1.

    Our reading: the paper's code has cells only. A coarse scale is the mean of the latents over areas; finer
    scales are generated from noise with the coarser ones as context, and the last is the image. Every token
    counts alike in the loss, and coarse ones, which vary less, get the noise of the others.
    """
    if (
        not shares
        or shares[-1] != 1
        or any(b >= a for a, b in zip(shares, shares[1:], strict=False))
    ):
        raise UserError(f"generator.entity_options.shares {shares} must fall and end with 1")
    scales = tuple(tuple(max(1, round(n / share)) for n in grid) for share in shares)
    if len(set(scales)) < len(scales):
        raise UserError(
            f"scales {', '.join(map(str, scales))} of a grid {grid} repeat: set fewer entity_options.shares"
        )
    return Entities(grid, tuple(map(math.prod, scales)), scales=scales)


ENTITIES = {"token": token, "cell": cell, "subsample": subsample, "scale": scale, "image": image}


def _equal(grid: tuple[int, ...], members: np.ndarray) -> Entities:
    """Entities of the positions [N, n]."""
    order = tuple(int(p) for p in members.reshape(-1))
    return Entities(grid, (members.shape[1],) * len(members), order)


def _cut(grid: tuple[int, ...], pieces: list[tuple[int, int]]) -> np.ndarray:
    return np.arange(math.prod(grid)).reshape(*(n for pair in pieces for n in pair))


def _check_divides(grid: tuple[int, ...], size: int, name: str) -> None:
    if size < 1 or any(n % size for n in grid):
        raise UserError(
            f"a grid of {'x'.join(map(str, grid))} cannot be cut by {size}: change "
            f"generator.entity_options.{name}"
        )


def _centres(shape: tuple[int, ...], grid: tuple[int, ...]) -> np.ndarray:
    """Centres of a coarse grid's cells, in positions of the fine one. [cells, axes]"""
    axes = [(np.arange(r) + 0.5) * n / r - 0.5 for r, n in zip(shape, grid, strict=True)]
    return np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(shape))


def _area_weights(coarse: int, fine: int) -> np.ndarray:
    """Means over areas along one axis: float32 [coarse, fine], rows that sum to 1."""
    edges = np.arange(coarse + 1) * fine / coarse
    overlap = np.minimum(edges[1:, None], np.arange(fine) + 1) - np.maximum(
        edges[:-1, None], np.arange(fine)
    )
    return (np.maximum(overlap, 0) * coarse / fine).astype(np.float32)
