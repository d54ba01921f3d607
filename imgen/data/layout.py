"""What a folder of images holds: splits, classes, captions; the rules stand at `data.folder.Folder`."""

import functools
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from imgen.data.captions import TABLES, read_captions
from imgen.data.image_files import Listing, is_hidden, list_images, natural
from imgen.errors import UserError

log = logging.getLogger("imgen.data")

SPLITS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}


@dataclass(frozen=True)
class Images:
    """The images of a folder. captions, labels, class_names: None where there are none.

    sidecars: whether the caption of x.png stands in x.txt.
    """

    files: Sequence[Path]
    captions: Sequence[str] | None = None
    labels: Sequence[int] | None = None
    class_names: tuple[str, ...] | None = None
    sidecars: bool = False


@functools.cache
def say(line: str) -> None:
    """Logs a line once in a process."""
    log.info("%s", line)


@functools.cache
def warn(line: str) -> None:
    log.warning("%s", line)


def canonical(name: str) -> str | None:
    """The split of SPLITS that a name is of; None for another name."""
    return next((split for split, names in SPLITS.items() if name.lower() in names), None)


def open_split(root: Path, split: str, encoding: str | None) -> tuple[Images, Path | None]:
    """The images among which the split is, and the split's own folder where it has one."""
    base = root.parent if root.is_file() else root
    rows = _of_table(root, encoding)
    listing = Listing(base, tuple(rows.files), {}) if rows else list_images(root)
    if folders := _split_folders(listing, is_table=rows is not None):
        chosen = _choose(root, folders, split)
        if rows:
            return _part(rows, [_top(file, base) == chosen.name for file in rows.files]), chosen
        return _of_table(chosen, encoding) or _of_files(list_images(chosen)), chosen
    if canonical(split) not in ("train", "test") and split not in ("all", "eval"):
        raise UserError(f"{root} has no sub-folder {split!r}; splits are train, test, eval and all")
    return rows or _of_files(listing), None


def _of_table(path: Path, encoding: str | None) -> Images | None:
    """The images that a captions file names, or the one in a folder; None if there is none."""
    if path.is_file():
        return Images(*read_captions(path, encoding))
    found = [path / name for name in TABLES if (path / name).is_file()]
    if len(found) > 1:
        names = ", ".join(file.name for file in found)
        raise UserError(f"{path} holds {names}: give the one to be read as the path")
    if not found:
        return None
    images = Images(*read_captions(found[0], encoding))
    if unnamed := len(set(list_images(path).files) - set(images.files)):
        warn(f"{path}: left out {unnamed} images that {found[0].name} does not name")
    return images


def _part(images: Images, chosen: Sequence[bool]) -> Images:
    """The images that are chosen, of the same classes."""

    def part(rows):
        return (
            None if rows is None else [row for row, take in zip(rows, chosen, strict=True) if take]
        )

    return Images(*map(part, (images.files, images.captions, images.labels)), images.class_names)


def _top(file: Path, base: Path) -> str:
    """The folder right below `base` that a file is in; "" if it is none."""
    path, root = str(file), "" if base == Path(".") else os.path.join(base, "")
    first, below, _ = path[len(root) :].partition(os.sep)
    return first if below and path.startswith(root) else ""


def _split_folders(listing: Listing, is_table: bool) -> dict[str, Path]:
    """The folders of splits by their split, if that is what the folders at the top are; else none."""
    tops = [_top(file, listing.root) for file in listing.files]
    named = [top for top in sorted(set(tops)) if canonical(top)]
    others = sorted({top for top in tops if top or is_table} - set(named), key=natural)
    if others:  # then these are classes, of which one may be called "train"
        for top in [] if is_table else named:
            inside = [f for f, t in zip(listing.files, tops, strict=True) if t == top]
            if all(len(file.relative_to(listing.root).parts) > 2 for file in inside):
                raise UserError(
                    f"{listing.root}: {top} holds class folders, as a split does, but {others[0]} is beside "
                    f"it: move one of them, or give {listing.root / top} as the path"
                )
        return {}
    folders = {}
    for top in named:
        if other := folders.get(canonical(top)):
            raise UserError(f"{listing.root} has two folders of one split: {other.name} and {top}")
        folders[canonical(top)] = listing.root / top
    if folders and (loose := tops.count("")):
        warn(f"{listing.root}: left out {loose} images beside the folders of splits")
    return folders


def _choose(root: Path, folders: dict[str, Path], split: str) -> Path:
    """The folder of a split. Raises UserError where there is none."""
    for name in ("val", "test") if split == "eval" else (canonical(split),):
        if name in folders:
            return folders[name]
    there = ", ".join(folder.name for folder in folders.values())
    hint = ""
    if split in ("eval", "test") and list(folders) == ["train"]:
        hint = f"; to hold out some of its images, give {folders['train']} as the path"
    raise UserError(f"{root} has no split {split!r}; its folders are {there}{hint}")


def _of_files(listing: Listing) -> Images:
    """Images in class folders, or right in the folder, and their sidecars."""
    root, left_out = listing.root, dict(listing.left_out)
    tops = [_top(file, root) for file in listing.files]
    loose = tops.count("")
    if not tops:
        raise UserError(
            f"{root} has neither images, nor sub-folders of them (one a class), nor a captions file "
            f"({', '.join(TABLES)}){_but(left_out)}"
        )
    files, labels, names = listing.files, None, None
    if loose < len(tops):
        _check_classes(root, tops)
        names = tuple(sorted({top for top in tops if top}, key=natural))
        if 2 * loose > len(tops):
            raise UserError(
                f"{root} holds {loose} images, and {len(tops) - loose} more in folders such as {names[0]}: "
                "are these classes? Move the ones or the others"
            )
        left_out["images beside the class folders"] = loose
        number = {name: i for i, name in enumerate(names)}
        files = [file for file, top in zip(files, tops, strict=True) if top]
        labels = [number[top] for top in tops if top]
    sidecars = ".txt" in left_out and _have_sidecars(root, files)
    if sidecars:
        left_out[".txt"] -= len({file.with_suffix(".txt") for file in files})
    if reasons := _but(left_out):
        warn(f"{root}: {len(files)} images{reasons}")
    return Images(files, None, labels, names, sidecars)


def _but(left_out: Mapping[str, int]) -> str:
    """Says how many files were left out and why; "" if none was."""
    reasons = [f"{count} {why}" for why, count in sorted(left_out.items()) if count > 0]
    count = sum(count for count in left_out.values() if count > 0)
    return f", left out {count} files ({', '.join(reasons)})" if reasons else ""


def _have_sidecars(root: Path, files: Sequence[Path]) -> bool:
    """Whether images have captions in .txt files beside them. Raises UserError where only some have."""
    lacking = [file for file in files if not file.with_suffix(".txt").is_file()]
    if lacking and len(lacking) < len(files):
        raise UserError(
            f"{root}: {len(lacking)} of {len(files)} images have no caption in a .txt file beside them, such "
            f"as {lacking[0].name}: write them, or move the other .txt files away"
        )
    return not lacking


def _check_classes(folder: Path, tops: Sequence[str]) -> None:
    """Every sub-folder must hold an image: an empty class would be a number that nothing shows."""
    for name in sorted(set(os.listdir(folder)) - set(tops), key=natural):
        if not is_hidden(name) and (folder / name).is_dir():
            raise UserError(f"class folder {folder / name} holds no image; fill it or remove it")
