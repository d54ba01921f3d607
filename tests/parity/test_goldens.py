"""Every golden file is read by the test of its case, or its case is named in `pending.txt`.

`pending.txt` lists the cases whose system isn't built yet. A listed case that has a test fails, and so
does an unlisted one that has none: the list can only shrink.
"""

from pathlib import Path

import jax
import pytest

from tests.parity.cases import CASES
from tests.parity.golden import Golden

PENDING = {
    line
    for line in (Path(__file__).parent / "pending.txt").read_text().split("\n")
    if line and line[0] != "#"
}


def test_pending_names_no_case_that_has_a_test():
    assert not PENDING & CASES.keys()


def test_golden(golden_path, clip_vocabulary, minilm):
    golden = Golden(golden_path, clip_vocabulary, minilm)
    if golden.case in CASES:
        CASES[golden.case](golden)
        assert golden.compared or not golden.outputs(), "the test looked at none of the outputs"
        jax.clear_caches()  # the programs of another size are of no use to the next file
    elif golden.case in PENDING:
        pytest.skip(f"case {golden.case}: its system is not built yet (pending.txt)")
    else:
        pytest.fail(f"case {golden.case} has neither a test nor a line in tests/parity/pending.txt")
