"""Counts of masked decoding: those of the specification and of the released codes."""

import numpy as np
import pytest

from imgen.errors import UserError
from imgen.generators.mask_schedules import masked_share, still_masked_counts


def test_counts_of_the_specification():
    assert still_masked_counts(16, 4, "arccos").tolist() == [16, 13, 10, 7, 0]
    # MAR of 256 tokens: one at a time in 256 iterations; in 64 one at a time for the first 13.
    assert still_masked_counts(256, 256, "cosine").tolist() == list(range(256, -1, -1))
    decided = -np.diff(still_masked_counts(256, 64, "cosine"))
    assert (decided[:13] == 1).all() and decided[13] > 1 and set(decided[-10:]) == {6, 7}


@pytest.mark.parametrize("law", ["cosine", "arccos"])
@pytest.mark.parametrize("calls", [1, 7, 30])
def test_every_call_decides_some_position_and_the_last_all(law, calls):
    left = still_masked_counts(30, calls, law)
    assert left[0] == 30 and left[-1] == 0 and (np.diff(left) < 0).all()


def test_a_law_that_is_early_done_leaves_one_position_to_the_last_call():
    assert still_masked_counts(30, 6, "log").tolist() == [30, 15, 9, 6, 3, 1, 0]
    assert still_masked_counts(16, 16, "pow0.5")[-4:].tolist() == [1, 1, 1, 0]


def test_maskgits_float32_loses_one_where_its_cosine_is_a_half():
    """cos(pi/3) is 0.49999997 in float32: JAX's code leaves 7 of 16 masked, other codes 8."""
    assert still_masked_counts(16, 3, "cosine", np.float32).tolist() == [16, 13, 7, 0]
    assert still_masked_counts(16, 3, "cosine").tolist() == [16, 13, 8, 0]


def test_a_share_is_in_the_precision_that_it_is_asked_in():
    done = np.float32([0.1, 1.0])
    assert masked_share("cosine", done, 16).dtype == np.float32
    assert masked_share("cosine", done, 16)[-1] == np.float32(1e-6)


@pytest.mark.parametrize("law", ["powder", "sine"])
def test_an_unknown_law_is_one_line(law):
    with pytest.raises(UserError, match="mask schedule"):
        masked_share(law, np.ones(1), 4)
