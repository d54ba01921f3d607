"""LPIPS of images and their originals, named by the classifier that looks at them: lpips_vgg, lpips_alex."""

import jax

from imgen.evaluation.definition import PAIRS, Metric
from imgen.tokenizers.losses import lpips


def _run(x: jax.Array, y: jax.Array, weights: dict[str, lpips.Params]) -> dict[str, jax.Array]:
    [(trunk, params)] = weights.items()
    found = lpips.lpips(params, 2 * x - 1, 2 * y - 1, trunk=lpips.TRUNKS[trunk])
    return {f"lpips_{trunk}": found}


LPIPS = Metric(PAIRS, _run, of="pairs")
