import io
import json
import os

import numpy as np
import pytest
from PIL import Image

from imgen.data import make_source
from imgen.data.source import BadExample
from imgen.errors import UserError
from tests.data.tiny import png, write_tfds


@pytest.fixture
def data_dir(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    return tmp_path


def write_images(folder, count, start=0):
    folder.mkdir(parents=True)
    for i in range(start, start + count):
        (folder / f"{i:03d}.png").write_bytes(png(i))


def values(source):
    return [int(source[i]["image"][0, 0, 0]) for i in range(len(source))]


def test_tfds_reads_what_was_written(data_dir):
    write_tfds(data_dir)
    source = make_source("tfds", "train", dataset="tiny")
    assert values(source) == list(range(12))
    assert (source.num_classes, source.class_names) == (2, ("even", "odd"))
    assert (source[3]["label"], source[3]["caption"]) == (1, "the number 3")
    assert [e["label"] for e in source.read_many([5, 2, 3])] == [1, 0, 1]
    assert len(make_source("tfds", "test", dataset="tiny:1.0.0")) == 5
    assert values(make_source("tfds", "train[3:5]", dataset="tiny")) == [3, 4]


def test_tfds_takes_the_newest_version(data_dir):
    write_tfds(data_dir)
    for version in ("1.2.0", "1.10.0"):
        old, new = data_dir / "tiny" / "1.0.0", data_dir / "tiny" / version
        os.mkdir(new)
        for file in old.iterdir():
            (new / file.name).write_bytes(file.read_bytes().replace(b"1.0.0", version.encode()))
    source = make_source("tfds", "train", dataset="tiny")
    assert source.directory.name == "1.10.0"


def test_tfds_says_what_is_missing(data_dir, monkeypatch):
    write_tfds(data_dir)
    with pytest.raises(UserError, match=rf"'mnist' in {data_dir} \(there: tiny\)"):
        make_source("tfds", "train", dataset="mnist")
    with pytest.raises(UserError, match="no split 'val'; it has train, test"):
        make_source("tfds", "val", dataset="tiny")
    with pytest.raises(UserError, match="no folder /nowhere; set TFDS_DATA_DIR"):
        make_source("tfds", "train", dataset="tiny", data_dir="/nowhere")
    monkeypatch.setenv("HOME", str(data_dir / "home"))
    monkeypatch.delenv("TFDS_DATA_DIR")
    with pytest.raises(UserError, match="TFDS_DATA_DIR is not set"):
        make_source("tfds", "train", dataset="tiny")


@pytest.mark.parametrize("harm", ["truncate", "remove"])
def test_tfds_finds_a_damaged_file_before_training(data_dir, harm):
    write_tfds(data_dir)
    (file,) = data_dir.glob("tiny/*/tiny-train*")
    if harm == "remove":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-200])
    with pytest.raises(UserError, match="cannot read .*tiny"):
        make_source("tfds", "train", dataset="tiny")


def test_tfds_marks_an_image_that_cannot_be_decoded(data_dir):
    write_tfds(data_dir, broken=(4,))
    source = make_source("tfds", "train", dataset="tiny")
    with pytest.raises(BadExample, match=r"tiny/train\[4\]"):
        source[4]
    good, bad = source.read_many([3, 4])
    assert good["label"] == 1 and bad.name == "tiny/train[4]"


@pytest.mark.parametrize(
    "split",
    [
        "train[5:2]",
        "train[50%:40%]",
        "train[3:3]",
        "train[",
        "train[a:b]",
        "train[::2]",
        "train+x",
        "",
    ],
)
def test_tfds_refuses_splits_that_are_none_or_empty(data_dir, split):
    """TFDS reads "train[50%:40%]" of 12 as 6 examples, and "train[5:2]" has a length of -3."""
    write_tfds(data_dir)
    with pytest.raises(UserError, match="has no split|is empty"):
        make_source("tfds", split, dataset="tiny")


def test_tfds_labels_that_are_plain_numbers_need_a_number_of_classes(data_dir):
    write_tfds(data_dir, names=(), labels=[7, 3, *range(9), -1])
    with pytest.raises(UserError, match="no ClassLabel: say of how many classes"):
        make_source("tfds", "train", dataset="tiny")
    source = make_source("tfds", "train", dataset="tiny", num_classes=9)
    assert [source[i]["label"] for i in range(4)] == [7, 3, 0, 1]
    assert (source.num_classes, source.class_names[8]) == (9, "8")
    with pytest.raises(UserError, match=r"train\[11\] has the label -1, no class of 0 to 8"):
        source.read_many([3, 11])
    unlabelled = make_source("tfds", "train", dataset="tiny", num_classes=0)
    assert unlabelled.num_classes is None and unlabelled[11]["label"] == 0
    few = make_source("tfds", "train", dataset="tiny", num_classes=5)
    with pytest.raises(UserError, match="has the label 7, no class of 0 to 4"):
        few[0]


def test_tfds_splits_without_answers_have_no_classes(data_dir, caplog):
    write_tfds(data_dir, labels=[-1] * 12)
    source = make_source("tfds", "test", dataset="tiny")
    assert (source.num_classes, source.class_names, source[1]["label"]) == (None, None, 0)
    assert "has no labels: they are -1" in caplog.text


def test_tfds_pictures_are_left_as_published(data_dir):
    image, exif, file = np.zeros((8, 8, 3), np.uint8), Image.Exif(), io.BytesIO()
    image[:4], exif[0x0112] = 255, 6
    Image.fromarray(image).save(file, "PNG", exif=exif)
    write_tfds(data_dir, images=[file.getvalue()] * 12)
    np.testing.assert_array_equal(make_source("tfds", "train", dataset="tiny")[0]["image"], image)


def test_tfds_says_that_its_description_is_damaged(data_dir):
    write_tfds(data_dir)
    (file,) = data_dir.glob("tiny/*/dataset_info.json")
    file.write_text(file.read_text()[:40])
    with pytest.raises(UserError, match="cannot read .*tiny.*prepare it again"):
        make_source("tfds", "train", dataset="tiny")


def test_folder_classes_are_subfolders_in_the_order_of_their_names(tmp_path):
    write_images(tmp_path / "dog", 3, start=10)
    write_images(tmp_path / "cat", 2)
    (tmp_path / "cat" / "notes.txt").write_text("not an image")
    source = make_source("folder", "all", path=str(tmp_path))
    assert source.class_names == ("cat", "dog")
    assert values(source) == [0, 1, 10, 11, 12]
    assert [source[i]["label"] for i in range(5)] == [0, 0, 1, 1, 1]


def test_folder_splits_by_subfolder_or_else_holds_out_some_images(tmp_path):
    write_images(tmp_path / "a" / "train" / "x", 3)
    write_images(tmp_path / "a" / "val" / "x", 2, start=7)
    assert values(make_source("folder", "val", path=str(tmp_path / "a"))) == [7, 8]
    for split in ("test", "all"):
        with pytest.raises(UserError, match=f"no split '{split}'; its folders are train, val"):
            make_source("folder", split, path=str(tmp_path / "a"))
    write_images(tmp_path / "b" / "x", 50)
    train, test = (
        values(make_source("folder", s, path=str(tmp_path / "b"), test_every=10))
        for s in ("train", "test")
    )
    assert len(test) == 5 and sorted(train + test) == list(range(50))


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_folder_reads_captions_and_labels(tmp_path, kind):
    write_images(tmp_path / "images", 3)
    rows = [(f"images/{i:03d}.png", f"number {i}, here", "pq"[i % 2]) for i in range(3)]
    if kind == "csv":
        lines = ["image,caption,label"] + [f'{i},"{c}",{n}' for i, c, n in rows]
    else:
        lines = [json.dumps(dict(zip(("image", "caption", "label"), r, strict=True))) for r in rows]
    (tmp_path / f"captions.{kind}").write_text("\n".join(lines) + "\n")
    source = make_source("folder", "all", path=str(tmp_path))
    assert [source[i]["caption"] for i in range(3)] == [caption for _, caption, _ in rows]
    assert [source[i]["label"] for i in range(3)] == [0, 1, 0]
    assert source.class_names == ("p", "q")


def test_folder_names_an_empty_class_a_bad_row_and_a_broken_image(tmp_path):
    write_images(tmp_path / "cat", 2)
    (tmp_path / "dog").mkdir()
    with pytest.raises(UserError, match=rf"class folder {tmp_path / 'dog'} holds no image"):
        make_source("folder", "all", path=str(tmp_path))
    (tmp_path / "dog" / "half.png").write_bytes(png(1, size=64)[:60])
    source = make_source("folder", "all", path=str(tmp_path))
    with pytest.raises(BadExample, match="half.png"):
        source[2]
    (tmp_path / "captions.jsonl").write_text('{"image": "cat/000.png", "words": "a cat"}\n')
    with pytest.raises(
        UserError, match="line 1: the field 'caption' is missing .there are image, words"
    ):
        make_source("folder", "all", path=str(tmp_path))
    (tmp_path / "captions.jsonl").write_text('{"image": "cat/000.png"\n')
    with pytest.raises(UserError, match="line 1 is not JSON"):
        make_source("folder", "all", path=str(tmp_path))
    with pytest.raises(UserError, match="no image folder"):
        make_source("folder", "all", path=str(tmp_path / "nothing"))


def test_unknown_sources_and_arguments_are_refused():
    with pytest.raises(UserError, match="'shape'; there are .*shapes"):
        make_source("shape", "train")
    with pytest.raises(UserError, match="'shapes' has no 'sides'"):
        make_source("shapes", "train", sides=3)
