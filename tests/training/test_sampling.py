"""Many samples: an image depends on the seed and its number only."""

import jax
import numpy as np
import pytest

from imgen import config
from imgen.conditioning import Labels, sample_labels
from imgen.decoding import Filters, Guidance, Sampling
from imgen.errors import UserError
from imgen.parallel.mesh import batch_sharding, make_mesh, replicated
from imgen.runs.experiment import Experiment
from imgen.training.generator_task import sampler
from imgen.training.sampling import sample_set


def test_labels_are_even_or_drawn_and_the_first_of_more():
    assert np.bincount(sample_labels(100, 10)).tolist() == [10] * 10
    drawn = sample_labels(1000, 10, "random", seed=3)
    assert 60 < np.bincount(drawn).min() < 100 < np.bincount(drawn).max() < 140
    np.testing.assert_array_equal(sample_labels(70, 10, "random", seed=3), drawn[:70])
    assert not np.array_equal(sample_labels(1000, 10, "random", seed=4), drawn)
    with pytest.raises(UserError, match="neither of balanced, random"):
        sample_labels(10, 10, "even")


@pytest.fixture(scope="module")
def model():
    settings = config.load_config(
        "configs/quickstart.py:smoke",
        ["data.image_size=16", "tokenizer.ch=8", "tokenizer.z_channels=8", "tokenizer.groups=4"],
    )
    experiment = Experiment.build(settings)
    tokenizer, generator = experiment.tokenizer, experiment.model
    rng, images = np.random.default_rng(0), np.zeros((1, 16, 16, 3), np.float32)
    params = jax.device_get(jax.jit(generator.init_params)(jax.random.key(0)))
    params = jax.tree.map(
        lambda x: x + 0.2 * rng.standard_normal(x.shape).astype(np.float32), params
    )
    tokenizer_params = jax.jit(tokenizer.init)(jax.random.key(2), images)["params"]
    draw = sampler(generator, tokenizer, Sampling(Guidance(scale=1.5), Filters(temperature=0.8)))
    return draw, params, jax.device_get(tokenizer_params)


def drawn(model, devices, num, batch_size):
    draw, *params = model
    mesh = make_mesh(devices=jax.devices()[:devices])
    with jax.set_mesh(mesh):
        params = jax.device_put(params, replicated(mesh))
        images = sample_set(
            draw, *params, Labels(sample_labels(num, 48)), jax.random.key(5),
            name="samples", size=(16, 16), sharding=batch_sharding(mesh),
        )  # fmt: skip
        batches = list(images.read(batch_size))
    assert images.num == num and sum(mask.sum() for _, mask in batches) == num
    return np.concatenate([pixels[mask > 0] for pixels, mask in batches])


def test_a_thousand_samples_are_the_same_on_one_device_and_on_eight(model):
    # Sixteen at a time on each: the same sums in the same order.
    one, eight = drawn(model, 1, 1000, 16), drawn(model, 8, 1000, 128)
    assert one.shape == (1000, 16, 16, 3) and len(np.unique(one, axis=0)) > 990
    np.testing.assert_array_equal(one, eight)
    np.testing.assert_array_equal(drawn(model, 8, 150, 128), eight[:150])  # whatever their number
