"""CLIP's embeddings of images of any size and of texts."""

import numpy as np
import pytest

from imgen.conditioning import clip_bpe
from imgen.conditioning.clip import normalised, preset
from imgen.errors import UserError
from imgen.evaluation.networks.clip_embeddings import (
    embed_images,
    embed_texts,
    image_network,
    network_name,
    text_embeddings,
)
from imgen.evaluation.networks.clip_input import resize_then_square, square_then_resize
from imgen.evaluation.networks.extractor import Extractor
from imgen.evaluation.prompts.clip_score import PAPER_PREFIX, PAPER_SCALE, score_name
from imgen.evaluation.results.records import Protocol
from imgen.parallel.mesh import batch_sharding, make_mesh
from tests.conditioning.tiny_clip import random_params, tiny_clip
from tests.evaluation.toy_network import images_of, pictures

TOKENIZER = clip_bpe.Tokenizer((), clip_bpe.numbered(()))
MODEL = tiny_clip(vocab=len(TOKENIZER.ids), length=40)


@pytest.fixture(scope="module")
def params():
    return random_params(MODEL)


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


def test_embeddings_of_images_are_of_unit_length_whatever_the_batch(params):
    images = pictures(11, size=10)
    for prepare in (square_then_resize, resize_then_square):
        extractor = Extractor(image_network(MODEL, params, prepare), batch_sharding(make_mesh()))
        found = extractor(images_of(images), ["embeddings"], batch_size=8).embeddings
        assert found.shape == (11, 24) and found.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-6)
        prepared = np.stack([prepare(image, 8) for image in images])
        np.testing.assert_allclose(embed_images(MODEL, params, prepared), found, atol=2e-6)


def test_embeddings_of_texts_do_not_depend_on_the_batch_and_long_ones_are_cut(params):
    texts = [f"{n} dogs" for n in range(9)] + ["dogs " * 40]
    sharding = batch_sharding(make_mesh())
    found = text_embeddings(MODEL, params, TOKENIZER, texts, sharding, batch_size=8)
    assert found.shape == (10, 24)
    np.testing.assert_allclose(embed_texts(MODEL, params, TOKENIZER(texts, 40)), found, atol=2e-6)


def test_a_vocabulary_that_is_not_the_models_is_refused(params):
    """A longer one, one that ends early, and one of the same length that ends texts in another way."""
    longer = clip_bpe.Tokenizer((("a", "b"),), clip_bpe.numbered((("a", "b"),)))
    shorter = clip_bpe.Tokenizer((), {k: v for k, v in TOKENIZER.ids.items() if v != 5})
    swapped = TOKENIZER.ids | {clip_bpe.START: TOKENIZER.end, clip_bpe.END: TOKENIZER.start}
    sharding = batch_sharding(make_mesh())
    for tokenizer, end, message in (
        (longer, None, "has 515 tokens, this CLIP 514"),
        (shorter, None, "has 513 tokens, this CLIP 514"),
        (clip_bpe.Tokenizer((), swapped), None, "with the id 512, this CLIP with 513"),
        (TOKENIZER, 7, "with the id 513, this CLIP with 7"),
    ):
        model = tiny_clip(vocab=514, length=40, end=end)
        with pytest.raises(UserError, match=message):
            text_embeddings(model, params, tokenizer, ["a dog"], sharding, 8)


def test_networks_and_scores_are_named_by_size_activation_prefix_and_scale(params):
    assert network_name(preset("clip_l14_336")) == "clip_l14_336"
    assert network_name(preset("clip_b32", "gelu")) == "clip_b32_gelu"
    network = image_network(MODEL, params, square_then_resize)
    assert (network.name, network.resize) == ("clip_w64_d2_p4_8", "square+pil_bicubic")
    other = image_network(MODEL, random_params(MODEL, seed=1), square_then_resize)
    assert network.hash != other.hash
    metric = score_name(PAPER_PREFIX, PAPER_SCALE)
    name = Protocol(network="clip_b32", n=5000).name(metric)
    assert name == "clipscore/2.5/a_photo_depicts/clip_b32/5k"
    assert score_name() == "clipscore/100"


def test_images_of_another_type_are_refused():
    for image in (np.zeros((9, 9, 3)), np.zeros((9, 9, 4), np.uint8)):
        with pytest.raises(UserError, match=r"not uint8 \[H, W, 3\]"):
            resize_then_square(image, 8)
