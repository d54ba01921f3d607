"""Image files that Pillow doesn't write, built by hand."""

import struct
import zlib

import numpy as np


def tiff(
    samples: np.ndarray,
    sample_format: int = 1,
    white_is_zero: bool = False,
    bits: int | None = None,
) -> bytes:
    """An uncompressed TIFF of samples [H, W] or [H, W, 3]; sample_format: 1 unsigned, 2 signed, 3 float."""
    samples = np.ascontiguousarray(samples)
    height, width, channels = (*samples.shape, 1)[:3]
    data, bits = samples.tobytes(), bits or samples.dtype.itemsize * 8
    photometric = 2 if channels == 3 else 0 if white_is_zero else 1
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: photometric, 273: None, 277: channels,
            278: height, 279: len(data), 339: sample_format}  # fmt: skip
    tables = 8 + 2 + 12 * len(tags) + 4  # where what is too long for a tag begins
    tags[273] = tables + 12
    out = b"II*\0" + struct.pack("<IH", 8, len(tags))
    for tag, value in tags.items():
        per_channel = tag in (258, 339) and channels == 3
        content = tables + (6 if tag == 339 else 0) if per_channel else value
        kind = 3 if tag in (258, 259, 262, 277, 339) else 4
        out += struct.pack("<HHI", tag, kind, 3 if per_channel else 1) + struct.pack("<I", content)
    return out + struct.pack("<I6H", 0, *[bits] * 3, *[sample_format] * 3) + data


def png16(samples: np.ndarray) -> bytes:
    """A PNG of uint16 samples [H, W, C]: grey, grey and alpha, RGB or RGBA."""
    height, width, channels = samples.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    header = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    return png_of((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))


def png_of(*chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG file of these chunks."""
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )
