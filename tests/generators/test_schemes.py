"""What teacher forcing shows: annealed orders, and that a model learns under them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgen.generators.orders import raster
from imgen.generators.schemes import FIXED, RANDOM_ORDER, Annealed
from tests.generators.test_generator import build, random_codes

PLAN = raster((4, 4))


def test_the_share_of_random_orders_falls_from_1_to_0():
    scheme = Annealed(0.5, 0.75)
    shares = [float(scheme.share(p)) for p in (0.0, 0.49, 0.5, 0.625, 0.75, 1.0)]
    np.testing.assert_allclose(shares, [1, 1, 1, 0.5, 0, 0], atol=1e-6)
    assert float(Annealed(0.0, 0.0).share(0.0)) == 0  # never
    assert float(Annealed(1.0, 1.0).share(0.99)) == 1


@pytest.mark.parametrize("progress, share", [(0.2, 1.0), (0.625, 0.5), (0.9, 0.0)])
def test_so_many_samples_have_an_order_of_their_own(progress, share):
    training = jax.jit(
        lambda key, progress: Annealed(0.5, 0.75).training(key, PLAN, 1000, progress)
    )
    teacher = training(jax.random.key(0), progress)
    order = np.asarray(teacher.order)
    np.testing.assert_array_equal(np.sort(order, axis=1), np.tile(np.arange(16), (1000, 1)))
    random = (order != np.arange(16)).any(axis=1)
    assert random.mean() == pytest.approx(share, abs=0.05)
    assert len(np.unique(order[random], axis=0)) == random.sum()
    assert teacher.hidden is None and (teacher.weight == 1).all()


def test_evaluation_and_samples_of_annealed_orders_are_in_the_plans_own():
    keys = jax.random.split(jax.random.key(0), 3)
    for scheme in (FIXED, Annealed()):
        assert scheme.evaluation(keys, PLAN).order is None
        assert scheme.decoding(keys, PLAN) is None
    orders = RANDOM_ORDER.evaluation(keys, PLAN).order
    np.testing.assert_array_equal(orders, RANDOM_ORDER.decoding(keys, PLAN))


def test_the_identity_is_the_plans_own_order_and_progress_reaches_the_loss():
    annealed = dict(scheme="annealed", position="target_aware")
    generator, params = build("raster", (2, 3), **annealed)
    codes, cond = random_codes(generator, 4), {"label": jnp.arange(4) % 3}
    apply = jax.jit(lambda order: generator.apply({"params": params}, codes, cond, order=order))
    identity = jnp.tile(jnp.arange(6), (4, 1))
    plain = jax.jit(lambda: generator.apply({"params": params}, codes, cond))()
    np.testing.assert_allclose(apply(identity), plain, atol=1e-6)

    @jax.jit
    def nll(progress):
        return generator.apply(
            {"params": params}, codes, cond, jnp.zeros(4, bool), jax.random.key(1), progress,
            method="loss",
        ).per_position  # fmt: skip

    np.testing.assert_allclose(nll(1.0), generator.head.nll(plain, codes), atol=1e-5)
    assert np.abs(nll(0.0) - nll(1.0)).max() > 1e-2


def test_a_slot_is_told_which_position_it_predicts():
    generator, params = build("raster", (2, 3), scheme="annealed", position="target_aware")
    codes, cond = random_codes(generator, 2), {"label": jnp.array([0, 1])}
    moved = {**params, "target_table": params["target_table"].at[1 + 4].add(1.0)}
    logits = [generator.apply({"params": p}, codes, cond) for p in (params, moved)]
    changed = np.abs(logits[0] - logits[1]).max(axis=(0, 2)) > 1e-4
    np.testing.assert_array_equal(changed, np.arange(6) >= 4)  # it is row T + 4, read at slot 4
