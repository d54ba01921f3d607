"""CLIP's embeddings of images of any size and of texts, and what is made of them."""

import jax
import numpy as np
import pytest

from imgen.conditioning import clip_bpe
from imgen.conditioning.clip import normalised, preset
from imgen.errors import UserError
from imgen.evaluation.clip_embed import (
    CMMD_NETWORK,
    Embedder,
    clip_scores,
    cmmd_embeddings,
    embed_images,
    network_name,
)
from imgen.evaluation.clip_images import resize_then_square, square_then_resize
from imgen.evaluation.clip_score import PAPER_PREFIX, PAPER_SCALE, score_name
from imgen.evaluation.cmmd import cmmd
from imgen.evaluation.records import Protocol
from tests.conditioning.tiny_clip import random_params, tiny_clip


@pytest.fixture(scope="module")
def embedder():
    tokenizer = clip_bpe.Tokenizer((), clip_bpe.numbered(()))
    model = tiny_clip(vocab=len(tokenizer.ids), length=40)
    return Embedder(model, random_params(model), tokenizer, batch_size=3)


def pictures(count, seed=0):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(8, 30, (count, 2))
    return [rng.integers(0, 256, (*size, 3), np.uint8) for size in sizes]


def test_cmmd_cuts_the_middle_square_before_it_resizes():
    image = np.zeros((10, 21, 3), np.uint8)
    image[:, 5:15] = 200  # columns 0-4 and 15-20 are none of the square's
    assert (square_then_resize(image, 7) == 200).all()
    assert not (resize_then_square(image, 7) == 200).all()
    grey = np.arange(100, dtype=np.uint8).reshape(10, 10)
    rgb = np.repeat(grey[..., None], 3, axis=2)
    np.testing.assert_array_equal(square_then_resize(grey, 6), square_then_resize(rgb, 6))


def test_clip_cuts_after_it_has_resized_and_rounds_as_torchvision():
    columns = np.broadcast_to(np.arange(9, dtype=np.uint8)[None, :, None], (4, 9, 3))
    for width, first in ((4, 0), (5, 0), (7, 2), (8, 2), (9, 2)):  # 0.5 -> 0, 1.5 -> 2, 2.5 -> 2
        cut = resize_then_square(columns[:, :width], 4)
        np.testing.assert_array_equal(cut[0, :, 0], np.arange(first, first + 4))
    assert resize_then_square(np.zeros((30, 91, 3), np.uint8), 7).shape == (7, 7, 3)


def test_shrinking_is_antialiased():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    for prepare in (square_then_resize, resize_then_square):
        assert np.abs(prepare(stripes, 8).astype(int) - 128).max() < 10


def test_pixels_are_normalised_by_clips_mean_and_deviation():
    white = np.asarray(normalised(np.full((1, 3), 255, np.uint8)))[0]
    np.testing.assert_allclose(white, [1.930336, 2.074884, 2.145897], rtol=1e-6)


def test_embeddings_do_not_depend_on_batches_devices_or_order(embedder):
    assert embedder.batch_size == 8 and jax.local_device_count() == 8
    images = pictures(11)
    found = embedder.images(iter(images))
    assert found.shape == (11, 24) and found.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(embedder.images(images[::-1])[::-1], found, atol=2e-6)
    params = random_params(embedder.model)
    for image, embedding in zip(images[:2], found, strict=False):
        prepared = resize_then_square(image, 8)[None]
        one = embed_images(embedder.model, params, prepared)[0]
        np.testing.assert_allclose(one, embedding, atol=2e-6)
    assert embedder.images([]).shape == (0, 24)


def test_cmmd_of_images_is_near_zero_for_themselves_only(embedder):
    dark = [picture // 4 for picture in pictures(12)]
    first, second = (cmmd_embeddings(embedder, images) for images in (pictures(12), dark))
    assert abs(cmmd(first, first)) < 1e-6 < 1e-2 < cmmd(first, second)
    assert np.abs(first - embedder.images(pictures(12))).max() > 1e-3  # another crop


def test_clip_score_is_of_each_pair_and_its_name_tells_prefix_and_scale(embedder):
    images, captions = pictures(9), [f"{n} dogs" for n in range(9)]
    scores = clip_scores(embedder, images, captions)
    cosines = np.sum(embedder.images(images) * embedder.texts(captions), axis=1)
    np.testing.assert_allclose(scores, 100 * np.maximum(cosines, 0), rtol=1e-4, atol=1e-4)
    prefixed = embedder.texts(captions, PAPER_PREFIX)
    whole = embedder.texts([f"A photo depicts {caption}" for caption in captions])
    np.testing.assert_allclose(prefixed, whole, atol=1e-6)
    assert np.abs(prefixed - embedder.texts(captions)).max() > 1e-3
    metric = score_name(PAPER_PREFIX, PAPER_SCALE)
    name = Protocol(network="clip_b32", n=5000).name(metric)
    assert name == "clipscore/2.5/a_photo_depicts/clip_b32/5k"
    assert score_name() == "clipscore/100"
    with pytest.raises(UserError, match="9 images but 8 texts"):
        clip_scores(embedder, images, captions[:8])


def test_the_network_is_named_by_size_and_activation(embedder):
    assert network_name(preset("clip_l14_336")) == CMMD_NETWORK
    assert network_name(preset("clip_b32", "gelu")) == "clip_b32_gelu"
    assert embedder.name == "clip_w64_d2_p4_8"


def test_the_hash_is_of_the_weights(embedder):
    model = embedder.model
    assert embedder.hash == Embedder(model, random_params(model), batch_size=1).hash
    assert embedder.hash != Embedder(model, random_params(model, seed=1)).hash


def test_mistakes_are_told_in_a_line(embedder):
    model = embedder.model
    with pytest.raises(UserError, match="no vocabulary of CLIP is named; take"):
        Embedder(model, random_params(model)).texts(["a"])
    with pytest.raises(UserError, match="514 tokens, this CLIP 20"):
        Embedder(tiny_clip(), random_params(tiny_clip()), embedder.tokenizer)
    for image in (np.zeros((9, 9, 3)), np.zeros((9, 9, 4), np.uint8)):
        with pytest.raises(UserError, match=r"not uint8 \[H, W, 3\]"):
            embedder.images([image])
