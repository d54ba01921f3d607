"""Files of reference statistics, so that real images need not go through the network again.

Keys: `mu` and `sigma` as pytorch-fid writes them; ADM's VIRTUAL_*.npz adds `mu_s` and `sigma_s` (sFID) and
`arr_0`, 10,000 of the images, for precision and recall (read them by `image_sets.of_npz`); our own add `n`,
`images` (what they are of), `network`, `network_hash` and `features`, those of some images, which serve
precision and recall and KID.

Source: openai/guided-diffusion, evaluations/README.md; mseitzer/pytorch-fid, fid_score.py.
"""

import dataclasses
import os
from pathlib import Path

import numpy as np

from imgen.errors import UserError
from imgen.evaluation.sets.feature_matrix import checked
from imgen.evaluation.sets.moments import Gaussian

ARRAYS = ("mu", "sigma", "mu_s", "sigma_s", "n", "images", "network", "network_hash", "features")


@dataclasses.dataclass(frozen=True)
class Reference:
    """What a file of statistics holds; None for what it does not.

    pool: of pool3 (FID). spatial: of the spatial features (sFID). features: float32 [M, D], pool3 of some
    images. images: the name of what they are of; network, network_hash: what looked at it; "" where unknown.
    has_images: whether there are images (arr_0) in the file.
    """

    pool: Gaussian | None = None
    spatial: Gaussian | None = None
    features: np.ndarray | None = None
    images: str = ""
    network: str = ""
    network_hash: str = ""
    has_images: bool = False


def read(path: str | Path) -> Reference:
    """A .npz file of statistics, its images and what else is in it left where they are.

    Raises UserError where the file is missing or damaged, or holds neither statistics nor images.
    """
    with _open(path) as arrays:
        there = arrays.files
        try:
            found = {key: arrays[key] for key in ARRAYS if key in there}
        except Exception as e:  # zip, zlib and numpy raise unlike errors on a damaged file
            raise UserError(f"{path}: damaged ({e}); fetch it again") from e
    has_images = "arr_0" in there
    count = _count(path, found["n"]) if "n" in found else None
    reference = Reference(
        pool=_gaussian(path, found, "mu", "sigma", count),
        spatial=_gaussian(path, found, "mu_s", "sigma_s", count),
        features=checked(found["features"], f"features in {path}") if "features" in found else None,
        images=str(found.get("images", "")),
        network=str(found.get("network", "")),
        network_hash=str(found.get("network_hash", "")),
        has_images=has_images,
    )
    if reference.pool is None and not has_images:
        others = ", ".join(there) or "nothing"
        raise UserError(
            f"{path} has neither statistics (mu, sigma) nor images (arr_0), only {others}"
        )
    return reference


def write(path: str | Path, reference: Reference) -> None:
    """Writes what there is, under the keys above. The file appears only when it is whole.

    Raises UserError where it cannot be written.
    """
    arrays = {key: getattr(reference, key) for key in ("images", "network", "network_hash")}
    for gaussian, suffix in ((reference.pool, ""), (reference.spatial, "_s")):
        if gaussian is not None:
            arrays |= {f"mu{suffix}": gaussian.mean, f"sigma{suffix}": gaussian.covariance}
            if gaussian.count is not None:
                arrays["n"] = gaussian.count
    if reference.features is not None:
        arrays["features"] = np.asarray(reference.features, np.float32)
    path = Path(path).expanduser()
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        with open(unfinished, "wb") as file:
            np.savez(file, **{key: np.asarray(value) for key, value in arrays.items()})
        os.replace(unfinished, path)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise UserError(f"cannot write {path} ({error})") from error


def _open(path: str | Path):
    if not Path(path).is_file():
        raise UserError(f"{path}: no such file of statistics")
    try:
        arrays = np.load(path, allow_pickle=False)
    except Exception as e:  # as above
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
