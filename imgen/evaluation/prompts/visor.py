"""VISOR: are both objects of a spatial prompt there, and where the prompt says?

Decisions and scores over detections, without a model (Gokhale et al. 2022; microsoft/VISOR: the notebook's
decision for an image, the scores of visor.py). All scores are percentages.
"""

import dataclasses
import functools
import itertools
import logging
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from imgen.errors import UserError
from imgen.evaluation.prompts.detections import COCO_CLASSES, Detection

log = logging.getLogger("imgen.evaluate")
RELATIONS = ("to the left of", "to the right of", "above", "below")
PROMPTS, IMAGES_PER_PROMPT = 25280, 4


@dataclasses.dataclass(frozen=True)
class Prompt:
    """One record of SR2D. relation: of RELATIONS, "and" or "single"; objects: one or two COCO names."""

    unique_id: int
    objects: tuple[str, ...]
    relation: str
    text: str


@functools.cache
def sr2d_prompts() -> tuple[Prompt, ...]:
    """SR2D's 31,680 prompts; their index is the unique id. The 25,280 with a relation are scored."""
    prompts: list[Prompt] = []

    def add(objects: tuple[str, ...], relation: str) -> None:
        articled = [f"{'an' if name[0] in 'aeiou' else 'a'} {name}" for name in objects]
        text = f" {relation} ".join(articled)
        prompts.append(Prompt(len(prompts), objects, relation, text))

    for a, b in itertools.combinations(COCO_CLASSES, 2):
        for relation in (*RELATIONS, "and"):
            add((a, b), relation)
            add((b, a), relation)
    for name in COCO_CLASSES:
        add((name,), "single")
    return tuple(prompts)


def judge(
    detections: Iterable[Detection], prompt: Prompt, threshold: float = 0.1
) -> dict[str, Any]:
    """One image as the official results file stores it, from the detector's boxes in its order.

    Counts boxes with a score above `threshold` (in float32, the detector's type). classes [n] and centroid
    [n][2] of these, recall: how many of the prompt's objects are there, sra: 1 if any pair of a box of the
    first and one of the second object stands in the relation by their centroids, else 0.
    """
    kept = [found for found in detections if np.float32(found.score) > threshold]
    classes = [found.name for found in kept]
    centroids = [
        [(found.box[0] + found.box[2]) / 2, (found.box[1] + found.box[3]) / 2] for found in kept
    ]
    groups = [
        [at for name, at in zip(classes, centroids, strict=True) if name == wanted]
        for wanted in prompt.objects
    ]
    sra = len(groups) == 2 and any(
        _stands(a, prompt.relation, b) for a, b in itertools.product(*groups)
    )
    return {
        "classes": classes,
        "centroid": centroids,
        "recall": sum(map(bool, groups)),
        "sra": int(sra),
    }


def _stands(a: Sequence[float], relation: str, b: Sequence[float]) -> bool:
    """Whether centroid a stands in the relation to centroid b; y grows downwards."""
    match relation:
        case "to the left of":
            return a[0] < b[0]
        case "to the right of":
            return a[0] > b[0]
        case "above":
            return a[1] < b[1]
        case "below":
            return a[1] > b[1]
    return False


def summarize(judged: Iterable[tuple[Prompt, Sequence[str], int]]) -> dict[str, Any]:
    """Scores in percent of images given as (prompt, classes found, sra); only spatial prompts count.

    OA: both objects found (OA_A, OA_B: the first, the second); VISOR_cond: the relation holds, of images with
    both; VISOR_uncond: of all images; VISOR_n: prompts with at least n images where it holds.
    """
    first, second, both = [], [], []
    right: dict[int, int] = {}  # images where the relation holds, by prompt
    images: dict[int, int] = {}
    for prompt, classes, sra in judged:
        if prompt.relation not in RELATIONS:
            continue
        a, b = (name in classes for name in prompt.objects)
        first.append(a)
        second.append(b)
        both.append(a and b)
        right[prompt.unique_id] = right.get(prompt.unique_id, 0) + (sra if a and b else 0)
        images[prompt.unique_id] = images.get(prompt.unique_id, 0) + 1
    if not both:
        raise UserError("there is no image of a spatial prompt to score; give at least one")
    if not any(both):
        log.warning("no image shows both objects: VISOR_cond is given as 0")
    return {
        "OA": 100 * sum(both) / len(both),
        "OA_A": 100 * sum(first) / len(both),
        "OA_B": 100 * sum(second) / len(both),
        "VISOR_uncond": 100 * sum(right.values()) / len(both),
        "VISOR_cond": 100 * sum(right.values()) / max(sum(both), 1),
        **{
            f"VISOR_{n}": 100 * sum(number >= n for number in right.values()) / len(right)
            for n in range(1, IMAGES_PER_PROMPT + 1)
        },
        "images": len(both),
        "prompts": len(right),
        "complete": len(images) == PROMPTS
        and all(number == IMAGES_PER_PROMPT for number in images.values()),
    }
