"""Networks in the transformer's place: who sees whom, and that options which save memory change no number."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgen.errors import UserError
from imgen.generators.backbones import Bert, EncoderDecoder, UViT
from tests.tokenizers.random_params import compiled, random_params

WIDTH, COND = 16, 2
NETWORKS = {
    "bert": Bert(3, 2, 32, dropout=0.0),
    "maskgit": Bert(2, 2, 32, "gelu_tanh", transform=True, dropout=0.0),
    "uvit": UViT(4, 2, 32),
    "mar": EncoderDecoder((2, 1), 2, 32, dropout=0.0),
}


def inputs(positions=6, seed=0):
    x = jax.random.normal(jax.random.key(seed), (2, COND + positions, WIDTH))
    known = jnp.concatenate([jnp.ones(COND, bool), jnp.arange(positions) % 2 == 0])
    return x, jnp.tile(known, (2, 1))


@pytest.mark.parametrize("name", NETWORKS)
def test_every_slot_sees_every_known_one(name):
    net = NETWORKS[name]
    x, known = inputs()
    params, apply = random_params(net, x, known), compiled(net)
    moved = x.at[:, -2, 0].add(1.0)  # position 4 of 6, which is known
    assert bool(known[0, -2])
    difference = np.abs(apply(params, moved, known) - apply(params, x, known)).max((0, 2))
    assert (difference > 1e-5).all()


def test_mar_does_not_see_what_is_masked_however_much_is():
    net = NETWORKS["mar"]
    x, known = inputs()
    params, apply = random_params(net, x, known), compiled(net)
    hidden = jnp.where(known[..., None], x, 1e3)
    np.testing.assert_array_equal(apply(params, hidden, known), apply(params, x, known))


def test_mars_encoder_of_all_slots_is_that_of_the_known_ones_alone():
    """The released code drops the others."""
    net = NETWORKS["mar"]
    x, known = inputs()
    params = random_params(net, x, known)["params"]
    kept = np.flatnonzero(known[0])
    short = {k: v[kept] if k.endswith("positions") else v for k, v in params.items()}

    @jax.jit
    def encoder(params, x, known):
        _, found = net.apply({"params": params}, x, known, capture_intermediates=of_encoder)
        return found["intermediates"]["encoder_norm"]["__call__"][0]

    def of_encoder(module, _):
        return module.name == "encoder_norm"

    alone = encoder(short, x[:, kept], jnp.ones((2, len(kept)), bool))
    np.testing.assert_allclose(encoder(params, x, known)[:, kept], alone, atol=1e-6)


@pytest.mark.parametrize("name", NETWORKS)
def test_recomputing_layers_changes_no_gradient(name):
    x, known = inputs()
    params = random_params(NETWORKS[name], x, known)

    def gradient(net):
        return jax.jit(jax.grad(lambda p: jnp.sum(jnp.square(net.apply(p, x, known)))))(params)

    net = NETWORKS[name]
    kept, anew = gradient(net), gradient(net.clone(remat="full"))
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(kept))
    for a, b in zip(jax.tree.leaves(kept), jax.tree.leaves(anew), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6 * largest)


def test_heads_that_do_not_divide_the_width_are_one_line():
    with pytest.raises(UserError, match="3 heads do not divide a width of 16"):
        Bert(1, 3, 32).init(jax.random.key(0), *inputs())


def test_a_u_vit_has_halves():
    with pytest.raises(UserError, match="depth of 2"):
        UViT(1, 2, 32).init(jax.random.key(0), *inputs())
