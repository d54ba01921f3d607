"""Statistics of codes, against values computed from their definitions in float64."""

import numpy as np

from imgen.evaluation.tokens.statistics import (
    bit_statistics,
    granularity,
    ngram_counts,
    statistics,
    whole_codes,
)
from tests.parity.golden import Golden


def token_stats(golden: Golden) -> None:
    close = {k: golden.meta["tolerance"][k] for k in ("atol", "rtol")}
    codes, bits = golden.input("codes"), golden.input("bits")
    orders = 1
    while golden.has(f"out/distinct_{orders + 1}"):
        orders += 1
    counts = ngram_counts(codes, orders)
    ours = {
        **statistics(codes, golden.config["vocab"], counts),
        **granularity(codes, golden.input("segments")),
        **bit_statistics(bits),
        **{f"counts_sorted_{n}": sizes for n, sizes in counts.items()},
    }
    assert whole_codes(bits).max() < 2 ** golden.config["bits"]
    for name in golden.outputs():
        expected = golden.out(name)
        if np.issubdtype(expected.dtype, np.integer):
            np.testing.assert_array_equal(ours[name], expected, err_msg=name)
        else:
            np.testing.assert_allclose(ours[name], expected, **close, err_msg=name)


CASES = {"token_stats": token_stats}
