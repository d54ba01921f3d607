"""Many samples of a generator, on all devices and processes: image i depends on the seed and on i only.

To the bit where every device has equally many at a time; another number changes the rounding, and with it now
and then a code that is drawn.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding

from imgen.errors import UserError
from imgen.evaluation.images.image_set import Batches, ImageSet
from imgen.evaluation.networks.extractor import local_rows
from imgen.parallel.prefetch import to_global

LABELS = ("balanced", "random")


def num_classes(conditioner) -> int:
    """Raises UserError for a generator that is not conditioned on classes."""
    classes = getattr(conditioner, "num_classes", None)
    if classes is None:
        raise UserError(
            "this run is conditioned on text features; samples are drawn of classes only so far"
        )
    return classes


def sample_labels(num: int, classes: int, how: str = "balanced", seed: int = 0) -> np.ndarray:
    """The class of each sample, int32 [num]: "balanced", each in turn, as MAR and 1d-tokenizer have equally
    many of each; "random", drawn, as LlamaGen. The first ones don't depend on `num`."""
    if how not in LABELS:
        raise UserError(f"labels {how!r} are neither of {', '.join(LABELS)}")
    if how == "balanced":
        return np.arange(num, dtype=np.int32) % classes
    return np.random.default_rng((seed, classes)).integers(classes, size=num, dtype=np.int32)


def sample_set(
    draw: Callable[..., jax.Array],
    params: Any,
    tokenizer_params: Any,
    labels: np.ndarray,
    key: jax.Array,
    *,
    name: str,
    size: tuple[int, int],
    sharding: NamedSharding,
) -> ImageSet:
    """Images of all labels [N] in their order as a set, drawn whenever it is read; the last batch is drawn
    whole.

    draw: a `generator_task.sampler`. size: (height, width); sharding: of batches.
    """

    def read(batch_size: int) -> Batches:
        own = batch_size // jax.process_count()
        for start in range(0, len(labels), batch_size):
            ids = start + own * jax.process_index() + np.arange(own)
            batch = to_global({"label": labels[ids % len(labels)], "id": ids}, sharding)
            drawn = draw(params, tokenizer_params, {"label": batch["label"]}, key, batch["id"])
            yield local_rows(drawn), (ids < len(labels)).astype(np.float32)

    return ImageSet(name, len(labels), size, read)
