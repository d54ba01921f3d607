"""CLIPScore: the cosine of an image's and a text's CLIP embedding, cut at 0 and scaled. float64 numpy.

Sources: Hessel et al. 2021, "CLIPScore: A Reference-free Evaluation Metric for Image Captioning";
torchmetrics, multimodal/clip_score.py. Published numbers differ in model, prefix and scale: a result's name
must tell them.
"""

import dataclasses

import numpy as np

from imgen.errors import UserError
from imgen.evaluation.definition import Metric
from imgen.evaluation.networks.extractor import Features
from imgen.evaluation.sets.feature_matrix import checked, unit

PAPER_SCALE = 2.5
PAPER_PREFIX = "A photo depicts"
PERCENT = 100.0  # of torchmetrics, and of papers on generation


def cosines(images, texts) -> np.ndarray:
    """Of each image with its text, [N, D] both: [N]. Raises UserError for unlike numbers or widths."""
    images = checked(images, "image embeddings")
    texts = checked(texts, "text embeddings", images.shape[1])
    if len(images) != len(texts):
        raise UserError(f"{len(images)} images but {len(texts)} texts: each image needs its own")
    return np.sum(unit(images) * unit(texts), axis=-1)


def clip_score(images, texts, scale: float = PERCENT) -> np.ndarray:
    """scale * max(cosine, 0) of each pair: [N]. PAPER_SCALE with PAPER_PREFIX is Hessel's."""
    return scale * np.maximum(cosines(images, texts), 0.0)


def score_name(prefix: str = "", scale: float = PERCENT) -> str:
    """The metric of a result: "clipscore/100", "clipscore/2.5/a_photo_depicts". The model is its network."""
    words = "_".join(prefix.lower().split())
    return f"clipscore/{scale:g}" + (f"/{words}" if words else "")


@dataclasses.dataclass(frozen=True)
class Texts(Features):
    """Embeddings of prompts, one an image. prefix: put before each. scale: of the score."""

    prefix: str = ""
    scale: float = PERCENT


def _run(samples: Features, texts: Texts) -> dict[str, float]:
    scores = clip_score(samples.embeddings, texts.embeddings, texts.scale)
    return {score_name(texts.prefix, texts.scale): float(scores.mean())}


CLIP_SCORE = Metric(
    ("embeddings",), _run, of="prompts",
    settings=lambda samples, texts: {"prefix": texts.prefix, "scale": texts.scale},
)  # fmt: skip


def ref_clip_score(score: np.ndarray, reference_cosine: np.ndarray) -> np.ndarray:
    """RefCLIPScore: harmonic mean of the CLIPScore (PAPER_SCALE) [N] and the caption's largest cosine with a
    reference caption [N], at least 0. 0 where both are."""
    nearest = np.maximum(reference_cosine, 0.0)
    total = score + nearest
    return np.where(total > 0, 2 * score * nearest / np.where(total > 0, total, 1.0), 0.0)
