"""All metrics of images by name, and the one way in which they are measured: by `imgen.evaluate` and while
something trains. A new metric is a file, and an entry here."""

import dataclasses
import time
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from imgen.errors import UserError
from imgen.evaluation.definition import Metric
from imgen.evaluation.images.image_set import ImageSet
from imgen.evaluation.networks.extractor import (
    NEEDS,
    Extractor,
    Features,
    check_number,
    check_served,
    one_pass,
)
from imgen.evaluation.pairs.lpips import LPIPS
from imgen.evaluation.pairs.reconstruction import PSNR, SSIM, SSIM_UNIFORM7, SSIM_UNIFORM7_RANGE2
from imgen.evaluation.prompts.clip_score import CLIP_SCORE
from imgen.evaluation.sets.cmmd import CMMD
from imgen.evaluation.sets.frechet import FID, SFID
from imgen.evaluation.sets.inception_score import INCEPTION_SCORE, INCEPTION_SCORE_OF_ALL
from imgen.evaluation.sets.kernel_distance import KID
from imgen.evaluation.sets.precision_recall import PRECISION_RECALL


def of_reconstructions(metric: Metric) -> Metric:
    """Gives a metric of samples as one of reconstructions."""
    return dataclasses.replace(metric, of="reconstructions")


METRICS: dict[str, Metric] = {
    "fid": FID,
    "sfid": SFID,
    "is": INCEPTION_SCORE,
    "precision_recall": PRECISION_RECALL,
    "kid": KID,
    "cmmd": CMMD,
    "rfid": of_reconstructions(FID),
    "rsfid": of_reconstructions(SFID),
    "ris": INCEPTION_SCORE_OF_ALL,
    "rprecision_recall": of_reconstructions(PRECISION_RECALL),
    "rkid": of_reconstructions(KID),
    "rcmmd": of_reconstructions(CMMD),
    "psnr": PSNR,
    "ssim": SSIM,
    "ssim_uniform7": SSIM_UNIFORM7,
    "ssim_uniform7_range2": SSIM_UNIFORM7_RANGE2,
    "lpips": LPIPS,
    "clipscore": CLIP_SCORE,
}


class HasFeatures(Protocol):
    """What sets are measured against: a `Reference`, or prompts."""

    def features(self, extractor: Extractor, needs: Iterable[str], batch_size: int) -> Features: ...


@dataclasses.dataclass(frozen=True)
class Measured:
    """What a metric came to: values by name, settings that a result should tell, the features that they are
    of (reference: None of a metric without one), and the seconds that it took with the pass over its images.
    """

    metric: Metric
    values: dict[str, float]
    settings: dict[str, Any]
    samples: Features
    reference: Features | None
    extractor: Extractor
    seconds: float


def of_kind(*kinds: str) -> tuple[str, ...]:
    """Gives the names of METRICS that are of these kinds (`Metric.of`)."""
    return tuple(name for name, metric in METRICS.items() if metric.of in kinds)


def check_metrics(metrics: Iterable[str], known: Sequence[str], where: str) -> None:
    """Raises UserError for a metric that is none of the known ones."""
    for metric in metrics:
        if metric not in known:
            raise UserError(f"{where} {metric!r} is none of {', '.join(known)}")


def needs_of(metrics: Iterable[str], reference: bool = False) -> tuple[str, ...]:
    """Gives what metrics must know of samples, or of the reference, each once."""
    found = (METRICS[name] for name in metrics)
    needs = (need for metric in found if metric.compares or not reference for need in metric.needs)
    return tuple(dict.fromkeys(needs))


def by_extractor(
    metrics: Sequence[str], extractors: Sequence[Extractor]
) -> list[tuple[Extractor, list[str]]]:
    """Gives each extractor the metrics that it is the first to serve; leaves out those with none.

    Raises UserError for a metric that none serves.
    """
    own: dict[Extractor, list[str]] = {extractor: [] for extractor in extractors}
    for name in metrics:
        needs = METRICS[name].needs
        serves = [e for e in extractors if all(NEEDS[n] in e.network.widths for n in needs)]
        if not serves:
            check_served(extractors[0].network, needs)
        own[serves[0]].append(name)
    return [(extractor, names) for extractor, names in own.items() if names]


def measure(
    images: ImageSet,
    reference: HasFeatures | None,
    metrics: Sequence[str],
    extractors: Sequence[Extractor],
    batch_size: int,
) -> list[Measured]:
    """Measures a set of images, which are read or drawn once.

    metrics: keys of METRICS, not of pairs (`pair_means`). extractors: networks, see `by_extractor`.
    batch_size: of all devices together.

    Raises UserError as `Extractor` and `Reference` do.
    """
    looks = by_extractor(metrics, extractors)
    for _, names in looks:
        check_number(images, needs_of(names))
    against = [
        reference.features(extractor, needs, batch_size)
        if (needs := needs_of(names, reference=True))
        else None
        for extractor, names in looks
    ]
    wanted = [(extractor, needs_of(names)) for extractor, names in looks]
    results = []
    for (extractor, names), samples, known in zip(
        looks, one_pass(images, wanted, batch_size), against, strict=True
    ):
        for name in names:
            metric, began = METRICS[name], time.monotonic()
            compared = known if metric.compares else None
            values = metric.run(samples, compared)
            settings = metric.settings(samples, compared)
            seconds = samples.seconds + time.monotonic() - began
            results.append(
                Measured(metric, values, settings, samples, compared, extractor, seconds)
            )
    return results
