"""CenterNet's detections, with the weights of the published file, which stands beside the golden files."""

import os
from pathlib import Path

import numpy as np
import pytest

from imgen.interop import centernet as interop
from tests.parity.golden import Golden


def centernet(g: Golden) -> None:
    beside = g.path.parents[1] / "data" / "centernet"
    folder = Path(os.environ.get("CENTERNET") or beside)
    if not folder.is_dir():
        pytest.skip(f"needs centernet.json and centernet.bin in {beside}, or CENTERNET=DIR")
    close = g.meta["tolerance"]
    found = interop.load(folder, batch=2).detect(g.input("image"))
    for ours, official in zip(found, g.out("detections"), strict=True):
        boxes, scores, classes = official[:, :4], official[:, 4], official[:, 5]
        np.testing.assert_allclose(ours.scores, scores, atol=close["scores"])
        # Equal scores may stand in another order: each object is looked for among those of its score.
        for box, score, label in zip(boxes, scores, classes, strict=True):
            near = (ours.classes == label) & (abs(ours.scores - score) < 2 * close["scores"])
            assert abs(ours.boxes[near] - box).max(1).min() < close["boxes_px"]


CASES = {"centernet": centernet}
