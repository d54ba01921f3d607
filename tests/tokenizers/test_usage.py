"""What the use of codes and bits comes to."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgen.latents import LatentSpec
from imgen.tokenizers import usage


def measured(spec, latents, weights=None):
    sums = jax.jit(usage.tally, static_argnums=0)(spec, latents, weights)
    return usage.summarize(jax.device_get(sums))


def test_bits_that_hardly_change_do_not_count_as_used():
    bits = np.random.default_rng(0).integers(0, 2, (100, 4, 3)).astype(bool)
    bits[..., 1], bits[..., 2] = True, False
    bits[0, 0, 2] = True  # once in 400 times
    found = measured(LatentSpec("bits", (4,), 3), jnp.asarray(bits))
    assert found["bit_usage"] == pytest.approx(1 / 3)
    assert found["codebook_usage"] == 3 / 8
    assert found["perplexity"] == pytest.approx(2, rel=0.05)


def test_codes_of_many_bits_are_counted_in_parts():
    rng, spec = np.random.default_rng(0), LatentSpec("bits", (64,), 40)
    bits = np.zeros((50, 64, 40), bool)
    bits[..., :8] = rng.integers(0, 2, (50, 64, 8))  # of the first part of 10 bits
    found = measured(spec, jnp.asarray(bits))
    assert found["sub_code_bits"] == 10
    assert found["codebook_usage"] == pytest.approx((256 + 3) / 4096)
    assert found["perplexity"] == pytest.approx(256 ** (1 / 4), rel=0.01)
    assert found["bit_usage"] == pytest.approx(8 / 40)


@pytest.mark.parametrize("size, width", [(16, 16), (20, 10), (24, 12), (64, 16), (17, 1)])
def test_parts_are_as_large_as_they_may_be(size, width):
    counts = usage.tally(LatentSpec("bits", (2,), size), jnp.zeros((1, 2, size), bool))["counts"]
    assert counts.shape == (size // width, 2**width)


def test_padding_does_not_count():
    codes = jnp.array([[0, 1], [2, 3]])
    assert measured(LatentSpec("index", (2,), 4), codes, jnp.array([1.0, 0.0]))[
        "codebook_usage"
    ] == pytest.approx(0.5)
