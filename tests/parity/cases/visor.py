"""VISOR's record of each image and its scores, against the official notebook and script."""

import pytest

from imgen.evaluation.prompts import stored_detections, visor
from imgen.evaluation.prompts.detections import Record
from tests.parity.golden import Golden

RENAMED = {"n_images_scored": "images", "n_prompts_scored": "prompts"}


def visor_cases(golden: Golden) -> None:
    judged = []
    for image, case in golden.meta["cases"].items():
        record = Record(f"image {image}", image, case)
        prompt = stored_detections.visor_prompt(record)
        found = visor.judge(stored_detections.visor_detections(record, prompt), prompt)
        expected = case["expected"]
        for name in ("classes", "recall", "sra"):
            assert found[name] == expected[name], f"{image}: {name}"
        assert len(found["centroid"]) == len(expected["centroid"])
        for ours, theirs in zip(found["centroid"], expected["centroid"], strict=True):
            assert ours == pytest.approx(theirs, rel=1e-6)
        judged.append((prompt, found["classes"], found["sra"]))
    scores = visor.summarize(judged)
    for name, value in golden.meta["summary"].items():
        assert scores[RENAMED.get(name, name)] == pytest.approx(value, abs=1e-9), name


CASES = {"visor_cases": visor_cases}
