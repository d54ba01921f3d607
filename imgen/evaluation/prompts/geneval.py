"""GenEval: does an image show the objects, numbers, colours and positions that its prompt names?

Decisions and scores over detections, without a model (Ghosh, Hajishirzi and Schmidt 2023;
djghosh13/geneval, evaluation/evaluate_images.py and summary_scores.py). Boxes and scores are compared in
float32, as the official detector gives them: a score of float32(0.9) is not above 0.9.

A prompt's metadata: {"tag", "prompt", "include": [clause], "exclude": [clause]} with clauses {"class",
"count", "color"?, "position"?: [relation, index of the earlier clause that it refers to]}.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from imgen.errors import UserError
from imgen.evaluation.prompts.detections import COCO_CLASSES, Detection

TASKS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
COLORS = (
    "red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white"
)  # fmt: skip
RELATIONS = ("left of", "right of", "above", "below")
RENAMED = {"mouse": "computer mouse", "remote": "tv remote", "keyboard": "computer keyboard"}
CLASSES = tuple(RENAMED.get(name, name) for name in COCO_CLASSES)
PROMPTS, IMAGES_PER_PROMPT = 553, 4
# Of the sorted lines of the official evaluation_metadata.jsonl, the keys of each in order.
PROMPTS_SHA256 = "ac3c481628128939793c13827f94fb83c9bc0a7efef1c29bfbe1c117c8c99e5e"

# The colours of some objects of a class in an image, one answer an object.
ColorsOf = Callable[[str, Sequence[Detection]], list[str]]


@dataclasses.dataclass(frozen=True)
class Verdict:
    """correct: of the image. reasons: why not, a line each. kept: the objects that counted, by class."""

    correct: bool
    reasons: tuple[str, ...]
    kept: Mapping[str, Sequence[Detection]]


def stored_colors(name: str, objects: Sequence[Detection]) -> list[str]:
    """The colour answers that were stored with the detections."""
    for found in objects:
        if found.color is None:
            raise UserError(f"a detected {name} lacks 'color', for which the prompt asks")
    return [found.color for found in objects]


def judge(
    detections: Iterable[Detection],
    metadata: Mapping[str, Any],
    colors_of: ColorsOf = stored_colors,
    *,
    threshold: float = 0.3,
    counting_threshold: float = 0.9,
    max_objects: int = 16,
    max_overlap: float = 1.0,
    position_threshold: float = 0.1,
) -> Verdict:
    """Whether one image, by its detections in any order, is what its prompt asks for.

    All clauses of `include` must hold and none of `exclude` fire; clauses are independent, so that one object
    can satisfy two. Colour and position look at a clause's `count` most confident objects only.
    """
    least = counting_threshold if metadata["tag"] == "counting" else threshold
    kept = keep(detections, least, max_objects, max_overlap)
    reasons: list[str] = []
    matched: list[
        Sequence[Detection] | None
    ] = []  # the objects of each clause, None where it failed
    for clause in metadata.get("include", []):
        name, count = clause["class"], clause["count"]
        found = kept.get(name, [])[:count]
        failure = None
        if len(found) < count:
            failure = f"expected {name}>={count}, found {len(found)}"
        if failure is None and "color" in clause:
            failure = _color_failure(clause, colors_of(name, found))
        if failure is None and "position" in clause:
            relation, target = clause["position"]
            failure = _position_failure(name, found, relation, matched[target], position_threshold)
        if failure is not None:
            reasons.append(failure)
        matched.append(found if failure is None else None)
    for clause in metadata.get("exclude", []):
        name, count = clause["class"], clause["count"]
        number = len(kept.get(name, []))
        if number >= count:
            reasons.append(f"expected {name}<{count}, found {number}")
    return Verdict(not reasons, tuple(reasons), kept)


def keep(
    detections: Iterable[Detection], threshold: float, max_objects: int, max_overlap: float
) -> dict[str, list[Detection]]:
    """The objects that count, by class, the most confident first.

    Those with a score above `threshold`, at most `max_objects` a class (of equal scores the later detection
    is first), and with `max_overlap` < 1 none that overlaps a more confident one by that much (IoU).
    """
    by_class: dict[str, list[Detection]] = {}
    for found in detections:
        if np.float32(found.score) > threshold:
            by_class.setdefault(found.name, []).append(found)
    kept = {}
    for name, objects in by_class.items():
        order = np.argsort(np.float32([found.score for found in objects]), kind="stable")[::-1]
        chosen: list[Detection] = []
        for i in order[:max_objects]:
            box = objects[i].box
            if max_overlap >= 1 or all(iou(other.box, box) < max_overlap for other in chosen):
                chosen.append(objects[i])
        kept[name] = chosen
    return kept


def iou(a: Sequence[float], b: Sequence[float]) -> np.float32:
    """Intersection over union of two boxes whose last pixels belong to them (width x1 - x0 + 1)."""
    a, b = np.float32(a), np.float32(b)

    def area(corner, opposite):
        return np.maximum(opposite - corner + 1, 0).prod()

    shared = area(np.maximum(a[:2], b[:2]), np.minimum(a[2:], b[2:]))
    union = area(a[:2], a[2:]) + area(b[:2], b[2:]) - shared
    return shared / union if union else np.float32(0)


def relations(
    a: Sequence[float], b: Sequence[float], position_threshold: float = 0.1
) -> tuple[str, ...]:
    """Where box a lies as seen from box b: none, one or two of RELATIONS, in their order.

    The offset of the centres, less `position_threshold` times both sizes along each axis, must be more than
    half of the whole offset's length.
    """
    a, b = np.float32(a), np.float32(b)
    offset = (a[:2] + a[2:]) / 2 - (b[:2] + b[2:]) / 2
    sizes = np.abs(a[2:] - a[:2]) + np.abs(b[2:] - b[:2])
    clear = np.maximum(np.abs(offset) - position_threshold * sizes, 0) * np.sign(offset)
    if np.all(np.abs(clear) < 1e-3):
        return ()
    dx, dy = clear / np.linalg.norm(offset)
    holds = (dx < -0.5, dx > 0.5, dy < -0.5, dy > 0.5)
    return tuple(relation for relation, true in zip(RELATIONS, holds, strict=True) if true)


def _color_failure(clause: Mapping[str, Any], answers: Sequence[str]) -> str | None:
    name, color, count = clause["class"], clause["color"], clause["count"]
    number = answers.count(color)
    if number >= count:
        return None
    listed = ", ".join(f"{answers.count(c)} {c}" for c in COLORS if c in answers)
    return f"expected {color} {name}>={count}, found {number} {color}; and {listed}"


def _position_failure(name, found, relation, targets, position_threshold) -> str | None:
    """Every object must stand so to every object of the clause that is referred to."""
    if targets is None:
        return f"no target for {name} to be {relation}"
    for a in found:
        for b in targets:
            true = relations(a.box, b.box, position_threshold)
            if relation not in true:
                return f"expected {name} {relation} target, found {' and '.join(true)} target"
    return None


def are_official(prompts: Iterable[Mapping[str, Any]]) -> bool:
    """Whether metadata of prompts, any number of each, are those of the benchmark and all of them."""
    lines = sorted({json.dumps(metadata, sort_keys=True) for metadata in prompts})
    return hashlib.sha256("\n".join(lines).encode()).hexdigest() == PROMPTS_SHA256


def summarize(judged: Sequence[tuple[Mapping[str, Any], bool]]) -> dict[str, Any]:
    """Scores, as fractions, of images given as (metadata of the prompt, correct).

    tasks: share of correct images of each task that occurs; overall: the mean of these, not of the images;
    prompt_any: share of prompts with a correct image. Images of equal metadata are of one prompt.
    """
    if not judged:
        raise UserError("there is no image to score; give at least one")
    tasks: dict[str, list[bool]] = {tag: [] for tag in TASKS}
    prompts: dict[str, list[bool]] = {}
    for metadata, correct in judged:
        tasks.setdefault(metadata["tag"], []).append(correct)
        prompts.setdefault(json.dumps(metadata), []).append(correct)
    tasks = {tag: answers for tag, answers in tasks.items() if answers}
    scores = {tag: sum(answers) / len(answers) for tag, answers in tasks.items()}
    return {
        "tasks": scores,
        "overall": sum(scores.values()) / len(scores),
        "image_accuracy": sum(correct for _, correct in judged) / len(judged),
        "prompt_any": sum(map(any, prompts.values())) / len(prompts),
        "counts": {tag: [sum(answers), len(answers)] for tag, answers in tasks.items()},
        "images": len(judged),
        "prompts": len(prompts),
        "complete": len(prompts) == PROMPTS
        and all(len(answers) == IMAGES_PER_PROMPT for answers in prompts.values()),
    }
