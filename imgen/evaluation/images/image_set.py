"""Images that are measured, or that others are measured against: of an .npz file, a folder or a data set.

All images of a set have one size, so that a network's program is compiled once; what doesn't is refused with
the name of the first image that differs, unless it is cropped as ADM does (`size`).
"""

import dataclasses
import functools
import logging
import re
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import jax
import numpy as np

from imgen.data import make_source
from imgen.data.image_files import list_images, read_picture, suffixes
from imgen.data.loader import eval_batches
from imgen.data.preprocess import EvalImages, center_crop
from imgen.data.source import BadExample, Source
from imgen.errors import UserError
from imgen.parallel.hosts import gather_rows

log = logging.getLogger("imgen.evaluate")
OVERVIEWS = ("grid.png", "tokens.png")  # that imgen.sample writes beside the images
# TFDS's name may hold a version, its split a colon: "tfds:cifar10:3.0.2:train[:1000]".
DATASET = re.compile(r"tfds:([^:]+(?::\d+(?:\.\d+)*)?):(.+)")
Batches = Iterator[tuple[np.ndarray, np.ndarray]]
Fit = Callable[[np.ndarray], np.ndarray]  # an image of any size to one of the size that is wanted


@dataclasses.dataclass(frozen=True)
class ImageSet:
    """Images in a fixed order.

    name: what results call it. num: how many there are. size: (height, width).
    read: the size of a batch of all processes together, a multiple of their number -> batches in order:
        this process's rows, uint8 [B, H, W, 3], and their mask [B], 0 on padding. Every process gets
        equally many batches.
    files: that they are read from; empty where that isn't known, as of TFDS.
    stems: of a folder's images, their paths in it without suffix; None where images are no files.
    """

    name: str
    num: int
    size: tuple[int, int]
    read: Callable[[int], Batches]
    files: Sequence[str | Path] = ()
    stems: tuple[str, ...] | None = None


def open_images(
    where: str,
    *,
    num: int | None = None,
    size: int | None = None,
    data_dir: str | None = None,
    fit: Fit | None = None,
) -> ImageSet:
    """Opens the images of FILE.npz, of a folder, or of "tfds:NAME:SPLIT".

    num: the first so many; None for all. size: crop to it. fit: what is done to the images of a folder or a
    data set where no size is asked for; those of a data set need one of the two.

    Raises UserError for what is missing, unreadable, not uint8, of unlike sizes, or fewer than `num`.
    """
    if match := DATASET.fullmatch(where):
        if size is None and fit is None:
            raise UserError(f"{where}: --image_size is needed, to crop its images to")
        source = make_source("tfds", match[2], dataset=match[1], data_dir=data_dir)
        if size is None:
            size = fit(np.zeros((8, 8, 3), np.uint8)).shape[:2]
            return of_source(source, functools.partial(_fitted, fit=fit), size, num)
        return of_source(source, EvalImages(size), size, num)
    path = Path(where).expanduser()
    if path.is_dir():
        return of_folder(path, num, functools.partial(center_crop, size=size) if size else fit)
    if not path.is_file():
        raise UserError(
            f"{where}: there is no such file or folder of images, nor is it tfds:NAME:SPLIT"
        )
    if size is not None:
        raise UserError(f"{where}: images of a file are not cropped: leave out --image_size")
    return of_npz(path, num)


def of_source(
    source: Source,
    transform: Callable[[dict, Any], dict],
    size: int | tuple[int, int],
    num: int | None = None,
    **reading: Any,
) -> ImageSet:
    """Opens the first `num` images of a data source; reading: further arguments of `eval_batches`."""
    total = _counted(num, len(source), source.name)

    def read(batch_size: int) -> Batches:
        batches = eval_batches(
            source, transform, batch_size=batch_size, num_examples=total,
            process_index=jax.process_index(), process_count=jax.process_count(), **reading,
        )  # fmt: skip
        for batch in batches:
            yield batch["image"], batch["mask"]

    size = (size, size) if isinstance(size, int) else size
    name = _named(source.name, total, len(source))
    return ImageSet(name, total, size, read, source.files)


class _Files(Source):
    """The image files of a folder and those below it, as a data source; any that can't be used ends it."""

    def __init__(self, root: Path, fit: Fit | None):
        listing = list_images(root)
        self.name, self._fit, self._warned = str(root), fit, False
        self.files = [path for path in listing.files if path.name not in OVERVIEWS]
        if listing.left_out:
            log.warning("%s", listing.summary())
        if not self.files:
            raise UserError(f"{root} holds no image ({', '.join(sorted(suffixes()))})")
        self.size = self._read(self.files[0]).shape[:2]
        self.stems = tuple(str(path.relative_to(root).with_suffix("")) for path in self.files)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> dict:
        path = self.files[index]
        image = self._read(path)
        if image.shape[:2] != self.size:
            (height, width), (h, w) = image.shape[:2], self.size
            raise UserError(
                f"{path} is {width}x{height}, {self.files[0].name} {w}x{h}: give --image_size to crop all "
                "of them to, or images of one size"
            )
        return {"image": image}

    def _read(self, path: Path) -> np.ndarray:
        try:
            image, header = read_picture(path, name=str(path))
        except BadExample as bad:
            raise UserError(
                f"{path} is no readable image ({bad.reason}): mend or remove it"
            ) from bad
        if header.transparent and not self._warned:
            self._warned = True
            log.warning("%s is transparent: it is put on white, as are all of %s", path, self.name)
        return self._fit(image) if self._fit else image


def _as_it_is(example: dict, rng) -> dict:
    return example


def _fitted(example: dict, rng, fit: Fit) -> dict:
    return {"image": fit(example["image"])}


def of_folder(root: Path, num: int | None = None, fit: Fit | None = None) -> ImageSet:
    """Opens the image files below a folder, in the natural order of their paths; see `open_images`."""
    files = _Files(root, fit)
    images = of_source(files, _as_it_is, files.size, num)
    return _of_bytes(dataclasses.replace(images, stems=files.stems[: images.num]))


def of_npz(path: Path, num: int | None = None) -> ImageSet:
    """Opens `arr_0` of an .npz file, uint8 [N, H, W, 3], read from the disk batch by batch."""
    total, height, width, _ = _read(path, lambda file: _header(path, file))
    num = _counted(num, total, path)
    name = _named(path, num, total)
    row = height * width * 3

    def read(batch_size: int) -> Batches:
        own = batch_size // jax.process_count()
        before = own * jax.process_index()
        with _open(path) as archive, _member(path, archive) as file:
            _header(path, file)
            for start in range(0, num, batch_size):
                rows = min(batch_size, num - start)
                data = np.frombuffer(_bytes(path, file, rows * row), np.uint8).reshape(
                    rows, height, width, 3
                )
                yield padded(data[before : before + own], own)

    return _of_bytes(ImageSet(name, num, (height, width), read, [path]))


def _of_bytes(images: ImageSet) -> ImageSet:
    """The same images; once all are read, UserError if they were no bytes before they were cast to uint8: all
    are 0 (of [0, 1), or black), 0 and 1 (not scaled, or masks), or 0, 1 and 255 (of [-1, 1])."""

    def read(batch_size: int) -> Batches:
        seen = np.zeros(256, bool)
        for rows, mask in images.read(batch_size):
            if not seen[2:255].any():
                seen[rows[mask > 0].ravel()] = True
            yield rows, mask
        seen = np.concatenate(gather_rows(seen[None].astype(np.uint8))).any(axis=0)
        found = set(np.flatnonzero(seen).tolist())
        if found and (found <= {0, 1} or found <= {0, 1, 255} and {1, 255} <= found):
            what = {1: "0 only, black", 2: "0 and 1 only", 3: "0, 1 and 255 only, as of [-1, 1]"}
            raise UserError(
                f"{images.name} holds {what[len(found | {0})]}; images are 0..255: scale them before they "
                "are cast to uint8"
            )

    return dataclasses.replace(images, read=read)


def padded(rows: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Gives rows [n, ...] with zeros up to [length, ...], and the mask [length]."""
    mask = (np.arange(length) < len(rows)).astype(np.float32)
    return np.pad(rows, ((0, length - len(rows)), *((0, 0),) * (rows.ndim - 1))), mask


def _open(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except Exception as e:  # zipfile, zlib and numpy raise unlike errors on damaged files
        raise UserError(f"{path}: not a readable .npz file ({e})") from e


def _read(path: Path, what: Callable) -> Any:
    with _open(path) as archive:
        if "arr_0.npy" not in archive.namelist():
            raise UserError(f"{path} holds no images (arr_0): give a file or a folder that does")
        with _member(path, archive) as file:
            return what(file)


def _member(path: Path, archive: zipfile.ZipFile) -> IO[bytes]:
    try:
        return archive.open("arr_0.npy")
    except Exception as e:
        raise UserError(f"{path}: arr_0 is not readable ({e}); fetch or write it again") from e


def _bytes(path: Path, file, count: int) -> bytes:
    try:
        data = file.read(count)
    except Exception as e:
        raise UserError(f"{path}: damaged ({e}); fetch or write it again") from e
    if len(data) != count:
        raise UserError(f"{path}: damaged (it ends early); fetch or write it again")
    return data


def _header(path: Path, file) -> tuple[int, ...]:
    """The shape of the array that begins here. Raises UserError unless it is uint8 [N, H, W, 3]."""
    try:
        version = np.lib.format.read_magic(file)
        parse = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }
        shape, fortran, dtype = parse[version](file)
    except Exception as e:
        raise UserError(f"{path}: arr_0 is not a readable array ({e})") from e
    if dtype != np.uint8 or len(shape) != 4 or shape[-1] != 3 or not all(shape):
        raise UserError(
            f"{path}: arr_0 is {dtype} {shape}, not uint8 images [N, H, W, 3]; round to 0..255 before saving"
        )
    if fortran:
        raise UserError(f"{path}: arr_0 is in Fortran's order: save np.ascontiguousarray(arr_0)")
    return shape


def _named(name: str | Path, num: int, total: int) -> str:
    """What results call the first `num` of `total` images."""
    return f"{name}[:{num}]" if num < total else str(name)


def _counted(num: int | None, total: int, name: str | Path) -> int:
    if num is not None and num > total:
        raise UserError(f"{name} has {total} images, not {num}: ask for fewer")
    return total if num is None else num
