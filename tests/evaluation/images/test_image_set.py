"""Images of files, folders and data sets: the same batches for all, and what is refused."""

import logging

import numpy as np
import pytest
from PIL import Image

from imgen.errors import UserError
from imgen.evaluation.images.image_set import open_images
from tests.data.tiny import write_tfds
from tests.evaluation.toy_network import pictures


def read_all(images, batch_size=4):
    batches = list(images.read(batch_size))
    assert all(pixels.shape[0] == len(mask) == batch_size for pixels, mask in batches)
    return np.concatenate([pixels[mask > 0] for pixels, mask in batches])


def test_a_file_a_folder_and_a_data_set_give_their_images_in_order(tmp_path):
    pixels = pictures(10)
    np.savez(tmp_path / "a.npz", pixels, labels=np.arange(10))
    np.savez_compressed(tmp_path / "b.npz", arr_0=pixels)
    for i, image in enumerate(pixels):
        path = tmp_path / "folder" / ("later" if i > 6 else "first") / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    Image.new("RGB", (50, 50)).save(tmp_path / "folder" / "grid.png")  # imgen.sample's overview
    for name in ("a.npz", "b.npz", "folder"):
        images = open_images(str(tmp_path / name))
        assert (images.num, images.size) == (10, (8, 8))
        np.testing.assert_array_equal(read_all(images), pixels)
        few = open_images(str(tmp_path / name), num=5)
        np.testing.assert_array_equal(read_all(few), pixels[:5])
        names = images.name, few.name, open_images(str(tmp_path / name), num=10).name
        assert names == (f"{tmp_path / name}", f"{tmp_path / name}[:5]", f"{tmp_path / name}")
    write_tfds(tmp_path / "data")
    images = open_images("tfds:tiny:1.0.0:train[:3]", size=4, data_dir=str(tmp_path / "data"))
    np.testing.assert_array_equal(read_all(images)[:, 0, 0, 0], [0, 1, 2])
    assert images.size == (4, 4) and images.name == "tiny:1.0.0/train[:3]"


def test_images_of_unlike_sizes_are_cropped_or_named(tmp_path):
    Image.new("RGB", (30, 20), (9, 9, 9)).save(tmp_path / "a.png")
    Image.new("RGB", (20, 30), (9, 9, 9)).save(tmp_path / "b.png")
    images = open_images(str(tmp_path), size=16)
    assert read_all(images).shape == (2, 16, 16, 3)
    with pytest.raises(UserError, match="b.png is 20x30, a.png 30x20: give --image_size"):
        read_all(open_images(str(tmp_path)))


def test_files_come_in_the_order_of_their_numbers(tmp_path):
    names = (
        "1.png",
        "2.png",
        "10.png",
        "a2/1.png",
        "a2/1b.png",
        "a10/1.png",
        "a10/01.png",
        "b.png",
        "b1.png",
    )
    for value, name in enumerate(names):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8), (value,) * 3).save(tmp_path / name)
    images = open_images(str(tmp_path))
    assert images.stems == ("1", "2", "10", "a2/1", "a2/1b", "a10/01", "a10/1", "b", "b1")
    assert read_all(images)[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4, 6, 5, 7, 8]


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((3, 8, 8, 3), np.float32), "float32 .* not uint8"),
        (np.zeros((3, 8, 8, 3), np.int64), "int64 .* not uint8"),
        (np.zeros((3, 3, 8, 8), np.uint8), r"\(3, 3, 8, 8\), not uint8 images \[N, H, W, 3\]"),
        (np.zeros((0, 8, 8, 3), np.uint8), r"\(0, 8, 8, 3\), not uint8"),
        (np.ones((3, 8, 8, 3), np.uint8), "holds 0 and 1 only"),
        (np.asfortranarray(np.zeros((3, 8, 8, 3), np.uint8)), "Fortran"),
    ],
)
def test_arrays_that_are_no_images_are_refused(tmp_path, array, message):
    np.savez(tmp_path / "a.npz", array)
    with pytest.raises(UserError, match=message):
        read_all(open_images(str(tmp_path / "a.npz")))


def test_masks_are_refused_wherever_they_come_from_and_dark_images_are_not(tmp_path):
    pixels = np.zeros((9, 8, 8, 3), np.uint8)
    pixels[1, 0, 0] = 1
    for brightest, refused in ((1, True), (2, False)):
        pixels[8, 0, 0] = brightest
        np.savez(tmp_path / "a.npz", pixels)
        (tmp_path / "folder").mkdir(exist_ok=True)
        for i, image in enumerate(pixels):
            Image.fromarray(image).save(tmp_path / "folder" / f"{i}.png")
        for name in ("a.npz", "folder"):
            images = open_images(str(tmp_path / name))
            if refused:
                with pytest.raises(UserError, match=f"{name} holds 0 and 1 only"):
                    read_all(images)
            else:
                np.testing.assert_array_equal(read_all(images), pixels)
    (tmp_path / "binary").mkdir()
    for i in range(2):
        Image.new("1", (8, 8), i).save(
            tmp_path / "binary" / f"{i}.png"
        )  # PIL makes these 0 and 255
    assert read_all(open_images(str(tmp_path / "binary"))).max() == 255


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            np.array([-1.0, -0.5, 0.0, 0.5, 1.0]).astype(np.int8).astype(np.uint8),
            "0, 1 and 255 only",
        ),
        (np.linspace(0, 0.99, 5).astype(np.uint8), "0 only, black"),
        (np.zeros(5, np.uint8), "0 only, black"),
    ],
)
def test_scaled_images_that_were_cast_are_refused_in_files_and_folders(tmp_path, values, message):
    pixels = np.broadcast_to(values[:, None, None, None], (5, 8, 8, 3))
    np.savez(tmp_path / "a.npz", pixels)
    (tmp_path / "folder").mkdir()
    for i, image in enumerate(pixels):
        Image.fromarray(np.ascontiguousarray(image)).save(tmp_path / "folder" / f"{i}.png")
    for name in ("a.npz", "folder"):
        with pytest.raises(UserError, match=f"{name} holds {message}.*scale them before"):
            read_all(open_images(str(tmp_path / name)))
    whole = np.array([0, 128, 255, 1, 2], np.uint8)[:, None, None, None]
    np.savez(tmp_path / "a.npz", np.broadcast_to(whole, (5, 8, 8, 3)))
    assert read_all(open_images(str(tmp_path / "a.npz"))).shape == (5, 8, 8, 3)


def test_transparent_parts_are_white_with_one_warning(tmp_path, caplog):
    caplog.set_level(logging.WARNING, "imgen.evaluate")
    for i, (mode, colour) in enumerate(
        (("RGB", "gray"), ("RGBA", "gray"), ("LA", (9, 0)), ("RGBA", (9, 9, 9, 0)))
    ):
        Image.new(mode, (8, 8), colour).save(tmp_path / f"{i}.png")
    found = read_all(open_images(str(tmp_path)))
    assert found[:, 0, 0, 0].tolist() == [128, 128, 255, 255]
    assert len(caplog.records) == 1 and "1.png is transparent: it is put on white" in caplog.text


def test_files_are_those_that_training_reads_and_the_others_are_counted(tmp_path, caplog):
    caplog.set_level(logging.WARNING, "imgen.evaluate")
    (tmp_path / "linked").mkdir()
    for name in ("1.png", ".ipynb_checkpoints/1.png", "__MACOSX/2.png", "._1.png", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 4), (100, 0, 0)).save(tmp_path / name, "PNG")
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.new("RGB", (4, 8), (100, 0, 0)).save(tmp_path / "linked" / "2.jpg", exif=exif)
    (tmp_path / "all").mkdir()
    (tmp_path / "all" / "a").symlink_to(tmp_path / "linked")
    images = open_images(str(tmp_path))
    assert images.num == 3 and read_all(images).shape == (3, 4, 8, 3)
    assert "left out 4 of 7 files (1 .txt, 3 hidden)" in caplog.text


def test_what_cannot_be_read_is_named(tmp_path):
    with pytest.raises(UserError, match="no such file or folder of images"):
        open_images(str(tmp_path / "none"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty holds no image"):
        open_images(str(tmp_path / "empty"))
    folder = tmp_path / "folder"
    folder.mkdir()
    for i in range(9):
        Image.new("RGB", (8, 8)).save(folder / f"{i}.png")
    (folder / "6.png").write_bytes((folder / "6.png").read_bytes()[:40])
    with pytest.raises(UserError, match="6.png is no readable image"):
        read_all(open_images(str(folder)))
    Image.fromarray(np.zeros((8, 8), np.float32)).save(folder / "6.tiff")
    (folder / "6.png").unlink()
    with pytest.raises(UserError, match="6.tiff is no readable image .floating-point samples"):
        read_all(open_images(str(folder)))
    (folder / "6.tiff").unlink()
    Image.fromarray(np.full((8, 8), 0x8040, np.uint16)).save(folder / "6.png")
    assert read_all(open_images(str(folder)))[6].min() == 0x80  # the high byte
    with pytest.raises(UserError, match="has 9 images, not 10"):
        open_images(str(folder), num=10)
    np.savez(tmp_path / "a.npz", pictures(40))
    data = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "flipped.npz").write_bytes(data[:4000] + b"??" + data[4002:])
    with pytest.raises(UserError, match="damaged"):
        read_all(open_images(str(tmp_path / "flipped.npz")))
    (tmp_path / "cut.npz").write_bytes(data[:4000])
    with pytest.raises(UserError, match="not a readable .npz"):
        open_images(str(tmp_path / "cut.npz"))
    np.savez(tmp_path / "other.npz", mu=np.zeros(3))
    with pytest.raises(UserError, match="holds no images"):
        open_images(str(tmp_path / "other.npz"))
    with pytest.raises(UserError, match="--image_size is needed"):
        open_images("tfds:cifar10:test")
