"""The float32 answers of `neighbours` from bfloat16 products, where these are faster: bounds sort out what is
sure, and the few pairs that are left are computed in float32.

CPUs with AVX512_BF16 may multiply bfloat16 twice as fast as float32 (measured on one core of AMD's Zen 4: 166
against 83 GFLOP/s); accelerators are left alone, for the host would have to look at what is left. Where many
points lie in one place, closer than the bounds can tell, both are computed, which takes longer than float32.

Let u' be u in bfloat16 and c the largest |u - u'| / |u| of all points, about 0.0015. Then

    |u . v - u' . v'| <= c |u| |v| + (1 + c) |u| c |v| <= (c + c^2 / 2) (|u|^2 + |v|^2),

twice which is what the squared distance is off. With e = 2^-24 and D features, float32 adds less than
2 D e (|u|^2 + |v|^2) in the products' sums, even if they are cut and not rounded, 2 (D + 2) e of it in the
distances that the bounds are compared with, and a few e in the norms. `_slack` is a bit more than all these.
"""

import dataclasses
import time
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from imgen.evaluation.sets import neighbours

SPARE = 9  # nearest points beyond the k-th that are looked at in float32
PAIRS = 512  # distances at a time, which stay in the cache
MOST = 2**18  # pairs of two blocks that take as long as all pairs do by a product


@dataclasses.dataclass(frozen=True)
class Points:
    """rows: float32 [N, D], on the host. norms: float64 [N]. blocks: of them in bfloat16. lost: c."""

    rows: np.ndarray
    norms: np.ndarray
    blocks: list[neighbours.Block]
    lost: float


def points(features: np.ndarray, centre: np.ndarray) -> Points:
    rows, norms = neighbours.centred(features, centre)
    lost = 0.0
    for start in range(0, len(rows), neighbours.CACHED):
        part = rows[start : start + neighbours.CACHED]
        shift = part - part.astype(jnp.bfloat16).astype(np.float32)
        away, length = (np.einsum("nd,nd->n", a, a) for a in (shift, part))
        lost = max(lost, np.sqrt(np.max(away / np.where(length > 0, length, 1))))
    return Points(rows, norms, neighbours.split(rows, norms, jnp.bfloat16), float(lost))


def radii(x: Points, k: int) -> np.ndarray:
    """Squared distances of each point to its k-th nearest other one, float32 [N]."""
    n = len(x.rows)
    below, near = (part[:n] for part in neighbours.nearest(x.blocks, k + SPARE, _slack(x)))
    each = np.repeat(np.arange(n), near.shape[1])
    distances = _distances(x, each, x, np.minimum(near.ravel(), n - 1)).reshape(near.shape)
    distances[np.isinf(below)] = np.inf  # no point
    found = np.partition(distances, k - 1, axis=1)[:, k - 1]
    # All points that were not looked at are as far away as the last bound.
    unsure = np.flatnonzero(found > below[:, -1])
    if len(unsure) > n / 4:  # many points in one place
        return neighbours.nearest(neighbours.split(x.rows, x.norms), k)[0][:n, -1]
    norms = x.norms.astype(np.float32)
    for some in (unsure[start : start + PAIRS] for start in range(0, len(unsure), PAIRS)):
        whole = norms[some, None] - 2 * x.rows[some] @ x.rows.T + norms
        whole[np.arange(len(some)), some] = np.inf
        found[some] = np.maximum(np.partition(whole, k - 1, axis=1)[:, k - 1], 0.0)
    return found


def inside(x: Points, y: Points, x_radii, y_radii) -> tuple[np.ndarray, np.ndarray]:
    """Which of x lie in some ball of y [N], and which of y in some ball of x [M]."""
    x_inside, y_inside = np.zeros(len(x.rows), bool), np.zeros(len(y.rows), bool)
    for u, v, *sure, unsure in neighbours.balls(x.blocks, y.blocks, x_radii, y_radii, _slack(x, y)):
        neighbours.mark(x_inside, u, sure[0])
        neighbours.mark(y_inside, v, sure[1])
        i, j = np.nonzero(np.asarray(unsure))
        i, j = i + u.start, j + v.start
        needed = ~(x_inside[i] & y_inside[j])
        i, j = i[needed], j[needed]
        if len(i) > MOST:  # many points in one place
            _by_products(x, y, u, v, x_radii, y_radii, x_inside, y_inside)
            continue
        distances = _distances(x, i, y, j)
        x_inside[i[distances <= y_radii[j]]] = True
        y_inside[j[distances <= x_radii[i]]] = True
    return x_inside, y_inside


def _by_products(x, y, u, v, x_radii, y_radii, x_inside, y_inside) -> None:
    """What `inside` does with two blocks, all of it in float32."""
    a, b = (slice(block.start, block.start + len(block.norms)) for block in (u, v))
    us, vs = neighbours.split(x.rows[a], x.norms[a]), neighbours.split(y.rows[b], y.norms[b])
    for _, _, x_in, y_in, _ in neighbours.balls(us, vs, x_radii[a], y_radii[b]):
        neighbours.mark(x_inside, u, x_in)
        neighbours.mark(y_inside, v, y_in)


def _slack(*sets: Points) -> np.float32:
    lost, width = max(points.lost for points in sets), sets[0].rows.shape[1]
    return np.float32(1.001 * (2 * lost + lost**2) + (5 * width + 32) * 2.0**-24)


def _distances(x: Points, i: np.ndarray, y: Points, j: np.ndarray) -> np.ndarray:
    """Squared, float32 [P], of the pairs of x_i and y_j. Exactly 0 for equal points."""
    found = np.empty(len(i), np.float32)

    def fill(start: int) -> None:
        some = slice(start, start + PAIRS)
        shift = np.take(x.rows, i[some], axis=0)
        shift -= np.take(y.rows, j[some], axis=0)
        found[some] = np.einsum("pd,pd->p", shift, shift)

    with ThreadPoolExecutor() as threads:  # NumPy lets go of the interpreter's lock in all three
        list(threads.map(fill, range(0, len(i), PAIRS)))
    return found


def pays() -> bool:
    """Whether products are at least 1.4 times as fast in bfloat16 here, tried for a tenth of a second."""
    if jax.default_backend() != "cpu":
        return False
    # one device of this process: a mesh set outside may be that of many
    with jax.set_mesh(Mesh(np.array(jax.local_devices()[:1]), ("rows",))):
        return _seconds(jnp.float32) > 1.4 * _seconds(jnp.bfloat16)


def _seconds(dtype) -> float:
    product = jax.jit(lambda x, y: jnp.matmul(x, y, preferred_element_type=jnp.float32))
    x, y = (
        jax.random.normal(jax.random.key(0), shape, dtype) for shape in ((512, 2048), (2048, 512))
    )
    product(x, y).block_until_ready()
    took = []
    for _ in range(5):
        began = time.process_time()
        product(x, y).block_until_ready()
        took.append(time.process_time() - began)
    return min(took)
