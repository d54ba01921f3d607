import json
import logging
import os
import pickle

import numpy as np
import pytest
from PIL import Image

from imgen.data import make_source
from imgen.data.labels import parse_labels
from imgen.data.loader import train_batches
from imgen.data.source import BadExample
from imgen.errors import UserError
from tests.data.tiny import png


def write_images(folder, values):
    folder.mkdir(parents=True, exist_ok=True)
    for value in values:
        (folder / f"{value}.png").write_bytes(png(value))


def opened(path, split="all", **kwargs):
    return make_source("folder", split, path=str(path), **kwargs)


def values(source):
    return [int(source[i]["image"][0, 0, 0]) for i in range(len(source))]


def labels(source):
    return [source[i]["label"] for i in range(len(source))]


# Classes.


def test_numbered_class_folders_keep_the_order_of_their_numbers_and_say_so(tmp_path, caplog):
    """As text, folder 10 would be class 2."""
    for number in range(11):
        write_images(tmp_path / str(number), [number])
    with caplog.at_level(logging.INFO):
        source = opened(tmp_path)
    assert source.class_names == tuple(map(str, range(11)))
    assert labels(source) == values(source) == list(range(11))
    assert "11 classes: 0: 0, 1: 1, 2: 2" in caplog.text and "10: 10" in caplog.text


def test_a_class_has_all_images_below_its_folder(tmp_path):
    write_images(tmp_path / "cat", [1])
    write_images(tmp_path / "cat" / "black" / "old", [2])
    write_images(tmp_path / "dog" / "young", [3])
    source = opened(tmp_path)
    assert (source.class_names, labels(source)) == (("cat", "dog"), [0, 0, 1])


def test_the_folder_may_be_the_one_we_are_in(tmp_path, monkeypatch):
    write_images(tmp_path / "a", [1])
    write_images(tmp_path / "b" / "deep", [2])
    for here, path in (
        (tmp_path, "."),
        (tmp_path, "./"),
        (tmp_path / "a", ".."),
        (tmp_path / "a", "../"),
    ):
        monkeypatch.chdir(here)
        assert opened(path).class_names == ("a", "b")


def test_a_folder_without_sub_folders_has_no_classes(tmp_path):
    write_images(tmp_path, [10, 9, 2])
    source = opened(tmp_path)
    assert (source.num_classes, source.class_names, source.captions) == (None, None, False)
    assert values(source) == [2, 9, 10]


def test_images_beside_class_folders_are_left_out_and_counted(tmp_path, caplog):
    write_images(tmp_path / "cat", [1, 2])
    write_images(tmp_path / "__MACOSX" / "cat", [7])
    write_images(tmp_path / ".ipynb_checkpoints", [8])
    write_images(tmp_path, [3])
    (tmp_path / "cat" / "notes.txt").write_text("x")
    source = opened(tmp_path)
    assert values(source) == [1, 2]
    reasons = "1 .txt, 2 hidden, 1 images beside the class folders"
    assert f"{tmp_path}: 2 images, left out 4 files ({reasons})" in caplog.text
    write_images(tmp_path, [4, 5, 6])
    with pytest.raises(UserError, match="holds 4 images, and 2 more in folders such as cat"):
        opened(tmp_path)


def test_links_to_classes_and_images_are_followed(tmp_path):
    write_images(tmp_path / "elsewhere", [1, 2])
    (tmp_path / "root").mkdir()
    os.symlink(tmp_path / "elsewhere", tmp_path / "root" / "a")
    (tmp_path / "root" / "b").mkdir()
    os.symlink(tmp_path / "elsewhere" / "1.png", tmp_path / "root" / "b" / "1.png")
    assert values(opened(tmp_path / "root")) == [1, 2, 1]


# Splits.


@pytest.mark.parametrize("name", ["train", "val", "test", "Training"])
def test_a_class_may_be_called_like_a_split(tmp_path, name):
    write_images(tmp_path / "bus", [1])
    write_images(tmp_path / name, [2])
    source = opened(tmp_path)
    assert set(source.class_names) == {"bus", name} and len(source) == 2


@pytest.mark.parametrize("names", ["train test", "training testing", "Train Test"])
def test_folders_of_splits_have_several_names_and_are_no_classes(tmp_path, names):
    train, test = names.split()
    for split, value in ((train, 1), (test, 5)):
        write_images(tmp_path / split / "a", [value])
        write_images(tmp_path / split / "b", [value + 1])
    for asked in ("train", "training"):
        assert values(opened(tmp_path, asked)) == [1, 2]
    for asked in ("test", "testing", "eval"):
        source = opened(tmp_path, asked)
        assert (values(source), source.class_names) == ([5, 6], ("a", "b"))
    write_images(tmp_path / "valid" / "a", [9])
    assert values(opened(tmp_path, "eval")) == values(opened(tmp_path, "validation")) == [9]


def test_what_may_be_a_split_or_a_class_is_asked(tmp_path):
    write_images(tmp_path / "train" / "cat", [1])
    write_images(tmp_path / "raw", [2])
    with pytest.raises(
        UserError, match="train holds class folders, as a split does, but raw is beside it"
    ):
        opened(tmp_path, "train")
    write_images(tmp_path / "twice" / "train", [1])
    write_images(tmp_path / "twice" / "training", [1])
    with pytest.raises(UserError, match="two folders of one split: train and training"):
        opened(tmp_path / "twice", "train")
    write_images(tmp_path / "half" / "train" / "cat", [1])
    with pytest.raises(
        UserError, match=r"no split 'test'; its folders are train; .*give .*half/train"
    ):
        opened(tmp_path / "half", "test")


# Captions files.

TABLE = [("1.png", "a cat, black", "3"), ("2.png", "ein Hund — größer", "0")]


def table(delimiter, header="image{0}caption{0}label", end="\n"):
    rows = [delimiter.join((i, f'"{c}"', n)) for i, c, n in TABLE]
    return end.join([header.format(delimiter), *rows, ""])


@pytest.fixture
def folder(tmp_path):
    write_images(tmp_path, [1, 2])
    return tmp_path


def check_table(source):
    assert [source[i]["caption"] for i in range(2)] == [caption for _, caption, _ in TABLE]
    assert labels(source) == [3, 0] and source.num_classes == 4


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_tables_are_read_with_the_delimiter_of_their_header(folder, delimiter, end):
    (folder / "captions.csv").write_bytes(table(delimiter, end=end).encode())
    check_table(opened(folder))


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252"]
)
def test_encodings_that_can_be_told_are_read_and_others_named(folder, encoding):
    (folder / "captions.csv").write_bytes(table(";").encode(encoding))
    if encoding != "cp1252":
        check_table(opened(folder))
        return
    with pytest.raises(UserError, match=r"line 3 is not utf-8 \(byte 0x97\).*encoding=cp1252"):
        opened(folder)
    check_table(opened(folder, encoding="cp1252"))
    with pytest.raises(UserError, match="encoding 'cp1253x' is unknown"):
        opened(folder, encoding="cp1253x")


@pytest.mark.parametrize(
    "name", ["captions.tsv", "metadata.csv", "metadata.jsonl", "captions.jsonl"]
)
def test_tables_have_several_names_and_those_of_their_columns(folder, name):
    if name.endswith("jsonl"):
        rows = [dict(file_name=i, text=c, label=int(n)) for i, c, n in TABLE]
        (folder / name).write_text("\n".join(map(json.dumps, rows)))
    else:
        text = table("\t" if name.endswith("tsv") else ",", "File_Name{0} text {0}label")
        (folder / name).write_text(text)
    check_table(opened(folder))
    check_table(opened(folder / name))  # by its own path


def test_a_table_may_hold_labels_without_captions(folder):
    (folder / "captions.csv").write_text("filename,label\n1.png,dog\n2.png,cat\n")
    source = opened(folder)
    assert (labels(source), source.class_names, source.captions) == ([1, 0], ("cat", "dog"), False)


def test_a_table_of_splits_is_taken_apart_by_their_folders(tmp_path):
    write_images(tmp_path / "train", [1, 2])
    write_images(tmp_path / "test", [3])
    rows = ["image,label", "train/1.png,0", "train/2.png,1", "test/3.png,0"]
    (tmp_path / "metadata.csv").write_text("\n".join(rows))
    assert values(opened(tmp_path, "train")) == [1, 2]
    source = opened(tmp_path, "test")
    assert values(source) == [3] and source.num_classes == 2


def test_images_that_a_table_does_not_name_are_counted(folder, caplog):
    write_images(folder, [7])
    (folder / "captions.csv").write_text(table(","))
    check_table(opened(folder))
    assert "left out 1 images that captions.csv does not name" in caplog.text


def test_captions_stand_beside_images(tmp_path):
    write_images(tmp_path, [1, 2])
    for value, text in ((1, "one\n"), (2, "zwei — größer")):
        (tmp_path / f"{value}.txt").write_text(text, encoding="utf-8-sig")
    source = opened(tmp_path)
    assert source.captions and [source[i]["caption"] for i in range(2)] == ["one", "zwei — größer"]
    (tmp_path / "2.txt").unlink()
    with pytest.raises(UserError, match="1 of 2 images have no caption .*2.png"):
        opened(tmp_path)


@pytest.mark.parametrize(
    "text, line",
    [
        (
            "image,caption,label\n1.png,a cat, black,0\n",
            "line 2 has 4 cells where the header has 3",
        ),
        ("image,caption,label\n1.png,a cat,0\n\n2.png,a dog\n", "line 4 has 2 cells"),
        ('image,caption\n1.png,"a cat\n2.png,a dog\n', "line 2: .*quote"),
        ('image,caption\n1.png,"a cat\n2.png,a dog"\n1.png,x\n', "line 2: .*looks like a row"),
        ('image,caption\n1.png,"a cat" black\n', "line 2: .*quote"),
        ("name,words\n1.png,a cat\n", "its columns are name, words; one of image, file_name"),
        (
            "image;words\n1.png;a cat\n",
            r"line 2: .*'caption' is missing \(there are image, words\)",
        ),
        ("image,caption,caption\n1.png,a,b\n", "line 1 names 'caption' twice"),
        ("image,caption\n,a cat\n", "line 2: the field 'image'"),
        ("image,caption\n", "has no entries"),
        ("", "its columns are none"),
        ("image,caption\nnone.png,a\n", "its first image, .*none.png, does not exist"),
    ],
)
def test_tables_that_can_be_misread_are_refused_with_their_line(folder, text, line):
    (folder / "captions.csv").write_text(text)
    with pytest.raises(UserError, match=line):
        opened(folder)


@pytest.mark.parametrize(
    "text, line",
    [
        ('{"image": "1.png", "caption": "a"}\n{"image": "2.png"', "line 2 is not JSON"),
        ('{"image": "1.png", "caption": null}', "line 1: the field 'caption' is None"),
        ('{"image": "1.png", "caption": "a"}\n{"image": "2.png", "text2": "b"}', "there are image, text2"),
        ('["1.png", "a"]', "line 1 is no JSON object"),
        ("[" * 100_000, "line 1 is not JSON"),
        ('{"image": "1.png", "label": 1' + "0" * 5000 + "}", "line 1 is not JSON"),
        ('{"image": "\\u0000", "caption": "a"}', "its first image"),
        ('{"image": "\\ud800", "caption": "a"}', "its first image"),
    ],
)  # fmt: skip
def test_json_lines_that_are_none_are_refused_with_their_line(folder, text, line):
    (folder / "captions.jsonl").write_text(text)
    with pytest.raises(UserError, match=line):
        opened(folder)


def test_a_caption_keeps_its_odd_line_ends(folder):
    """Only a line feed ends a JSON line: U+2028 and NEL belong to the caption."""
    caption = "a\u2028b\u0085c\x0cd"
    lines = [
        json.dumps(dict(image=f"{i}.png", caption=caption), ensure_ascii=False) for i in (1, 2)
    ]
    (folder / "captions.jsonl").write_text("\r\n".join(lines), newline="")
    source = opened(folder)
    assert [source[i]["caption"] for i in range(2)] == [caption] * 2


def test_two_tables_are_one_too_many(folder):
    (folder / "captions.csv").write_text(table(","))
    (folder / "metadata.csv").write_text(table(","))
    with pytest.raises(UserError, match="captions.csv, metadata.csv: give the one"):
        opened(folder)


# Labels.


@pytest.mark.parametrize(
    "given, numbers, names",
    [
        ([0, 1, 10], [0, 1, 10], 11),
        (["10.0", " 1", "0"], [10, 1, 0], 11),
        ([2.0, "2", "02", 2], [2, 2, 2, 2], 3),
        (["10a", "2a", " 2a "], [1, 0, 0], ("2a", "10a")),
    ],
)
def test_labels_are_whole_numbers_or_names(given, numbers, names):
    found, class_names = parse_labels(given, [""] * len(given))
    assert found == numbers
    assert class_names == names if isinstance(names, tuple) else len(class_names) == names


@pytest.mark.parametrize(
    "wrong",
    ["", " ", None, "NaN", float("nan"), "null", -1, "-1", 1.5, "1.5", "1,5", True, [1], {}, "inf", 1e300,
     float("inf"), "9" * 400, 2**40, "?", "1_000"],
)  # fmt: skip
def test_labels_that_are_no_class_are_refused_with_their_place(wrong):
    with pytest.raises(UserError, match="^file line 3: the label"):
        parse_labels([0, wrong, 1], ["file line 2", "file line 3", "file line 4"])


def test_names_among_numbers_are_refused():
    places = [f"line {i}" for i in range(4)]
    with pytest.raises(
        UserError, match="line 2: the label 'cat' is not a whole number as the others"
    ):
        parse_labels(["0", "1", "cat", "2"], places)
    with pytest.raises(UserError, match="line 3: the label '2' is not a name as the others"):
        parse_labels(["a", "b", "cat", "2"], places)


# Pixels.


def test_transparent_parts_are_put_on_a_background_that_is_said_once(tmp_path, caplog):
    for name in ("a", "b"):
        Image.new("RGBA", (4, 4), (9, 9, 9, 0)).save(tmp_path / f"{name}.png")
    source = opened(tmp_path)
    assert values(source) == [255, 255]
    assert caplog.text.count("transparent parts of its pictures are put on (255, 255, 255)") == 1
    assert values(opened(tmp_path, background="black")) == [0, 0]
    with pytest.raises(UserError, match="background 'blakc' is no colour"):
        opened(tmp_path, background="blakc")


def test_pictures_that_cannot_be_read_are_bad_examples(tmp_path):
    write_images(tmp_path, [1])
    Image.fromarray(np.full((4, 4), 0.5, np.float32)).save(tmp_path / "float.tif")
    Image.new("L", (12000, 1)).save(tmp_path / "long.png")
    (tmp_path / "html.jpg").write_text("<html>")
    source = pickle.loads(pickle.dumps(opened(tmp_path)))
    for index in (1, 2, 3):
        with pytest.raises(BadExample):
            source[index]
    transform = source.train_transform(8)
    batches = train_batches(source, transform, batch_size=4, seed=0, max_bad_share=1.0)
    assert (next(batches)["image"] == 1).all()
    batches.close()


def test_sizes_are_read_from_headers(tmp_path):
    write_images(tmp_path, [1])
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (20, 10)).save(tmp_path / "turned.jpg", exif=exif)
    (tmp_path / "broken.jpg").write_bytes(b"")
    assert opened(tmp_path).image_sizes() == [(8, 8), (20, 10)]
