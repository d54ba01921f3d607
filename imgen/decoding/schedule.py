"""How a plan's calls are compiled: a few loops of fixed width instead of one loop or one program a call.

Calls 1 ... C-1 are cut into consecutive segments. Inside a segment every call is padded to the widest one
and reads the same number of cache rows, so that it is one `lax.scan`. Few segments compile fast, many waste
less: the cut that wastes least for a given number of segments is found by dynamic programming.
"""

import dataclasses

import numpy as np

from imgen.generators.plan import Plan

# Every segment is compiled on its own. Measured, NAR-B over 8x8 codes, one guided image on two CPU cores:
# 530 ms with one segment, 471 with 4, 448 with the 8 found, 439 with one a call (15), which took 4, 7, 14
# and 23 s to compile.
WASTE, MOST_SEGMENTS = 0.1, 8


@dataclasses.dataclass(frozen=True)
class Segment:
    """Arrays of the calls [first, last) for one scan; n calls, W fed slots, N decided positions, H heads.

    guided: whether the unconditional rows run.   read: cache rows that attention reads.
    start [n]: cache row of each call's first slot.
    slots [n, W]: fed slots; padding repeats the first slot of the call and is written to rows that later
        calls overwrite.   visible [n, W]: cache rows that each sees.
    positions [n, N]: decided positions, P on padding.
    reads [n, N, H]: index into the W fed slots that each head is read from; weights [n, N, H].
    guidance [n]: guidance weight.
    """

    guided: bool
    read: int
    start: np.ndarray
    slots: np.ndarray
    visible: np.ndarray
    positions: np.ndarray
    reads: np.ndarray
    weights: np.ndarray
    guidance: np.ndarray


def cut_calls(
    widths: np.ndarray, reads: np.ndarray, segments: int | None, fixed_cost: float
) -> list[int]:
    """Boundaries of at most `segments` runs of calls, from 0 to len(widths), of least padded cost.

    None: as few runs as waste at most WASTE beside a run for every call, and at most MOST_SEGMENTS.

    A run of n calls costs n * max(width) * (fixed_cost + last read): `fixed_cost` is the price of a
    slot's matrix products, counted in cache rows.
    """
    n, wasteful = len(widths), segments is None
    segments = min(n, MOST_SEGMENTS) if wasteful else segments
    cost = np.full((segments + 1, n + 1), np.inf)
    cost[0, 0] = 0
    back = np.zeros((segments + 1, n + 1), np.int64)
    for end in range(1, n + 1):
        begin = np.arange(end)
        widest = np.maximum.accumulate(widths[:end][::-1])[::-1]
        run = (end - begin) * widest * (fixed_cost + reads[end - 1])
        total = cost[:-1, :end] + run
        back[1:, end] = total.argmin(axis=1)
        cost[1:, end] = total.min(axis=1)
    used = int(cost[:, n].argmin())
    if wasteful:
        unrolled = float((widths * (fixed_cost + reads)).sum())
        enough = np.flatnonzero(cost[:, n] <= (1 + WASTE) * unrolled)
        used = int(enough[0]) if len(enough) else used
    bounds = [n]
    while bounds[0] > 0:
        bounds.insert(0, int(back[used, bounds[0]]))
        used -= 1
    return bounds


def make_schedule(
    plan: Plan, guidance: np.ndarray, segments: int | None, width: int
) -> list[Segment]:
    """The segments of calls 0 ... C-1. Call 0, the condition's prefill, is a segment of its own.

    guidance: weight of each call [C]; `width` is the model's, for the cost of a slot.
    """
    widths = np.diff(plan.call_start)
    rows = np.array([plan.row[last - 1] + 1 for last in plan.call_start[1:]])  # used by each call
    # The unconditional rows must be kept up to date until the last call that is guided.
    last_guided = int(np.flatnonzero(guidance != 1)[-1]) if (guidance != 1).any() else -1
    bounds = [0, 1]
    for begin, end in ((1, last_guided + 1), (max(1, last_guided + 1), plan.calls)):
        if begin < end:
            cut = cut_calls(widths[begin:end], rows[begin:end], segments, 6 * width)
            bounds += [begin + b for b in cut[1:]]
    by_call = [np.flatnonzero(plan.decided_at == c) for c in range(plan.calls)]
    return [
        _segment(plan, guidance, by_call, rows, begin, end, guided=begin <= last_guided)
        for begin, end in zip(bounds[:-1], bounds[1:], strict=True)
    ]


def _segment(plan, guidance, by_call, rows, begin: int, end: int, guided: bool) -> Segment:
    calls = np.arange(begin, end)
    first = plan.call_start[calls]
    width = int(np.diff(plan.call_start)[calls].max())
    decided = max(len(by_call[c]) for c in calls)
    slots = first[:, None] + np.arange(width)
    real = slots < plan.call_start[calls + 1][:, None]
    slots = np.where(real, slots, first[:, None])
    positions = np.full((len(calls), decided), plan.positions)
    for row, c in enumerate(calls):
        positions[row, : len(by_call[c])] = by_call[c]
    known = np.minimum(positions, plan.positions - 1)
    weights = plan.read_weight[known]
    reads = np.where(weights > 0, plan.read_slot[known] - first[:, None, None], 0)
    dead = positions == plan.positions
    reads[dead], weights[dead] = 0, 0
    return Segment(
        guided=guided,
        read=int(rows[calls].max()),
        start=plan.row[first],
        slots=slots,
        visible=plan.visible[slots],
        positions=positions,
        reads=reads,
        weights=weights,
        guidance=guidance[calls],
    )
