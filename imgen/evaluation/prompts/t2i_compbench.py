"""T2I-CompBench's 2D-spatial score: both objects found, and placed as the prompt says.

Over detections, without a model (Karine-Huang/T2I-CompBench, UniDet_eval/2D_spatial_eval.py). The distance is
in pixels of images of 512 x 512.
"""

from collections.abc import Sequence

from imgen.evaluation.prompts.detections import Detection

NEARBY = ("on side of", "next to", "near")
# In the order in which they are looked for in a prompt. "on top of" has no rule: its position scores 0.
LOCALITIES = (
    *NEARBY, "on the left of", "on the right of", "on the bottom of", "on the top of", "on top of"
)  # fmt: skip
PEOPLE = ("girl", "boy", "man", "woman")


def locality_of(prompt: str) -> str | None:
    """The first of LOCALITIES that a prompt contains."""
    return next((phrase for phrase in LOCALITIES if phrase in prompt), None)


def image_score(
    detections: Sequence[Detection], obj1: str, obj2: str, locality: str | None
) -> float:
    """Score in [0, 1] of one image, from its detections in the detector's order.

    obj1, obj2: the first and the last noun of the prompt; girl, boy, man and woman are sought as "person".
    The first detection of each counts: a quarter of both scores and half of the position's score. A sum of
    less than 0.5 is 0.
    """
    a, b = (first_of(detections, obj) for obj in (obj1, obj2))
    score = 0.25 * (a.score if a else 0.0) + 0.25 * (b.score if b else 0.0)
    if a and b:
        score += position_score(locality, a.box, b.box) / 2
    return score if score >= 0.5 else 0.0


def first_of(detections: Sequence[Detection], noun: str) -> Detection | None:
    """The first detection of a noun's label, None if there is none."""
    label = "person" if noun in PEOPLE else noun
    return next((found for found in detections if found.name == label), None)


def position_score(
    locality: str | None,
    box1: Sequence[float],
    box2: Sequence[float],
    iou_threshold: float = 0.1,
    distance_threshold: float = 150.0,
) -> float:
    """How well two boxes fit a locality, in [0, 1].

    Nearby: within the distance along either axis (1), or the less the further. Sides: box 1 lies on that side
    of box 2, further along that axis than along the other; less where the boxes overlap.
    """
    dx = (box2[0] + box2[2]) / 2 - (box1[0] + box1[2]) / 2
    dy = (box2[1] + box2[3]) / 2 - (box1[1] + box1[3]) / 2
    if locality in NEARBY:
        if abs(dx) < distance_threshold or abs(dy) < distance_threshold:
            return 1.0
        return distance_threshold / max(abs(dx), abs(dy))
    sides = {
        "on the left of": dx > abs(dy),
        "on the right of": -dx > abs(dy),
        "on the top of": dy > abs(dx),
        "on the bottom of": -dy > abs(dx),
    }
    if not sides.get(locality, False):
        return 0.0
    overlap = iou(box1, box2)
    return 1.0 if overlap < iou_threshold else iou_threshold / overlap


def iou(a: Sequence[float], b: Sequence[float]) -> float:
    """Intersection over union of two boxes; 0 for two without area."""
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    union = areas[0] + areas[1] - width * height
    return width * height / union if union > 0 else 0.0
