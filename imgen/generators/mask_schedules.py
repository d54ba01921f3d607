"""How many positions masked decoding leaves masked: published laws and their counts, as host-side tables.

A law is a function of the share of the steps that are done. Sources: google-research/maskgit,
libml/mask_schedule.py; bytedance/1d-tokenizer, modeling/maskgit.py; markweberdev/maskbit,
modeling/modules/masking.py; LTH14/mar, models/mar.py.
"""

from collections.abc import Callable

import numpy as np

from imgen.errors import UserError

Law = Callable[[np.ndarray, int], np.ndarray]

# (share of the steps that are done, positions) -> share of the positions that are masked.
LAWS: dict[str, Law] = {
    "uniform": lambda done, positions: 1 - done,
    "cosine": lambda done, positions: np.cos(done.dtype.type(np.pi / 2) * done),
    "arccos": lambda done, positions: np.arccos(done) / done.dtype.type(np.pi / 2),
    "log": lambda done, positions: -np.log2(done) / np.log2(done.dtype.type(positions)),
    "exp": lambda done, positions: 1 - np.exp2(-np.log2(done.dtype.type(positions)) * (1 - done)),
}
SMALLEST = 1e-6


def masked_share(law: str, done: np.ndarray, positions: int) -> np.ndarray:
    """Returns the share of `positions` that is masked when the share `done` of the steps is done, in
    [1e-6, 1] and in the precision of `done`. law: key of LAWS, or "pow" and an exponent ("pow2.5":
    1 - done^2.5; MaskBit's root and square are 0.5 and 2). Raises UserError for another."""
    if law.startswith("pow"):
        try:
            share = 1 - done ** done.dtype.type(float(law.removeprefix("pow")))
        except ValueError as e:
            raise UserError(f"mask schedule {law!r}: an exponent follows pow, as in pow2.5") from e
    elif law in LAWS:
        share = LAWS[law](done, positions)
    else:
        raise UserError(f"mask schedule {law!r} is none of {', '.join(LAWS)}, pow and an exponent")
    return np.clip(share, done.dtype.type(SMALLEST), 1)


def still_masked_counts(
    positions: int, steps: int, law: str = "cosine", dtype: type[np.floating] = np.float64
) -> np.ndarray:
    """Returns how many positions are masked before each step and at the end, int32 [steps + 1].

    A step decides one at least while more than one is masked, and leaves one at least to the next. dtype: in
    which the law is computed; MaskGIT's float32 leaves 7 of 16 where its cosine is a half, other codes'
    float64 leaves 8. Raises UserError for more steps than positions.
    """
    if not 1 <= steps <= positions:
        raise UserError(
            f"masked decoding of {positions} positions takes 1 to {positions} steps, not {steps}"
        )
    done = (np.arange(1, steps + 1) / steps).astype(dtype)
    wanted = np.floor(positions * masked_share(law, done, positions)).astype(int)
    left = [positions]
    for count in wanted[:-1]:
        left.append(max(1, min(left[-1] - 1, int(count))))
    return np.asarray([*left, 0], np.int32)
