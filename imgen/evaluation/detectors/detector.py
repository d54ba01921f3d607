"""The one interface of detectors, and their answers as the benchmarks read them."""

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from imgen.evaluation.prompts.detections import Detection


@dataclasses.dataclass(frozen=True)
class Detections:
    """The objects of one image, unfiltered, the most confident first.

    boxes [n, 4] float32: x0, y0, x1, y1 in pixels of the image, y downwards. scores [n] float32. classes [n]
    int: of the detector's. colors: one name an object, of detectors that tell colours.
    """

    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray
    colors: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.scores)


class Detector(Protocol):
    """name: what results are labelled with. classes: in the order of the numbers that detections hold.
    threshold, counting_threshold: the scores above which an object counts, the latter in
    counting tasks."""

    name: str
    classes: tuple[str, ...]
    threshold: float
    counting_threshold: float

    def detect(self, images: np.ndarray) -> list[Detections]:
        """Finds the objects of uint8 [B, H, W, 3] of any size: one answer an image."""
        ...


def named(found: Detections, classes: Sequence[str]) -> list[Detection]:
    """Names the objects as `geneval.judge` and its kin take them. classes: a name for each of the
    detector's, which a benchmark may call otherwise (GenEval's `CLASSES` for COCO's)."""
    colors = found.colors or (None,) * len(found)
    return [
        Detection(classes[int(n)], tuple(map(float, box)), float(score), color)
        for n, box, score, color in zip(
            found.classes, found.boxes, found.scores, colors, strict=True
        )
    ]
