"""What every statistic asks of its features: a matrix [N, D] of finite floating-point numbers."""

import jax.numpy as jnp
import numpy as np

from imgen.errors import UserError

ROWS = 4096  # rows looked at in one go, to bound memory


def checked(features, name: str = "features", width: int | None = None) -> np.ndarray:
    """`features` on the host, unchanged, once they are known to be [N, D] and finite.

    name: what to call them in messages. width: D that they must have.

    Raises UserError for another number of axes, whole numbers (images, say), no rows, another width, NaN
    and infinity.
    """
    features = np.asarray(features)
    if not jnp.issubdtype(features.dtype, jnp.floating):
        raise UserError(
            f"the {name} are {features.dtype}, not floating point: give the outputs of a feature network, "
            "not images or labels"
        )
    if features.ndim != 2:
        raise UserError(f"the {name} have the shape {features.shape}, not [samples, features]")
    if not features.size:
        raise UserError(f"the {name} are empty {features.shape}: at least one sample is needed")
    if width is not None and features.shape[1] != width:
        raise UserError(
            f"the {name} have {features.shape[1]} numbers a sample, not {width}: take samples and reference "
            "through the same network"
        )
    for start in range(0, len(features), ROWS):
        finite = np.isfinite(features[start : start + ROWS]).all(axis=1)
        if not finite.all():
            bad = start + int(np.argmin(finite))
            raise UserError(
                f"the {name} of sample {bad} are not finite: look for NaN in that image or in the network's "
                "weights"
            )
    return features


def checked_pair(samples, reference) -> tuple[np.ndarray, np.ndarray]:
    """Both as `checked`, and of one width."""
    reference = checked(reference, "reference's features")
    return checked(samples, "samples' features", reference.shape[1]), reference


def unit(embeddings: np.ndarray) -> np.ndarray:
    """Of length 1 along the last axis, in float64. Raises UserError for zero vectors."""
    embeddings = np.asarray(embeddings, np.float64)
    lengths = np.linalg.norm(embeddings, axis=-1, keepdims=True)
    if not lengths.all():
        raise UserError(
            "an embedding is zero and has no direction: look for a broken image or network"
        )
    return embeddings / lengths
