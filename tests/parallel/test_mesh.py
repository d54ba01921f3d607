import jax
import jax.numpy as jnp
import optax
import pytest

from imgen.errors import UserError
from imgen.parallel.mesh import batch_sharding, make_mesh, shardings, specs
from imgen.report.overview import parameter_table

P = jax.P
PARAMS = {
    "blocks": {"attn": {"kernel": jnp.zeros((3, 8, 4)), "bias": jnp.zeros((3, 4))}},
    "head": jnp.zeros((8, 10)),
}
RULES = [("attn/kernel", ("fsdp", "tensor")), ("bias", ()), ("params/head", (None, "fsdp"))]


def state():
    opt = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3)).init(PARAMS)
    return {"step": jnp.int32(0), "params": PARAMS, "ema": PARAMS, "opt": opt}


def test_stacked_layers_moments_and_averages_follow_their_parameter():
    found = specs(state(), RULES, make_mesh(2, 2, 2))
    for prefix in ("params", "ema", "opt/1/0/mu", "opt/1/0/nu"):
        assert found[f"{prefix}/blocks/attn/kernel"][0] == P(None, "fsdp", "tensor")
        assert found[f"{prefix}/head"][0] == P(None, "fsdp")
    assert found["step"][0] == P() and found["opt/1/0/count"][0] == P()
    tree = shardings(state(), RULES, make_mesh(2, 2, 2))
    assert jax.tree.structure(tree) == jax.tree.structure(state())


def test_another_network_has_rules_of_its_own_and_its_optimiser_follows():
    disc = {"conv": jnp.zeros((4, 8))}
    tree = {"params": PARAMS, "disc": disc, "disc_opt": {"mu": disc}}
    found = specs(tree, [*RULES, ("^disc/conv", (None, "tensor"))], make_mesh(2, 2, 2))
    assert found["disc/conv"][0] == found["disc_opt/mu/conv"][0] == P(None, "tensor")


def test_a_leaf_without_rule_is_named():
    with pytest.raises(UserError, match="no sharding rule matches 'params/head'"):
        specs(state(), RULES[:2], make_mesh())


def test_a_dimension_that_does_not_divide_is_replicated_and_the_table_says_so():
    mesh = make_mesh(1, 4, 2)
    spec, note = specs({"params": PARAMS}, RULES, mesh)["params/head"]
    assert spec == P(None, None)
    table = parameter_table({"params": PARAMS}, RULES, mesh, {"head": "frozen"})
    assert "10 is not divisible by fsdp=4: replicated" in table
    assert table.endswith("188 parameters, 108 of them trained")


def test_mesh_sizes():
    assert dict(make_mesh(-1, 2, 2).shape) == {"data": 2, "fsdp": 2, "tensor": 2}
    assert dict(make_mesh().shape) == {"data": 8, "fsdp": 1, "tensor": 1}
    assert set(batch_sharding(make_mesh(2, 4)).spec[0]) == {"data", "fsdp"}
    for sizes in ((3, 1, 1), (-1, 3, 1), (-1, -1, 1), (0, 1, 1)):
        with pytest.raises(UserError, match="mesh"):
            make_mesh(*sizes)
