"""Inception Score: exp of the mean KL(p(class | image) || p(class)), from Inception's logits.

Sources: Salimans et al. 2016, "Improved Techniques for Training GANs"; openai/guided-diffusion,
evaluations/evaluator.py; toshas/torch-fidelity, metric_isc.py. Logits are pool3 @ W of the last layer over
all 1008 outputs, without its bias: the implementations leave it out.
"""

import numpy as np

from imgen.errors import UserError
from imgen.evaluation.sets.feature_matrix import ROWS, checked


def inception_score(logits, split_size: int = 5000) -> float:
    """Mean over consecutive groups of `split_size` logits [N, C], as ADM's evaluator takes it.

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
    """Mean and population deviation over equal groups of shuffled logits [N, C], as torch-fidelity.

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
