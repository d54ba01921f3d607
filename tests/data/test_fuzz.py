"""Files that damage and other programs leave: only a BadExample or a UserError of one line comes of them."""

import io
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from imgen.data import make_source
from imgen.data.image_files import read_header, read_image
from imgen.data.source import BadExample
from imgen.data.stored import LatentsWriter
from imgen.errors import UserError
from imgen.latents import LatentSpec
from tests.data.foreign import png16, tiff
from tests.data.tiny import png

bounded = settings(max_examples=120, deadline=None, derandomize=True, database=None)


def image_files():
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 255, (9, 7, 4)).astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a description"
    kinds = "PNG JPEG GIF WEBP TIFF BMP PPM JPEG2000 AVIF TGA ICO PCX SGI QOI DDS".split()
    for kind in kinds:
        file = io.BytesIO()
        mode = "RGB" if kind in ("JPEG", "PPM", "PCX") else "P" if kind == "GIF" else "RGBA"
        options = {"exif": exif} if kind in ("PNG", "JPEG", "WEBP", "TIFF", "AVIF") else {}
        image.convert(mode).save(file, kind, **options)
        yield file.getvalue()
    grey = rng.integers(0, 65535, (9, 7)).astype(np.uint16)
    yield from (tiff(grey), tiff(grey.astype(np.float32), 3), png16(grey[..., None]))
    yield b"P5 7 9 65535\n" + grey.tobytes()


@st.composite
def damaged(draw, files):
    """One of the files with some bytes changed, most of them in its header, cut off or with some more."""
    data = bytearray(draw(st.sampled_from(files)))
    for _ in range(draw(st.integers(0, 6))):
        header = draw(st.booleans())
        at = draw(st.integers(0, min(len(data), 64 if header else 10**9) - 1))
        data[at] = draw(st.sampled_from([0, 1, 127, 128, 255]) | st.integers(0, 255))
    if draw(st.booleans()):
        data = data[: draw(st.integers(0, len(data)))]
    return bytes(data) + draw(st.binary(max_size=8))


def one_line(error):
    text = str(error.reason if isinstance(error, BadExample) else error)
    assert text and "\n" not in text and "\r" not in text


@bounded
@given(damaged(list(image_files())))
def test_damaged_images_are_bad_examples(data):
    for read in (read_image, read_header):
        try:
            found = read(data)
        except BadExample as bad:
            one_line(bad)
        else:
            assert read is read_header or found.dtype == np.uint8 and found.shape[2:] == (3,)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("folder")
    (path / "1.png").write_bytes(png(1))
    return path


def pieces(*words):
    odd = [b"\xff\xfe", b"\xef\xbb\xbf", b"\xe9", b"\0", "\u2028".encode(), b"\r", b"\x1a"]
    joined = st.lists(st.sampled_from([*words, *odd]) | st.binary(max_size=3), max_size=30)
    return joined.map(b"".join)


def opens_or_is_refused(make):
    try:
        source = make()
        source[0]
    except (UserError, BadExample) as error:
        one_line(error)


WORDS = b'image caption label 1.png , ; | \t " \n \n 1 2.0 nan -1 a_cat file_name text sep=;'.split(
    b" "
)


@bounded
@given(
    st.sampled_from([b"", b"image,caption,label\n", b"image;label\n1.png;"]),
    pieces(*WORDS, b"image,label\n1.png,"),
    st.sampled_from(["utf-8", "utf-16", "utf-16-le", "cp1252"]),
)
def test_any_bytes_of_a_table_are_read_or_refused(folder, start, data, encoding):
    if encoding != "utf-8":
        data = data.decode("latin-1").encode(encoding, errors="replace")
        start = start.decode().encode(encoding)
    for name in ("captions.csv", "x.tsv"):
        (folder / name).write_bytes(start + data)
        opens_or_is_refused(lambda name=name: make_source("folder", "all", path=str(folder / name)))


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=4,
)


@settings(bounded, max_examples=50)  # objects take long to make up
@given(
    st.lists(
        st.fixed_dictionaries(
            {}, optional={"image": st.just("1.png") | anything, "text": anything, "label": anything}
        ).map(lambda row: json.dumps(row).encode())
        | pieces(b"{", b"}", b"[", b'"image"', b":", b'"1.png"', b"NaN", b"1e999"),
        max_size=4,
    )
)
def test_any_bytes_of_json_lines_are_read_or_refused(folder, lines):
    file = folder / "captions.jsonl"
    file.write_bytes(b"\n".join(lines))
    opens_or_is_refused(lambda: make_source("folder", "all", path=str(file)))


@pytest.fixture(scope="module")
def latents(tmp_path_factory):
    path = tmp_path_factory.mktemp("latents")
    spec = LatentSpec("index", (2,), 9)
    with LatentsWriter(path, spec, split="train", tokenizer_hash="", variants=1) as writer:
        writer.write(np.zeros((1, 2), int), 0)
    return path, json.loads((path / "spec.json").read_text())


@bounded
@given(st.data())
def test_any_spec_of_latents_is_read_or_refused(latents, data):
    path, about = latents
    key = data.draw(st.sampled_from(sorted(about)))
    (path / "spec.json").write_text(json.dumps(about | {key: data.draw(anything)}))
    opens_or_is_refused(lambda: make_source("latents", "train", path=str(path)))
