import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgen.errors import UserError
from imgen.nn.masked_attention import masked_softmax
from imgen.tokenizers.dynamic import DynamicTokenizer, Merger, keep_mask, pack_order
from tests.tokenizers.random_params import random_params

TINY = {
    "image_size": 16, "patch_size": 4, "width": 16, "heads": 2, "mlp_ratio": 2.0, "encoder_layers": 1,
    "merger_layers": 2, "decoder_layers": 2, "codebook_size": 24, "codebook_dim": 4,
}  # fmt: skip
IMAGES = jax.random.uniform(jax.random.key(0), (3, 16, 16, 3), minval=-1.0)
KEY = jax.random.key(7)


@functools.cache
def built():
    """The tokenizer, its variables, and its compiled training, encoding and decoding passes."""
    model = DynamicTokenizer(**TINY)
    variables = random_params(model, IMAGES)
    encode = jax.jit(functools.partial(model.apply, method="encode"))
    decode = jax.jit(functools.partial(model.apply, method="decode"))
    return model, variables, jax.jit(model.apply), encode, decode


def test_masked_softmax_leaves_out_what_is_masked_and_is_uniform_where_all_is():
    scores = jax.random.normal(jax.random.key(0), (4, 6))
    mask = jnp.array([[1, 1, 0, 0, 1, 1.0], [0] * 6, [1] * 6, [0, 0, 0, 0, 0, 1]])
    weights = np.asarray(masked_softmax(scores, mask))
    np.testing.assert_allclose(weights.sum(-1), 1.0, atol=1e-5)
    plain = np.asarray(jax.nn.softmax(jnp.where(mask > 0, scores, -jnp.inf)))
    np.testing.assert_allclose(weights[[0, 2, 3]], plain[[0, 2, 3]], atol=1e-5)
    np.testing.assert_allclose(weights[1], 1 / 6, atol=1e-6)


def test_gradient_reaches_the_mask_and_is_tame_where_all_is_masked():
    scores, values = jax.random.normal(jax.random.key(0), (2, 6))

    def read(mask):
        return jnp.sum(masked_softmax(scores, mask) * values)

    assert np.abs(jax.grad(read)(jnp.array([1.0, 0, 1, 0, 0, 1]))).min() > 0
    np.testing.assert_array_equal(jax.grad(read)(jnp.zeros(6)), np.zeros(6))


def test_merger_sees_kept_ones_before_itself_and_all_dropped_ones():
    merger = Merger(layers=2, heads=2, hidden=32)
    x = jax.random.normal(jax.random.key(0), (1, 8, 16))
    keep = jnp.array([[1.0, 0, 1, 1, 0, 1, 0, 1]])
    apply = jax.jit(functools.partial(merger.apply, random_params(merger, x, keep)))
    before = np.asarray(apply(x, keep))

    def changed_by(position):
        # A change of one channel: the same one everywhere is taken away by the norm. What is masked
        # still has a share of about the soft-max's epsilon, 1e-6.
        after = np.asarray(apply(x.at[0, position, 3].add(1.0), keep))
        return (np.abs(after - before) > 1e-4).any(-1)[0].tolist()

    assert changed_by(3) == [False] * 3 + [True] * 5
    assert changed_by(4) == [True] * 8
    assert changed_by(7) == [False] * 7 + [True]


def test_kept_positions_are_packed_in_raster_order():
    keep = jnp.array([[0.0, 1, 0, 1, 1], [1, 0, 0, 0, 1]])
    np.testing.assert_array_equal(pack_order(keep), [[1, 3, 4, 0, 2], [0, 4, 1, 2, 3]])


def test_one_position_stays_where_all_would_go():
    p = jnp.array([[0.1, 0.3, 0.2], [0.6, 0.1, 0.7]])
    log_p = jnp.log(jnp.stack([p, 1 - p], -1))
    noise = jnp.zeros((2, 3, 2))
    np.testing.assert_array_equal(keep_mask(log_p, noise), [[0, 1, 0], [1, 0, 1]])
    noise = noise.at[0, 2, 0].set(9.0)
    np.testing.assert_array_equal(keep_mask(log_p, noise), [[0, 0, 1], [1, 0, 1]])


@pytest.mark.parametrize("key", [None, KEY])
def test_codes_come_first_then_the_padding_id_and_decode_to_the_reconstruction(key):
    model, variables, apply, encode, decode = built()
    out = apply(variables, IMAGES, key)
    spec, codes = model.spec(16), np.asarray(out["latents"])
    assert (spec.grid, spec.size) == ((16,), 25) and codes.shape == (3, 16)
    counts = (codes < 24).sum(-1)
    for row, count in zip(codes, counts, strict=True):
        assert count > 0 and (row[count:] == 24).all()
    np.testing.assert_allclose(out["stats"]["token_count"], counts.mean())
    np.testing.assert_array_equal(encode(variables, IMAGES, key), codes)
    np.testing.assert_allclose(decode(variables, codes), out["recon"], atol=1e-4)


def test_selection_is_drawn_with_a_key_and_fixed_without():
    model, variables, _, encode, _ = built()
    drawn = [encode(variables, IMAGES, jax.random.key(i)) for i in (0, 1)]
    assert not np.array_equal(*drawn)
    whole = encode(variables, IMAGES, None)
    one = encode(variables, IMAGES[1:2], None)
    np.testing.assert_array_equal(one[0], whole[1])


def test_without_a_key_too_the_share_that_stays_is_its_probability():
    model, variables, *_ = built()
    selector = {**variables["params"]["selector"]}
    selector["out"] = {"kernel": jnp.zeros((4, 2)), "bias": jnp.log(jnp.array([0.2, 0.8]))}
    bound = model.bind({"params": {**variables["params"], "selector": selector}})
    keep = bound.select(jnp.zeros((1, 2000, 16)))
    assert abs(float(keep.mean()) - 0.2) < 0.03


def test_features_for_the_codebook_are_those_of_the_codes():
    model, variables, apply, _, _ = built()
    out, bound = apply(variables, IMAGES, KEY), model.bind(variables)
    np.testing.assert_allclose(bound.features(IMAGES, KEY), out["z"], atol=1e-5)
    table = bound.quantizer.normed(variables["params"]["quantizer"]["codebook"])
    nearest = jnp.argmax(bound.code_features(out["z"], out["latents"]) @ table.T, axis=-1).reshape(
        3, 16
    )
    for near, codes in zip(np.asarray(nearest), np.asarray(out["latents"]), strict=True):
        count = (codes < 24).sum()
        np.testing.assert_array_equal(near, np.resize(codes[:count], 16))


def test_reconstruction_alone_teaches_the_selector():
    model, variables, *_ = built()

    @jax.jit
    def gradients(params):
        def terms(params):
            out = model.apply({"params": params}, IMAGES, KEY)
            recon = jnp.mean(jnp.square(out["recon"] - IMAGES))
            return recon, out["losses"]["budget"], out["losses"]["codebook"]

        values, pull_back = jax.vjp(terms, params)
        ones = np.eye(3, dtype=np.float32)
        return [pull_back(tuple(row))[0] for row in ones]

    recon, budget, codebook = gradients(variables["params"])
    for gradient in (recon, budget):
        kernel = np.asarray(gradient["selector"]["in"]["kernel"])
        assert np.isfinite(kernel).all() and np.abs(kernel).max() > 0
    assert np.abs(codebook["quantizer"]["codebook"]).max() > 0
    assert not np.abs(recon["quantizer"]["codebook"]).max()


def test_budget_and_quantisation_losses_are_those_of_the_kept_positions():
    model, variables, apply, _, _ = built()
    out = apply(variables, IMAGES, KEY)

    @jax.jit
    def inner(variables):
        bound = model.bind(variables)
        features = bound.patch_features(IMAGES)
        keep = bound.select(features, KEY)
        z = bound.code_inputs(features, keep)
        error = jnp.square(bound.quantizer.decode(bound.quantizer.encode(z)) - z).mean(-1)
        return keep, error

    keep, error = map(np.asarray, inner(variables))
    assert len(set(keep.sum(-1))) > 1
    budget = 2.0 * np.mean((1 / 3 - keep.mean(-1)) ** 2)
    np.testing.assert_allclose(out["losses"]["budget"], budget, rtol=1e-5)
    per_image = [e[k > 0.5].mean() for e, k in zip(error, keep, strict=True)]
    np.testing.assert_allclose(out["losses"]["codebook"], np.mean(per_image), rtol=1e-4)
    np.testing.assert_allclose(out["losses"]["commit"], 0.25 * np.mean(per_image), rtol=1e-4)


def test_semantic_target_predicts_a_teachers_features():
    model = DynamicTokenizer(**TINY, semantic_target={"features": 5, "weight": 1.0})
    variables = random_params(model, IMAGES)
    teacher = jax.random.normal(KEY, (3, 16, 5))
    losses = jax.jit(model.apply)(variables, IMAGES, KEY, teacher)["losses"]
    assert 0.0 < losses["semantic_target"] < 2.0
    unseen = jax.eval_shape(model.apply, variables, IMAGES)["losses"]
    assert "semantic_target" not in unseen
    with pytest.raises(UserError, match=r"no teacher features \[B, 16, 5\]"):
        jax.eval_shape(model.apply, variables, IMAGES, KEY)


def test_sizes_that_do_not_fit_are_told():
    with pytest.raises(UserError, match="image_size to 24"):
        DynamicTokenizer(**TINY).spec(24)
    with pytest.raises(UserError, match="18x18.*patches of 4"):
        DynamicTokenizer(**(TINY | {"image_size": 18})).spec(18)
