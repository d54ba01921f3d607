import jax
import numpy as np

from imgen.conditioning.text.tenor import CrossAttention, sinusoid, with_order


def test_order_matters_to_keys_only_with_tenor():
    keys = jax.random.split(jax.random.key(0), 3)
    hidden, text = jax.random.normal(keys[0], (1, 5, 8)), jax.random.normal(keys[1], (1, 4, 6))
    swapped = text[:, [1, 0, 2, 3]]
    for tenor in (False, True):
        layer = CrossAttention(2, tenor=tenor)
        params = layer.init(keys[2], hidden, text)
        change = abs(layer.apply(params, hidden, swapped) - layer.apply(params, hidden, text)).max()
        assert (change > 1e-3) == tenor


def test_tokens_are_counted_from_the_first_real_one():
    text = np.zeros((2, 4, 6), np.float32)
    mask = np.array([[0, 0, 1, 1], [1, 1, 1, 0]], bool)
    ordered = with_order(text, mask)
    np.testing.assert_array_equal(ordered[0, 2:], sinusoid(2, 6))
    np.testing.assert_array_equal(ordered[1], sinusoid(4, 6))


def test_what_is_masked_is_not_seen():
    hidden, text = jax.random.normal(jax.random.key(0), (1, 5, 8)), np.ones((1, 4, 6), np.float32)
    layer, mask = CrossAttention(2, tenor=True), np.array([[1, 1, 0, 0]], bool)
    params = layer.init(jax.random.key(1), hidden, text)
    other = text.copy()
    other[:, 2:] = 7
    np.testing.assert_array_equal(
        layer.apply(params, hidden, text, mask), layer.apply(params, hidden, other, mask)
    )


def test_an_odd_width_ends_with_a_sine():
    assert sinusoid(3, 5).shape == (3, 5)
    np.testing.assert_array_equal(sinusoid(3, 5), sinusoid(3, 6)[:, :5])
