"""What samples are measured against: images that go through the network, or a file of their statistics or
embeddings."""

import dataclasses
import logging
import re
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from imgen.errors import UserError
from imgen.evaluation.images.image_set import ImageSet, of_npz
from imgen.evaluation.networks.extractor import NEEDS, Extractor, Features
from imgen.evaluation.networks.network import FeatureNetwork
from imgen.evaluation.results.records import FID_NETWORKS
from imgen.evaluation.sets import statistics_file as reference
from imgen.evaluation.sets.distances import REFERENCE_FEATURES
from imgen.evaluation.sets.feature_matrix import checked
from imgen.evaluation.sets.statistics_file import Reference

log = logging.getLogger("imgen.evaluate")
# Files of statistics that publications measure against: as records.json calls them, and the network that they
# are of, which they don't name themselves. Nothing but the file's name tells them: no hash of them is known.
PUBLISHED_FILES = {
    "VIRTUAL_imagenet64_labeled": ("adm_imagenet64", "adm"),
    "VIRTUAL_imagenet128_labeled": ("adm_imagenet128", "adm"),
    "VIRTUAL_imagenet256_labeled": ("adm_imagenet256", "adm"),
    "VIRTUAL_imagenet512": ("adm_imagenet512", "adm"),
    "adm_in256_stats": ("adm_imagenet256", "adm"),
}
PUBLISHED_SETS = {"imagenet2012/validation at 256x256": "imagenet_val_256"}
VERSION = re.compile(r":\d+(\.\d+)*(?=/)")  # of a TFDS data set, "imagenet2012:5.1.0/validation"
# What metrics of reconstructions are called by their reference, a run's own split or a published one.
OF_RECONSTRUCTIONS = {
    "eval": "val",
    "imagenet_val_256": "val",
    "train": "train",
    "adm_imagenet256": "train",
}


@dataclasses.dataclass(frozen=True)
class ReferenceFeatures(Features):
    """network: what looked at the images; None where a file of statistics doesn't tell."""

    network: str | None = None


def published_name(images: ImageSet) -> str:
    """What results call a reference of images; a published data set has its name in any TFDS version."""
    height, width = images.size
    unversioned = VERSION.sub("", images.name)
    return PUBLISHED_SETS.get(f"{unversioned} at {width}x{height}", images.name)


def reconstruction_name(metric: str, reference: str | None) -> str:
    """ "fid" -> "rfid_val" or "rfid_train", two numbers that don't compare; "rfid" for other references, and
    None for metrics without one."""
    which = OF_RECONSTRUCTIONS.get(reference)
    return f"r{metric}_{which}" if which else f"r{metric}"


def reference_features(
    where: str | None,
    open_set: Callable[[], ImageSet],
    needs: Iterable[str],
    extractor: Extractor,
    batch_size: int,
) -> ReferenceFeatures:
    """Features of a reference, with its name as results call it.

    where: a file of statistics, or of embeddings where those are needed (.npy [N, D], as CMMD's authors
    publish them); for anything else, `open_set` opens the images. needs: keys of `features.NEEDS`.

    Raises UserError for statistics of another network, or that lack what is needed.
    """
    needs = tuple(needs)
    embeddings = "embeddings" in needs
    if where and embeddings and where.endswith(".npy"):
        found = read_embeddings(where, extractor.network)
        return ReferenceFeatures(Path(where).stem, len(found), embeddings=found)
    statistics = where and not embeddings and where.endswith(".npz")
    if statistics and (path := Path(where).expanduser()).is_file():
        stored = reference.read(path)
        if stored.pool is not None:
            return _of_file(path, stored, needs, extractor, batch_size)
    images = open_set()
    found = extractor(images, needs, batch_size, most_features=REFERENCE_FEATURES)
    named = {"name": published_name(images), "network": extractor.network.name}
    return ReferenceFeatures(**{**vars(found), **named})


def read_embeddings(path: str | Path, network: FeatureNetwork) -> np.ndarray:
    """Those of a network in an .npy file, floats [N, D]. Raises UserError for anything else."""
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


def check_reference(
    where: str | None,
    open_set: Callable[[], ImageSet],
    network: FeatureNetwork,
    needs: Iterable[str] = (),
    num: int | None = None,
) -> str:
    """Opens a reference and looks no further: its name; warns of statistics that don't tell their network.
    num: of its images, where so many were asked for.

    Raises UserError for what `reference_features` would refuse before it looks at images, and for a `num` of
    what is of all images already.
    """
    needs = tuple(needs)
    if where and where.endswith(".npy") and set(needs) <= {"embeddings"}:
        _check_whole(where, num)
        if needs:
            read_embeddings(where, network)
        return Path(where).stem
    statistics = where and "embeddings" not in needs and where.endswith(".npz")
    if statistics and (path := Path(where).expanduser()).is_file():
        stored = reference.read(path)
        if stored.pool is not None:
            _check_whole(path, num)
            _check(path, stored, network, needs)
            name, of = _identity(path, stored)
            if of is None:
                log.warning(
                    "%s does not name the network of its statistics: they are taken for those of %s; were "
                    "they of another, the distance would mean nothing (pytorch-fid writes pytorch_fid's)",
                    path, network.name,
                )  # fmt: skip
            return name
    return published_name(open_set())


def _check_whole(path: str | Path, num: int | None) -> None:
    if num is not None:
        raise UserError(
            f"{path} holds statistics or embeddings of all its images, not of the first {num}: leave out "
            "--reference_num"
        )


def _of_file(
    path: Path, stored: Reference, needs: tuple[str, ...], extractor: Extractor, batch_size: int
) -> ReferenceFeatures:
    network = extractor.network
    _check(path, stored, network, needs)
    found = {need: getattr(stored, need) for need in needs}
    if "features" in needs and stored.features is None and stored.has_images:
        images = of_npz(path)
        taken = extractor(images, ["features"], batch_size, most_features=REFERENCE_FEATURES)
        found["features"] = taken.features
    name, of = _identity(path, stored)
    return ReferenceFeatures(name, stored.pool.count, **found, network=of)


def _identity(path: Path, stored: Reference) -> tuple[str, str | None]:
    """What results call a file of statistics, and the network that it is of; None where nothing tells, and
    then its name is that of the file, which is no published one's. A published file is known by its name
    alone: whoever gives other statistics that name is believed."""
    if stored.network:
        return stored.images or path.stem, stored.network
    return PUBLISHED_FILES.get(path.stem, (path.name, None))


def _check(path: Path, stored: Reference, network: FeatureNetwork, needs: tuple[str, ...]) -> None:
    """That the statistics are of this network, as far as the file tells (what doesn't tell is Inception's),
    and all that is needed."""
    of = _identity(path, stored)[1]
    if of and of != network.name:
        raise UserError(
            f"{path} holds statistics of {of}, samples are looked at by {network.name}: give --features and "
            f"weights of {of}, or another --reference"
        )
    if of is None and network.name not in FID_NETWORKS:
        raise UserError(
            f"{path} names no network, so its statistics are taken for Inception's and samples are looked at "
            f"by {network.name}: write statistics of it with --write_reference"
        )
    if stored.network_hash and stored.network_hash != network.hash:
        raise UserError(
            f"{path} holds statistics of other weights of {network.name} ({stored.network_hash}, not "
            f"{network.hash}): write them anew with --write_reference"
        )
    sizes = {"pool": stored.pool, "spatial": stored.spatial}
    for need, gaussian in sizes.items():
        width = network.widths.get(NEEDS[need])
        if gaussian is not None and width is not None and len(gaussian.mean) != width:
            raise UserError(
                f"{path}: its {need} statistics have {len(gaussian.mean)} features, {network.name} gives "
                f"{width}: they are of another network"
            )
    there = {need for need in needs if getattr(stored, need) is not None}
    there |= {"features"} if stored.has_images else set()
    if lacking := [need for need in needs if need not in there]:
        raise UserError(
            f"{path} holds no statistics of {', '.join(lacking)}: leave out the metrics that need them, give "
            "images as the --reference, or write statistics anew with --write_reference"
        )


def stored(features: Features, network: FeatureNetwork) -> Reference:
    """Features of a reference, to be written by `reference.write`."""
    return Reference(
        features.pool,
        features.spatial,
        features.features,
        features.name,
        network.name,
        network.hash,
    )


def needs_of_file(network: FeatureNetwork) -> tuple[str, ...]:
    """All that a file of statistics can hold of a network's features."""
    return tuple(n for n in ("pool", "spatial", "features") if NEEDS[n] in network.widths)
