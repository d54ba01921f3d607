"""Rotary tables and logits filters."""

import jax
import jax.numpy as jnp
import numpy as np

from imgen.generators.filters import Filters, filter_logits
from imgen.nn.rope import rope_angles, rope_rows, rotate
from tests.parity.golden import Golden


def rope2d(golden: Golden) -> None:
    atol = golden.meta["tolerance"]["atol"]
    for i, case in enumerate(golden.meta["cases"]):
        grid = (case["grid"],) * 2
        angles = rope_angles(grid, case["head_dim"], case["base"])
        rows = np.concatenate([np.full(case["cls_token_num"], -1), np.arange(len(angles))])
        cos, sin = rope_rows(angles, rows, "zero")
        np.testing.assert_allclose(np.stack([cos, sin], -1), golden.out(f"table_{i}"), atol=atol)
        rotated = rotate(jnp.asarray(golden.input(f"x_{i}")), cos, sin)
        np.testing.assert_allclose(rotated, golden.out(f"rotated_{i}"), atol=atol)


def sample_filter(golden: Golden) -> None:
    """Which of several equal logits survives top-p is up to torch's unstable sort (the files keep now the
    first, now the last): equal logits are compared as a set."""
    logits = golden.input("logits")
    for i, case in enumerate(golden.meta["cases"]):
        probs = jax.nn.softmax(filter_logits(jnp.asarray(logits), Filters(**case)), axis=-1)
        ours, official = (
            np.take_along_axis(np.asarray(p), np.lexsort((p, logits), axis=-1), axis=-1)
            for p in (probs, golden.out(f"probs_{i}"))
        )
        np.testing.assert_allclose(ours, official, atol=golden.meta["tolerance"]["atol"])


CASES = {"rope2d": rope2d, "sample_filter": sample_filter}
