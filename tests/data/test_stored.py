import json

import numpy as np
import pytest

from imgen.data import make_source
from imgen.data.loader import train_batches
from imgen.data.preprocess import EvalCodes, TrainCodes
from imgen.data.stored import LatentsWriter
from imgen.errors import UserError
from imgen.latents import LatentSpec

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
