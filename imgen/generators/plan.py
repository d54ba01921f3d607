"""Plan: in which order positions are decided, how many at a time, and who sees whom.

A *position* is a code to be decided. A *slot* is one input vector of the transformer. A *call* is one
forward pass of decoding. A *head* is an exit of the transformer with its own norm and output matrix.
A plan is host-side numpy, built once from the configuration and checked at construction; training and
decoding both run off it, so a new order is a function in `generators.orders`, never a model class.

Slots stand in generation order: `rank` and `call` never decrease. The mask `rank[q] >= rank[k]` is then a
staircase, query q sees the slots [0, visible[q]), and the slots of a call are contiguous.

A sample may have an order of its own (`schemes`): "position j" then is the j-th of that order, and the arrays
are the same for all samples. A plan for decoding only may have *scratch* slots: fed and read, but written to
cache rows that the next call overwrites. A plan of states (MaskGIT) has a slot for every position and one
call that feeds and sees them all; which positions are decided when is the sampler's.
"""

import dataclasses
import enum
import functools
import hashlib

import numpy as np

from imgen.errors import UserError


class Kind(enum.IntEnum):
    """What is fed at a slot."""

    COND = 0  # condition feature number `src`
    TOKEN = 1  # the code of position `src`
    SPECIAL = 2  # learned vector number `src` (PAR)
    QUERY = 3  # a learned vector that asks for position `src`: rotated by its rotary row (RandAR)
    STATE = 4  # the code of position `src` once it is decided, a mask vector before (MaskGIT)


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """The arrays. S slots, P positions, H heads, C calls.

    name, grid: the order's name and the layout of the positions; P is the grid's product.
    kind, src: what each slot is fed (see `Kind`).                                       [S] int32
    rope: row of the position table, -1 for none.                                        [S] int32
    rank: attention rank; slot q sees slot k where rank[q] >= rank[k].                   [S] int32
    call: the forward pass of decoding that feeds the slot.                              [S] int32
    read_slot, read_weight: logits(p) = sum_h read_weight[p, h] * head_h(hidden_h[read_slot[p, h]]);
        a head that takes no part has weight 0.                                  [P, H] int32, float32
    progress: what a guidance interval is compared with, per call.                       [C] float32
    scratch: slots whose keys and values are dropped after their call; they stand at the end of its slots.
        None for no such slots.                                                          [S] bool
    """

    name: str
    grid: tuple[int, ...]
    kind: np.ndarray
    src: np.ndarray
    rope: np.ndarray
    rank: np.ndarray
    call: np.ndarray
    read_slot: np.ndarray
    read_weight: np.ndarray
    progress: np.ndarray
    scratch: np.ndarray | None = None

    def __post_init__(self):
        scratch = np.zeros(len(self.kind), bool) if self.scratch is None else self.scratch
        object.__setattr__(self, "scratch", np.asarray(scratch, bool))
        for field in ("kind", "src", "rope", "rank", "call", "read_slot"):
            object.__setattr__(self, field, np.asarray(getattr(self, field), np.int32))
        for field in ("read_weight", "progress"):
            object.__setattr__(self, field, np.asarray(getattr(self, field), np.float32))
        check(self)

    @property
    def slots(self) -> int:
        return len(self.kind)

    @property
    def positions(self) -> int:
        return len(self.read_slot)

    @property
    def heads(self) -> int:
        return self.read_slot.shape[1]

    @property
    def calls(self) -> int:
        return len(self.progress)

    @property
    def num_cond(self) -> int:
        """Condition slots; they come first."""
        return int((self.kind == Kind.COND).sum())

    @functools.cached_property
    def fed(self) -> tuple[Kind, ...]:
        """What its slots are fed besides the condition, in the order of the kinds."""
        return tuple(Kind(k) for k in np.unique(self.kind) if k != Kind.COND)

    @functools.cached_property
    def row(self) -> np.ndarray:
        """The cache row of each slot; without scratch slots, the slot's own number. [S] int32"""
        kept = np.cumsum(~self.scratch) - 1
        after = np.arange(self.slots) - np.maximum.accumulate(
            np.where(self.scratch, -1, np.arange(self.slots))
        )
        return (kept + after).astype(np.int32)

    @functools.cached_property
    def visible(self) -> np.ndarray:
        """How many leading cache rows each slot sees. [S] int32

        Scratch slots see all that their call keeps, and the scratch slots of their call up to their rank.
        """
        kept = self.rank[~self.scratch]
        seen = np.searchsorted(kept, self.rank, side="right")
        for call in np.unique(self.call[self.scratch]):
            own = np.flatnonzero(self.scratch & (self.call == call))
            before = int((~self.scratch & (self.call <= call)).sum())
            ranks = self.rank[own]
            seen[own] = before + (ranks[None, :] <= ranks[:, None]).sum(axis=1)
        return seen.astype(np.int32)

    @functools.cached_property
    def decided_at(self) -> np.ndarray:
        """The call that decides each position. [P] int32"""
        return decided_at(self)

    @functools.cached_property
    def target(self) -> np.ndarray:
        """The position that is read first at each slot, -1 where none is. [S] int32"""
        found = np.full(self.slots, -1, np.int32)
        for position in reversed(range(self.positions)):
            found[self.read_slot[position][self.read_weight[position] > 0]] = position
        return found

    @functools.cached_property
    def call_start(self) -> np.ndarray:
        """First slot of each call, then S. [C + 1] int32"""
        return np.searchsorted(self.call, np.arange(self.calls + 1)).astype(np.int32)

    @functools.cached_property
    def digest(self) -> str:
        parts = [repr((self.name, self.grid)).encode()]
        parts += [
            np.asarray(getattr(self, f.name)).tobytes()
            for f in dataclasses.fields(self)
            if f.name not in ("name", "grid")
        ]
        return hashlib.sha256(b"|".join(parts)).hexdigest()

    def __eq__(self, other):
        return isinstance(other, Plan) and self.digest == other.digest

    def __hash__(self):
        return hash(self.digest)


def decided_at(plan: Plan) -> np.ndarray:
    """The call of the slots that each position is read from (I1: one call for all of them). [P]"""
    calls = np.where(plan.read_weight > 0, plan.call[plan.read_slot], -1)
    latest = calls.max(axis=1)
    if not ((calls == latest[:, None]) | (calls < 0)).all():
        raise UserError(f"plan {plan.name}: a position is read from slots of different calls (I1)")
    return latest


def _require(plan: Plan, condition, message: str) -> None:
    if not np.all(condition):
        raise UserError(f"plan {plan.name} over grid {plan.grid}: {message}")


def check(plan: Plan) -> None:
    """Raises UserError unless the invariants I1 to I6 of a plan hold (numbering of the spec page)."""
    require = functools.partial(_require, plan)
    is_token = plan.kind == Kind.TOKEN
    token_src = plan.src[is_token]
    kept = ~plan.scratch
    require(
        plan.positions == int(np.prod(plan.grid)), "one row of reads is needed for each position"
    )
    require(np.diff(plan.call) >= 0, "slots must be stored in the order of their calls")
    require(np.diff(plan.rank[kept]) >= 0, "slots must be stored in the order of their ranks")
    decided = decided_at(plan)
    require(set(decided) == set(range(plan.calls)), "every call must decide some position")
    require(plan.call < plan.calls, "a slot is fed after the last call")
    require(np.isclose(plan.read_weight.sum(axis=1), 1.0), "read weights must sum to 1 (I2)")
    require(len(set(token_src)) == len(token_src), "a position is fed twice (I2)")
    require(plan.call[is_token] > decided[token_src], "a token is fed before it is decided (I3)")
    same_rank = np.diff(plan.rank[kept]) == 0
    require(np.diff(plan.call[kept])[same_rank] == 0, "a slot sees a later call (I4)")
    require(kept | (plan.kind == Kind.QUERY), "only queries can be scratch slots")
    check_scratch(plan, require)
    check_states(plan, require)
    source_call = np.full(plan.slots, -1)
    source_call[is_token] = decided[token_src]
    latest_seen = np.maximum.accumulate(
        source_call[kept]
    )  # over all kept slots up to and with each
    kept_seen = np.where(plan.scratch, np.cumsum(kept), plan.visible)
    leak = latest_seen[kept_seen[plan.read_slot] - 1] >= decided[:, None]
    require(~leak | (plan.read_weight == 0), "a position is read from a slot that sees it (I5)")
    has_position = np.isin(plan.kind, (Kind.TOKEN, Kind.QUERY, Kind.STATE))
    require(
        plan.rope[has_position] == plan.src[has_position],
        "a token, query or state must carry its own position (I6)",
    )


def check_states(plan: Plan, require) -> None:
    """Of states, every position has one, is read there, and all see all."""
    state = np.flatnonzero(plan.kind == Kind.STATE)
    if not len(state):
        return
    require(not plan.scratch.any(), "a masked plan keeps nothing, and so has no scratch slots")
    require(np.isin(plan.kind, (Kind.COND, Kind.STATE)), "a masked plan feeds states only")
    one_each = np.array_equal(np.sort(plan.src[state]), np.arange(plan.positions))
    require(one_each, "each position has one slot")
    require(plan.read_slot[plan.src[state]] == state[:, None], "states are read in place")
    require((plan.rank == 0) & (plan.call == 0), "all states see each other in a single call")


def check_scratch(plan: Plan, require) -> None:
    """Scratch slots end their call and are seen by none that is kept."""
    begins = np.flatnonzero(np.diff(plan.call, prepend=-1))
    for first, last in zip(begins, [*begins[1:], plan.slots], strict=True):
        scratch = plan.scratch[first:last]
        if not scratch.any():
            continue
        require(np.diff(scratch.astype(int)) >= 0, "scratch slots must end their call")
        kept = plan.rank[:last][~plan.scratch[:last]]
        require(
            plan.rank[first:last][scratch] > kept[-1], "a slot that is kept sees a scratch slot"
        )
