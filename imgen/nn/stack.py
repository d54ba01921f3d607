"""A stack of equal blocks: one scan over stacked parameters, recomputed in the backward pass on demand."""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax

from imgen.errors import UserError

REMAT_POLICIES = {
    "full": None,  # keep nothing but the layer's input
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}
REMAT = ("none", *REMAT_POLICIES)


def check_remat(remat: str, where: str = "remat") -> None:
    """Raises UserError for a policy that there isn't."""
    if remat not in REMAT:
        raise UserError(f"{where} {remat!r} is none of {', '.join(REMAT)}")


def stack(
    block: type[nn.Module],
    length: int,
    *,
    remat: str = "none",
    in_axes: Any = nn.broadcast,
    variables: Mapping[str, int] | None = None,
    rngs: Sequence[str] = ("params", "dropout"),
) -> type[nn.Module]:
    """Returns the class of `length` blocks in a row; its parameters are [length, ...].

    The block is called with (carry, *inputs) and returns (carry, output); outputs are stacked.
    remat: "none", "full" or "dots": what of a block is computed again in the backward pass.
    in_axes: of the inputs: 0 where each layer has its own, nn.broadcast where all have the same.
    variables: axes of other collections than "params".   rngs: those that differ from layer to layer.
    """
    check_remat(remat)
    if remat != "none":
        block = nn.remat(block, prevent_cse=False, policy=REMAT_POLICIES[remat])
    return nn.scan(
        block,
        variable_axes={"params": 0, **(variables or {})},
        split_rngs=dict.fromkeys(rngs, True),
        in_axes=in_axes,
        length=length,
    )
