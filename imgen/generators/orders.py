"""The published generation orders, each a function from a grid to a plan.

T condition slots come first everywhere: kind COND, no position, causal among themselves, call 0.
"""

import math

import numpy as np

from imgen.errors import UserError
from imgen.generators.plan import Kind, Plan


def _with_condition(num_cond: int, kind, src, rope, rank, call) -> dict[str, np.ndarray]:
    """Puts the condition slots in front; `rank` counts on from them."""
    first = np.arange(num_cond)
    return dict(
        kind=np.concatenate([np.full(num_cond, Kind.COND), kind]),
        src=np.concatenate([first, src]),
        rope=np.concatenate([np.full(num_cond, -1), rope]),
        rank=np.concatenate([first, num_cond + np.asarray(rank)]),
        call=np.concatenate([np.zeros(num_cond), call]),
    )


def raster(grid: tuple[int, ...], num_cond: int = 1, order: np.ndarray | None = None) -> Plan:
    """One code a call, in raster order or another fixed `order` of the positions (LlamaGen; 1-D tokens).

    Each code is read at the slot before it. P calls. The last code is never fed.
    """
    positions = math.prod(grid)
    order = np.arange(positions) if order is None else np.asarray(order)
    if sorted(order.tolist()) != list(range(positions)):
        raise UserError(f"an order of grid {grid} must name each of its {positions} positions once")
    fed = order[:-1]
    step = np.arange(positions - 1)
    read_slot = np.empty((positions, 1), np.int32)
    read_slot[order, 0] = num_cond - 1 + np.arange(positions)
    return Plan(
        name="raster",
        grid=tuple(grid),
        **_with_condition(num_cond, np.full(positions - 1, Kind.TOKEN), fed, fed, step, step + 1),
        read_slot=read_slot,
        read_weight=np.ones((positions, 1)),
        progress=np.arange(positions)
        - 1,  # LlamaGen counts decode calls; its prefill is always guided
    )


def next_neighbour(grid: tuple[int, ...], num_cond: int = 1) -> Plan:
    """NAR: call k decides every cell at Manhattan distance k from the origin, all at once.

    One head an axis, fastest axis first (right, below, then time). A cell averages the logits of its
    predecessors along each axis; the origin averages all heads at the last condition slot. Cells see
    their own diagonal. sum(grid) - len(grid) + 1 calls. (NAR, section 3; `NAR-images`, `NAR-videos`.)
    """
    axes = len(grid)
    cells = np.stack(np.meshgrid(*map(np.arange, grid), indexing="ij"), -1).reshape(-1, axes)
    distance = cells.sum(axis=1)
    fed = np.argsort(distance, kind="stable")[:-1]  # the far corner is decided last and never fed
    slot_of = np.zeros(len(cells), np.int64)
    slot_of[fed] = num_cond + np.arange(len(fed))
    strides = np.cumprod((1, *grid[:0:-1]))  # raster step along each axis, fastest first
    read_slot = np.full((len(cells), axes), num_cond - 1)
    has_predecessor = cells[:, ::-1] > 0
    for head, stride in enumerate(strides):
        p = np.flatnonzero(has_predecessor[:, head])
        read_slot[p, head] = slot_of[p - stride]
    takes_part = has_predecessor.copy()
    takes_part[0] = True
    return Plan(
        name="nar",
        grid=tuple(grid),
        **_with_condition(
            num_cond, np.full(len(fed), Kind.TOKEN), fed, fed, distance[fed], distance[fed] + 1
        ),
        read_slot=read_slot,
        read_weight=takes_part / takes_part.sum(axis=1, keepdims=True),
        progress=np.searchsorted(np.sort(distance), np.arange(distance.max() + 1)),  # codes decided
    )


def random_order(grid: tuple[int, ...], num_cond: int = 1) -> Plan:
    """RandAR: any order, another for each sample: before every code a query that says where it stands.

    Sequence [cond, query 0, code 0, query 1, code 1, ...], causal; code j is read at query j. The last
    code is never fed. P calls. (RandAR `randar_gpt.py`.)
    """
    positions = math.prod(grid)
    fed = np.arange(2 * positions - 1)
    return Plan(
        name="random",
        grid=tuple(grid),
        **_with_condition(
            num_cond,
            np.where(fed % 2, Kind.TOKEN, Kind.QUERY),
            fed // 2,
            fed // 2,
            fed,
            (fed + 1) // 2,
        ),
        read_slot=num_cond + 2 * np.arange(positions)[:, None],
        read_weight=np.ones((positions, 1)),
        progress=np.arange(positions),  # codes decided
    )


def random_order_parallel(grid: tuple[int, ...], num_cond: int = 1, steps: int = 88) -> Plan:
    """Decodes a model of `random_order` in about `steps` calls, few codes at first and many at the end.

    A call feeds the codes of the step before it and the queries between them, in the order of training,
    then the queries of its own step. Of those only the first is kept; the others are fed again by the
    next call, between their codes. (RandAR, section 3.3: parallel decoding without further training.)
    """
    positions = math.prod(grid)
    bounds = cosine_steps(positions, steps)
    kind, src, rank, call, scratch = [], [], [], [], []
    read_slot = np.empty((positions, 1), np.int32)
    before = 0
    for number, (first, last) in enumerate(zip(bounds[:-1], bounds[1:], strict=True)):
        kept = np.arange(max(2 * before - 1, 0), 2 * first + 1)  # slots of `random_order`
        queries = np.arange(first + 1, last)
        begin = num_cond + len(kind) + len(kept) - 1
        read_slot[first:last, 0] = begin + np.arange(last - first)
        kind += [*np.where(kept % 2, Kind.TOKEN, Kind.QUERY), *np.full(len(queries), Kind.QUERY)]
        src += [*(kept // 2), *queries]
        rank += [*kept, *(2 * first + np.arange(1, len(queries) + 1))]
        call += [number] * (len(kept) + len(queries))
        scratch += [False] * len(kept) + [True] * len(queries)
        before = first + 1
    arrays = (np.asarray(a) for a in (kind, src, src, rank, call))
    return Plan(
        name="random-parallel",
        grid=tuple(grid),
        **_with_condition(num_cond, *arrays),
        read_slot=read_slot,
        read_weight=np.ones((positions, 1)),
        progress=np.asarray(bounds[:-1]),
        scratch=np.concatenate([np.zeros(num_cond, bool), scratch]),
    )


def cosine_steps(positions: int, steps: int) -> list[int]:
    """Codes decided before each step, then all: 1 - cos(pi/2 k/K) of them, at least one more a step."""
    if steps < 1:
        raise UserError(f"decoding takes at least one step, not {steps}")
    bounds = [0]
    while bounds[-1] < positions:
        share = 1 - math.cos(math.pi / 2 * len(bounds) / steps)
        bounds.append(min(max(int(share * positions + 1), bounds[-1] + 1), positions))
    return bounds


def masked(grid: tuple[int, ...], num_cond: int = 1) -> Plan:
    """MaskGIT: a slot for every position, with its code or a mask vector, and everything sees everything.

    One call feeds them all; how many calls are made, and which positions each decides, is the sampler's
    (`decoding.masked`). (MaskGIT, section 3.2; ELM's masked language model.)
    """
    positions = math.prod(grid)
    slots = num_cond + positions
    src = np.concatenate([np.arange(num_cond), np.arange(positions)])
    is_cond = np.arange(slots) < num_cond
    return Plan(
        name="masked",
        grid=tuple(grid),
        kind=np.where(is_cond, Kind.COND, Kind.STATE),
        src=src,
        rope=np.where(is_cond, -1, src),
        rank=np.zeros(slots),
        call=np.zeros(slots),
        read_slot=num_cond + np.arange(positions)[:, None],
        read_weight=np.ones((positions, 1)),
        progress=np.zeros(1),
    )


def parallel_groups(grid: tuple[int, int], num_cond: int = 1, groups: int = 4) -> Plan:
    """PAR: the grid is cut into `groups` = M x M regions which grow together, one code of each a call.

    The first code of every region is drawn one by one; then the last of them and M*M - 1 learned slots
    predict the second codes of all regions, and from there each code predicts its successor in its
    region. n + (P - n) / n calls. (PAR, sections 3.2 and 3.3.)
    """
    side = math.isqrt(max(groups, 0))
    if groups >= math.prod(grid):
        raise UserError(f"PAR needs more codes than regions: grid {grid} cannot have {groups}")
    if len(grid) != 2 or side * side != groups or grid[0] % side or grid[1] % side:
        raise UserError(
            f"PAR cuts a 2-D grid into M x M equal regions: grid {grid} has no {groups}"
        )
    positions = math.prod(grid)
    order = np.arange(positions).reshape(side, grid[0] // side, side, grid[1] // side)
    order = order.transpose(1, 3, 0, 2).reshape(-1)
    head, tail = order[:groups], order[groups:-groups]  # nothing reads the last group: not fed
    specials = np.full(groups - 1, -1)
    rope = np.concatenate([head, specials, tail])
    kind = np.where(rope < 0, Kind.SPECIAL, Kind.TOKEN)
    src = np.concatenate([head, np.arange(groups - 1), tail])
    number = np.arange(1, len(rope) + 1)  # the class is number 0
    rank = np.where(number < groups, number, groups + (number - groups) // groups)
    read_slot = np.empty((positions, 1), np.int32)
    read_slot[order, 0] = num_cond - 1 + np.arange(positions)
    calls = groups + (positions - groups) // groups
    return Plan(
        name="par",
        grid=tuple(grid),
        **_with_condition(num_cond, kind, src, rope, rank - 1, rank),
        read_slot=read_slot,
        read_weight=np.ones((positions, 1)),
        progress=np.arange(calls) - 1,
    )
