import dataclasses
import json

import numpy as np
import pytest

from imgen.data import make_source
from imgen.data.loader import train_batches
from imgen.data.preprocess import EvalCodes, StoredViews, TrainCodes
from imgen.data.stored import LatentsWriter
from imgen.errors import UserError
from imgen.latents import LatentSpec
from tests.data.tiny import png

COUNT = 7


def codes_of(size, seed=0, variants=3):
    return np.random.default_rng(seed).integers(0, size, (COUNT, variants, 2, 4))


def write(path, codes, size=500, labels=range(COUNT), **kwargs):
    arguments = dict(split="train", tokenizer_hash="abc", variants=codes.shape[1], num_classes=10)
    with LatentsWriter(path, LatentSpec("index", (2, 4), size), **(arguments | kwargs)) as writer:
        for label, code in zip(labels, codes, strict=True):
            writer.write(code, label)


def read_all(source):
    return np.stack([source[i]["codes"] for i in range(len(source))])


@pytest.mark.parametrize("size", [500, 2**16, 2**18])
def test_codes_come_back_whatever_their_size(tmp_path, size):
    codes = codes_of(size)
    codes[0, 0, 0, 0] = size - 1
    write(tmp_path, codes, size, class_names=[str(i) for i in range(10)])
    source = make_source("latents", "train", path=str(tmp_path))
    np.testing.assert_array_equal(read_all(source), codes)
    assert source[3]["codes"].dtype == np.int32
    assert [source[i]["label"] for i in range(COUNT)] == list(range(COUNT))
    assert source.spec == LatentSpec("index", (2, 4), size)
    assert (source.num_classes, source.class_names[9]) == (10, "9")


def test_shards_of_several_processes_are_one_data_set(tmp_path):
    codes = codes_of(500)
    for shard in (1, 0):
        part = slice(shard, None, 2)
        labels = range(COUNT)[part]
        write(tmp_path, codes[part], labels=labels, shard=shard, num_shards=2)
    source = make_source("latents", "train", path=str(tmp_path))
    found = {e["label"]: e["codes"] for e in (source[i] for i in range(len(source)))}
    np.testing.assert_array_equal(np.stack([found[i] for i in range(COUNT)]), codes)


def test_two_sets_of_crops_are_drawn_from_alike(tmp_path):
    one, other = codes_of(500, seed=1), codes_of(500, seed=2)
    write(tmp_path / "110", one)
    write(tmp_path / "105", other)
    source = make_source("latents", "train", path=[str(tmp_path / "110"), str(tmp_path / "105")])
    np.testing.assert_array_equal(read_all(source), np.concatenate([one, other], 1))


def test_the_loader_reads_them_in_worker_processes(tmp_path):
    codes = codes_of(500)
    write(tmp_path, codes)
    source = make_source("latents", "train", path=str(tmp_path))
    batches = train_batches(source, TrainCodes(), batch_size=4, seed=0, num_workers=1)
    batch = next(batches)
    batches.close()
    assert batch["codes"].shape == (4, 2, 4)
    for code, label in zip(batch["codes"], batch["label"], strict=True):
        assert (code == codes[label]).all((1, 2)).any()


def test_an_interrupted_write_leaves_nothing_that_could_be_read(tmp_path):
    with pytest.raises(RuntimeError, match="power cut"):
        with LatentsWriter(
            tmp_path, LatentSpec("index", (2, 4), 9), split="train", tokenizer_hash="", variants=1
        ) as writer:
            writer.write(np.zeros((1, 2, 4), int), 0)
            raise RuntimeError("power cut")
    with pytest.raises(UserError, match="no spec.json"):
        make_source("latents", "train", path=str(tmp_path))
    write(tmp_path, codes_of(500))  # and does not stand in the way of the next
    with pytest.raises(UserError, match="already holds latents"):
        write(tmp_path, codes_of(500))


def test_codes_outside_of_the_vocabulary_are_not_written(tmp_path):
    codes = codes_of(500)
    codes[2, 1, 0, 3] = 500
    with pytest.raises(ValueError, match="outside"):
        write(tmp_path, codes)


def test_damage_and_mismatch_are_told(tmp_path):
    def opened(**kwargs):
        return make_source("latents", "train", path=str(tmp_path), **kwargs)

    write(tmp_path, codes_of(500))
    with pytest.raises(UserError, match="another tokenizer"):
        opened(tokenizer_hash="xyz")
    with pytest.raises(UserError, match="holds the split 'train', not 'test'"):
        make_source("latents", "test", path=str(tmp_path))

    spec, about = tmp_path / "spec.json", json.loads((tmp_path / "spec.json").read_text())
    spec.write_text(json.dumps(about | {"variants": 4}))
    with pytest.raises(UserError, match="different runs"):
        opened()
    spec.write_text(json.dumps(about | {"num_shards": 2}))
    with pytest.raises(UserError, match="lacks latents-00000-of-00002"):
        opened()
    spec.write_text(json.dumps(about))
    (shard,) = tmp_path.glob("latents-*")
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(UserError, match="broken shard|cannot read"):
        opened()


def test_bits_come_back_in_an_eighth_of_the_bytes(tmp_path):
    bits = np.random.default_rng(0).integers(0, 2, (COUNT, 2, 3, 13))
    spec = LatentSpec("bits", (3,), 13)
    with LatentsWriter(tmp_path, spec, split="train", tokenizer_hash="", variants=2) as writer:
        for label in range(COUNT):
            writer.write(bits[label], label)
        with pytest.raises(ValueError, match="outside"):
            writer.write(bits[0] + 1, 0)
    source = make_source("latents", "train", path=str(tmp_path))
    np.testing.assert_array_equal(read_all(source), bits)
    assert source.spec == spec and source[0]["codes"].dtype == np.int32
    assert len(source._records[0][0]) == 4 + -(-2 * 3 * 13 // 8)


def test_latents_are_drawn_anew_from_stored_moments(tmp_path):
    mean, log_variance = np.full((1, 50, 4), 3.0), np.full((1, 50, 4), np.log(0.25))
    moments = np.concatenate([mean, log_variance], -1).astype(np.float32)
    spec = LatentSpec("continuous", (50,), 4)
    arguments = dict(split="train", tokenizer_hash="", variants=1, moments=True)
    with LatentsWriter(tmp_path, spec, **arguments) as writer:
        writer.write(moments, 0)
    source = make_source("latents", "train", path=str(tmp_path))
    rng = np.random.default_rng(0)
    draws = np.stack([TrainCodes()(source[0], rng)["codes"] for _ in range(50)])
    assert draws.shape == (50, 50, 4) and draws.dtype == np.float32
    np.testing.assert_allclose(draws.mean(), 3.0, atol=0.02)
    np.testing.assert_allclose(draws.std(), 0.5, atol=0.02)
    np.testing.assert_array_equal(EvalCodes()(source[0], None)["codes"], mean[0])


# Of which images they are.


def encoded(tmp_path, first=0):
    """A folder of images, and latents that say they were made of them."""
    images = tmp_path / "my pictures"
    images.mkdir(parents=True)
    for i in range(COUNT):
        (images / f"{i}.png").write_bytes(png(i + first))
    source = make_source("folder", "all", path=str(images))
    crops = dataclasses.asdict(StoredViews(32))
    write(tmp_path / "latents", codes_of(500), data=source.about(), crops=crops)
    return images, tmp_path / "latents"


def test_latents_say_of_which_images_and_crops_they_are(tmp_path):
    images, latents = encoded(tmp_path)
    about = json.loads((latents / "spec.json").read_text())
    assert about["crops"] == {"size": 32, "ten_crop": True, "crop_range": 1.1}
    assert about["count"] == about["data"]["count"] == COUNT
    assert about["data"]["settings"] == {"name": "folder", "split": "all", "path": str(images)}
    assert len(about["data"]["hash"]) == 16


def warned(caplog) -> list[str]:
    """What was warned of; where a command ran before in this process, the log has more."""
    return [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]


@pytest.mark.parametrize("change", ["paint", "add", "remove", "rename"])
def test_images_that_changed_later_are_noticed(tmp_path, change, caplog):
    images, latents = encoded(tmp_path)
    make_source("latents", "train", path=str(latents))
    assert not warned(caplog)
    first = images / "1.png"
    size = first.stat().st_size
    if change == "paint":
        first.write_bytes(png(7))
        assert first.stat().st_size == size  # which would not tell
    elif change == "add":
        (images / "more.png").write_bytes(png(3))
    elif change == "remove":
        first.unlink()
    else:
        first.rename(images / "01.png")
    make_source("latents", "train", path=str(latents))
    assert f"{latents} was encoded from other images" in caplog.text


def test_images_that_moved_away_are_no_longer_asked_about(tmp_path, caplog):
    images, latents = encoded(tmp_path)
    images.rename(tmp_path / "elsewhere")
    make_source("latents", "train", path=str(latents))
    assert not warned(caplog)


def test_sets_of_crops_of_unlike_images_are_not_put_together(tmp_path):
    one, same, other = (
        encoded(tmp_path / name, i)[1] for name, i in (("a", 0), ("b", 0), ("c", 1))
    )
    make_source("latents", "train", path=[str(one), str(same)])
    with pytest.raises(UserError, match="encoded from unlike images"):
        make_source("latents", "train", path=[str(one), str(other)])


def test_labels_that_are_no_class_are_neither_written_nor_read(tmp_path):
    for label in (-1, 10):
        with pytest.raises(ValueError, match=f"label {label} of 10 classes"):
            write(tmp_path / str(label), codes_of(500), labels=[label] * COUNT)
    write(tmp_path, codes_of(500))
    spec = tmp_path / "spec.json"
    spec.write_text(spec.read_text().replace('"num_classes": 10', '"num_classes": 3'))
    with pytest.raises(UserError, match="has the label 6, no class of 3"):
        make_source("latents", "train", path=str(tmp_path))


@pytest.mark.parametrize(
    "harm",
    [
        {"grid": [2, -4]}, {"grid": "24"}, {"size": 0}, {"size": "500"}, {"kind": "indexx"}, {"kind": [1]},
        {"variants": True}, {"num_shards": 0}, {"num_shards": 10**9}, {"num_classes": 2.5},
        {"class_names": ["a"]}, {"moments": 1}, {"data": [1]}, {"count": 3}, {"split": None},
        {"tokenizer_hash": 7}, {"format": 2},
    ],
)  # fmt: skip
def test_a_damaged_spec_is_one_line(tmp_path, harm):
    write(tmp_path, codes_of(500))
    spec = tmp_path / "spec.json"
    spec.write_text(json.dumps(json.loads(spec.read_text()) | harm))
    with pytest.raises(UserError) as refused:
        make_source("latents", "train", path=str(tmp_path))
    assert str(tmp_path) in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000, "\ud800", "null", '{"format": 1}'])
def test_a_spec_that_is_none_is_one_line(tmp_path, text):
    write(tmp_path, codes_of(500))
    (tmp_path / "spec.json").write_bytes(text.encode(errors="surrogatepass"))
    with pytest.raises(UserError, match=str(tmp_path)):
        make_source("latents", "train", path=str(tmp_path))


def test_origins_that_make_no_sense_are_passed_over(tmp_path, caplog):
    for number, settings in enumerate(
        [None, {}, {"name": 5}, {"name": "folder", "split": "all", "path": 5}, {"name": "latents"},
         {"name": "folder", "split": "all", "path": "\0"}]
    ):  # fmt: skip
        path = tmp_path / str(number)
        write(path, codes_of(500), data={"settings": settings, "hash": "0", "count": 1})
        make_source("latents", "train", path=str(path))
    assert not warned(caplog)
