import pickle

import numpy as np
import pytest
from PIL import Image

from imgen.data import preprocess
from imgen.data.preprocess import EvalImages, StoredViews, TrainCodes, TrainImages
from imgen.errors import UserError


def photo(height, width):
    """Smooth, so that crops and scales can be told apart from the pixel values."""
    y, x = np.mgrid[0:height, 0:width]
    picture = np.stack([255 * y / height, 255 * x / width, 128 + 0 * x], -1)
    return picture.astype(np.uint8)


def test_center_crop_is_adms():
    """guided-diffusion's center_crop_arr, written out for one image."""
    image = photo(70, 101)
    expected = Image.fromarray(image).resize((50, 35), Image.Resampling.BOX)  # 70 >= 2 * 24
    expected = expected.resize((round(50 * 24 / 35), 24), Image.Resampling.BICUBIC)
    x = (expected.width - 24) // 2
    expected = np.asarray(expected)[:, x : x + 24]
    np.testing.assert_array_equal(preprocess.center_crop(image, 24), expected)


def test_images_of_the_right_size_are_not_resampled():
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3)).astype(np.uint8)
    example = {"image": image, "label": 3}
    rng = np.random.default_rng(0)
    for transform in (
        TrainImages(32, "center", False),
        EvalImages(32),
        TrainImages(32, "none", False),
    ):
        np.testing.assert_array_equal(transform(example, rng)["image"], image)


def test_random_crop_shows_between_80_and_100_percent_of_the_shorter_side():
    image, shares = photo(256, 320), []
    for seed in range(100):
        crop = preprocess.random_crop(image, 64, np.random.default_rng(seed)).astype(float)
        assert crop.shape == (64, 64, 3)
        shares.append((crop[-1, :, 0].mean() - crop[0, :, 0].mean()) / 255 * 64 / 63)
    assert 0.78 < min(shares) < 0.84 and 0.96 < max(shares) < 1.02


def test_flip_mirrors_half_of_the_images():
    example = {"image": photo(8, 8), "label": 0}
    flipped = [
        not np.array_equal(
            TrainImages(8, "none")(example, np.random.default_rng(i))["image"], photo(8, 8)
        )
        for i in range(400)
    ]
    assert 160 < sum(flipped) < 240


def test_ten_crop_has_torchvisions_order():
    image = photo(22, 22)
    views = preprocess.ten_crop(image, 20, crop_range=1.1)
    offsets = [(0, 0), (0, 2), (2, 0), (2, 2), (1, 1)]
    for k, (y, x) in enumerate(offsets):
        np.testing.assert_array_equal(views[k], image[y : y + 20, x : x + 20])
        np.testing.assert_array_equal(views[5 + k], image[:, ::-1][y : y + 20, x : x + 20])


def test_stored_views_are_as_many_as_they_say():
    example = {"image": photo(40, 50), "label": 1}
    for transform in (StoredViews(16), StoredViews(16, ten_crop=False)):
        views = transform(example, None)["image"]
        assert views.shape == (transform.variants, 16, 16, 3)
    np.testing.assert_array_equal(views[1], views[0][:, ::-1])


def test_wrong_size_is_named():
    with pytest.raises(UserError, match="50x40 where the config asks for 32x32"):
        TrainImages(32, crop="none")({"image": photo(40, 50), "label": 0}, np.random.default_rng(0))
    with pytest.raises(UserError, match="centre"):
        TrainImages(32, crop="centre")


def test_training_draws_every_stored_variant_alike():
    example = {"codes": np.arange(4)[:, None] * np.ones((1, 6), np.int32), "label": 2}
    transform = pickle.loads(pickle.dumps(TrainCodes()))  # as a worker gets it
    drawn = [transform(example, np.random.default_rng(i))["codes"][0] for i in range(400)]
    counts = np.bincount(np.array(drawn, int), minlength=4)
    assert (counts > 70).all() and (counts < 130).all()
