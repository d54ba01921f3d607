import numpy as np
import pytest
from PIL import Image, ImageFilter

from imgen.data.shapes import CLASS_NAMES, NUM_CLASSES, Shapes
from imgen.errors import UserError
from imgen.evaluation.prompts.shapes_check import class_accuracy, classify


def pictures(count, **kwargs):
    source = Shapes("test", **kwargs)
    examples = [source[i] for i in range(count)]
    return np.stack([e["image"] for e in examples]), np.array([e["label"] for e in examples])


def blurred_and_noisy(images, sigma, noise):
    rng = np.random.default_rng(0)
    blur = ImageFilter.GaussianBlur(sigma)
    images = np.stack([np.asarray(Image.fromarray(i).filter(blur), np.float32) for i in images])
    return np.clip(images + rng.normal(0, noise, images.shape) + 0.5, 0, 255).astype(np.uint8)


def test_pictures_depend_on_seed_split_and_index_only():
    again = Shapes("train", num=200)[123]
    np.testing.assert_array_equal(Shapes("train")[123]["image"], again["image"])
    assert again["caption"] == Shapes("train")[123]["caption"]
    for other in (Shapes("test"), Shapes("train", seed=1)):
        assert not np.array_equal(other[123]["image"], again["image"])


def test_classes_are_balanced_and_named_in_the_caption():
    source = Shapes("train", num=2 * NUM_CLASSES)
    labels = [source[i]["label"] for i in range(len(source))]
    assert sorted(labels) == sorted([*range(NUM_CLASSES)] * 2)
    for i in range(NUM_CLASSES):
        assert f" {CLASS_NAMES[labels[i]]} " in source[i]["caption"]
    # The loader, and iteration, rely on this.
    with pytest.raises(IndexError):
        source[len(source)]


def test_the_caption_tells_the_place():
    source = Shapes("train")
    at = (np.arange(32) + 0.5) / 32
    for i in range(300):
        image, caption = source[i]["image"].astype(float), source[i]["caption"]
        figure = np.abs(image - image[0, 0]).sum(-1) > 120
        x, y = at[figure.any(0)], at[figure.any(1)]
        if "left" in caption:
            assert x.mean() < 0.5
        if "bottom" in caption:
            assert y.mean() > 0.5


def test_shapes_keep_off_the_border_and_pixels_do_not_wrap():
    images, _ = pictures(960)
    edges = np.concatenate([images[:, 0], images[:, -1], images[:, :, 0], images[:, :, -1]], 1)
    steps = np.abs(np.diff(images[:, 0].astype(int), axis=1))
    assert steps.max() <= 3  # the background is a soft ramp up to the picture's edge
    assert (np.ptp(edges.astype(int), axis=1) <= 40).all()


def test_the_classifier_is_right_on_clean_and_on_degraded_pictures():
    images, labels = pictures(20 * NUM_CLASSES)
    assert class_accuracy(images, labels)["class_accuracy"] >= 0.995
    degraded = blurred_and_noisy(images, 0.7, 8)
    assert class_accuracy(degraded, labels)["class_accuracy"] >= 0.99
    # About 23 dB: below what a tokenizer is expected to reach.
    assert class_accuracy(blurred_and_noisy(images, 1.0, 12), labels)["class_accuracy"] >= 0.97


def test_the_classifier_tells_shape_and_colour_errors_apart():
    images, labels = pictures(NUM_CLASSES)
    other_colour = labels // 8 * 8 + (labels + 1) % 8
    assert class_accuracy(images, other_colour) == {
        "class_accuracy": 0.0,
        "shape_accuracy": 1.0,
        "colour_accuracy": 0.0,
    }
    other_shape = (labels + 8) % NUM_CLASSES
    assert class_accuracy(images, other_shape) == {
        "class_accuracy": 0.0,
        "shape_accuracy": 0.0,
        "colour_accuracy": 1.0,
    }


def test_the_classifier_scores_chance_on_noise_and_on_nothing():
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (480, 32, 32, 3)).astype(np.uint8)
    assert class_accuracy(noise, np.arange(480) % NUM_CLASSES)["class_accuracy"] < 0.1
    shape, colour = classify(np.full((2, 32, 32, 3), 77, np.uint8))
    assert shape.shape == colour.shape == (2,)


@pytest.mark.parametrize("wrong", [dict(split="val"), dict(size=8), dict(num=0)])
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(UserError):
        Shapes(**{"split": "train", **wrong})
