"""Reconstructions of a tokenizer that draws: an image depends on the seed and its number only."""

import jax
import numpy as np
import pytest

from imgen.evaluation.images.image_set import ImageSet, padded
from imgen.parallel.mesh import batch_sharding, make_mesh, replicated
from imgen.tokenizers.flextok import FlexTok
from imgen.training.reconstructions import first_tokens, reconstructed, reconstructor, stripper
from tests.tokenizers.random_params import random_params

IMAGES = np.random.default_rng(0).integers(0, 256, (21, 8, 8, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def model():
    tokenizer = FlexTok(
        image_size=8, patch=4, registers=4, encoder_width=16, encoder_depth=1, decoder_width=16,
        decoder_depth=1, head_dim=8, steps=2, guidance_scale=1.0,
    )  # fmt: skip
    return tokenizer, random_params(tokenizer, IMAGES[:1] / 255)


def drawn(model, devices, batch_size, seed=0):
    tokenizer, variables = model
    mesh = make_mesh(devices=jax.devices()[:devices])

    def read(size):
        for start in range(0, len(IMAGES), size):
            yield padded(IMAGES[start : start + size], size)

    images = ImageSet("images", len(IMAGES), (8, 8), read)
    with jax.set_mesh(mesh):
        params = jax.device_put(variables["params"], replicated(mesh))
        reconstruct, key = reconstructor(tokenizer), jax.random.key(seed)
        found = reconstructed(images, reconstruct, params, batch_sharding(mesh), key)
        batches = list(found.read(batch_size))
    return np.concatenate([rows[mask > 0] for rows, mask in batches]).astype(int)


def test_reconstructions_are_the_same_on_one_device_and_on_eight_and_in_any_batch(model):
    one = drawn(model, 1, 5)
    assert one.shape == IMAGES.shape
    for devices, batch_size in ((1, 8), (8, 8), (8, 16)):
        assert np.abs(drawn(model, devices, batch_size) - one).max() <= 1  # rounding
    assert np.abs(drawn(model, 1, 5, seed=1) - one).mean() > 5


def test_strips_end_with_the_reconstruction_of_the_same_numbers(model):
    tokenizer, variables = model
    key, ids = jax.random.key(0), np.arange(8, 10)
    strips = stripper(tokenizer)(variables["params"], IMAGES[8:10], key, ids).astype(int)
    assert strips.shape == (2, 1 + len(first_tokens(tokenizer, 8)), 8, 8, 3)
    assert np.abs(strips[:, -1] - drawn(model, 1, 5)[8:10]).max() <= 1
