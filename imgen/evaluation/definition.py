"""What a metric is: what it must know of images, and how it is computed from that."""

import dataclasses
from collections.abc import Callable
from typing import Any

PAIRS = ("pairs",)  # the `needs` of a metric of images and their originals


@dataclasses.dataclass(frozen=True)
class Metric:
    """A metric, as an entry of `imgen.evaluation.metrics.METRICS`.

    needs: keys of `extractor.NEEDS`, or PAIRS.
    run: of sets, (samples, reference) -> {name: value}, both `extractor.Features`. Of pairs, images and
        originals [B, H, W, 3] in [0, 1] and LPIPS' weights {trunk: params} -> {name: [B]}, to be jitted.
    compares: whether it needs a reference; `run` gets None for it otherwise.
    of: "samples", "reconstructions" (in the order of the data), "pairs", or "prompts", where the reference
        are texts.
    settings: of sets, (samples, reference) -> what a result should tell besides.
    """

    needs: tuple[str, ...]
    run: Callable[..., dict[str, Any]]
    compares: bool = True
    of: str = "samples"
    settings: Callable[..., dict[str, Any]] = lambda samples, reference: {}
