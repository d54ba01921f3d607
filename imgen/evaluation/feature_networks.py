"""The networks that metrics can look at images with, by name."""

from imgen.errors import UserError
from imgen.evaluation import cifar_features
from imgen.evaluation.networks import FeatureNetwork

FEATURES = ("adm", "pytorch_fid", "random_inception", "fd_cifar")


def load_network(name: str, weights: str | None = None) -> FeatureNetwork:
    """weights: the network's file, where it needs one. Raises UserError where there is no such network, or
    no such file."""
    if name not in FEATURES:
        raise UserError(f"--features {name!r} is none of {', '.join(FEATURES)}")
    if name == "fd_cifar":
        if not weights:
            raise UserError(
                "fd_cifar needs --features_weights FILE, which python -m "
                "imgen.evaluation.train_cifar_features writes"
            )
        return cifar_features.load(weights)
    raise UserError(f"--features {name!r} is not built yet")
