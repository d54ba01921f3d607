"""Frozen networks whose features metrics compare."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from imgen import paths, weights
from imgen.errors import UserError
from imgen.evaluation import inception_input
from imgen.evaluation.inception import WIDTHS, Inception, abstract_params

PUBLISHED = "pt_inception-2015-12-05-6726825d.pth"
CONVERTED = "inception.safetensors"
HOW = (
    f"get {PUBLISHED} (release fid_weights of mseitzer/pytorch-fid on GitHub) and convert it once: "
    f"python -m imgen.convert --system inception --checkpoint {PUBLISHED} --out DIR; then give "
    f"DIR/{CONVERTED}"
)


@dataclasses.dataclass(frozen=True)
class FeatureNetwork:
    """A frozen network that metrics look at images with.

    name, resize, dtype: as `records.Protocol` words them. params: numpy arrays. apply: pure, jittable;
    params and uint8 images [B, H, W, 3] -> float32 features [B, D] by name. widths: D of each. hash: the
    first 8 hex digits of the SHA-256 of params, for files of reference statistics. prepare: what is done to
    each image on the host before, uint8 [H, W, 3] both ways.
    """

    name: str
    resize: str
    dtype: str
    params: Any
    apply: Callable[[Any, jax.Array], dict[str, jax.Array]]
    widths: dict[str, int]
    hash: str
    prepare: Callable[[np.ndarray], np.ndarray] | None = None


def inception(dialect: str, weights_file: str | Path | None) -> FeatureNetwork:
    """FID's Inception with the published weights; its name is the dialect's, "adm" or "pytorch_fid".

    weights_file: what imgen.convert wrote. Raises UserError, in one line that says what to do, without it.
    """
    inception_input.find(dialect)
    if weights_file is None:
        raise UserError(f"Inception's weights are needed: {HOW}")
    path = Path(weights_file)
    if path.suffix != ".safetensors":
        there = (
            "has to be converted first" if path.is_file() else "is not what imgen.convert writes"
        )
        raise UserError(f"{path} {there}: {HOW}")
    if not path.is_file():
        raise UserError(f"{path}: no such weights file; {HOW}")
    params = weights.read(path, abstract_params(), "inception")
    return _inception(dialect, dialect, params)


def random_inception(dialect: str = "adm", seed: int = 0) -> FeatureNetwork:
    """The same network with random weights, for work without the published ones and for tests.

    Distances of its features are no FID and its name says so. The recipe, in the order of the parameters'
    paths, from one numpy.random.RandomState(seed): kernels are normal with variance 2 / fan-in (the head's
    1 / fan-in), rounded to float32; norms do nothing and biases are 0.
    """
    rng = np.random.RandomState(seed)
    drawn = {}
    for path, leaf in sorted(paths.flatten(abstract_params()).items()):
        layer, name = path.rsplit("/", 1)
        if name == "kernel":
            gain = 1.0 if layer == "fc" else 2.0
            deviation = math.sqrt(gain / math.prod(leaf.shape[:-1]))
            drawn[path] = (deviation * rng.standard_normal(leaf.shape)).astype(np.float32)
        else:
            one = name in ("scale", "var")
            drawn[path] = np.full(leaf.shape, float(one), np.float32)
    return _inception("random_inception", dialect, paths.unflatten(drawn))


def _inception(name: str, dialect: str, params: Any) -> FeatureNetwork:
    found = inception_input.find(dialect)

    def apply(params: Any, images: jax.Array) -> dict[str, jax.Array]:
        features = Inception().apply({"params": params}, inception_input.pixels(images, found))
        return {key: features[key] for key in WIDTHS}

    return FeatureNetwork(
        name, found.resize, "float32", params, apply, dict(WIDTHS), weights.fingerprint(params)
    )
