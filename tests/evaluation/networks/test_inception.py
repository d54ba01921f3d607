"""Inception's bricks and its two resizes, against loops; random Inception; what is said without weights."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgen.errors import UserError
from imgen.evaluation.networks import fid_inception as networks
from imgen.evaluation.networks.extractor import Extractor
from imgen.evaluation.networks.inception import average_pool, convolve, max_pool
from imgen.evaluation.networks.inception_input import DIALECTS, pixels, resize
from imgen.evaluation.results.records import Protocol
from imgen.parallel.mesh import batch_sharding, make_mesh
from tests.evaluation.toy_network import images_of, pictures

UNEQUAL = [(5, 9), (40, 23)]  # to 12 pixels a side: made larger and smaller


def images(height, width, count=2):
    rng = np.random.default_rng(height)
    return rng.integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def resized_by_loop(image, size, offset):
    """float64: along each axis the pixel at (i + offset) n / size - offset, between its two neighbours."""
    height, width = image.shape[:2]
    out = np.zeros((size, size, 3))

    def neighbours(i, n):
        at = max((i + offset) * n / size - offset, 0.0)
        low = int(at)
        return low, min(low + 1, n - 1), at - low

    for i, j in itertools.product(range(size), repeat=2):
        top, bottom, down = neighbours(i, height)
        left, right, across = neighbours(j, width)
        rows = [image[y, left] * (1 - across) + image[y, right] * across for y in (top, bottom)]
        out[i, j] = rows[0] * (1 - down) + rows[1] * down
    return out


@pytest.mark.parametrize("height, width", UNEQUAL)
@pytest.mark.parametrize("dialect, offset", [("adm", 0.0), ("pytorch_fid", 0.5)])
def test_resize_takes_the_two_nearest_pixels_of_each_axis(dialect, offset, height, width):
    given = images(height, width, 1)
    found = resize(jnp.asarray(given), DIALECTS[dialect], 12)[0]
    np.testing.assert_allclose(found, resized_by_loop(given[0], 12, offset), atol=1e-3)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_images_of_the_right_size_stay_as_they_are(dialect):
    given = images(299, 299, 1)
    np.testing.assert_array_equal(resize(jnp.asarray(given), DIALECTS[dialect]), given)


def test_dialects_scale_otherwise_and_take_bytes_only():
    grey = jnp.full((1, 4, 6, 3), 128, jnp.uint8)
    assert np.all(pixels(grey, DIALECTS["adm"]) == 0)
    np.testing.assert_allclose(pixels(grey, DIALECTS["pytorch_fid"]), 1 / 255, atol=1e-6)
    white = jnp.full((1, 4, 6, 3), 255, jnp.uint8)
    np.testing.assert_allclose(pixels(white, DIALECTS["adm"]), 127 / 128, rtol=1e-6)
    np.testing.assert_allclose(pixels(white, DIALECTS["pytorch_fid"]), 1, rtol=1e-6)
    with pytest.raises(ValueError, match="float32, not uint8"):
        pixels(white.astype(jnp.float32), DIALECTS["adm"])


def test_pools_leave_out_what_is_not_there():
    x = -1 - np.random.default_rng(0).random((2, 5, 7, 3), np.float32)  # below the zeros of padding
    mean, largest = np.zeros_like(x), np.zeros_like(x)
    for i, j in itertools.product(range(5), range(7)):
        window = x[:, max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2]
        mean[:, i, j], largest[:, i, j] = window.mean((1, 2)), window.max((1, 2))
    np.testing.assert_allclose(average_pool(x), mean, rtol=1e-6)
    np.testing.assert_array_equal(max_pool(x, 1), largest)
    np.testing.assert_array_equal(max_pool(x, 2), largest[:, 1:-1:2, 1:-1:2])


@pytest.mark.parametrize("stride, height, width", [(1, 5, 6), (2, 7, 9), (2, 6, 8)])
def test_unpadded_convolutions_have_no_row_too_many(stride, height, width):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, height, width, 4), np.float32)
    kernel = rng.standard_normal((3, 3, 4, 5), np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), (1, 2))[:, ::stride, ::stride]
    expected = np.einsum("bhwcij,ijcd->bhwd", windows, kernel)
    np.testing.assert_allclose(convolve(x, kernel, stride, "VALID"), expected, atol=1e-5)


@pytest.fixture(scope="module")
def random_inception():
    return networks.random_inception(seed=3)


def test_random_inception_is_the_same_each_time_and_is_not_called_fid(random_inception):
    again = networks.random_inception("pytorch_fid", seed=3)
    assert again.hash == random_inception.hash
    # The recipe: the seed's first draws go to the first path, with deviation (2 / (3 x 3 x 3)) ** 0.5.
    kernel = random_inception.params["Conv2d_1a_3x3"]["kernel"]
    first = np.random.RandomState(3).standard_normal(2) * (2 / 27) ** 0.5
    np.testing.assert_allclose(kernel.ravel()[:2], first, rtol=1e-6)
    names = {again.name, random_inception.name}
    assert {Protocol(network=name, n=1000).name("gfid") for name in names} == {
        "gfd/random_inception/1k"
    }
    assert (random_inception.resize, again.resize) == ("tf1_bilinear", "torch_bilinear")


def test_features_have_the_widths_that_are_promised(random_inception):
    given = jax.ShapeDtypeStruct((2, 40, 50, 3), jnp.uint8)
    found = jax.eval_shape(random_inception.apply, random_inception.params, given)
    assert {name: x.shape for name, x in found.items()} == {
        name: (2, width) for name, width in random_inception.widths.items()
    }
    assert {x.dtype for x in found.values()} == {jnp.dtype("float32")}


def test_the_extractor_keeps_what_sfid_and_the_score_need(random_inception):
    a, b = pictures(2, size=32)
    extractor = Extractor(random_inception, batch_sharding(make_mesh(devices=jax.devices()[:1])))
    needs = ["pool", "spatial", "features", "logits"]
    found = extractor(images_of(np.stack([a, b, a])), needs, batch_size=2)  # and one of padding
    for rows in (found.features, found.logits):
        np.testing.assert_allclose(rows[2], rows[0], rtol=1e-5, atol=1e-6)
        assert len(rows) == 3 and np.abs(rows[1] - rows[0]).max() > 1e-3
    np.testing.assert_allclose(found.pool.mean, found.features.mean(axis=0), rtol=1e-5)
    assert found.spatial.mean.shape == (7 * 17 * 17,) and found.spatial.count == 3
    # Of three points, two of them equal: the covariance is that of the one line between them.
    values = np.linalg.svd(found.spatial.covariance[:200, :200], compute_uv=False)
    assert values[1] < 1e-4 * values[0]


@pytest.mark.parametrize(
    "file, words",
    [
        (None, "weights are needed"),
        ("gone.safetensors", "gone.safetensors: no such weights file"),
        ("pt_inception.pth", "pt_inception.pth has to be converted first"),
        ("gone.pth", "gone.pth is not what imgen.convert writes"),
    ],
)
def test_without_weights_one_line_says_which_file_and_how(tmp_path, file, words):
    (tmp_path / "pt_inception.pth").write_bytes(b"")
    with pytest.raises(UserError) as raised:
        networks.inception("adm", file and tmp_path / file)
    message = str(raised.value)
    assert words in message and "\n" not in message
    assert "pt_inception-2015-12-05-6726825d.pth" in message and "imgen.convert --system" in message


def test_a_dialect_that_is_not_there():
    with pytest.raises(UserError, match="adm, pytorch_fid, not 'pytorch-fid' did you mean"):
        networks.inception("pytorch-fid", None)
