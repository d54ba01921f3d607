"""The one reader of image files and the one rule which files of a folder are images, for all commands.

Pictures become what a viewer shows: turned upright by their EXIF orientation, more than 8 bits scaled down,
transparent parts on a background that is stated. Of animations and many pages the first is taken. What has no
certain meaning in 8 bits (floats, signed or 32-bit samples) and what would not fit into memory is refused.
"""

import contextlib
import functools
import io
import os
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageColor, UnidentifiedImageError

from imgen.errors import BadExample, UserError

WHITE = (255, 255, 255)
MAX_PIXELS = (
    2 * 89_478_485
)  # above it Pillow, too, speaks of a decompression bomb; 0.5 GB in memory
MAX_ASPECT = (
    100  # a narrower one becomes gigabytes when its shorter side is scaled to a model's size
)
JUNK = frozenset(
    "__macosx __pycache__ @eadir $recycle.bin thumbs.db ehthumbs.db desktop.ini lost+found".split()
)
# Pillow opens these, but they are no pictures, or need other programs.
NO_PICTURES = frozenset("BUFR EPS FITS GRIB HDF5 IPTC MCIDAS MPEG SPIDER WMF XVTHUMB".split())
TURNS = {  # by EXIF's orientation, as in ImageOps.exif_transpose
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip


@functools.cache
def formats() -> tuple[str, ...]:
    """Returns Pillow's names of the formats that can be read here, all that it knows but NO_PICTURES."""
    Image.init()
    return tuple(sorted(set(Image.OPEN) - NO_PICTURES))


@functools.cache
def suffixes() -> frozenset[str]:
    """Returns the endings of image files, lower case with the dot: those of `formats`."""
    readable = {*formats(), "MPO"}  # MPO: cameras' JPEGs with a second picture
    return frozenset(s for s, f in Image.registered_extensions().items() if f in readable)


def colour(text: str) -> tuple[int, int, int]:
    """Returns the RGB of "white", "#ff8000" or "rgb(255, 128, 0)". Raises UserError for another text."""
    try:
        return ImageColor.getrgb(text)[:3]
    except (ValueError, AttributeError, TypeError):
        raise UserError(f'background {text!r} is no colour such as "white" or "#ff8000"') from None


@dataclass(frozen=True)
class Header:
    """What a file says of its picture before it is decoded.

    height, width: in pixels, upright. transparent: whether a background shows through. turned: whether its
    EXIF orientation turns or mirrors it.
    """

    height: int
    width: int
    transparent: bool
    turned: bool


def read_header(file: str | Path | bytes, name: str | None = None) -> Header:
    """Returns the Header of an image file or its contents. Raises BadExample as `read_image` does."""
    with _opened(file, name) as image:
        return _header(image)


def read_image(
    file: str | Path | bytes,
    background: tuple[int, int, int] = WHITE,
    *,
    upright: bool = True,
    name: str | None = None,
) -> np.ndarray:
    """Reads an image file, or its contents, as uint8 RGB [H, W, 3].

    background: RGB behind transparent parts. upright: turned as its EXIF orientation says. name: what errors
    call it. 16 bits become their high byte, as Pillow makes of RGB; 12 likewise.

    Raises BadExample for what is broken, cut off, larger than MAX_PIXELS or longer than MAX_ASPECT (found
    before it is decoded), or of samples without a certain meaning: floats, signed ones, 32 bits.
    """
    return read_picture(file, background, upright=upright, name=name)[0]


def read_picture(
    file: str | Path | bytes,
    background: tuple[int, int, int] = WHITE,
    *,
    upright: bool = True,
    name: str | None = None,
) -> tuple[np.ndarray, Header]:
    """As `read_image`, with the Header."""
    with _opened(file, name) as image:
        orientation, header = _orientation(image) if upright else 1, _header(image)
        image.load()
        rgb = _rgb(image, background)
        if orientation > 1 and image.format != "TIFF":  # Pillow's TIFF reader has turned it
            rgb = rgb.transpose(TURNS[orientation])
        return np.asarray(rgb), header


def _header(image: Image.Image) -> Header:
    orientation, (width, height) = _orientation(image), image.size
    if orientation >= 5 and image.format != "TIFF":  # Pillow's TIFF reader has swapped them
        width, height = height, width
    return Header(height, width, image.has_transparency_data, orientation > 1)


@contextlib.contextmanager
def _opened(file: str | Path | bytes, name: str | None) -> Iterator[Image.Image]:
    """The PIL image of a file of a fitting size; whatever goes wrong with it is a BadExample."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # Pillow's, of large pictures, corrupt EXIF and the like
            where = io.BytesIO(file) if isinstance(file, bytes) else file
            with Image.open(where, formats=formats()) as image:
                _check_size(*image.size)
                yield image
    except (
        Exception
    ) as error:  # Pillow raises whatever a broken file makes its decoders stumble over
        name = name or ("an image" if isinstance(file, bytes) else str(file))
        raise BadExample(name, _reason(error)) from error


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not an image that can be read here"
    if isinstance(error, Image.DecompressionBombError):
        return f"more than {MAX_PIXELS / 1e6:.0f} megapixels (a decompression bomb?): scale it down"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise Image.DecompressionBombError
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise ValueError(f"{width}x{height}, more than {MAX_ASPECT} times as long as wide: crop it")


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 where there is none, or none that can be read."""
    try:
        found = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # a damaged EXIF part, beside which the picture is whole
        return 1
    return found if found in range(1, 9) else 1


def _rgb(image: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    tags = getattr(image, "tag_v2", {})  # of TIFF
    if image.mode == "F" or 3 in _values(tags, "SampleFormat"):
        raise ValueError("floating-point samples, whose white no file tells: convert it to 8 bits")
    if 2 in _values(tags, "SampleFormat"):
        raise ValueError("signed samples, whose black no file tells: convert it to 8 bits")
    if image.mode == "I" or image.mode.startswith("I;16"):
        image = _high_byte(image, tags)
    if image.has_transparency_data:
        behind = Image.new("RGBA", image.size, (*background, 255))
        if image.mode in ("La", "RGBa"):  # premultiplied
            image = image.convert(image.mode.upper())
        image = Image.alpha_composite(behind, image.convert("RGBA"))
    return image.convert("RGB")


def _values(tags: Mapping, name: str) -> tuple[int, ...]:
    number = {"SampleFormat": 339, "BitsPerSample": 258, "PhotometricInterpretation": 262}[name]
    found = tags.get(number, ())
    return found if isinstance(found, tuple) else (found,)


def _high_byte(image: Image.Image, tags: Mapping) -> Image.Image:
    """Grey of 9 to 16 bits as 8 bits, with the transparency that it had."""
    samples = np.asarray(image).astype(np.int32)
    bits = max(_values(tags, "BitsPerSample"), default=16)
    if bits > 16 or samples.min() < 0 or samples.max() >= 2**bits:
        raise ValueError("32-bit samples, whose white no file tells: convert it to 8 bits")
    grey = (samples >> max(bits - 8, 0)).astype(np.uint8)
    if _values(tags, "PhotometricInterpretation") == (0,):  # white is 0
        grey = 255 - grey
    scaled = Image.fromarray(grey)
    if (clear := image.info.get("transparency")) is None:
        return scaled
    scaled.putalpha(Image.fromarray(np.where(samples == clear, 0, 255).astype(np.uint8)))
    return scaled


@dataclass(frozen=True)
class Listing:
    """The image files of a folder.

    root: the folder. files: paths below it, in natural order. left_out: why files were left out -> how many.
    """

    root: Path
    files: tuple[Path, ...]
    left_out: Mapping[str, int]

    def summary(self) -> str:
        """Returns a line that says what was left out and why; empty when nothing was."""
        if not self.left_out:
            return ""
        count = sum(self.left_out.values())
        reasons = ", ".join(f"{n} {why}" for why, n in sorted(self.left_out.items()))
        return f"{self.root}: left out {count} of {count + len(self.files)} files ({reasons})"


def list_images(folder: str | Path) -> Listing:
    """Lists the image files of a folder and of those below it, which links may lead to.

    An image is known by its suffix, in any case. Left out and counted: other files; hidden files and folders
    (a name that begins with a dot, and JUNK of desktop systems); links that lead nowhere or in a circle.
    Raises UserError for a folder that can't be read.
    """
    root = Path(folder).expanduser()
    files, left_out = [], Counter()
    for path, why in _walk(root, hidden=False, above=frozenset()):
        why = why or _not_an_image(path)
        if why:
            left_out[why] += 1
        else:
            files.append(path)
    return Listing(root, tuple(files), dict(left_out))


def _not_an_image(path: Path) -> str:
    """Why a file is no image; "" for one."""
    suffix = os.path.splitext(path)[1].lower()
    return "" if suffix in suffixes() else suffix or "without a suffix"


def is_hidden(name: str) -> bool:
    """Returns whether files or folders of this name are left out."""
    return name.startswith(".") or name.lower() in JUNK


def _walk(folder: Path, hidden: bool, above: frozenset[str]) -> Iterator[tuple[Path, str]]:
    """Every file below a folder, and why it is left out whatever its kind ("" if it isn't)."""
    above = above | {os.path.realpath(folder)}
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: natural(entry.name))
    except OSError as error:
        if hidden:
            return
        raise UserError(f"{folder}: cannot read this folder ({error.strerror})") from error
    for entry in entries:
        path, inside = folder / entry.name, hidden or is_hidden(entry.name)
        is_link = (
            entry.is_symlink()
        )  # of others the entry knows what they are without a look at the disk
        is_folder = os.path.isdir(path) if is_link else entry.is_dir()
        if is_folder and not (is_link and (inside or os.path.realpath(path) in above)):
            yield from _walk(path, inside, above)
        elif inside:
            yield path, "hidden"
        elif os.path.isfile(path) if is_link else entry.is_file():
            yield path, ""
        elif is_folder:
            yield path, "links in a circle"
        else:
            yield path, "broken links" if is_link else "no regular files"


def natural(name: str) -> tuple:
    """Returns a key that sorts names with their numbers as numbers: 2.png before 10.png."""
    stem, suffix = os.path.splitext(name)
    parts = re.split(
        r"([0-9]+)", stem if suffix.lower() in suffixes() else name
    )  # text, digits, text, ...
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], name
