"""SCOP: pairs of objects whose relation in space a picture shows without doubt, and captions that say it.

Works on any detection data set: boxes (x, y, width, height) in pixels and a category each. Source: CoMPaSS
(Zhang et al. 2025; blurgyy/CoMPaSS, SCOP/filters.py and SCOP/dataset). COCO's train2017 gives 28,028 pairs in
15,426 pictures. A picture with such a caption must not be flipped left to right.
"""

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from imgen.errors import UserError

CORNERS = 1 / 3  # overlap along both axes below which a relation is of both


@dataclasses.dataclass(frozen=True)
class Filters:
    """Thresholds. area: of a box, at least, in pixels. significance: the sum of both areas, at least, as a
    share of the picture. clarity: distance of the centres, at most, in smaller diagonals. overlap:
    intersection, less than this share of the smaller area. balance: smaller area, at least, as a share of
    the larger."""

    area: float = 32 * 32
    significance: float = 0.2
    clarity: float = 2.0
    overlap: float = 0.3
    balance: float = 0.5


BEST_GENEVAL = Filters(significance=0.4009, clarity=1.0777, overlap=0.2321, balance=0.4823)


def checks(boxes, categories, width, height, filters: Filters = Filters()) -> dict[str, np.ndarray]:
    """Says which of the six conditions hold, and "all", for pairs of boxes [..., 2, 4], categories [..., 2]
    and sizes of the picture [...]: bool arrays [...]."""
    boxes, categories = np.asarray(boxes, np.float64), np.asarray(categories)
    corner, size = boxes[..., :2], boxes[..., 2:]
    areas = size.prod(-1)
    smaller, larger = areas.min(-1), areas.max(-1)
    distance = np.linalg.norm(np.diff(corner + size / 2, axis=-2)[..., 0, :], axis=-1)
    shared = np.maximum((corner + size).min(-2) - corner.max(-2), 0).prod(-1)
    found = {
        "small_ok": (areas >= filters.area).all(-1),
        "visual": areas.sum(-1) >= filters.significance * (np.asarray(width) * np.asarray(height)),
        "semantic": categories[..., 0] != categories[..., 1],
        "clarity": distance <= filters.clarity * np.linalg.norm(size, axis=-1).min(-1),
        "overlap": (shared == 0) | (shared < filters.overlap * smaller),
        "balance": smaller >= filters.balance * larger,
    }
    return found | {"all": np.logical_and.reduce(list(found.values()))}


def relations(first: Sequence[float], second: Sequence[float]) -> list[str]:
    """Returns how the first box lies to the second, then, in the second half of the list, the second to the
    first: one wording each way, or where they overlap little along both axes two of both."""
    boxes = np.array([first, second], np.float64)
    corner, size = boxes[:, :2], boxes[:, 2:]
    dx, dy = np.diff(corner + size / 2, axis=0)[0]
    across = ("to the left of", "to the right of")[:: 1 if dx > 0 else -1]
    along = ("above", "below")[:: 1 if dy > 0 else -1]
    shared = np.maximum((corner + size).min(0) - corner.max(0), 0) / size.min(0)
    if (shared < CORNERS).all():
        both = [(f"{a} and {b}", f"{b} and {a}") for a, b in zip(across, along, strict=True)]
        return [*both[0], *both[1]]
    return list(across if shared[0] < shared[1] else along)


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two objects of a picture: their names, boxes and `relations`."""

    names: tuple[str, str]
    boxes: tuple[tuple[float, ...], tuple[float, ...]]
    relations: tuple[str, ...]

    def captions(self) -> list[str]:
        """Says all that can be said of it: "a photo of a cat left of a dog"."""
        half = len(self.relations) // 2
        a, b = map(with_article, self.names)
        told = [(a, relation, b) for relation in self.relations[:half]]
        told += [(b, relation, a) for relation in self.relations[half:]]
        return [
            f"a photo of {x} {r.replace(' to the', '').removeprefix('to the ')} {y}"
            for x, r, y in told
        ]


def with_article(name: str) -> str:
    """Puts "a" or "an" before it: "a cat", "an apple"."""
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"


def pairs(
    boxes, names: Sequence[str], width: int, height: int, filters: Filters = Filters()
) -> list[Pair]:
    """Finds the pairs of a picture's objects that pass all filters."""
    index = list(combinations(range(len(names)), 2))
    if not index:
        return []
    boxes = np.asarray(boxes, np.float64)
    _, numbers = np.unique(list(names), return_inverse=True)
    passed = checks(boxes[index], numbers[index], width, height, filters)["all"]
    return [
        Pair(
            (names[a], names[b]),
            (tuple(boxes[a]), tuple(boxes[b])),
            tuple(relations(boxes[a], boxes[b])),
        )
        for (a, b), ok in zip(index, passed, strict=True)
        if ok
    ]


def square(pair: Pair, width: int, height: int, factor: float = 1.0) -> tuple[int, int, int, int]:
    """Returns the crop around a pair: x0, y0, x1, y1 in whole pixels.

    As wide as the longer side of the box around both times `factor` (officially drawn from 1.0 to 1.1), at
    most the picture's shorter side, about the middle of that box. It is cut at the border, where it is no
    square and gets squashed.
    """
    boxes = np.array(pair.boxes)
    low, high = boxes[:, :2].min(0), (boxes[:, :2] + boxes[:, 2:]).max(0)
    half = min((high - low).max() * factor, min(width, height)) / 2
    middle = (low + high) / 2
    x0, y0 = np.maximum(np.round(middle - half), 0).astype(int)
    x1, y1 = np.minimum(np.round(middle + half), [width, height]).astype(int)
    return int(x0), int(y0), int(x1), int(y1)


def curate(coco: Mapping[str, Any], filters: Filters = Filters()) -> Iterator[dict[str, Any]]:
    """Yields records of the pictures of a COCO annotation file that have at least one pair, ready to be
    written as JSON lines: {"file_name", "width", "height", "pairs": [{"names", "boxes", "relations",
    "captions"}]}.

    Raises UserError where the file is none of COCO's.
    """
    try:
        names = {category["id"]: category["name"] for category in coco["categories"]}
        objects: dict[int, list[tuple[str, list[float]]]] = {}
        for found in coco["annotations"]:
            entry = names[found["category_id"]], found["bbox"]
            objects.setdefault(found["image_id"], []).append(entry)
        pictures = [(image, objects.get(image["id"], [])) for image in coco["images"]]
    except (KeyError, TypeError) as error:
        raise UserError(f"the annotations are not COCO's: they lack {error}") from error
    for image, found in pictures:
        size = image["width"], image["height"]
        kept = pairs([box for _, box in found], [name for name, _ in found], *size, filters)
        if kept:
            told = [dataclasses.asdict(pair) | {"captions": pair.captions()} for pair in kept]
            yield {
                "file_name": image["file_name"],
                "width": size[0],
                "height": size[1],
                "pairs": told,
            }


def curate_file(
    source: str | Path, out: str | Path, filters: Filters = Filters()
) -> dict[str, int]:
    """Curates from a COCO JSON file to a JSON-lines file; returns {"images", "pairs"} that are kept of it.

    Raises UserError for files that can't be read or written.
    """
    try:
        coco = json.loads(Path(source).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read annotations {source} ({error})") from error
    counts = {"images": 0, "pairs": 0}
    try:
        with open(out, "w", encoding="utf-8") as file:
            for record in curate(coco, filters):
                file.write(json.dumps(record) + "\n")
                counts["images"] += 1
                counts["pairs"] += len(record["pairs"])
    except OSError as error:
        raise UserError(f"cannot write {out} ({error.strerror})") from error
    return counts


def spatial_caption(
    boxes: Sequence[Sequence[float]],
    names: Sequence[str],
    width: int,
    height: int,
    rng: np.random.Generator,
    most: int = 3,
) -> str:
    """Writes a long caption of relations in the manner of SPRIGHT's, by templates: the objects, where each
    stands in the picture, and relations of some pairs; at most `most` objects, the largest ones.

    SPRIGHT itself (arXiv 2404.01197) has its captions from LLaVA; this needs boxes only.
    """
    largest = sorted(range(len(names)), key=lambda i: -boxes[i][2] * boxes[i][3])[:most]
    if not largest:
        return "an empty picture"
    told = [f"The picture shows {_listed([with_article(names[i]) for i in largest])}."]
    for i in largest:
        told.append(f"The {names[i]} is {_place(boxes[i], width, height)}.")
    for a, b in combinations(largest, 2):
        if names[a] != names[b]:
            found = relations(boxes[a], boxes[b])
            relation = found[rng.integers(len(found) // 2)]
            told.append(f"The {names[a]} is {relation} the {names[b]}.")
            ratio = boxes[a][2] * boxes[a][3] / max(boxes[b][2] * boxes[b][3], 1e-9)
            if ratio > 2:
                told.append(f"The {names[a]} is larger than the {names[b]}.")
    return " ".join(told)


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _place(box: Sequence[float], width: int, height: int) -> str:
    """Says which of nine fields of the picture the middle of a box is in."""
    x, y = (box[0] + box[2] / 2) / width, (box[1] + box[3] / 2) / height
    across = "left" if x < 1 / 3 else "right" if x > 2 / 3 else ""
    along = "top" if y < 1 / 3 else "bottom" if y > 2 / 3 else ""
    if across and along:
        return f"at the {along} {across}"
    return f"on the {across}" if across else f"at the {along}" if along else "in the middle"


def caption_choices(records: Iterable[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Collects all captions of each file of `curate`'s records, for sources of several captions a picture."""
    return {
        record["file_name"]: [c for pair in record["pairs"] for c in pair["captions"]]
        for record in records
    }
