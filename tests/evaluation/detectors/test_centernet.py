import json

import flax.linen as nn
import jax
import numpy as np
import pytest

from imgen.errors import UserError
from imgen.evaluation.detectors.centernet import Depthwise, doubled, peaks
from imgen.evaluation.detectors.detector import Detections, named
from imgen.evaluation.prompts.geneval import CLASSES
from imgen.interop.centernet import convert, load, read_tfjs


@pytest.mark.parametrize(("kernel", "stride", "size"), [(3, 1, 6), (3, 2, 6), (5, 2, 7), (5, 1, 5)])
def test_a_sum_of_shifted_images_is_the_depthwise_convolution(kernel, stride, size):
    x = jax.random.normal(jax.random.key(0), (2, size, size + 1, 3))
    layer = Depthwise(kernel, stride, use_bias=True)
    params = layer.init(jax.random.key(1), x)
    params = jax.tree.map(lambda leaf: leaf + 0.1, params)
    conv = nn.Conv(3, (kernel, kernel), (stride, stride), "SAME", feature_group_count=3)
    np.testing.assert_allclose(layer.apply(params, x), conv.apply(params, x), atol=1e-5)


def test_doubling_keeps_the_pixels_at_even_places():
    x = np.arange(4.0).reshape(1, 2, 2, 1)
    expected = [[0, 0.5, 1, 1], [1, 1.5, 2, 2], [2, 2.5, 3, 3], [2, 2.5, 3, 3]]
    np.testing.assert_array_equal(doubled(x)[0, :, :, 0], expected)


def test_an_object_is_a_place_that_is_as_high_as_its_neighbours():
    scores, distances = np.full((1, 16, 16, 3), 0.01), np.zeros((1, 16, 16, 4))
    scores[0, 4, 6, 2], scores[0, 4, 7, 2], scores[0, 5, 7, 0] = 0.9, 0.8, 0.7
    distances[0, 4, 6] = 3, 4, 5, 6
    boxes, top, classes = peaks(scores, distances)
    np.testing.assert_allclose(top[0, :3], [0.9, 0.7, 0.01], rtol=1e-5)  # 0.8 is beside 0.9
    assert list(classes[0, :2]) == [2, 0]
    np.testing.assert_allclose(boxes[0, 0], [24 - 3, 16 - 4, 24 + 5, 16 + 6])


def test_a_benchmark_may_call_classes_otherwise():
    found = Detections(np.ones((2, 4)), np.array([0.5, 0.25]), np.array([64, 0]))
    assert [(d.name, d.score) for d in named(found, CLASSES)] == [
        ("computer mouse", 0.5), ("person", 0.25)
    ]  # fmt: skip


def _write(folder, data, shape=(2, 2), **entry):
    weights = [{"name": "a", "shape": shape, "dtype": "float32"} | entry]
    model = {"weightsManifest": [{"paths": ["centernet.bin"], "weights": weights}]}
    (folder / "centernet.json").write_text(json.dumps(model))
    (folder / "centernet.bin").write_bytes(data)


def test_half_precision_is_read_as_single(tmp_path):
    _write(tmp_path, np.float16([1, 2, 3, 4]).tobytes(), quantization={"dtype": "float16"})
    state = read_tfjs(tmp_path)
    assert state["a"].dtype == np.float32 and state["a"].tolist() == [[1, 2], [3, 4]]
    with pytest.raises(UserError, match="lacks"):
        convert(state)


@pytest.mark.parametrize(
    ("data", "entry", "message"),
    [
        (b"\0" * 12, {}, "too short"),
        (b"\0" * 20, {}, "longer than it says"),
        (b"\0" * 4, {"quantization": {"dtype": "uint8"}}, "stored as uint8"),
    ],
)
def test_a_file_that_is_none_of_tfjs_is_one_line(tmp_path, data, entry, message):
    with pytest.raises(UserError, match="not a readable tfjs graph model"):
        load(tmp_path)
    _write(tmp_path, data, **entry)
    with pytest.raises(UserError, match=message):
        load(tmp_path)
