"""The networks that metrics can look at images with, by name."""

from pathlib import Path

from imgen.errors import UserError
from imgen.evaluation.networks import cifar as cifar_features
from imgen.evaluation.networks import network as networks
from imgen.evaluation.networks.network import FeatureNetwork

FEATURES = ("adm", "pytorch_fid", "random_inception", "fd_cifar")


def load_network(name: str, weights: str | Path | None = None) -> FeatureNetwork:
    """weights: the network's file, where it has one. Raises UserError where there is no such network or file:
    nothing takes the place of weights that are missing."""
    if name not in FEATURES:
        raise UserError(f"--features {name!r} is none of {', '.join(FEATURES)}")
    if name == "random_inception":
        if weights:
            raise UserError(
                f"random_inception takes no weights: leave out {weights}, or --features adm"
            )
        return networks.random_inception()
    if name == "fd_cifar":
        if not weights:
            raise UserError(
                "fd_cifar needs --features_weights FILE, which python -m "
                "benchmarks.train_cifar_features writes"
            )
        return cifar_features.load(weights)
    return networks.inception(name, weights)
