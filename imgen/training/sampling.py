"""Many samples of a generator, on all devices and processes: image i depends on the seed and on i only.

To the bit where every device has equally many at a time; another number changes the rounding, and with it now
and then a code that is drawn.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding

from imgen.conditioning import Conditions
from imgen.evaluation.images.image_set import Batches, ImageSet
from imgen.parallel.hosts import local_rows
from imgen.parallel.prefetch import to_global


def sample_set(
    draw: Callable[..., jax.Array],
    params: Any,
    tokenizer_params: Any,
    conditions: Conditions,
    key: jax.Array,
    *,
    name: str,
    size: tuple[int, int],
    sharding: NamedSharding,
) -> ImageSet:
    """Returns the images of all N conditions in their order as a set, drawn whenever it is read; the last
    batch is drawn whole.

    draw: a `generator_task.sampler`. size: (height, width); sharding: of batches.
    """

    def read(batch_size: int) -> Batches:
        own = batch_size // jax.process_count()
        for start in range(0, len(conditions), batch_size):
            ids = start + own * jax.process_index() + np.arange(own)
            cond = to_global({**conditions.rows(ids), "id": ids}, sharding)
            own_ids = cond.pop("id")
            drawn = draw(params, tokenizer_params, cond, key, own_ids)
            yield local_rows(drawn), (ids < len(conditions)).astype(np.float32)

    return ImageSet(name, len(conditions), size, read)
