import io
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from imgen.data.image_files import colour, list_images, natural, read_header, read_image
from imgen.data.source import BadExample
from imgen.errors import UserError
from tests.data.foreign import png16, png_of, tiff
from tests.data.tiny import png


def encoded(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def reason_of(data):
    with pytest.raises(BadExample) as bad:
        read_image(data)
    assert "\n" not in bad.value.reason
    return bad.value.reason


# Pixels: what a viewer shows.


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "MPO"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_upright_by_their_exif_orientation(kind, orientation):
    upright = np.zeros((16, 32, 3), np.uint8)
    upright[:8, :16] = 255  # top left is white
    stored = {
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1],
        5: upright.swapaxes(0, 1), 6: np.rot90(upright), 7: upright[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90(upright, -1),
    }[orientation]  # fmt: skip
    image, exif = Image.fromarray(np.ascontiguousarray(stored)), Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {"quality": 95} if kind == "JPEG" else {}
    data = encoded(image, kind, exif=exif, **options)
    assert np.abs(read_image(data).astype(int) - upright).max() <= 8
    header = read_header(data)
    assert (header.height, header.width) == (16, 32)
    if kind != "TIFF":  # as published: what the file stores
        assert read_image(data, upright=False).shape == stored.shape


def test_a_damaged_exif_part_does_not_cost_the_picture():
    data = encoded(
        Image.new("RGB", (8, 8), (9, 9, 9)), "PNG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff\x01"
    )
    assert (read_image(data) == 9).all()


def test_sixteen_bits_become_eight():
    """Pillow's own conversion clips grey: [0, 255, 255, ...]."""
    ramp = np.arange(256, dtype=np.uint16).reshape(16, 16) * 257
    expected = np.arange(256).reshape(16, 16, 1) * np.ones(3, int)
    grey = Image.fromarray(ramp)
    files = [encoded(grey), encoded(grey, "TIFF"), encoded(grey, "JPEG2000", irreversible=False)]
    files += [png16(ramp[..., None].repeat(c, 2)) for c in (1, 3)]
    files += [
        tiff(ramp),
        tiff(ramp[..., None].repeat(3, 2)),
        tiff(65535 - ramp, white_is_zero=True),
    ]
    files += [b"P5 16 16 65535\n" + ramp.astype(">u2").tobytes()]
    for data in files:
        np.testing.assert_array_equal(read_image(data), expected)
    np.testing.assert_array_equal(read_image(b"P5 2 1 1023\n\x00\x00\x03\xff")[0, :, 0], [0, 255])
    rgb = read_image(png16(np.full((2, 2, 3), 0x80FF, np.uint16)))
    assert (rgb == read_image(png16(np.full((2, 2, 1), 0x80FF, np.uint16)))).all()  # alike


@pytest.mark.parametrize(
    "samples, sample_format, line",
    [
        (np.full((2, 2), 0.5, np.float32), 3, "floating-point"),
        (np.full((2, 2), -5, np.int16), 2, "signed"),
        (np.full((2, 2), -5, np.int8), 2, "signed"),
        (np.full((2, 2), 2**31 + 5, np.uint32), 1, "32-bit"),
        (np.full((2, 2), 70000, np.int32), 1, "32-bit"),
    ],
)
def test_samples_without_a_certain_meaning_are_refused(samples, sample_format, line):
    assert line in reason_of(tiff(samples, sample_format))


def test_portable_float_maps_are_refused():
    assert "floating-point" in reason_of(b"Pf\n1 1\n-1.0\n" + np.float32(0.5).tobytes())


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB", "L", "I;16"])
def test_invisible_colours_are_not_seen(mode):
    """The left half is clear, whatever colour the file keeps there; the right one is opaque."""
    rgba = np.zeros((4, 4, 4), np.uint8)
    rgba[:, :2] = (90, 90, 90, 0)
    rgba[:, 2:] = (10, 10, 10, 255)
    image, options = Image.fromarray(rgba), {}
    if mode == "P":
        image = Image.fromarray((rgba[..., 3] > 0).astype(np.uint8))
        image.putpalette([90, 90, 90, 10, 10, 10])
        options = {"transparency": 0}
    elif mode == "I;16":
        grey = np.where(rgba[..., 3] > 0, 10 * 257, 90 * 257).astype(">u2")
        rows = b"".join(b"\0" + row.tobytes() for row in grey)
        header = struct.pack(">IIBBBBB", 4, 4, 16, 0, 0, 0, 0)
        data = png_of((b"IHDR", header), (b"tRNS", struct.pack(">H", 90 * 257)),
                      (b"IDAT", zlib.compress(rows)), (b"IEND", b""))  # fmt: skip
    elif mode in ("RGB", "L"):
        image = image.convert(mode)
        options = {"transparency": (90, 90, 90) if mode == "RGB" else 90}
    else:
        image = image.convert(mode)
    data = data if mode == "I;16" else encoded(image, **options)
    for background in ((255, 255, 255), (0, 255, 0)):
        found = read_image(data, background)
        assert (found[:, :2] == background).all() and (found[:, 2:] == 10).all()
    assert (read_image(data)[:, :2] == 255).all()  # white by default
    assert read_header(data).transparent


def test_half_transparent_pixels_are_half_background():
    data = encoded(Image.new("RGBA", (2, 2), (100, 0, 0, 128)))
    np.testing.assert_allclose(read_image(data)[0, 0], [100 * 0.502 + 127, 127, 127], atol=1)
    opaque = np.random.default_rng(0).integers(0, 256, (8, 8, 4)).astype(np.uint8)
    opaque[..., 3] = 255
    np.testing.assert_array_equal(read_image(encoded(Image.fromarray(opaque))), opaque[..., :3])


def test_other_modes_are_what_they_show():
    bits = Image.new("1", (2, 1))
    bits.putpixel((1, 0), 1)
    np.testing.assert_array_equal(read_image(encoded(bits))[0, :, 0], [0, 255])
    np.testing.assert_array_equal(read_image(encoded(bits, "TIFF"))[0, :, 0], [0, 255])
    palette = Image.new("P", (1, 1))
    palette.putpalette([7, 8, 9])
    np.testing.assert_array_equal(read_image(encoded(palette, "GIF"))[0, 0], [7, 8, 9])
    for kind in ("TIFF", "JPEG"):
        cmyk = encoded(Image.new("CMYK", (8, 8), (255, 0, 0, 0)), kind)
        np.testing.assert_allclose(read_image(cmyk)[0, 0], [0, 255, 255], atol=3)


def test_colours_of_a_background_have_names():
    assert colour("white") == (255, 255, 255) and colour("#ff8000") == (255, 128, 0)
    with pytest.raises(UserError, match="'whiite' is no colour"):
        colour("whiite")


# Size, before anything is decoded.


def header_only(width, height):
    return png_of((b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IDAT", b""))


def test_pictures_that_memory_would_not_hold_are_refused_by_their_header():
    assert "more than 179 megapixels" in reason_of(header_only(20000, 10000))
    assert "megapixels" in reason_of(header_only(60000, 60000))  # Pillow's bomb
    assert "12000x1, more than 100 times" in reason_of(encoded(Image.new("L", (12000, 1))))
    assert "1x12000" in reason_of(encoded(Image.new("L", (1, 12000))))
    assert read_image(encoded(Image.new("L", (400, 4)))).shape == (4, 400, 3)


def test_what_is_no_image_or_half_a_one_is_bad(tmp_path):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8))
    for kind in ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "PPM", "JPEG2000", "AVIF"):
        data = encoded(noise, kind)
        assert reason_of(data[: len(data) // 2])
    assert (
        reason_of(b"")
        == reason_of(b"<html>not found</html>")
        == "not an image that can be read here"
    )
    assert "not an image" in reason_of(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"
    )  # no Ghostscript
    with pytest.raises(BadExample, match="No such file"):
        read_image(tmp_path / "none.png")


# Which files of a folder are images.


def write(path, value=1):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(value))


def names(listing):
    return [str(path.relative_to(listing.root)) for path in listing.files]


def test_files_stand_in_natural_order(tmp_path):
    for name in ("10.png", "2.png", "b/1.png", "a10/1.png", "a9/1.png", "2.jpg"):
        write(tmp_path / name)
    assert names(list_images(tmp_path)) == [
        "2.jpg",
        "2.png",
        "10.png",
        "a9/1.png",
        "a10/1.png",
        "b/1.png",
    ]
    assert sorted(["v1.10", "v1.9", "1", "10", "2"], key=natural) == [
        "1",
        "2",
        "10",
        "v1.9",
        "v1.10",
    ]


def test_what_systems_leave_in_folders_is_left_out_and_counted(tmp_path):
    write(tmp_path / "x.png")
    for name in (
        "._x.png", ".hidden/x.png", "__MACOSX/x.png", ".ipynb_checkpoints/x-checkpoint.png", "Thumbs.db",
        "a/.DS_Store", "a/@eaDir/x.png",
    ):  # fmt: skip
        write(tmp_path / name)
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "README").write_text("x")
    (tmp_path / "photo.HEIC").write_text("x")
    listing = list_images(tmp_path)
    assert names(listing) == ["x.png"]
    assert listing.left_out == {"hidden": 7, ".txt": 1, "without a suffix": 1, ".heic": 1}
    assert listing.summary() == (
        f"{tmp_path}: left out 10 of 11 files (1 .heic, 1 .txt, 7 hidden, 1 without a suffix)"
    )


def test_all_that_can_be_read_is_listed(tmp_path):
    image = Image.new("RGB", (8, 8), (50, 60, 70))
    kinds = {
        "jfif": "JPEG", "JPG": "JPEG", "jpe": "JPEG", "avif": "AVIF", "jp2": "JPEG2000", "pgm": "PPM",
        "ppm": "PPM", "bmp": "BMP", "webp": "WEBP", "tif": "TIFF", "gif": "GIF", "tga": "TGA", "pcx": "PCX",
    }  # fmt: skip
    for suffix, kind in kinds.items():
        (tmp_path / f"x.{suffix}").write_bytes(encoded(image, kind))
    listing = list_images(tmp_path)
    assert len(listing.files) == len(kinds) and not listing.left_out and listing.summary() == ""
    for file in listing.files:
        np.testing.assert_allclose(read_image(file)[4, 4], [50, 60, 70], atol=6)


def test_links_are_followed_but_not_in_circles(tmp_path):
    write(tmp_path / "elsewhere" / "deep" / "1.png")
    root = tmp_path / "root"
    write(root / "0.png")
    os.symlink(tmp_path / "elsewhere", root / "linked")
    os.symlink(root / "0.png", root / "same.png")
    os.symlink(root, root / "linked" / "deep" / "up")
    os.symlink("nothing.png", root / "broken.png")
    os.symlink("self", root / "self")
    os.mkfifo(root / "pipe.png")
    listing = list_images(root)
    assert names(listing) == ["0.png", "linked/deep/1.png", "same.png"]
    assert listing.left_out == {"links in a circle": 1, "broken links": 2, "no regular files": 1}


def test_a_folder_that_is_none_is_one_line(tmp_path):
    with pytest.raises(UserError, match="cannot read this folder"):
        list_images(tmp_path / "none")
