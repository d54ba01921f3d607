"""GenEval's six tasks over coloured shapes (`imgen.data.scenes`), in its metadata and judged by its rules.

Combinations that training shows and those that it holds out are apart; a single object has no combination, so
that its prompts are the same in both. Scores are called geneval_shapes and compare with nothing published.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from imgen.data.scenes import TASKS, Ask, Noun, asks, asks_held_out, caption
from imgen.data.shapes import COLOUR_NAMES, SHAPE_NAMES
from imgen.evaluation.detectors.detector import Detections, named
from imgen.evaluation.prompts import geneval

IMAGES_PER_TASK = 60


def prompts(held_out: bool, per_task: int = IMAGES_PER_TASK, seed: int = 0) -> list[Ask]:
    """Draws what `per_task` images of each task are asked for, task after task: each ask as often as any
    other, give or take one, in an order that is the seed's."""
    rng, drawn = np.random.default_rng(seed), []
    for task in TASKS:
        single = task == "single_object"
        found = [ask for ask in asks(task) if single or asks_held_out(ask) == held_out]
        order = np.concatenate(
            [rng.permutation(len(found)) for _ in range(-(-per_task // len(found)))]
        )
        drawn += [found[i] for i in order[:per_task]]
    return drawn


def metadata(ask: Ask) -> dict[str, Any]:
    """Writes an ask as a line of evaluation_metadata.jsonl: the second noun is the target that the first
    refers to."""
    include = [_clause(noun) for noun in ask.nouns]
    if ask.relation is not None:
        include = include[::-1]
        include[1]["position"] = [ask.relation, 0]
    found = {"tag": ask.task, "include": include, "prompt": caption(ask)}
    if ask.task == "counting":
        (clause,) = include
        found["exclude"] = [{"class": clause["class"], "count": clause["count"] + 1}]
    return found


def _clause(noun: Noun) -> dict[str, Any]:
    clause = {"class": SHAPE_NAMES[noun.shape], "count": noun.count}
    return clause if noun.colour is None else clause | {"color": COLOUR_NAMES[noun.colour]}


def correct(ask: Ask, found: Detections, threshold: float, counting_threshold: float) -> bool:
    """Says whether an image, by its detections, shows what was asked for. thresholds: the detector's."""
    return geneval.judge(
        named(found, SHAPE_NAMES),
        metadata(ask),
        threshold=threshold,
        counting_threshold=counting_threshold,
    ).correct


def score(asked: Sequence[Ask], verdicts: Sequence[bool]) -> dict[str, float]:
    """Returns {"overall": the tasks' mean, task: share of its images that are right}."""
    judged = [(metadata(ask), bool(right)) for ask, right in zip(asked, verdicts, strict=True)]
    found = geneval.summarize(judged)
    return {"overall": found["overall"], **found["tasks"]}
