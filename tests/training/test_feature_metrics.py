"""Distances of what is being trained: the reference is measured once in a run, before training."""

import dataclasses

import jax
import numpy as np
import pytest

from imgen.training.feature_metrics import FeatureMetrics
from imgen.training.sharding import make_mesh
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
            make=lambda state, sharding: images_of(pictures(20, seed=1, size=32)), names={},
            open_images=open_images, group="train", kept=tmp_path / "references", metrics=metrics,
            features="fd_cifar", weights=weights, reference=reference, batch_size=8,
        )  # fmt: skip
        found.prepare(make_mesh(devices=jax.devices()[:1]), nothing)
        return found

    weights = untrained_weights(tmp_path / "a.safetensors")
    first = started(weights)
    assert read == ["eval"]
    values = first({}, nothing)
    assert set(values) == {"fd/fd_cifar/20", "kid/fd_cifar/20", "kid_std/fd_cifar/20"}
    assert started(weights)({}, nothing) == values  # to the bit
    assert read == ["eval"]
    # Other images and other needs are other statistics.
    started(weights, reference="train")
    started(weights, ("fid",))
    assert read == ["eval", "train", "eval"]
    assert len(list((tmp_path / "references").glob("fd_cifar_*.npz"))) == 3


def test_a_measurement_is_given_up_between_batches(tmp_path):
    polls = []

    def poll():
        polls.append(1)
        if len(polls) == 2:
            raise InterruptedError

    metrics = FeatureMetrics(
        make=lambda state, sharding: images_of(np.zeros((64, 32, 32, 3), np.uint8)), names={},
        open_images=lambda where, num: images_of(pictures(20, size=32)), group="train", kept=tmp_path,
        metrics=("is",), features="fd_cifar", weights=untrained_weights(tmp_path / "w"), batch_size=8,
    )  # fmt: skip
    metrics.prepare(make_mesh(devices=jax.devices()[:1]), poll)
    with pytest.raises(InterruptedError):
        metrics({}, poll)
    assert len(polls) == 2
