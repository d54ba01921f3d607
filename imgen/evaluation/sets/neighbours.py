"""Distances between many points, in blocks on this process' devices and never held all at once.

Of a block of distances the rows are split over the devices, the columns are on all of them.

Squared distances are |u|^2 - 2 u . v + |v|^2. Of points that were rounded there is a `slack` s, with which
bounds below and above them are (1 - s)(|u|^2 + |v|^2) - 2 u . v and (1 + s)(...) - 2 u . v: `bfloat16_filter`
says how large it is. Where slack is None both are the distance.
"""

import dataclasses
import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from imgen.parallel.local import SPLIT, WHOLE, local_mesh, put

BLOCK = 4096  # rows of a block of distances at most; 64 MiB
CACHED = 256  # rows that the host works on at a time
GROUP = 32  # distances of which only the smallest is looked at first


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Block:
    """The points from `start` on.

    rows: [B, D], split over the devices. columns: the same [D, B], on all of them, and laid out so, for in
    bfloat16 that is twice as fast. norms: |u|^2, float32 [B], infinite for rows of padding.
    """

    start: int
    rows: jax.Array
    columns: jax.Array
    norms: jax.Array


def centred(features: np.ndarray, centre: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(features - centre, float32 [N, D], their squared norms, float64 [N]) of features [N, D]."""
    points, norms = np.empty(features.shape, np.float32), np.empty(len(features))
    for start in range(0, len(features), CACHED):
        some = slice(start, start + CACHED)
        rows = features[some] - centre
        points[some], norms[some] = rows, np.einsum("nd,nd->n", rows, rows)
    return points, norms


@dataclasses.dataclass(frozen=True)
class Points:
    count: int
    blocks: list[Block]


def points(features: np.ndarray, centre: np.ndarray) -> Points:
    """Of features [N, D], in float32, with `centre` taken off."""
    return Points(len(features), split(*centred(features, centre)))


def radii(x: Points, k: int) -> np.ndarray:
    """Squared distances of each point to its k-th nearest other one, float32 [N]."""
    return nearest(x.blocks, k)[0][: x.count, -1]


def inside(x: Points, y: Points, x_radii, y_radii) -> tuple[np.ndarray, np.ndarray]:
    """Which of x lie in some ball of y [N], and which of y in some ball of x [M]."""
    x_inside, y_inside = np.zeros(x.count, bool), np.zeros(y.count, bool)
    for u, v, x_in, y_in, _ in balls(x.blocks, y.blocks, x_radii, y_radii):
        mark(x_inside, u, x_in)
        mark(y_inside, v, y_in)
    return x_inside, y_inside


def split(points: np.ndarray, norms: np.ndarray, dtype=jnp.float32) -> list[Block]:
    """Blocks of one size of points [N, D] and their squared norms [N]. dtype: of what is multiplied."""
    n, mesh = len(points), local_mesh()
    size, unit = -(-n // -(-n // BLOCK)), GROUP * mesh.size
    size = -(-size // unit) * unit
    blocks = []
    for start in range(0, n, size):
        part = points[start : start + size]
        padding = size - len(part)
        part = np.pad(part, ((0, padding), (0, 0)))
        ends = np.pad(norms[start : start + size], (0, padding), constant_values=np.inf)
        with jax.set_mesh(mesh):
            rows, columns = _laid_out(put(part, mesh, SPLIT), dtype=dtype, mesh=mesh)
        blocks.append(Block(start, rows, columns, put(ends.astype(np.float32), mesh, WHOLE)))
    return blocks


@functools.partial(jax.jit, static_argnames=("dtype", "mesh"))
def _laid_out(part: jax.Array, dtype, mesh: Mesh) -> tuple[jax.Array, jax.Array]:
    """A block's rows and columns."""
    rows = part.astype(dtype)
    places = NamedSharding(mesh, SPLIT), NamedSharding(mesh, WHOLE)
    return jax.lax.with_sharding_constraint((rows, rows.T), places)


def nearest(
    blocks: list[Block], k: int, slack: float | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Squared distances (their bounds below) to the k nearest other points, and which they are: [N', k] each,
    the nearest first. N' is N with padding; where there are fewer, the distance is infinite."""
    mesh = local_mesh()
    size = len(blocks[0].norms)
    none = np.full((size, k), np.inf, np.float32), np.zeros((size, k), np.int32)
    found = [put(none, mesh, SPLIT) for _ in blocks]
    with jax.set_mesh(mesh):
        for i, x in enumerate(blocks):
            found[i] = _nearer(x, x, found[i], None, slack, mesh=mesh)
            for j, y in enumerate(blocks[:i]):
                found[i], found[j] = _nearer(x, y, found[i], found[j], slack, mesh=mesh)
    distances, indices = zip(*jax.device_get(found), strict=True)
    return np.concatenate(distances), np.concatenate(indices)


def balls(
    xs: list[Block], ys: list[Block], x_radii, y_radii, slack: float | None = None
) -> Iterator:
    """Which points of two sets lie within the other's balls, block by block.

    x_radii, y_radii: squared, [N] and [M]. Yields (x, y, x in some ball of y [B], y in some ball of x [C],
    unsure [B, C]) of each pair of blocks. unsure: the pairs that the bounds do not decide, but for points
    that are surely in some ball of the pair; None without slack.
    """
    mesh = local_mesh()
    for x in xs:
        for y in ys:
            radii = _of_block(x_radii, x), _of_block(y_radii, y)
            with jax.set_mesh(mesh):
                found = _in_balls(x, y, *radii, slack, mesh=mesh)
            yield x, y, *found


def mark(inside: np.ndarray, block: Block, found) -> None:
    """Sets those of inside [N] that were found [B] in a block."""
    part = inside[block.start : block.start + len(block.norms)]
    part |= np.asarray(found)[: len(part)]


def _of_block(radii: np.ndarray, block: Block) -> np.ndarray:
    """[B]; that of padding is -1, which holds nothing."""
    radii = radii[block.start : block.start + len(block.norms)]
    return np.pad(radii, (0, len(block.norms) - len(radii)), constant_values=-1)


def _each_device(function, mesh: Mesh, inputs: tuple, outputs: tuple):
    """`function` of two blocks and more, on every device's rows of the first."""
    x, y = Block(WHOLE, SPLIT, WHOLE, SPLIT), Block(WHOLE, SPLIT, WHOLE, WHOLE)
    inputs = (x, y, *inputs)
    return jax.shard_map(function, mesh=mesh, in_specs=inputs, out_specs=outputs, check_vma=False)


def _bounds(x: Block, y: Block, slack) -> tuple[jax.Array, jax.Array]:
    precision = "highest" if x.rows.dtype == jnp.float32 else None
    products = jnp.matmul(
        x.rows, y.columns, precision=precision, preferred_element_type=jnp.float32
    )
    if slack is None:
        distances = jnp.maximum(x.norms[:, None] - 2 * products + y.norms, 0.0)
        return distances, distances
    norms = x.norms[:, None] + y.norms
    below, above = (1 - slack) * norms - 2 * products, (1 + slack) * norms - 2 * products
    return jnp.maximum(below, 0.0), above


@functools.partial(jax.jit, static_argnames="mesh")
def _nearer(x, y, near_x, near_y, slack, mesh):
    """The nearest so far (squared distances [B, k], indices [B, k]) of x and of y, with those between x and y
    among them. Where near_y is None, y is x and the result that of x only."""
    k = near_x[0].shape[1]

    def on_device(x, y, slack):
        below, _ = _bounds(x, y, slack)
        first = jax.lax.axis_index("rows") * len(below)
        if near_y is None:
            itself = first + jnp.arange(len(below))[:, None] == jnp.arange(below.shape[1])
            return _smallest_of_rows(jnp.where(itself, jnp.inf, below), k)
        distances, places = _smallest_of_columns(below, k)
        return _smallest_of_rows(below, k), (distances, first + places)

    rows, columns = (SPLIT, SPLIT), (PartitionSpec(None, "rows"),) * 2
    outputs = rows if near_y is None else (rows, columns)
    found = _each_device(on_device, mesh, (WHOLE,), outputs)(x, y, slack)

    def merged(near, distances, places, start):
        distances = jnp.concatenate([near[0], distances], axis=1)
        indices = jnp.concatenate([near[1], start + places], axis=1)
        found, best = _smallest(distances, k)
        both = found, jnp.take_along_axis(indices, best, axis=1)
        return jax.lax.with_sharding_constraint(both, NamedSharding(mesh, SPLIT))

    if near_y is None:
        return merged(near_x, *found, x.start)
    return merged(near_x, *found[0], y.start), merged(near_y, *found[1], x.start)


def _smallest(distances: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    """Of each row, and where."""
    found, places = jax.lax.top_k(-distances, min(k, distances.shape[1]))
    return -found, places


def _smallest_of_rows(distances: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    """The k smallest of each row of [B, C] and their columns. They lie in the k groups of smallest minima."""
    groups = distances.reshape(len(distances), -1, GROUP)  # [B, groups, GROUP]
    _, best = _smallest(groups.min(axis=2), k)
    candidates = jnp.take_along_axis(groups, best[..., None], axis=1)
    found, places = _smallest(candidates.reshape(len(distances), -1), k)
    group = jnp.take_along_axis(best, places // GROUP, axis=1)
    return found, group * GROUP + places % GROUP


def _smallest_of_columns(distances: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    """The same of each column, and their rows: [C, k] each. Memory is read along rows all the same."""
    columns = distances.shape[1]
    groups = distances.reshape(-1, GROUP, columns)  # [groups, GROUP, C]
    _, best = _smallest(groups.min(axis=1).T, k)
    candidates = jnp.take_along_axis(groups, best.T[:, None], axis=0)  # [k, GROUP, C]
    found, places = _smallest(candidates.reshape(-1, columns).T, k)
    group = jnp.take_along_axis(best, places // GROUP, axis=1)
    return found, group * GROUP + places % GROUP


@functools.partial(jax.jit, static_argnames="mesh")
def _in_balls(x, y, x_radii, y_radii, slack, mesh):
    def on_device(x, y, x_radii, y_radii, slack):
        below, above = _bounds(x, y, slack)
        x_radii = x_radii[:, None]
        x_in, y_in = jnp.any(above <= y_radii, axis=1), jnp.any(above <= x_radii, axis=0)
        if slack is None:
            return x_in, y_in[None], None
        unsure = (below <= y_radii) & ~x_in[:, None] | (below <= x_radii) & ~y_in
        return x_in, y_in[None], unsure

    inputs, outputs = (SPLIT, WHOLE, WHOLE), (SPLIT, SPLIT, None if slack is None else SPLIT)
    x_in, y_in, unsure = _each_device(on_device, mesh, inputs, outputs)(
        x, y, x_radii, y_radii, slack
    )
    return x_in, y_in.any(axis=0), unsure
