"""Finds the shapes of `imgen.data.scenes` by comparing a picture with what they look like; nothing is
learned.

A template is a shape in a colour on the scenes' grey, a pixel of background around it; picture and template
are blurred, so that an edge half a pixel off or a code's soft edge costs little. At a place the score is
1 - |picture - template|^2 / |grey - template|^2: 1 where they are the same, 0 where plain grey would fit as
well. The best place and template is an object, those that stand within it are dropped, and so on.
"""

import dataclasses
import functools

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from scipy.ndimage import gaussian_filter

from imgen.data.scenes import GREY, RADIUS
from imgen.data.shapes import COLOUR_NAMES, COLOUR_VALUES, SHAPE_NAMES, coverage
from imgen.errors import UserError
from imgen.evaluation.detectors.detector import Detections

CHUNK = 32  # images at once


@dataclasses.dataclass(frozen=True)
class ShapesOracle:
    """A `Detector` of shapes and their colours.

    least: what scores less is not looked at. blur: deviation in pixels of a picture of 32. apart: centres of
    two objects are further apart than this share of a shape's side.
    """

    least: float = 0.2
    blur: float = 0.7
    apart: float = 0.9
    threshold: float = 0.5
    counting_threshold: float = 0.5

    name = "shapes_oracle"
    classes = SHAPE_NAMES

    def detect(self, images: np.ndarray) -> list[Detections]:
        """See `Detector`. Images are square, a multiple of 32 pixels wide. Raises UserError for others."""
        size = images.shape[1]
        if images.shape[1:3] != (size, size) or size % 32:
            raise UserError(
                f"the shapes' oracle looks at squares of a multiple of 32 pixels, not {images.shape[1:3]}"
            )
        parts = (images[i : i + CHUNK] for i in range(0, len(images), CHUNK))
        return [found for part in parts for found in self._detect(part, size)]

    def _detect(self, images: np.ndarray, size: int) -> list[Detections]:
        templates, energies = _templates(size, self.blur)
        radius, side = round(RADIUS * size), int(np.sqrt(templates.shape[1] / 3))
        margin = (side - 2 * radius) // 2
        smooth = gaussian_filter(images.astype(np.float32) - GREY, _deviation(size, self.blur))
        smooth = np.pad(smooth, [(0, 0), (margin, margin), (margin, margin), (0, 0)])
        windows = sliding_window_view(smooth, (side, side), axis=(1, 2))  # [B, P, P, 3, side, side]
        places = windows.shape[1]
        flat = windows.reshape(len(images), places**2, -1)
        own = np.einsum("bpk,bpk->bp", flat, flat)[..., None]
        errors = own - 2 * flat @ templates.T + energies
        scores = 1 - errors / energies  # [B, places, templates]
        return [self._objects(found, places, radius) for found in scores]

    def _objects(self, scores: np.ndarray, places: int, radius: int) -> Detections:
        best = scores.max(1)
        found = []
        while (at := int(best.argmax())) >= 0 and best[at] > self.least:
            y, x = divmod(at, places)
            found.append((x, y, best[at], int(scores[at].argmax())))
            near = np.hypot(*(np.indices((places, places)).reshape(2, -1) - [[y], [x]]))
            best[near <= 2 * radius * self.apart] = -np.inf
        x, y, score, kind = np.array(found, np.float32).reshape(-1, 4).T
        boxes = np.stack([x, y, x + 2 * radius, y + 2 * radius], axis=1)
        shape, colour = np.divmod(kind.astype(int), len(COLOUR_NAMES))
        return Detections(boxes, score, shape, tuple(COLOUR_NAMES[c] for c in colour))


def _deviation(size: int, blur: float) -> tuple[float, ...]:
    return 0, blur * size / 32, blur * size / 32, 0


@functools.lru_cache(maxsize=4)
def _templates(size: int, blur: float) -> tuple[np.ndarray, np.ndarray]:
    """Draws [kinds, 3 * side * side], less the grey, shape by shape and colour by colour; and their
    energies."""
    radius = round(RADIUS * size)
    side = 2 * (radius + max(size // 32, 1))
    masks = np.stack([coverage(name, side / 2, side / 2, radius, side) for name in SHAPE_NAMES])
    found = masks[:, None, ..., None] * (COLOUR_VALUES[:, None, None] - GREY)
    found = gaussian_filter(found, (0, *_deviation(size, blur)), mode="constant")
    found = np.moveaxis(found, -1, 2).reshape(len(SHAPE_NAMES) * len(COLOUR_NAMES), -1)
    found = found.astype(np.float32)
    return found, (found**2).sum(1)
