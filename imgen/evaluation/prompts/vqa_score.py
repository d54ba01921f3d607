"""VQAScore: how likely a model that answers questions says "Yes" when asked whether an image shows a text.

Source: Lin et al. 2024, "Evaluating Text-to-Visual Generation with Image-to-Text Generation";
linzhiqiu/t2v_metrics v3.0, clip_t5_model.py. The answer of CLIP-FlanT5 ends in the end-of-sequence token, so
that its score is about the root of the probability of "Yes".
"""

import numpy as np

IGNORED = -100


def vqa_score(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """exp(-mean cross-entropy) over the answer's tokens, in float64: [N].

    logits: [N, L, V]. labels: int [N, L], IGNORED on padding; every answer has at least one token.
    """
    logits, counted = np.asarray(logits, np.float64), labels != IGNORED
    log_p = logits - logits.max(axis=-1, keepdims=True)
    log_p -= np.log(np.exp(log_p).sum(axis=-1, keepdims=True))
    chosen = np.take_along_axis(log_p, np.where(counted, labels, 0)[..., None], axis=-1)[..., 0]
    return np.exp(np.sum(chosen * counted, axis=-1) / counted.sum(axis=-1))
