"""Zero-shot classification with CLIP embeddings, each class described by several prompts. float64 numpy.

Sources: Radford et al. 2021, "Learning Transferable Visual Models From Natural Language Supervision";
LAION-AI/CLIP_benchmark, metrics/zeroshot_classification.py. GenEval names the colour of an object by it.
"""

import numpy as np

from imgen.evaluation.sets.feature_matrix import checked, unit

LOGIT_SCALE = 100.0


def class_embeddings(prompts: np.ndarray) -> np.ndarray:
    """Text embeddings of each class's prompts [classes, prompts, D] -> a unit vector for each class
    [classes, D]: the direction of the mean of unit vectors."""
    return unit(unit(prompts).mean(axis=1))


def zero_shot_logits(images: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """100 cosines of image embeddings [N, D] with class embeddings [classes, D]: [N, classes].

    Raises UserError for embeddings that are not finite floats of one width.
    """
    images = checked(images, "image embeddings")
    classes = checked(classes, "class embeddings", images.shape[1])
    return LOGIT_SCALE * unit(images) @ unit(classes).T
