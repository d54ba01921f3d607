import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgen.tokenizers import codebook
from imgen.tokenizers.quantizers.nearest import nearest_codes, squared_distances
from imgen.tokenizers.quantizers.vector import VectorQuantizer


def test_chunked_search_equals_one_matmul_and_ties_take_the_smallest_index():
    z = jax.random.normal(jax.random.key(0), (3, 5, 8))
    table = jax.random.normal(jax.random.key(1), (70, 8))
    table = table.at[60].set(table[3])  # a tie across chunks
    z = z.at[0, 0].set(table[60])
    whole = jnp.argmin(squared_distances(z.reshape(-1, 8), table), axis=-1).reshape(3, 5)
    for rows_times_codes in (7, 16, 70):
        chunked = nearest_codes(z, table, max_bytes=4 * 15 * rows_times_codes)
        np.testing.assert_array_equal(chunked, whole)
    assert whole[0, 0] == 3


def test_search_over_16384_codes_stays_under_256_mib():
    z = jax.ShapeDtypeStruct((32 * 256, 8), jnp.float32)  # 32 images of 256x256 at VQ-16
    table = jax.ShapeDtypeStruct((16384, 8), jnp.float32)
    memory = jax.jit(nearest_codes).lower(z, table).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 2**28 + 2**22  # one chunk of scores and small change


@pytest.mark.parametrize("l2_norm", [True, False])
def test_value_is_the_code_and_gradient_reaches_features_and_codebook(l2_norm):
    quantizer = VectorQuantizer(16, 4, l2_norm=l2_norm, entropy_weight=0.1)
    z = jax.random.normal(jax.random.key(0), (2, 3, 4))
    params = quantizer.init(jax.random.key(1), z)
    out = quantizer.apply(params, z)
    decoded = quantizer.apply(params, out.latents, method="decode")
    np.testing.assert_array_equal(out.values, decoded)
    np.testing.assert_array_equal(out.latents, quantizer.apply(params, z, method="encode"))

    def through_value(z):
        return jnp.sum(quantizer.apply(params, z).values[..., 0])

    assert np.abs(jax.grad(through_value)(z)).max() > 0
    table_grad = jax.grad(lambda p: sum(quantizer.apply(p, z).losses.values()))(params)
    assert np.abs(table_grad["params"]["codebook"]).max() > 0


def test_kmeans_finds_separate_clusters():
    centres = 10.0 * jnp.eye(4)
    features = jnp.repeat(centres, 50, axis=0)
    features += 0.1 * jax.random.normal(jax.random.key(0), features.shape)
    # More codes than clusters: random rows may miss one of four clusters, hardly with sixteen.
    table = codebook.kmeans(features, 16, jax.random.key(1))
    nearest = table[nearest_codes(features, table)]
    assert jnp.sqrt(jnp.square(features - nearest).sum(-1)).max() < 1.0


def test_ema_table_is_the_mean_of_a_codes_features():
    features = jax.random.normal(jax.random.key(0), (400, 3))
    codes = jnp.arange(400) % 4
    state = codebook.init_state(jnp.zeros((5, 3)))  # code 4 is never used
    update = jax.jit(codebook.update_state, static_argnames="decay")
    counts, sums = codebook.code_counts(codes, 5), codebook.feature_sums(features, codes, 5)
    for step in range(200):
        state = update(state, counts, sums, step, decay=0.9)
    means = jnp.stack([features[codes == k].mean(0) for k in range(4)])
    np.testing.assert_allclose(codebook.ema_table(state)[:4], means, atol=1e-3)
    assert jnp.isfinite(codebook.ema_table(state)).all()


def test_usage_counts_ignore_padding_and_forget_what_left_the_window():
    codes = jnp.array([[0, 1], [2, 3]])
    counts = codebook.code_counts(codes, 4, weights=jnp.array([1.0, 0.0]))
    np.testing.assert_array_equal(counts, [1, 1, 0, 0])
    np.testing.assert_allclose(codebook.perplexity(counts), 2.0, rtol=1e-6)
    state = codebook.update_state(
        codebook.init_state(jnp.zeros((4, 2))), counts, jnp.zeros((4, 2)), 7, decay=0.9
    )
    assert codebook.usage_in_window(state, 9, window=3) == 0.5
    assert codebook.usage_in_window(state, 10, window=3) == 0.0
