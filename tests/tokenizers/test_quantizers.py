import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgen.errors import UserError
from imgen.latents import bits
from imgen.parallel.mesh import batch_sharding, make_mesh
from imgen.tokenizers import codebook
from imgen.tokenizers.quantizers import (
    BSQ,
    FSQ,
    IBQ,
    LFQ,
    Bernoulli,
    Gaussian,
    ResidualQuantizer,
    VectorQuantizer,
)
from imgen.tokenizers.quantizers.chunks import map_rows, sum_rows
from imgen.tokenizers.quantizers.entropy import bit_entropies, bit_entropy, group_probabilities
from imgen.tokenizers.quantizers.nearest import nearest_codes, squared_distances


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


@contextlib.contextmanager
def over(devices):
    """With the batch split over so many devices: the sharding of its arrays."""
    mesh = make_mesh(devices, devices=jax.devices()[:devices])
    with jax.set_mesh(mesh):
        yield batch_sharding(mesh)


def loops(function, *shapes):
    """How often the loop in a function runs; 1 where there is none."""
    jaxpr = jax.make_jaxpr(function)(*shapes)
    found = [eqn.params["length"] for eqn in jaxpr.eqns if eqn.primitive.name == "scan"]
    assert len(found) < 2
    return (found or [1])[0]


@pytest.mark.parametrize("search", [nearest_codes, codebook.nearest_features])
@pytest.mark.parametrize("devices", [1, 8])
def test_search_over_16384_codes_stays_under_256_mib_on_each_device(search, devices):
    """32 images of 256x256 at VQ-16 on each device, and never more than four chunks of codes."""
    with over(devices) as split:
        shape, table = (devices * 32 * 256, 8), jax.ShapeDtypeStruct((16384, 8), jnp.float32)
        z = jax.ShapeDtypeStruct(shape, jnp.float32, sharding=split)
        assert loops(search, z, table) == 4
        memory = jax.jit(search).lower(z, table).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 2**28  # of all tensors together


def test_limits_are_those_of_one_device_and_no_result_depends_on_the_pieces():
    rows, table = (jax.random.normal(jax.random.key(i), (64, 5)) for i in (0, 1))
    eighth = 64 * 64 * 4 // 8  # bytes of an eighth of all scores

    def soft(rows):
        return jax.nn.softmax(rows @ table.T)

    searches = {
        "codes": lambda rows: nearest_codes(rows, table, max_bytes=eighth),
        "features": lambda rows: codebook.nearest_features(rows, table, max_bytes=eighth),
        "map": lambda rows: map_rows(lambda r: soft(r) @ table, rows, 4 * 64, eighth),
        "sum": lambda rows: sum_rows(lambda r: soft(r).sum(0), rows, 4 * 64, eighth),
    }
    distances = squared_distances(rows, table)
    whole = {
        "codes": jnp.argmin(distances, axis=1),
        "features": jnp.argmin(distances, axis=0),
        "map": soft(rows) @ table,
        "sum": soft(rows).sum(0),
    }
    for devices, pieces in ((1, 8), (2, 4), (8, 1)):
        with over(devices) as split:
            placed = jax.device_put(rows, split)
            assert [loops(f, placed) for f in searches.values()] == [pieces] * 4
            found = jax.jit(lambda rows: {k: f(rows) for k, f in searches.items()})(placed)
        for name, value in whole.items():
            np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-5, err_msg=name)


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
    state = codebook.init_state(5, jnp.zeros((5, 3)))  # code 4 is never used
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
    state = codebook.update_state(codebook.init_state(4), counts, None, 7, decay=0.9)
    assert codebook.usage_in_window(state, 9, window=3) == 0.5
    assert codebook.usage_in_window(state, 10, window=3) == 0.0


SMALL = {
    "vq": VectorQuantizer(16, 4, entropy_weight=0.1),
    "fsq": FSQ((5, 4, 3)),
    "lfq": LFQ(6, group_size=3),
    "bsq": BSQ(6, commit_weight=0.1, group_size=2),
    "ibq": IBQ(16, 4),
    "rq": ResidualQuantizer(16, 4, depth=3),
}
DRAWN = {"bernoulli": Bernoulli(6, 5, code_weight=0.1), "gaussian": Gaussian(4, kl_weight=0.1)}


def features(quantizer, batch=8, scale=0.1):
    shape = (batch, 3, 3, quantizer.layout.features_in)
    return scale * jax.random.normal(jax.random.key(0), shape)


@pytest.mark.parametrize("name", SMALL)
def test_values_are_the_decoded_latents_and_the_gradient_is_that_of_the_features(name):
    quantizer = SMALL[name]
    z = features(quantizer, scale=1.0)
    params = quantizer.init(jax.random.key(1), z)
    out = quantizer.apply(params, z)
    np.testing.assert_array_equal(out.values, quantizer.apply(params, out.latents, method="decode"))
    np.testing.assert_array_equal(out.latents, quantizer.apply(params, z, method="encode"))
    spec = quantizer.layout.spec((3, 3))
    per_image = spec.grid + ((spec.size,) if spec.kind == "bits" else ())
    assert out.latents.shape[1:] == per_image and out.latents.dtype == jnp.int32
    limit = 2 if spec.kind == "bits" else spec.size
    assert 0 <= out.latents.min() and out.latents.max() < limit
    cotangent = jax.random.normal(jax.random.key(2), out.values.shape)
    through = jax.jit(jax.grad(lambda z: jnp.sum(quantizer.apply(params, z).values * cotangent)))(z)
    if name in ("lfq", "rq"):  # the others pass a normalisation, a tanh or a softmax
        np.testing.assert_array_equal(through, cotangent)
    assert jnp.isfinite(through).all() and jnp.abs(through).max() > 0


@pytest.mark.parametrize("name", {**SMALL, **DRAWN})
def test_losses_gradients_and_draws_are_the_same_on_1_2_and_8_devices(name):
    """Also with each device's own share of the batch unlike the others'."""
    quantizer, key = {**SMALL, **DRAWN}[name], jax.random.key(4)
    z = features(quantizer) + 0.2 * jnp.arange(8.0)[:, None, None, None] * jnp.sign(
        jax.random.normal(jax.random.key(3), (8, 1, 1, quantizer.layout.features_in))
    )
    params = quantizer.init(jax.random.key(1), z)

    def loss(params, z):
        out = quantizer.apply(params, z, key)
        return sum(out.losses.values()) + jnp.sum(jnp.square(out.values)), out

    found = []
    for devices in (1, 2, 8):
        with over(devices) as split:
            placed = jax.device_put(z, split)
            step = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))
            found.append(jax.device_get(step(params, placed)))
    for other in found[1:]:
        for a, b in zip(jax.tree.leaves(found[0]), jax.tree.leaves(other), strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6)
    likeliest = quantizer.apply(params, z, method="encode")
    assert np.array_equal(found[0][0][1].latents, likeliest) == (name in SMALL)


def test_indices_go_round_over_the_whole_vocabulary():
    index = jnp.arange(2**12)[:, None]
    for there, back in (
        (bits.from_sub_codes, bits.sub_codes),
        (bits.from_sub_codes_low_first, bits.sub_codes_low_first),
    ):
        code = there(index, 12)
        np.testing.assert_array_equal(back(code, 1), index)
        for parts in (2, 3, 12):
            np.testing.assert_array_equal(there(back(code, parts), 12 // parts), code)
        for quantizer in (LFQ(12), BSQ(12)):
            values = quantizer.apply({}, code, method="decode")
            np.testing.assert_array_equal(quantizer.apply({}, values, method="encode"), code)
    assert bits.sub_codes(jnp.array([1, 0, 0, 0]), 2).tolist() == [2, 0]
    assert bits.sub_codes_low_first(jnp.array([1, 0, 0, 0]), 2).tolist() == [1, 0]
    fsq = FSQ((8, 5, 3))
    z = jnp.stack(jnp.meshgrid(*[jnp.linspace(-4, 4, 33)] * 3), -1).reshape(-1, 3)
    codes = fsq.apply({}, z, method="encode")
    assert len(np.unique(codes)) == 120 and codes.max() == 119
    np.testing.assert_array_equal(fsq.apply({}, codes, method="decode"), fsq.apply({}, z).values)


def test_bit_entropies_are_those_of_all_codes():
    entropies = jax.jit(bit_entropies, static_argnames=("parts", "epsilon", "clip"))
    logits = 2.0 * jax.random.normal(jax.random.key(0), (7, 8))
    p = group_probabilities(logits, 1)[:, 0]  # [7, 256]
    np.testing.assert_allclose(p.sum(-1), 1, rtol=1e-5)
    each = -jnp.sum(p * jnp.log(p), -1).mean()
    mean = p.mean(0)
    whole = -jnp.sum(mean * jnp.log(mean))
    for parts, clip in ((1, False), (1, True), (2, False), (4, True)):
        found = entropies(logits, parts, epsilon=1e-12, clip=clip)
        np.testing.assert_allclose(found.sample, each, rtol=1e-5)
        if parts == 1:
            np.testing.assert_allclose(found.code, whole, rtol=1e-5)
        else:
            assert found.code > whole + 0.01  # an upper bound, and far off where bits depend
    same = jnp.broadcast_to(logits[:1], logits.shape)  # independent: the bound is reached
    found = entropies(same, 4, epsilon=1e-12)
    np.testing.assert_allclose(found.code, found.sample, rtol=1e-5)
    assert bit_entropy(jnp.array([400.0, -400.0])).sum() == 0
    assert jnp.isfinite(jax.vmap(jax.grad(bit_entropy))(jnp.array([0.0, 400.0, -400.0]))).all()


def test_a_long_code_needs_no_table_of_all_codes():
    z = jax.random.normal(jax.random.key(0), (2, 4, 64))
    assert LFQ(64, group_size=8).apply({}, z).losses["entropy"].shape == ()
    with pytest.raises(UserError, match="divisor of 64"):
        LFQ(64).apply({}, z)
    with pytest.raises(UserError, match="group_size 5"):
        BSQ(64, group_size=5).apply({}, z)


def test_every_code_of_ibq_is_moved_and_a_residual_code_helps_at_every_depth():
    ibq = IBQ(32, 4, entropy_weight=0.0)
    z = features(ibq)
    params = ibq.init(jax.random.key(1), z)
    grads = jax.grad(lambda p: ibq.apply(p, z).losses["quantization"])(params)
    codes = ibq.apply(params, z).latents
    assert len(np.unique(codes)) < 32
    assert (np.abs(grads["params"]["codebook"]).max(-1) > 0).all()

    rq = ResidualQuantizer(16, 4, depth=3)
    rows = jax.random.normal(jax.random.key(2), (200, 4))
    # A table with the origin in it can always leave a residual as it is.
    table = jnp.concatenate([codebook.kmeans(rows, 15, jax.random.key(3)), jnp.zeros((1, 4))])
    bound = rq.bind({"params": {"codebook": table}})
    errors = jnp.square(rows[:, None] - bound.partial_sums(bound.encode(rows))).sum(-1).mean(0)
    assert (jnp.diff(errors) < 0).all()
    left = bound.code_features(rows, bound.encode(rows)).reshape(len(rows), rq.depth, -1)
    np.testing.assert_allclose(jnp.square(left[:, 1:]).sum(-1).mean(0), errors[:-1], rtol=1e-4)


@pytest.mark.parametrize("max_bytes", [2**20, 4 * 10 * 8, 4 * 10])
def test_rows_in_pieces_give_the_same_sums_maps_and_gradients(max_bytes):
    rows, table = jax.random.normal(jax.random.key(0), (24, 3)), jnp.ones((10, 3))

    def both(rows, table):
        def each(rows):
            return jax.nn.softmax(rows @ table.T)

        mapped = map_rows(lambda r: each(r) @ table, rows, 40, max_bytes)
        total, mass = sum_rows(lambda r: (jnp.sum(r**2), each(r).sum(0)), rows, 40, max_bytes)
        return jnp.sum(mapped * rows) + total + jnp.sum(mass**2), mapped

    def whole(rows, table):
        p = jax.nn.softmax(rows @ table.T)
        value = jnp.sum(p @ table * rows) + jnp.sum(rows**2) + jnp.sum(p.sum(0) ** 2)
        return value, p @ table

    ours, expected = (
        jax.value_and_grad(f, (0, 1), has_aux=True)(rows, table) for f in (both, whole)
    )
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_pieces_take_rows_of_every_device_and_no_row_moves():
    with over(8) as split:
        rows = jax.ShapeDtypeStruct((64, 3), jnp.float32, sharding=split)

        def losses(rows):
            mass = sum_rows(lambda r: jax.nn.softmax(r).sum(0), rows, 12, 12 * 16)
            moved = map_rows(lambda r: jax.nn.softmax(r), rows, 12, 12 * 16)
            return jnp.sum(mass**2), moved

        program = jax.jit(losses, out_shardings=(None, split)).lower(rows).compile()
    text = program.as_text()
    assert "all-reduce" in text
    assert not any(word in text for word in ("all-gather", "all-to-all", "collective-permute"))


MANY = (32, 16, 16)  # the positions of 32 images of 256x256 at 16 pixels a code


@pytest.mark.parametrize(
    "quantizer",
    [
        VectorQuantizer(16384, 256, entropy_weight=0.1),
        IBQ(16384, 256),
        ResidualQuantizer(16384, 64),
        LFQ(14, clip_log=True),
        BSQ(36, group_size=18),
    ],
    ids=lambda q: type(q).__name__,
)
def test_training_with_16384_codes_stays_under_256_mib(quantizer):
    z = jax.ShapeDtypeStruct((*MANY, quantizer.layout.features_in), jnp.float32)
    params = jax.eval_shape(quantizer.init, jax.random.key(0), z)

    def loss(params, z):
        out = quantizer.apply(params, z)
        return sum(out.losses.values()) + jnp.sum(out.values)

    memory = jax.jit(jax.grad(loss, (0, 1))).lower(params, z).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 2**28  # of all tensors together


def test_online_clustering_moves_dead_codes_onto_features_and_leaves_even_ones():
    rows = jax.random.normal(jax.random.key(0), (40, 3))
    table = jnp.concatenate([jax.random.normal(jax.random.key(1), (7, 3)), jnp.full((1, 3), 9.0)])
    codes = jnp.arange(40) % 7  # code 7 is never used
    share, step = jnp.zeros(8), jax.jit(codebook.cluster_online)
    for _ in range(300):
        share, moved = step(share, table, rows, codes)
    np.testing.assert_allclose(share[:7].sum(), 1.0, atol=0.06)
    np.testing.assert_allclose(moved[:7], table[:7], atol=1e-6)
    nearest = rows[jnp.argmin(squared_distances(table, rows)[7])]
    np.testing.assert_allclose(moved[7], nearest, atol=0.02)
    assert moved.dtype == jnp.float32


def test_online_clustering_takes_the_same_step_on_1_2_and_8_devices():
    rows = jax.random.normal(jax.random.key(0), (64, 3)) + jnp.arange(64.0)[:, None] / 8
    table = jax.random.normal(jax.random.key(1), (21, 3))
    found = []
    for devices in (1, 2, 8):
        with over(devices) as split:
            placed = jax.device_put(rows, split)
            codes = nearest_codes(placed, table)
            step = jax.jit(codebook.cluster_online)
            found.append(jax.device_get(step(jnp.zeros(21), table, placed, codes)))
    for share, moved in found[1:]:
        np.testing.assert_allclose(share, found[0][0], rtol=1e-6)
        np.testing.assert_allclose(moved, found[0][1], rtol=1e-5)


def test_features_are_searched_in_chunks_and_over_devices_alike():
    rows = jax.random.normal(jax.random.key(0), (64, 3))
    rows = rows.at[50].set(rows[7])
    table = jax.random.normal(jax.random.key(1), (21, 3)).at[4].set(rows[7])
    whole = jnp.argmin(squared_distances(rows, table), axis=0)
    assert whole[4] == 7
    for codes in (1, 5, 21):
        found = codebook.nearest_features(rows, table, max_bytes=4 * 64 * codes)
        np.testing.assert_array_equal(found, whole)
    with over(8) as split:
        placed = jax.device_put(rows, split)
        found = jax.jit(codebook.nearest_features)(placed, table)
    np.testing.assert_array_equal(found, whole)
