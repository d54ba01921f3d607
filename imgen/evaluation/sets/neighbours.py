"""Squared distances between many points, |u|^2 - 2 u . v + |v|^2 in float32, block by block on this process's
devices: they are never held all at once. Of a block the rows are split over the devices.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from imgen.parallel.hosts import SPLIT, WHOLE, local_mesh, put

BLOCK = 4096  # rows of a block of distances at most; 64 MiB
GROUP = 32  # distances of which only the smallest is looked at first


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Block:
    """The points from `start` on.

    rows: [B, D], split over the devices. others: the same on all of them. norms: |u|^2, float32 [B],
    infinite for rows of padding.
    """

    start: int
    rows: jax.Array
    others: jax.Array
    norms: jax.Array


@dataclasses.dataclass(frozen=True)
class Points:
    """count: without padding."""

    count: int
    blocks: list[Block]


def points(features: np.ndarray, centre: np.ndarray) -> Points:
    """Cuts features [N, D] - centre into blocks of one size, in float32."""
    n, mesh = len(features), local_mesh()
    size, unit = -(-n // -(-n // BLOCK)), GROUP * mesh.size
    size = -(-size // unit) * unit
    blocks = []
    for start in range(0, n, size):
        part = features[start : start + size] - centre
        padding = size - len(part)
        norms = np.pad(np.einsum("nd,nd->n", part, part), (0, padding), constant_values=np.inf)
        rows = np.pad(part.astype(np.float32), ((0, padding), (0, 0)))
        placed = put(rows, mesh, SPLIT), put(rows, mesh, WHOLE)
        blocks.append(Block(start, *placed, put(norms.astype(np.float32), mesh, WHOLE)))
    return Points(n, blocks)


def radii(x: Points, k: int) -> np.ndarray:
    """Gives the squared distance of each point to its k-th nearest other one, float32 [N]."""
    mesh = local_mesh()
    none = np.full((len(x.blocks[0].norms), k), np.inf, np.float32)
    near = [put(none, mesh, SPLIT) for _ in x.blocks]
    with jax.set_mesh(mesh):
        for i, u in enumerate(x.blocks):
            near[i] = _nearest_within(u, near[i])
            for j, v in enumerate(x.blocks[:i]):
                near[i], near[j] = _nearest_between(u, v, near[i], near[j])
    return np.concatenate(jax.device_get(near))[: x.count, -1]


def inside(x: Points, y: Points, x_radii, y_radii) -> tuple[np.ndarray, np.ndarray]:
    """Says which of x lie in some ball of y, bool [N], and which of y in some ball of x [M].

    x_radii, y_radii: of the balls, squared, [N] and [M].
    """
    x_inside, y_inside = np.zeros(x.count, bool), np.zeros(y.count, bool)
    with jax.set_mesh(local_mesh()):
        for u in x.blocks:
            for v in y.blocks:
                found = _in_balls(u, v, _of_block(x_radii, u), _of_block(y_radii, v))
                for block, whole, part in zip((u, v), (x_inside, y_inside), found, strict=True):
                    own = whole[block.start : block.start + len(part)]
                    own |= np.asarray(part)[: len(own)]
    return x_inside, y_inside


def _of_block(radii: np.ndarray, block: Block) -> np.ndarray:
    """[B]; that of padding is -1, which holds nothing."""
    radii = radii[block.start : block.start + len(block.norms)]
    return np.pad(radii, (0, len(block.norms) - len(radii)), constant_values=-1)


def _distances(x: Block, y: Block) -> jax.Array:
    """[B, C], their rows split."""
    products = jnp.matmul(x.rows, y.others.T, precision="highest")
    distances = jnp.maximum(x.norms[:, None] - 2 * products + y.norms, 0.0)
    return jax.lax.with_sharding_constraint(distances, SPLIT)


@jax.jit
def _nearest_within(x: Block, near: jax.Array) -> jax.Array:
    """Squared distances to the nearest so far, [B, k], with those between points of one block."""
    distances = _distances(x, x)
    return _nearer(near, jnp.where(jnp.eye(len(distances), dtype=bool), jnp.inf, distances))


@jax.jit
def _nearest_between(x: Block, y: Block, near_x, near_y) -> tuple[jax.Array, jax.Array]:
    """The same of two blocks."""
    distances = _distances(x, y)
    turned = jax.lax.with_sharding_constraint(distances.T, SPLIT)
    return _nearer(near_x, distances), _nearer(near_y, turned)


def _nearer(near: jax.Array, distances: jax.Array) -> jax.Array:
    """The k smallest of near [B, k] and distances [B, C]. The latter's lie in the k groups of smallest
    minima."""
    k = near.shape[1]
    groups = distances.reshape(len(distances), -1, GROUP)
    _, best = jax.lax.top_k(-groups.min(axis=2), min(k, groups.shape[1]))
    found = jnp.take_along_axis(groups, best[..., None], axis=1).reshape(len(distances), -1)
    smallest, _ = jax.lax.top_k(-jnp.concatenate([near, found], axis=1), k)
    return jax.lax.with_sharding_constraint(-smallest, SPLIT)


@jax.jit
def _in_balls(x: Block, y: Block, x_radii, y_radii) -> tuple[jax.Array, jax.Array]:
    distances = _distances(x, y)
    x_inside = jnp.any(distances <= y_radii, axis=1)
    return x_inside, jnp.any(distances <= x_radii[:, None], axis=0)
