"""Hashes by which a data set is known again."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

WHOLE = 256 * 2**20  # bytes up to which all contents are read
SAMPLED = 10_000  # files of a larger set of which a part is read
PART = 4096  # bytes of their beginning and of their end


def hash_files(files: Sequence[str], root: str | Path, more: bytes = b"") -> str:
    """Returns 16 hexadecimal digits of files' names below `root`, sizes and contents, and of `more`.

    Of more than WHOLE bytes in all, the contents are the beginning and end of SAMPLED evenly spaced files.
    """
    digest = hashlib.sha256(more)
    sizes = [os.path.getsize(file) if os.path.isfile(file) else -1 for file in files]
    whole = sum(sizes) <= WHOLE
    step = 1 if whole else -(-len(files) // SAMPLED)
    for number, (file, size) in enumerate(zip(files, sizes, strict=True)):
        digest.update(f"{os.path.relpath(file, root)}\0{size}\0".encode(errors="surrogateescape"))
        if size >= 0 and number % step == 0:
            digest.update(_contents(file, whole))
    return digest.hexdigest()[:16]


def _contents(file: str, whole: bool) -> bytes:
    try:
        with open(file, "rb") as opened:
            if whole:
                return opened.read()
            head = opened.read(PART)
            opened.seek(max(0, os.path.getsize(file) - PART))
            return head + opened.read(PART)
    except OSError:
        return b"unreadable"
