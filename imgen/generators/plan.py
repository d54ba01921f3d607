"""Plan: in which order positions are decided, how many at a time, and who sees whom.

A *position* is a code to be decided. A *slot* is one input vector of the transformer. A *call* is one
forward pass of decoding. A *head* is an exit of the transformer with its own norm and output matrix.
A plan is host-side numpy, built once from the configuration and checked at construction; training and
decoding both run off it, so a new order is a function in `generators.orders`, never a model class.

Slots stand in generation order: `rank` and `call` never decrease. The mask `rank[q] >= rank[k]` is then a
staircase, query q sees the slots [0, visible[q]), and the slots of a call are contiguous.
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

    def __post_init__(self):
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

    @property
    def num_special(self) -> int:
        return int((self.kind == Kind.SPECIAL).sum())

    @functools.cached_property
    def visible(self) -> np.ndarray:
        """How many leading slots each slot sees. [S] int32"""
        return np.searchsorted(self.rank, self.rank, side="right").astype(np.int32)

    @functools.cached_property
    def decided_at(self) -> np.ndarray:
        """The call that decides each position. [P] int32"""
        return decided_at(self)

    @functools.cached_property
    def call_start(self) -> np.ndarray:
        """First slot of each call, then S. [C + 1] int32"""
        return np.searchsorted(self.call, np.arange(self.calls + 1)).astype(np.int32)

    @functools.cached_property
    def digest(self) -> str:
        parts = [self.name.encode(), repr(self.grid).encode()]
        parts += [
            getattr(self, f.name).tobytes()
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


def check(plan: Plan) -> None:
    """Raises UserError unless the invariants I1 to I6 of a plan hold (numbering of the spec page)."""

    def require(condition, message: str):
        if not np.all(condition):
            raise UserError(f"plan {plan.name} over grid {plan.grid}: {message}")

    is_token = plan.kind == Kind.TOKEN
    token_src = plan.src[is_token]
    require(
        plan.positions == int(np.prod(plan.grid)), "one row of reads is needed for each position"
    )
    require(np.diff(plan.call) >= 0, "slots must be stored in the order of their calls")
    require(np.diff(plan.rank) >= 0, "slots must be stored in the order of their ranks")
    decided = decided_at(plan)
    require(set(decided) == set(range(plan.calls)), "every call must decide some position")
    require(plan.call < plan.calls, "a slot is fed after the last call")
    require(np.isclose(plan.read_weight.sum(axis=1), 1.0), "read weights must sum to 1 (I2)")
    require(len(set(token_src)) == len(token_src), "a position is fed twice (I2)")
    require(plan.call[is_token] > decided[token_src], "a token is fed before it is decided (I3)")
    same_rank = np.diff(plan.rank) == 0
    require(np.diff(plan.call)[same_rank] == 0, "a slot sees a later call (I4)")
    source_call = np.full(plan.slots, -1)
    source_call[is_token] = decided[token_src]
    latest_seen = np.maximum.accumulate(source_call)  # over all slots up to and including this one
    visible = np.searchsorted(plan.rank, plan.rank, side="right")
    leak = latest_seen[visible[plan.read_slot] - 1] >= decided[:, None]
    require(~leak | (plan.read_weight == 0), "a position is read from a slot that sees it (I5)")
    require(plan.rope[is_token] == token_src, "a token must carry its own position (I6)")
