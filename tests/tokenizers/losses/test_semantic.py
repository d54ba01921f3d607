import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgen.errors import UserError
from imgen.tokenizers.binary_1d import binary_1d
from imgen.tokenizers.losses.semantic import SemanticTarget, cosine_loss
from tests.tokenizers.random_params import random_params
from tests.tokenizers.test_binary_1d import BODY, pictures

HEAD = {"features": 7, "queries": 3, "layers": 1, "width": 16, "heads": 2}
TEACHER = jax.random.normal(jax.random.key(3), (2, 3, 7))


def losses(model, variables, *args):
    return model.apply(variables, pictures(16, 16), *args)["losses"]


def shapes(model, variables, *args):
    """Of the losses, without computing them."""
    return jax.eval_shape(lambda: losses(model, variables, *args))


def test_training_needs_the_teachers_features_and_other_passes_do_not():
    model = binary_1d(bits=6, semantic_target=HEAD, **BODY)
    variables, key = random_params(model, pictures(16, 16)), jax.random.key(0)
    assert "semantic_target" in variables["params"]
    assert shapes(model, variables) == {}
    assert set(shapes(model, variables, key, TEACHER)) == {"semantic_target"}
    with pytest.raises(UserError, match=r"no teacher features \[B, 3, 7\]"):
        shapes(model, variables, key)
    with pytest.raises(UserError, match=r"3 teacher features of width 7.*\(2, 7\)"):
        shapes(model, variables, key, TEACHER[:, :2])


def test_off_it_leaves_no_trace():
    model = binary_1d(bits=6, **BODY)
    variables = random_params(model, pictures(16, 16))
    assert "semantic_target" not in variables["params"]
    assert shapes(model, variables, jax.random.key(0), TEACHER) == {}


def test_the_loss_teaches_the_encoder_through_the_codes():
    model = binary_1d(bits=6, semantic_target=HEAD, **BODY)
    variables = random_params(model, pictures(16, 16))

    def loss(params):
        return losses(model, {"params": params}, jax.random.key(0), TEACHER)["semantic_target"]

    step = jax.jit(jax.value_and_grad(loss))
    value, gradient = step(variables["params"])
    assert np.abs(gradient["encoder"]["latent_tokens"]).max() > 0
    assert not np.abs(gradient["to_pixel"]["kernel"]).max()
    moved = jax.tree.map(lambda p, g: p - 1e-3 * g, variables["params"], gradient)
    assert step(moved)[0] < value


def test_token_term_ignores_length_and_pooled_term_does_not():
    assert abs(float(cosine_loss(5.0 * TEACHER, TEACHER))) < 1e-6
    assert abs(float(cosine_loss(-TEACHER, TEACHER)) - 2.0) < 1e-6
    tokens = SemanticTarget(7, 3)
    pooled = SemanticTarget(7, 3, token_weight=0.0, pooled_weight=0.5)
    assert abs(float(tokens.loss(5.0 * TEACHER, TEACHER))) < 1e-5
    expected = 0.5 * jnp.mean(jnp.square(4.0 * TEACHER.mean(1)))
    np.testing.assert_allclose(pooled.loss(5.0 * TEACHER, TEACHER), expected, rtol=1e-5)


def test_repa_reads_the_inner_tokens_of_the_decoder():
    model = binary_1d(bits=6, repa={"features": 7, "layer": 0}, **BODY)
    assert model.spec(16).grid == (5,)
    variables, key = random_params(model, pictures(16, 16)), jax.random.key(0)
    teacher = jax.random.normal(
        jax.random.key(3), (2, 4, 7)
    )  # block 0 has the grid before doubling

    def loss(params):
        return losses(model, {"params": params}, key, teacher)["repa"]

    value, gradient = jax.jit(jax.value_and_grad(loss))(variables["params"])
    assert 0.0 < value < 1.0
    reached = {
        name: bool(np.abs(block["ffn"]["down"]["kernel"]).max())
        for name, block in gradient["decoder"].items()
        if name.startswith("block")
    }
    assert reached == {"block_0": True, "block_1": False}
    more = jax.random.normal(jax.random.key(3), (2, 9, 7))  # the tokens' grid is resized to it
    assert shapes(model, variables, key, more).keys() == {"repa"}
    with pytest.raises(UserError, match="3 features an image are neither 2x2"):
        shapes(model, variables, key, TEACHER)


def test_a_projector_is_given_by_its_arguments():
    with pytest.raises(UserError, match="tokenizer.semantic_target True: give its arguments"):
        binary_1d(bits=6, semantic_target=True, **BODY)
    with pytest.raises(UserError, match="tokenizer.repa has no 'repa_index'"):
        binary_1d(bits=6, repa={"features": 7, "repa_index": 0}, **BODY)
