"""Inception Score: exp of the mean KL(p(class | image) || p(class)), from Inception's logits.

Sources: Salimans et al. 2016, "Improved Techniques for Training GANs"; openai/guided-diffusion,
evaluations/evaluator.py; toshas/torch-fidelity, metric_isc.py. Logits are pool3 @ W of the last layer over
all 1008 outputs, without its bias: the implementations leave it out.
"""

import logging
from typing import Any

import numpy as np

from imgen.errors import UserError
from imgen.evaluation.definition import Metric
from imgen.evaluation.sets.feature_matrix import ROWS, checked

log = logging.getLogger("imgen.evaluate")
SPLIT = 5000  # consecutive samples that one of the scores which are averaged is of


def inception_score(logits, split_size: int = SPLIT) -> float:
    """Gives the mean over consecutive groups of `split_size` logits [N, C], as ADM's evaluator takes it.

    The last group may be smaller and counts as much as the others. A group must hold all classes: samples
    that were drawn class by class must be mixed first, or the score falls to that of few classes.
    1d-tokenizer scores reconstructions as one group: split_size=len(logits).

    Raises UserError for logits that are not finite floats [N, C].
    """
    logits = checked(logits, "logits")
    if split_size < 1:
        raise UserError(f"split_size {split_size}: it must be at least 1")
    starts = range(0, len(logits), split_size)
    return float(np.mean([_score(logits[start : start + split_size]) for start in starts]))


def inception_score_shuffled(logits, splits: int = 10, seed: int = 2020) -> tuple[float, float]:
    """Gives mean and population deviation over equal groups of shuffled logits [N, C], as torch-fidelity.

    Raises UserError for logits that are not finite floats [N, C], and for fewer than `splits` of them.
    """
    logits = checked(logits, "logits")
    if len(logits) < splits:
        raise UserError(
            f"{len(logits)} samples make no {splits} groups for the Inception Score: draw more"
        )
    order = np.random.RandomState(seed).permutation(len(logits))
    ends = [i * len(logits) // splits for i in range(splits + 1)]
    scores = [_score(logits[order[a:b]]) for a, b in zip(ends, ends[1:], strict=False)]
    return float(np.mean(scores)), float(np.std(scores))


def _score(logits: np.ndarray) -> float:
    """exp(mean_i sum_c p_ic log p_ic - sum_c q_c log q_c), where q is the mean of p."""
    negative_entropies, total = 0.0, np.zeros(logits.shape[1])
    for start in range(0, len(logits), ROWS):
        block = logits[start : start + ROWS].astype(np.float64)
        block -= block.max(axis=1, keepdims=True)
        block -= np.log(np.exp(block).sum(axis=1, keepdims=True))  # log p
        p = np.exp(block)
        negative_entropies += np.einsum("ic,ic->", p, block)
        total += p.sum(axis=0)
    q = total / len(logits)
    marginal = np.sum(q[q > 0] * np.log(q[q > 0]))
    return float(np.exp(negative_entropies / len(logits) - marginal))


def sorted_by_class(logits, split_size: int = SPLIT) -> bool:
    """Whether groups of `split_size` consecutive logits [N, C] hold other classes than the whole does: what
    tells them from the whole, in the likeliest class, is more than ten times what chance would give.

    Of n samples in g groups, 2 n times the mutual information of group and class is chi-squared of
    (g - 1)(c - 1) degrees of freedom where the order is chance.
    """
    _, classes = np.unique(np.argmax(logits, axis=1), return_inverse=True)
    group = np.arange(len(classes)) // split_size
    joint = np.zeros((group[-1] + 1, classes.max() + 1))
    np.add.at(joint, (group, classes), 1)
    expected = joint.sum(1, keepdims=True) * joint.sum(0) / len(classes)
    there = joint > 0
    statistic = 2 * np.sum(joint[there] * np.log(joint[there] / expected[there]))
    return statistic > 10 * max((joint.shape[0] - 1) * (joint.shape[1] - 1), 1)


def _of_groups(samples, reference: None) -> dict[str, float]:
    score = inception_score(samples.logits)
    if len(samples.logits) > SPLIT and sorted_by_class(samples.logits):
        log.warning(
            "the samples are sorted by class: the Inception Score of %d at a time is %.4g, of all as one "
            "group %.4g; mix them, or compare the latter", SPLIT, score, _of_one(samples, None)["is"],
        )  # fmt: skip
    return {"is": score}


def _groups(samples, reference: None) -> dict[str, Any]:
    number = -(-len(samples.logits) // SPLIT)
    one = {} if number == 1 else {"score_of_one_group": _of_one(samples, None)["is"]}
    return {"splits": number, "split_size": SPLIT, **one}


def _of_one(samples, reference: None) -> dict[str, float]:
    return {"is": inception_score(samples.logits, len(samples.logits))}


INCEPTION_SCORE = Metric(("logits",), _of_groups, compares=False, settings=_groups)
# Of reconstructions, whose order is that of the data and often class by class: one score of all of them, as
# 1d-tokenizer takes it.
INCEPTION_SCORE_OF_ALL = Metric(
    ("logits",), _of_one, compares=False, of="reconstructions",
    settings=lambda samples, reference: {"splits": 1, "split_size": len(samples.logits)},
)  # fmt: skip
