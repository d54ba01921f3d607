"""Metrics of a set of samples from its features, by the names that commands and configs use."""

import dataclasses
from collections.abc import Callable
from typing import Any

from imgen.errors import UserError
from imgen.evaluation.networks.extractor import Features
from imgen.evaluation.sets.cmmd import cmmd
from imgen.evaluation.sets.frechet import frechet_distance
from imgen.evaluation.sets.inception_score import inception_score
from imgen.evaluation.sets.kernel_distance import kernel_distance
from imgen.evaluation.sets.precision_recall import precision_recall

REFERENCE_FEATURES = 10_000  # images of the reference that precision and recall are measured with
SPLIT = 5000  # consecutive samples that one of the Inception Scores which are averaged is of
KID_SUBSETS, KID_SUBSET = 100, 1000  # how many, and of how many images where there are so many


def _fid(samples: Features, reference: Features) -> dict[str, float]:
    return {"fid": frechet_distance(samples.pool, reference.pool)}


def _sfid(samples: Features, reference: Features) -> dict[str, float]:
    return {"sfid": frechet_distance(samples.spatial, reference.spatial)}


def _inception_score(samples: Features, reference: None) -> dict[str, float]:
    return {"is": inception_score(samples.logits, SPLIT)}


def _inception_score_of_all(samples: Features, reference: None) -> dict[str, float]:
    return {"is": inception_score(samples.logits, len(samples.logits))}


def _splits(samples: Features, reference: None) -> dict[str, int]:
    return {"splits": -(-len(samples.logits) // SPLIT), "split_size": SPLIT}


def _one_split(samples: Features, reference: None) -> dict[str, int]:
    return {"splits": 1, "split_size": len(samples.logits)}


def _precision_recall(samples: Features, reference: Features) -> dict[str, float]:
    precision, recall = precision_recall(samples.features, reference.features)
    return {"precision": precision, "recall": recall}


def _kid_subsets(samples: Features, reference: Features) -> dict[str, int]:
    size = min(KID_SUBSET, len(samples.features), len(reference.features))
    return {"subsets": KID_SUBSETS, "subset_size": size}


def _kid(samples: Features, reference: Features) -> dict[str, float]:
    subsets = _kid_subsets(samples, reference)
    mean, deviation = kernel_distance(samples.features, reference.features, **subsets)
    return {"kid": mean, "kid_std": deviation}


def _cmmd(samples: Features, reference: Features) -> dict[str, float]:
    return {"cmmd": cmmd(samples.embeddings, reference.embeddings)}


@dataclasses.dataclass(frozen=True)
class Distance:
    """A metric of samples and a reference: what it needs of each (`features.NEEDS`), how it is measured
    ({name: value}), the names that it gives, and the settings that a result should tell."""

    samples: tuple[str, ...]
    reference: tuple[str, ...]
    measure: Callable[[Features, Features | None], dict[str, float]]
    names: tuple[str, ...]
    settings: Callable[[Features, Features | None], dict[str, Any]] = lambda *_: {}


DISTANCES = {
    "fid": Distance(("pool",), ("pool",), _fid, ("fid",)),
    "sfid": Distance(("spatial",), ("spatial",), _sfid, ("sfid",)),
    "is": Distance(("logits",), (), _inception_score, ("is",), _splits),
    "precision_recall": Distance(
        ("features",), ("features",), _precision_recall, ("precision", "recall")
    ),
    "kid": Distance(("features",), ("features",), _kid, ("kid", "kid_std"), _kid_subsets),
    "cmmd": Distance(("embeddings",), ("embeddings",), _cmmd, ("cmmd",)),
}

# Of reconstructions, whose order is that of the data and often class by class: the Inception Score is one of
# all of them, as 1d-tokenizer takes it.
OF_RECONSTRUCTIONS = DISTANCES | {
    "is": Distance(("logits",), (), _inception_score_of_all, ("is",), _one_split)
}


def needs_of_samples(metrics) -> tuple[str, ...]:
    return _unique(need for metric in metrics for need in DISTANCES[metric].samples)


def needs_of_reference(metrics) -> tuple[str, ...]:
    return _unique(need for metric in metrics for need in DISTANCES[metric].reference)


def _unique(needs) -> tuple[str, ...]:
    return tuple(dict.fromkeys(needs))


def check_metrics(metrics, known, where: str) -> None:
    """Raises UserError for a metric that is none of the known ones."""
    for metric in metrics:
        if metric not in known:
            raise UserError(f"{where} {metric!r} is none of {', '.join(known)}")
