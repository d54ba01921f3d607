"""FID's Inception as a feature network: with the published weights, or with random ones."""

import logging
import math
from pathlib import Path
from typing import Any

import jax
import numpy as np

from imgen.errors import UserError
from imgen.evaluation.networks import inception_input
from imgen.evaluation.networks.feature_network import FeatureNetwork
from imgen.evaluation.networks.inception import SHA256, WIDTHS, Inception, abstract_params
from imgen.params import files as weights
from imgen.params import paths

PUBLISHED = "pt_inception-2015-12-05-6726825d.pth"
CONVERTED = "inception.safetensors"
HOW = (
    f"get {PUBLISHED} (release fid_weights of mseitzer/pytorch-fid on GitHub) and convert it once: "
    f"python -m imgen.convert --system inception --checkpoint {PUBLISHED} --out DIR; then give "
    f"DIR/{CONVERTED}"
)
log = logging.getLogger("imgen.evaluate")


def inception(dialect: str, weights_file: str | Path | None) -> FeatureNetwork:
    """Reads FID's Inception; named by its dialect ("adm", "pytorch_fid") with the published weights only.

    Other weights, and those whose file doesn't tell, give "adm_other_weights" and no FID; a warning says so.
    weights_file: what imgen.convert wrote. Raises UserError, in one line that says what to do, without it.
    """
    inception_input.find(dialect)
    if weights_file is None:
        raise UserError(f"Inception's weights are needed: {HOW}")
    path = Path(weights_file).expanduser()
    if path.suffix != ".safetensors":
        there = (
            "has to be converted first" if path.is_file() else "is not what imgen.convert writes"
        )
        raise UserError(f"{path} {there}: {HOW}")
    if not path.is_file():
        raise UserError(f"{path}: no such weights file; {HOW}")
    params, about = weights.read(path, abstract_params(), "inception")
    if about.get("source_sha256", "").startswith(SHA256):
        return _inception(dialect, dialect, params)
    name = f"{dialect}_other_weights"
    log.warning(
        "%s was not converted from %s: the network is called %s, its distances are no FID and are not "
        "comparable with published ones", path, PUBLISHED, name,
    )  # fmt: skip
    return _inception(name, dialect, params)


def random_inception(dialect: str = "adm", seed: int = 0) -> FeatureNetwork:
    """Gives the same network with random weights, for work without the published ones and for tests.

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
