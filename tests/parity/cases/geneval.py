"""GenEval's decisions and summary, against the official functions with a stubbed detector."""

import numpy as np
import pytest

from imgen.evaluation.prompts import geneval, stored_detections
from imgen.evaluation.prompts.detections import Record
from tests.parity.golden import Golden


def geneval_cases(golden: Golden) -> None:
    plain = []
    for i, case in enumerate(golden.meta["cases"]):
        record = Record(f"case {i}", None, case)
        metadata = stored_detections.geneval_metadata(record)
        assert metadata == case["metadata"]
        detections = stored_detections.geneval_detections(record)
        verdict = geneval.judge(detections, metadata, **stored_detections.geneval_options(record))
        assert verdict.correct == case["correct"], f"case {i}: {verdict.reasons} {case['reason']!r}"
        assert _words(verdict.reasons) == _words(case["reason"].splitlines()), i
        assert verdict.kept.keys() == case["kept"].keys()
        for name, objects in verdict.kept.items():
            ours = np.float32([[*found.box, found.score] for found in objects])
            np.testing.assert_array_equal(ours, np.float32(case["kept"][name]), err_msg=f"{i}")
        if not case["options"] and "note" not in case:
            plain.append((metadata, verdict.correct))

    ours, theirs = geneval.summarize(plain), golden.meta["summary"]
    assert (ours["images"], ours["prompts"]) == (theirs["n_images"], theirs["n_prompts"])
    assert ours["tasks"] == pytest.approx(theirs["task_scores"], abs=1e-12)
    for name in ("overall", "image_accuracy", "prompt_any"):
        assert ours[name] == pytest.approx(theirs[name], abs=1e-12)


def _words(reasons):
    """Reasons without the order of the relations in them, which is a set's in the official texts."""
    return [sorted(reason.split()) for reason in reasons]


CASES = {"geneval_cases": geneval_cases}
