"""Where the slots of a plan stand: rotary angles of the grid, or rows of tables of learned positions.

Shapes: B batch, P positions, W slots, H head width.
"""

from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from imgen.errors import UserError
from imgen.generators.plan import Kind, Plan
from imgen.nn.attention import SlotPositions
from imgen.nn.rope import NullRow, rope_angles, rope_rows

Position = Literal["rope", "learned", "block", "target_aware"]
POSITIONS, NULL_ROWS = get_args(Position), get_args(NullRow)


def check_position(position: str, cond_rope: str) -> None:
    """Raises UserError for names that there are not."""
    if position not in POSITIONS or cond_rope not in NULL_ROWS:
        raise UserError(
            f"generator.position {position!r} must be one of {', '.join(POSITIONS)}, "
            f"cond_rope {cond_rope!r} one of {', '.join(NULL_ROWS)}"
        )


def rotary_positions(
    plan: Plan,
    slots: np.ndarray | jax.Array,
    order: jax.Array | None,
    head_dim: int,
    base: float,
    null_row: NullRow,
) -> SlotPositions:
    """Returns rotations of some slots [W]: [W, H / 2], or with an order [B, P] for each sample [B, W, H / 2].

    null_row: of slots without a position (`nn.rope.rope_rows`).
    """
    xp = np if order is None else jnp
    angles = rope_angles(plan.grid, head_dim, base)
    rows = np.append(np.arange(plan.positions), -1)  # row -1, the last, is that of no position
    cos, sin = rope_rows(angles, rows, null_row)
    at = _positions(plan.rope, slots, order)
    return SlotPositions(xp.asarray(cos)[at], xp.asarray(sin)[at], None)


def table_positions(
    plan: Plan, slots: np.ndarray | jax.Array, order: jax.Array | None
) -> SlotPositions:
    """Returns rows of a table that has one for every condition slot, then one for every position: [W] or
    [B, W]."""
    xp = np if order is None else jnp
    kind, src = xp.asarray(plan.kind)[slots], xp.asarray(plan.src)[slots]
    rows = plan.num_cond + _positions(plan.rope, slots, order)
    return SlotPositions(None, None, xp.where(kind == Kind.COND, src, rows))


def target_rows(plan: Plan, slots: np.ndarray | jax.Array, order: jax.Array | None):
    """Returns rows of such a table for the position that each slot predicts, [W] or [B, W]; -1 for none."""
    targets = _positions(plan.target, slots, order)
    xp = np if isinstance(targets, np.ndarray) else jnp
    return xp.where(targets < 0, -1, plan.num_cond + targets)


def _positions(of_slot, slots, order) -> np.ndarray | jax.Array:
    """The position of each slot, -1 for none; with an order the position that each sample has there."""
    if order is None:
        return (np if isinstance(slots, np.ndarray) else jnp).asarray(of_slot)[slots]
    at = jnp.asarray(of_slot)[slots]
    return jnp.where(at < 0, -1, order[:, at])
