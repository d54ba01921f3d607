"""What samples are measured against, from wherever it is: images that go through the network, a file of their
statistics (.npz) or of their embeddings (.npy).

Keys of statistics: `mu` and `sigma` as pytorch-fid writes them; ADM's VIRTUAL_*.npz adds `mu_s` and `sigma_s`
(sFID) and `arr_0`, 10,000 of the images, for precision and recall; our own add `n`, `images` (what they are
of), `network`, `network_hash` and `features`, those of some images, which serve precision and recall and KID.

Source: openai/guided-diffusion, evaluations/README.md; mseitzer/pytorch-fid, fid_score.py.
"""

import dataclasses
import logging
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from imgen.errors import UserError
from imgen.evaluation.images.image_set import ImageSet, of_npz
from imgen.evaluation.networks.extractor import NEEDS, Extractor, Features
from imgen.evaluation.networks.feature_network import FeatureNetwork
from imgen.evaluation.results import reference_names
from imgen.evaluation.results.records import FID_NETWORKS
from imgen.evaluation.sets.feature_matrix import checked
from imgen.evaluation.sets.moments import Gaussian

log = logging.getLogger("imgen.evaluate")
ARRAYS = ("mu", "sigma", "mu_s", "sigma_s", "n", "images", "network", "network_hash", "features")
IN_FILES = ("pool", "spatial", "features")  # what a file of statistics can hold
MOST_FEATURES = 10_000  # images of the reference that precision and recall are measured with


@dataclasses.dataclass(frozen=True)
class Statistics(Features):
    """What a file of statistics holds. has_images: whether there are images (arr_0) in the file too."""

    has_images: bool = False


class Reference:
    """What sets are measured against.

    where: a file of statistics, or of embeddings where those are needed (.npy [N, D], as CMMD's authors
    publish them); for anything else `open_images` opens the images as a network takes them. num: how many
    images were asked for, where a number was.
    """

    def __init__(
        self,
        where: str | None,
        open_images: Callable[[FeatureNetwork], ImageSet],
        num: int | None = None,
    ):
        self.where, self.open_images, self.num = where, open_images, num
        self._known: dict[Extractor, Features] = {}

    def check(self, network: FeatureNetwork, needs: Iterable[str] = ()) -> str:
        """Opens the reference and looks no further; gives its name. Warns of statistics that don't tell their
        network.

        Raises UserError for what `features` would refuse before it looks at images, and for a number of what
        is of all images already.
        """
        needs = tuple(needs)
        if self.where and self.where.endswith(".npy") and set(needs) <= {"embeddings"}:
            self._check_whole()
            if needs:
                read_embeddings(self.where, network)
            return Path(self.where).stem
        if (found := self.statistics(needs)) is None:
            return reference_names.of_images(self.open_images(network))
        self._check_whole()
        _check(self.where, found, network, needs)
        if not found.network:
            log.warning(
                "%s does not name the network of its statistics: they are taken for those of %s; were they "
                "of another, the distance would mean nothing (pytorch-fid writes pytorch_fid's)",
                self.where, network.name,
            )  # fmt: skip
        return found.name

    def features(self, extractor: Extractor, needs: Iterable[str], batch_size: int) -> Features:
        """Gives the features of the reference under a network, with its name as results call it; they are
        kept, so that images go through the network once.

        needs: keys of `extractor.NEEDS`. Raises UserError for statistics of another network, or that lack
        what is needed.
        """
        needs, known = tuple(needs), self._known.get(extractor)
        if known is None or any(getattr(known, need) is None for need in needs):
            self._known[extractor] = self._read(extractor, needs, batch_size)
        return self._known[extractor]

    def _read(self, extractor: Extractor, needs: tuple[str, ...], batch_size: int) -> Features:
        network = extractor.network
        if self.where and self.where.endswith(".npy") and "embeddings" in needs:
            found = read_embeddings(self.where, network)
            return Features(
                Path(self.where).stem, len(found), embeddings=found, network=network.name
            )
        if (found := self.statistics(needs)) is None:
            images = self.open_images(network)
            found = extractor(images, needs, batch_size, most_features=MOST_FEATURES)
            return dataclasses.replace(found, name=reference_names.of_images(images))
        _check(self.where, found, network, needs)
        if "features" in needs and found.features is None:
            images = of_npz(Path(self.where).expanduser())
            taken = extractor(images, ["features"], batch_size, most_features=MOST_FEATURES)
            found = dataclasses.replace(found, features=taken.features)
        return found

    def statistics(self, needs: Iterable[str] = ()) -> Statistics | None:
        """Reads those of a file; None where it holds images only, and of anything else."""
        if not self.where or "embeddings" in needs or not self.where.endswith(".npz"):
            return None
        path = Path(self.where).expanduser()
        found = read(path) if path.is_file() else None
        return found if found and found.pool is not None else None

    def _check_whole(self) -> None:
        if self.num is not None:
            raise UserError(
                f"{self.where} holds statistics or embeddings of all its images, not of the first {self.num}"
                ": leave out --reference_num"
            )


def read_embeddings(path: str | Path, network: FeatureNetwork) -> np.ndarray:
    """Reads those of a network in an .npy file, floats [N, D]. Raises UserError for anything else."""
    path = Path(path).expanduser()
    if not path.is_file():
        raise UserError(f"{path}: no such file of embeddings")
    try:
        found = np.load(path, allow_pickle=False)
    except Exception as e:  # numpy raises unlike errors on a damaged file
        raise UserError(f"{path}: not a readable .npy file ({e})") from e
    found, width = checked(found, f"embeddings in {path}"), network.widths["embedding"]
    if found.shape[1] != width:
        raise UserError(
            f"{path} holds embeddings of {found.shape[1]} numbers, {network.name} gives {width}: name the "
            "weights that they are of"
        )
    return found


def read(path: str | Path) -> Statistics:
    """Reads a .npz file of statistics, its images and what else is in it left where they are.

    Raises UserError where the file is missing or damaged, or holds neither statistics nor images.
    """
    with _open(path) as arrays:
        there = arrays.files
        try:
            found = {key: arrays[key] for key in ARRAYS if key in there}
        except Exception as e:  # zip, zlib and numpy raise unlike errors on a damaged file
            raise UserError(f"{path}: damaged ({e}); fetch it again") from e
    count = _count(path, found["n"]) if "n" in found else None
    pool = _gaussian(path, found, "mu", "sigma", count)
    if pool is None and "arr_0" not in there:
        others = ", ".join(there) or "nothing"
        raise UserError(
            f"{path} has neither statistics (mu, sigma) nor images (arr_0), only {others}"
        )
    name, network = str(found.get("images", "")), str(found.get("network", ""))
    if network:
        name = name or Path(path).stem
    else:
        name, network = reference_names.of_file(Path(path))
    return Statistics(
        name=name,
        num=count,
        pool=pool,
        spatial=_gaussian(path, found, "mu_s", "sigma_s", count),
        features=checked(found["features"], f"features in {path}") if "features" in found else None,
        network=network,
        network_hash=str(found.get("network_hash", "")),
        has_images="arr_0" in there,
    )


def write(path: str | Path, found: Features) -> None:
    """Writes the statistics that there are, under the keys above. The file appears only when it is whole.

    Raises UserError where it cannot be written.
    """
    arrays = {
        "images": found.name,
        "network": found.network,
        "network_hash": found.network_hash,
    }
    for gaussian, suffix in ((found.pool, ""), (found.spatial, "_s")):
        if gaussian is not None:
            arrays |= {f"mu{suffix}": gaussian.mean, f"sigma{suffix}": gaussian.covariance}
            if gaussian.count is not None:
                arrays["n"] = gaussian.count
    if found.features is not None:
        arrays["features"] = np.asarray(found.features, np.float32)
    path = Path(path).expanduser()
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        with open(unfinished, "wb") as file:
            np.savez(file, **{key: np.asarray(value) for key, value in arrays.items()})
        os.replace(unfinished, path)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise UserError(f"cannot write {path} ({error})") from error


def needs_of_file(network: FeatureNetwork) -> tuple[str, ...]:
    """Gives all that a file of statistics can hold of a network's features."""
    return tuple(need for need in IN_FILES if NEEDS[need] in network.widths)


def _check(
    path: str | Path, found: Statistics, network: FeatureNetwork, needs: tuple[str, ...]
) -> None:
    """Refuses statistics of another network, as far as the file tells (what doesn't tell is Inception's), and
    those that lack what is needed."""
    if found.network and found.network != network.name:
        raise UserError(
            f"{path} holds statistics of {found.network}, samples are looked at by {network.name}: give "
            f"--features and weights of {found.network}, or another --reference"
        )
    if not found.network and network.name not in FID_NETWORKS:
        raise UserError(
            f"{path} names no network, so its statistics are taken for Inception's and samples are looked at "
            f"by {network.name}: write statistics of it with --write_reference"
        )
    if found.network_hash and found.network_hash != network.hash:
        raise UserError(
            f"{path} holds statistics of other weights of {network.name} ({found.network_hash}, not "
            f"{network.hash}): write them anew with --write_reference"
        )
    for need in ("pool", "spatial"):
        gaussian, width = getattr(found, need), network.widths.get(NEEDS[need])
        if gaussian is not None and width is not None and len(gaussian.mean) != width:
            raise UserError(
                f"{path}: its {need} statistics have {len(gaussian.mean)} features, {network.name} gives "
                f"{width}: they are of another network"
            )
    there = {need for need in needs if getattr(found, need) is not None}
    there |= {"features"} if found.has_images else set()
    if lacking := [need for need in needs if need not in there]:
        raise UserError(
            f"{path} holds no statistics of {', '.join(lacking)}: leave out the metrics that need them, give "
            "images as the --reference, or write statistics anew with --write_reference"
        )


def _open(path: str | Path):
    if not Path(path).is_file():
        raise UserError(f"{path}: no such file of statistics")
    try:
        arrays = np.load(path, allow_pickle=False)
    except Exception as e:  # zip, zlib and numpy raise unlike errors on a damaged file
        raise UserError(f"{path}: not a readable .npz file ({e})") from e
    if not isinstance(arrays, np.lib.npyio.NpzFile):
        raise UserError(f"{path}: a single array, not an .npz file of statistics")
    return arrays


def _count(path, n: np.ndarray) -> int:
    if n.size != 1 or n.dtype.kind not in "iuf" or not n.item() >= 1 or n.item() % 1:
        raise UserError(
            f"{path}: n is {n.dtype} {n.shape}, not the number of images, one whole number"
        )
    return int(n.item())


def _gaussian(path, found: dict, mean_key: str, covariance_key: str, count) -> Gaussian | None:
    if mean_key not in found and covariance_key not in found:
        return None
    for key in (mean_key, covariance_key):
        if key not in found:
            raise UserError(f"{path} lacks {key}: statistics need both a mean and a covariance")
        if not np.issubdtype(found[key].dtype, np.floating) or not np.isfinite(found[key]).all():
            raise UserError(f"{path}: {key} is not made of finite numbers ({found[key].dtype})")
    mean, covariance = (found[key].astype(np.float64) for key in (mean_key, covariance_key))
    if mean.ndim != 1 or covariance.shape != 2 * mean.shape:
        raise UserError(
            f"{path}: {mean_key} has the shape {mean.shape}, {covariance_key} {covariance.shape}, not [D] "
            "and [D, D]"
        )
    if not np.allclose(covariance, covariance.T, rtol=1e-3, atol=1e-6 * np.abs(covariance).max()):
        raise UserError(f"{path}: {covariance_key} is not symmetric, so it is no covariance")
    return Gaussian(mean, covariance, count)
