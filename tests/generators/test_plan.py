"""Plans: what their arrays promise, on random grids."""

import numpy as np
import pytest

from imgen.errors import UserError
from imgen.generators.orders import (
    next_neighbour,
    parallel_groups,
    random_order,
    random_order_parallel,
    raster,
)
from imgen.generators.plan import Kind, Plan

RNG = np.random.default_rng(0)
PLANS = [
    *(
        raster(tuple(RNG.integers(1, 6, size=axes)), int(RNG.integers(1, 5)))
        for axes in (1, 2, 2, 3)
    ),
    *(
        next_neighbour(tuple(RNG.integers(1, 6, size=axes)), int(RNG.integers(1, 5)))
        for axes in (1, 2, 2, 3)
    ),
    parallel_groups((4, 6), num_cond=2, groups=4),
    parallel_groups((6, 3), groups=9),
    raster((3, 4), order=RNG.permutation(12)),
    *(
        parallel_groups(tuple(2 * RNG.integers(2, 5, size=2)), int(RNG.integers(1, 5)), groups=4)
        for _ in range(2)
    ),
    *(
        random_order(tuple(RNG.integers(1, 5, size=axes)), int(RNG.integers(1, 4)))
        for axes in (1, 2, 3)
    ),
    *(
        random_order_parallel(tuple(RNG.integers(2, 5, size=2)), steps=int(RNG.integers(2, 9)))
        for _ in range(2)
    ),
    random_order((3, 4), num_cond=2),
    random_order((1,)),
    random_order_parallel((4, 4), steps=7),
    random_order_parallel((2, 3, 2), num_cond=3, steps=3),
    random_order_parallel((5,), steps=1),
]
IDS = [f"{p.name}-{'x'.join(map(str, p.grid))}-{p.num_cond}" for p in PLANS]


@pytest.mark.parametrize("plan", PLANS, ids=IDS)
def test_every_position_is_decided_from_earlier_calls_only(plan):
    """Walks through decoding as the definition says, without the arrays' shortcuts (I1 to I6)."""
    mask = plan.rank[:, None] >= plan.rank[None, :]
    cache, decided = [], np.full(plan.positions, -1)  # cache: the slot in each row
    for call in range(plan.calls):
        fed = np.flatnonzero(plan.call == call)
        for slot in fed:
            if plan.kind[slot] == Kind.TOKEN:
                assert 0 <= decided[plan.src[slot]] < call
        there = cache + list(fed)  # this call's slots follow what earlier calls kept
        np.testing.assert_array_equal(plan.row[fed], len(cache) + np.arange(len(fed)))
        for slot in fed:
            seen = [k for k in range(len(there)) if mask[slot, there[k]]]
            assert seen == list(range(plan.visible[slot])), "a prefix of the cache"
        cache = [slot for slot in there if not plan.scratch[slot]]
        kept_later = np.flatnonzero((plan.call > call) & ~plan.scratch)
        assert not mask[np.ix_(cache, kept_later)].any(), "a slot sees one that is not there yet"
        for p in range(plan.positions):
            slots = plan.read_slot[p][plan.read_weight[p] > 0]
            if (plan.call[slots] == call).all():
                rows = max(plan.visible[slots])
                seen = plan.src[[s for s in there[:rows] if plan.kind[s] == Kind.TOKEN]]
                assert (decided[seen] >= 0).all() and (decided[seen] < call).all()
                assert p not in seen
                decided[p] = call
    assert (decided >= 0).all()
    np.testing.assert_array_equal(decided, plan.decided_at)
    np.testing.assert_allclose(plan.read_weight.sum(axis=1), 1)


def test_parallel_steps_of_one_are_the_plan_of_training():
    plan, steps = random_order((3, 3), 2), random_order_parallel((3, 3), 2, steps=1000)
    for field in ("kind", "src", "rope", "rank", "call", "read_slot", "scratch"):
        np.testing.assert_array_equal(getattr(plan, field), getattr(steps, field))


@pytest.mark.parametrize(
    "plan, calls",
    [
        (raster((16, 16)), 256),
        (next_neighbour((16, 16)), 31),
        (next_neighbour((24, 24)), 47),
        (next_neighbour((4, 16, 16)), 34),
        (parallel_groups((16, 16), groups=4), 67),
        (parallel_groups((24, 24), groups=4), 147),
        (parallel_groups((24, 24), groups=16), 51),
        (random_order((16, 16)), 256),
        (random_order_parallel((16, 16), steps=88), 88),
    ],
)
def test_published_numbers_of_calls(plan, calls):
    assert plan.calls == calls


def test_plans_are_equal_by_content():
    assert raster((3, 3)) == raster((3, 3)) and hash(raster((3, 3))) == hash(raster((3, 3)))
    assert raster((3, 3)) != raster((9,)) and raster((3, 3)) != raster(
        (3, 3), order=np.arange(9)[::-1]
    )


@pytest.mark.parametrize(
    "change, invariant",
    [
        (dict(read_weight=np.full((4, 1), 0.5)), "I2"),
        (dict(call=[0, 1, 1, 3]), "every call"),
        (dict(call=[0, 1, 3, 2]), "order of their calls"),
        (dict(rank=[0, 1, 1, 2]), "I4"),
        (dict(read_slot=[[1], [1], [2], [3]]), "every call"),
        (dict(src=[0, 0, 2, 1]), "I3"),
        (dict(src=[0, 0, 0, 2]), "I2"),
        (dict(rope=[-1, 1, 1, 2]), "I6"),
    ],
)
def test_a_broken_plan_is_refused_by_name(change, invariant):
    good = raster((2, 2))
    arrays = {f: getattr(good, f) for f in Plan.__dataclass_fields__}
    with pytest.raises(UserError, match=invariant):
        Plan(**arrays | change)


def test_a_position_is_read_in_one_call():
    good = next_neighbour((2, 2))
    arrays = {f: getattr(good, f) for f in Plan.__dataclass_fields__}
    reads = good.read_slot.copy()
    reads[3, 0] = 0  # the far corner from the condition and from its neighbour
    with pytest.raises(UserError, match="I1"):
        Plan(**arrays | {"read_slot": reads})


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(kind=[0, 3, 2, 3]), "only queries"),
        (dict(scratch=[0, 1, 0, 0]), "end their call"),
        (dict(rank=[0, 1, 2, 1]), "kept sees"),
    ],
)
def test_misplaced_scratch_slots_are_refused(change, message):
    good = random_order_parallel((3,), steps=1)  # condition, query 0, scratch queries 1 and 2
    arrays = {f: getattr(good, f) for f in Plan.__dataclass_fields__}
    with pytest.raises(UserError, match=message):
        Plan(**arrays | change)


@pytest.mark.parametrize(
    "build",
    [
        lambda: parallel_groups((4, 4), groups=3),
        lambda: parallel_groups((5, 4)),
        lambda: raster((2, 2), order=[0, 1, 1, 2]),
        lambda: random_order_parallel((2, 2), steps=0),
    ],
)
def test_impossible_orders_are_refused(build):
    with pytest.raises(UserError):
        build()
