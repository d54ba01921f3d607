"""The networks that metrics can look at images with, by name."""

import functools
from collections.abc import Callable
from pathlib import Path

from imgen.errors import UserError
from imgen.evaluation.networks import cifar, fid_inception
from imgen.evaluation.networks.feature_network import FeatureNetwork

Weights = str | Path | None


def _random_inception(weights: Weights) -> FeatureNetwork:
    if weights:
        raise UserError(
            f"random_inception takes no weights: leave out {weights}, or --features adm"
        )
    return fid_inception.random_inception()


def _fd_cifar(weights: Weights) -> FeatureNetwork:
    if not weights:
        raise UserError(
            "fd_cifar needs --features_weights FILE, which python -m benchmarks.train_cifar_features writes"
        )
    return cifar.load(weights)


NETWORKS: dict[str, Callable[[Weights], FeatureNetwork]] = {
    "adm": functools.partial(fid_inception.inception, "adm"),
    "pytorch_fid": functools.partial(fid_inception.inception, "pytorch_fid"),
    "random_inception": _random_inception,
    "fd_cifar": _fd_cifar,
}


def load_network(name: str, weights: Weights = None) -> FeatureNetwork:
    """Reads a network of NETWORKS. weights: its file, where it has one.

    Raises UserError where there is no such network or file: nothing takes the place of weights that are
    missing.
    """
    if name not in NETWORKS:
        raise UserError(f"--features {name!r} is none of {', '.join(NETWORKS)}")
    return NETWORKS[name](weights)
