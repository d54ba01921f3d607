"""What is fed at a slot, by its kind: one entry of a table each.

Shapes: B batch, W slots, P positions, D width.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from imgen.generators.plan import Kind, Plan
from imgen.nn.attention import SlotPositions
from imgen.nn.rope import rotate


class Slots(NamedTuple):
    """Some slots of a plan and what may be fed there.

    kind, src: [W].   positions: where they stand.
    codes [B, P, ...]: in the order of the plan.   hidden [B, P] bool: codes that are not shown, None for
    none.
    vectors: of `Head.vectors`.
    """

    kind: jax.Array
    src: jax.Array
    positions: SlotPositions
    codes: jax.Array
    hidden: jax.Array | None
    vectors: jax.Array | None


class Feed(NamedTuple):
    """embed: (head, the kind's own parameter or None, slots) -> vectors of all the slots as if they were of
    this kind, [B or 1, W, D].

    parameter: its name.   shape: (plan, width) -> its shape.
    """

    embed: Callable[[Any, jax.Array | None, Slots], jax.Array]
    parameter: str | None = None
    shape: Callable[[Plan, int], tuple[int, ...]] | None = None


def _code(head, _, slots: Slots) -> jax.Array:
    has_code = (slots.kind == Kind.TOKEN) | (slots.kind == Kind.STATE)
    return head.embed(slots.codes[:, slots.src * has_code], slots.vectors)


def _special(head, learned, slots: Slots) -> jax.Array:
    return learned[slots.src * (slots.kind == Kind.SPECIAL)].astype(head.dtype)[None]


def _query(head, learned, slots: Slots) -> jax.Array:
    count = len(slots.src)
    query = jnp.tile(learned, (1, count, 1)).astype(head.dtype)  # [1, W, D]
    cos, sin = slots.positions.cos, slots.positions.sin
    if cos is None:
        return query
    apart = query.reshape(1, count, -1, 2 * cos.shape[-1])  # the heads
    return rotate(apart, cos, sin).reshape(-1, *query.shape[1:])


def _state(head, learned, slots: Slots) -> jax.Array:
    if learned is None:  # the network looks at what is known only
        return _code(head, None, slots)
    is_state = slots.kind == Kind.STATE
    unknown = is_state & slots.hidden[:, slots.src * is_state]  # [B, W]
    return jnp.where(unknown[..., None], learned.astype(head.dtype), _code(head, None, slots))


FEEDS: dict[Kind, Feed] = {
    Kind.TOKEN: Feed(_code),
    Kind.SPECIAL: Feed(
        _special, "special", lambda plan, width: (int((plan.kind == Kind.SPECIAL).sum()), width)
    ),
    Kind.QUERY: Feed(_query, "query", lambda plan, width: (1, width)),
    Kind.STATE: Feed(_state, "mask", lambda plan, width: (width,)),
}


def feed(head, learned: dict[str, jax.Array], kinds: tuple[Kind, ...], slots: Slots) -> jax.Array:
    """Returns the vectors [B, W, D] of slots of some kinds; learned: the kinds' parameters, by name."""
    x = None
    for kind in kinds or (Kind.TOKEN,):
        of_kind = FEEDS[kind].embed(head, learned.get(FEEDS[kind].parameter), slots)
        x = of_kind if x is None else jnp.where((slots.kind == kind)[:, None], of_kind, x)
    return x
