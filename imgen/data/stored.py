"""Stored latents: what `imgen.encode` writes and generator training reads.

A folder holds spec.json and the shards latents-KKKKK-of-NNNNN.array_record. A record is the label
(int32) followed by the latents of all variants of one image, C order, little endian:

    index       [V, *grid], uint16, or int32 where the vocabulary needs it
    bits        [V, *grid, D], eight to a byte, the first one most significant
    continuous  [V, *grid, C] float32, or [V, *grid, 2 C]: mean and log variance of the latents, of which
                training draws anew each time ("moments" in spec.json)
"""

import itertools
import json
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python.array_record_data_source import ArrayRecordDataSource
from array_record.python.array_record_module import ArrayRecordWriter

from imgen.data import preprocess
from imgen.data.source import BadExample, Source
from imgen.errors import UserError
from imgen.latents import LatentSpec

FORMAT = 1
_LABEL = np.dtype("<i4")


class _Coding:
    """Latents [V, *grid, ...] of one image <-> bytes."""

    def __init__(self, spec: LatentSpec, variants: int, moments: bool):
        self._kind = spec.kind
        channels = {"index": (), "bits": (spec.size,), "continuous": (spec.size * (1 + moments),)}
        self.shape = (variants, *spec.grid, *channels[spec.kind])
        self._limit = {"index": spec.size, "bits": 2, "continuous": None}[spec.kind]
        if spec.kind == "continuous":
            self._dtype = np.dtype("<f4")
        else:
            self._dtype = np.dtype("<u2" if spec.size <= 2**16 else "<i4")
        values = math.prod(self.shape)
        packed = spec.kind == "bits"
        self.num_bytes = -(-values // 8) if packed else values * self._dtype.itemsize

    def to_bytes(self, latents: np.ndarray) -> bytes:
        if latents.shape != self.shape:
            raise ValueError(f"latents of shape {latents.shape}, expected {self.shape}")
        if self._limit is not None and (latents.min() < 0 or latents.max() >= self._limit):
            raise ValueError(f"latents outside [0, {self._limit})")
        if self._limit is None and not np.isfinite(latents).all():
            raise ValueError("latents that are not finite")
        if self._kind == "bits":
            return np.packbits(latents.astype(np.uint8)).tobytes()
        return latents.astype(self._dtype).tobytes()

    def from_bytes(self, data: memoryview) -> np.ndarray:
        if self._kind == "bits":
            bits = np.unpackbits(np.frombuffer(data, np.uint8), count=math.prod(self.shape))
            return bits.reshape(self.shape).astype(np.int32)
        values = np.frombuffer(data, self._dtype).reshape(self.shape)
        return values.astype(np.float32 if self._kind == "continuous" else np.int32)


def _shard(directory: Path, shard: int, num_shards: int) -> Path:
    return directory / f"latents-{shard:05d}-of-{num_shards:05d}.array_record"


class LatentsWriter:
    """Writes one shard of a folder of latents; use it as a context manager.

    The shard has a temporary name until the block ends without an error. With several processes
    each writes its own; shard 0 also writes spec.json.

    split: the split that was encoded, e.g. "train". variants: views stored per image (V).
    tokenizer_hash: says which tokenizer made the latents. moments: of continuous latents, mean and log
        variance are stored. data: of which images (`Source.about`). crops: how their views were taken.
    """

    def __init__(
        self,
        path: str | Path,
        spec: LatentSpec,
        *,
        split: str,
        tokenizer_hash: str,
        variants: int,
        moments: bool = False,
        num_classes: int | None = None,
        class_names: Sequence[str] | None = None,
        data: dict | None = None,
        crops: dict | None = None,
        shard: int = 0,
        num_shards: int = 1,
    ):
        self._directory = Path(path).expanduser()
        self._final = _shard(self._directory, shard, num_shards)
        if self._final.exists() or (self._directory / "spec.json").exists():
            raise UserError(f"{self._directory} already holds latents; write elsewhere")
        self._coding = _Coding(spec, variants, moments)
        self._about = {
            "format": FORMAT,
            "kind": spec.kind,
            "grid": list(spec.grid),
            "size": spec.size,
            "variants": variants,
            "moments": moments,
            "split": split,
            "num_classes": num_classes,
            "class_names": None if class_names is None else list(class_names),
            "tokenizer_hash": tokenizer_hash,
            "num_shards": num_shards,
            "data": data,
            "crops": crops,
        }
        self._num_classes, self._count, self._writes_spec = num_classes, 0, shard == 0
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            self._partial = self._final.with_name(f".partial-{self._final.name}")
            # One record a group: the reader wants single records in random order.
            self._writer = ArrayRecordWriter(str(self._partial), "group_size:1")
        except (OSError, RuntimeError) as error:
            raise UserError(f"cannot write to {self._directory}: {error}") from error

    def write(self, latents: np.ndarray, label: int) -> None:
        """Adds one image: its latents of all variants, [V, *grid, ...]. Raises ValueError for latents of
        another shape or range, and for a label that is no class."""
        data = self._coding.to_bytes(np.asarray(latents))
        if label < 0 or label >= (self._num_classes or 2**31):
            raise ValueError(f"label {label} of {self._num_classes} classes")
        self._count += 1
        self._writer.write(np.array(label, _LABEL).tobytes() + data)

    def __enter__(self) -> "LatentsWriter":
        return self

    def __exit__(self, error_type, error, traceback) -> None:
        self._writer.close()
        if error_type is not None:
            self._partial.unlink()
            return
        os.replace(self._partial, self._final)
        if self._writes_spec:
            if self._about["num_shards"] == 1:
                self._about["count"] = self._count
            partial = self._directory / ".partial-spec.json"
            partial.write_text(json.dumps(self._about, indent=1) + "\n")
            os.replace(partial, self._directory / "spec.json")


def _natural_number(value: Any) -> bool:
    return type(value) is int and value > 0


def _are(kind: type) -> Callable[[Any], bool]:
    return lambda values: isinstance(values, list) and all(isinstance(v, kind) for v in values)


# What spec.json must hold; the later ones may be missing.
_FIELDS: dict[str, Callable[[Any], bool]] = {
    "kind": lambda value: value in ("index", "bits", "continuous"),
    "grid": lambda value: _are(int)(value) and value and all(map(_natural_number, value)),
    "size": _natural_number,
    "variants": _natural_number,
    "split": lambda value: isinstance(value, str),
    "tokenizer_hash": lambda value: isinstance(value, str),
    "num_shards": _natural_number,
    "num_classes": lambda value: value is None or _natural_number(value),
    "class_names": lambda value: value is None or _are(str)(value),
    "moments": lambda value: isinstance(value, bool),
    "count": lambda value: value is None or type(value) is int,
    "data": lambda value: value is None or isinstance(value, dict),
    "crops": lambda value: value is None or isinstance(value, dict),
}
_DEFAULTS = {"moments": False, "count": None, "data": None, "crops": None}


def _read_about(directory: Path) -> dict:
    """spec.json of a folder of latents. Raises UserError for one that is missing or damaged."""
    file = directory / "spec.json"
    try:
        about = json.loads(file.read_text())
    except FileNotFoundError as error:
        raise UserError(
            f"{directory} holds no latents (no spec.json); write them with imgen.encode"
        ) from error
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{file} is not JSON: {reason}; encode the data set again") from error
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        found = about.get("format") if isinstance(about, dict) else None
        raise UserError(f"{directory}: latents format {found}, expected {FORMAT}")
    about = _DEFAULTS | about
    for field, is_right in _FIELDS.items():
        if field not in about or not is_right(about[field]):
            value = repr(about[field])[:80] if field in about else "missing"
            raise UserError(f"{file} is damaged ({field}: {value}): encode the data set again")
    if about["class_names"] and len(about["class_names"]) != about["num_classes"]:
        raise UserError(f"{file} is damaged (names of other classes): encode the data set again")
    return about


def _open(directory: Path, about: dict) -> ArrayRecordDataSource:
    total = about["num_shards"]
    shards = (_shard(directory, shard, total) for shard in range(total))
    missing = list(itertools.islice((s.name for s in shards if not s.is_file()), 3))
    if missing:
        raise UserError(f"{directory} lacks {', '.join(missing)}; encode the data set again")
    try:
        records = ArrayRecordDataSource([str(_shard(directory, k, total)) for k in range(total)])
    except Exception as error:  # the C++ reader raises several unrelated types
        raise UserError(f"{directory} has a broken shard, encode it again: {error}") from error
    if about["count"] not in (None, len(records)):
        raise UserError(
            f"{directory} holds {len(records)} images, its spec.json says {about['count']}: the shards and "
            "spec.json are of different runs"
        )
    return records


class Latents(Source):
    """The data source "latents": {"codes": [V, *grid, ...], "label": int}; codes are int32 indices or bits,
    or float32. Moments stand under "moments" in their place.

    path: a folder written by LatentsWriter, or one with a sub-folder named like the split. Several
    paths hold other crops of the same images: their variants are put together, so that drawing one
    uniformly (TrainCodes) is LlamaGen's sampling: one of its two sets of ten crops, then a crop.
    tokenizer_hash: if given, codes of another tokenizer are refused.
    """

    stores_images = False

    def __init__(self, split: str, *, path: str | Sequence[str], tokenizer_hash: str | None = None):
        paths = [path] if isinstance(path, str | Path) else list(path)
        if not paths:
            raise UserError("data.source.path is empty: name the folders that imgen.encode wrote")
        folders = [Path(p).expanduser() for p in paths]
        folders = [folder / split if (folder / split).is_dir() else folder for folder in folders]
        abouts = [_read_about(folder) for folder in folders]
        first = abouts[0]
        for folder, about in zip(folders, abouts, strict=True):
            if about["split"] != split:
                raise UserError(f"{folder} holds the split {about['split']!r}, not {split!r}")
            if tokenizer_hash not in (None, about["tokenizer_hash"]):
                raise UserError(
                    f"{folder} was written by another tokenizer ({about['tokenizer_hash']}, "
                    f"not {tokenizer_hash}); encode the data set again"
                )
            for field in ("kind", "grid", "size", "moments", "tokenizer_hash", "num_classes"):
                if about[field] != first[field]:
                    raise UserError(f"{folder} and {folders[0]} differ in {field}")
            data = [
                side["data"]["hash"] for side in (first, about) if (side["data"] or {}).get("hash")
            ]
            if len(set(data)) > 1:
                raise UserError(f"{folder} and {folders[0]} were encoded from unlike images")
        self._records = [_open(*pair) for pair in zip(folders, abouts, strict=True)]
        if len({len(records) for records in self._records}) > 1:
            raise UserError(f"{' and '.join(map(str, folders))} hold unlike numbers of images")

        self.name = str(folders[0])
        self.spec = LatentSpec(first["kind"], tuple(first["grid"]), first["size"])
        self.tokenizer_hash = first["tokenizer_hash"]
        self.num_classes = first["num_classes"]
        self.class_names = None if first["class_names"] is None else tuple(first["class_names"])
        self.made_of = tuple(about["data"] for about in abouts if about["data"])
        moments = first["moments"]
        self._folders, self._key = folders, "moments" if moments else "codes"
        self._codings = [_Coding(self.spec, about["variants"], moments) for about in abouts]
        if not len(self):
            raise UserError(f"{self.name} holds no images")
        self[0], self[len(self) - 1]  # fail now if the records are not what spec.json says

    def __len__(self) -> int:
        return len(self._records[0])

    def __getitem__(self, index: int) -> dict:
        return self.read_many([index])[0]

    def train_transform(self, size: int, crop: str = "random", flip: bool = True):
        """Returns (example, rng) -> {"codes", "label"}: the crops were taken when they were encoded."""
        return preprocess.TrainCodes()

    def eval_transform(self, size: int, crop: str = "center"):
        """Returns (example, None) -> {"codes", "label"} of the centre crop."""
        return preprocess.EvalCodes()

    def read_many(self, indices: Sequence[int]) -> list[dict | BadExample]:
        """As `Source.read_many`, with no example ever bad: a broken file is a UserError."""
        sets = []
        parts = zip(self._folders, self._records, self._codings, strict=True)
        for folder, records, coding in parts:
            try:
                found = records.__getitems__(list(indices))
            except Exception as error:
                raise UserError(f"cannot read {folder}, encode it again: {error}") from error
            sets.append([_parse(record, folder, coding) for record in found])
        examples = []
        for parts in zip(*sets, strict=True):
            labels = {label for label, _ in parts}
            if len(labels) > 1:
                raise UserError(f"{' and '.join(map(str, self._folders))} differ in their labels")
            label = labels.pop()
            if label < 0 or label >= (self.num_classes or 2**31):
                raise UserError(
                    f"{self.name} has the label {label}, no class of {self.num_classes}: encode it again"
                )
            latents = np.concatenate([latents for _, latents in parts])
            examples.append({self._key: latents, "label": label})
        return examples


def _parse(record: bytes, folder: Path, coding: _Coding) -> tuple[int, np.ndarray]:
    expected = _LABEL.itemsize + coding.num_bytes
    if len(record) != expected:
        raise UserError(
            f"{folder}: a record of {len(record)} bytes where spec.json implies {expected}; "
            "the shards and spec.json are of different runs"
        )
    label = int(np.frombuffer(record, _LABEL, 1)[0])
    return label, coding.from_bytes(memoryview(record)[_LABEL.itemsize :])
