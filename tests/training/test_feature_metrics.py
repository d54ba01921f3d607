"""Distances of what is being trained: the reference is measured once in a run, before training."""

import dataclasses

import jax
import numpy as np
import pytest
from PIL import Image

from imgen.data.folder import Folder
from imgen.data.preprocess import EvalImages
from imgen.evaluation.images.image_set import of_source, open_images
from imgen.parallel.mesh import make_mesh
from imgen.training.feature_metrics import FeatureMetrics
from tests.evaluation.toy_network import images_of, pictures, untrained_weights


def nothing():
    pass


def test_the_reference_is_measured_before_training_and_once_in_a_run(tmp_path):
    read = []

    def open_images(where, num):
        images = images_of(pictures(30, size=32), where)

        def counted(batch_size):
            read.append(where)
            return images.read(batch_size)

        return dataclasses.replace(images, read=counted)

    def started(weights, metrics=("fid", "kid"), reference="eval"):
        found = FeatureMetrics(
            make=lambda state, sharding: images_of(pictures(20, seed=1, size=32)),
            open_images=open_images, group="train", kept=tmp_path / "references", metrics=metrics,
            features="fd_cifar", weights=weights, reference=reference, batch_size=8,
        )  # fmt: skip
        found.prepare(make_mesh(devices=jax.devices()[:1]), nothing)
        return found

    weights = untrained_weights(tmp_path / "a.safetensors")
    first = started(weights)
    assert read == ["eval"]
    values = first({}, nothing)
    assert set(values) == {"gfd/fd_cifar/20", "kid/fd_cifar/20", "kid_std/fd_cifar/20"}
    assert started(weights)({}, nothing) == values  # to the bit
    assert read == ["eval"]
    # Other images and other needs are other statistics.
    started(weights, reference="train")
    started(weights, ("fid",))
    assert read == ["eval", "train", "eval"]
    assert len(list((tmp_path / "references").glob("fd_cifar_*.npz"))) == 3


def test_statistics_of_files_that_have_changed_are_not_taken_for_theirs(tmp_path):
    metrics = FeatureMetrics(
        make=nothing, open_images=lambda where, num: open_images(where, num=num),
        group="train", kept=tmp_path, features="fd_cifar", reference=f"{tmp_path}/a.npz",
        metrics=("is",), weights=untrained_weights(tmp_path / "w.safetensors"),
    )  # fmt: skip
    file, folder = tmp_path / "reals.npz", tmp_path / "reals" / "train"
    (folder / "dogs").mkdir(parents=True)

    def opened():
        yield open_images(str(file))
        yield open_images(str(folder))
        yield of_source(Folder("train", path=str(folder.parent)), EvalImages(8), 8)

    found = []
    for seed in (2, None, 3):  # None: nothing is written
        if seed:
            images = pictures(3, seed=seed)
            np.savez(file, images)
            for i, picture in enumerate(images):  # as many bytes each time
                Image.fromarray(picture).save(folder / "dogs" / f"{i}.bmp")
        found.append([metrics._kept_file(images, ("pool",)) for images in opened()])
    assert found[0] == found[1]
    assert all(before != after for before, after in zip(found[1], found[2], strict=True))


def test_a_measurement_is_given_up_between_batches(tmp_path):
    polls = []

    def poll():
        polls.append(1)
        if len(polls) == 2:
            raise InterruptedError

    metrics = FeatureMetrics(
        make=lambda state, sharding: images_of(np.zeros((64, 32, 32, 3), np.uint8)),
        open_images=lambda where, num: images_of(pictures(20, size=32)), group="train", kept=tmp_path,
        metrics=("is",), features="fd_cifar", weights=untrained_weights(tmp_path / "w"), batch_size=8,
    )  # fmt: skip
    metrics.prepare(make_mesh(devices=jax.devices()[:1]), poll)
    with pytest.raises(InterruptedError):
        metrics({}, poll)
    assert len(polls) == 2
