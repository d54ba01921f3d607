"""T2I-CompBench's spatial score, against the official rule of positions and its combination."""

import pytest

from imgen.evaluation.prompts import stored_detections, t2i_compbench
from imgen.evaluation.prompts.detections import Record
from tests.parity.golden import Golden


def t2i_compbench_spatial(golden: Golden) -> None:
    scores = []
    for i, case in enumerate(golden.meta["cases"]):
        image = stored_detections.t2i_compbench_image(Record(f"case {i}", None, case))
        a, b = (t2i_compbench.first_of(image["detections"], case[o]) for o in ("obj1", "obj2"))
        assert (a is None or b is None) == (case["position_score"] is None)
        if case["position_score"] is not None:
            position = t2i_compbench.position_score(image["locality"], a.box, b.box)
            assert position == pytest.approx(case["position_score"], abs=1e-9), i
        scores.append(t2i_compbench.image_score(**image))
        assert scores[-1] == pytest.approx(case["score"], abs=1e-9), i
    assert sum(scores) / len(scores) == pytest.approx(golden.meta["mean"], abs=1e-9)


CASES = {"t2i_compbench_spatial": t2i_compbench_spatial}
