"""Pictures written as they are drawn: PNG files, and samples.npz of all of them."""

import logging
import re
import zipfile
from pathlib import Path

import numpy as np

from imgen.report import pixels

log = logging.getLogger("imgen.sample")
KEPT = 128  # pictures that are kept in memory, for the grid
_NUMBERED = re.compile(r"\d{6,}\.png")


class SampleWriter:
    """Writes OUT/000000.png, ... and OUT/samples.npz, whose arr_0 holds them all; use as a context manager.

    num: pictures, [height, width, 3] of `size`. samples.npz appears when the block ends without an error, and
    then what numbered pictures an earlier, larger set left behind goes.
    """

    def __init__(self, out: Path, num: int, size: tuple[int, int]):
        self._out, self._num, self._shape = out, num, (num, *size, 3)
        self._unfinished = out / ".unfinished-samples.npz"
        self.done, self._first = 0, []

    def __enter__(self) -> "SampleWriter":
        self._archive = zipfile.ZipFile(self._unfinished, "w")
        self._rows = self._archive.open("arr_0.npy", "w", force_zip64=True)
        header = dict(descr="|u1", fortran_order=False, shape=self._shape)
        np.lib.format.write_array_header_1_0(self._rows, header)
        return self

    def write(self, pictures: np.ndarray) -> None:
        """Adds uint8 [B, H, W, 3]. Raises ValueError for another shape or more than there should be."""
        if pictures.shape[1:] != self._shape[1:] or self.done + len(pictures) > self._num:
            raise ValueError(f"pictures {pictures.shape} after {self.done} of {self._shape}")
        self._rows.write(np.ascontiguousarray(pictures, np.uint8).tobytes())
        for number, picture in enumerate(pictures, self.done):
            pixels.save_png(self._out / f"{number:06d}.png", picture)
        self._first += [*pictures[: max(KEPT - self.done, 0)]]
        self.done += len(pictures)

    def first(self, num: int) -> np.ndarray:
        """Returns the first pictures, at most KEPT."""
        return np.stack(self._first[:num])

    def finish(self, **arrays: np.ndarray) -> None:
        """Adds arrays to samples.npz, which is whole then. Raises ValueError where pictures are missing."""
        if self.done != self._num:
            raise ValueError(f"{self.done} pictures, not {self._num}")
        self._rows.close()
        for name, array in arrays.items():
            with self._archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.asarray(array), allow_pickle=False)
        self._archive.close()
        self._unfinished.replace(self._out / "samples.npz")
        remove_others(self._out, self._num)

    def __exit__(self, error_type, *_) -> None:
        if not self._rows.closed:
            self._rows.close()
        self._archive.close()
        self._unfinished.unlink(missing_ok=True)


def remove_others(out: Path, num: int) -> None:
    """Removes the numbered pictures of an earlier set that a set of `num` has not."""
    paths = [path for path in out.iterdir() if _NUMBERED.fullmatch(path.name)]
    left = [path for path in paths if int(path.stem) >= num]
    for path in left:
        path.unlink()
    if left:
        log.info("removed %d pictures of an earlier, larger set from %s", len(left), out)
