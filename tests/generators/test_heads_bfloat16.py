"""Heads of bfloat16 networks give logits that are not rounded to bfloat16."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgen.generators.code_heads import BitLogits, Categorical, SubCodeLogits
from imgen.tokenizers.titok_layers import ToCodes

HEADS = {
    "categorical": Categorical(16, dtype=jnp.bfloat16),
    "sub-codes": SubCodeLogits(2, 8, dtype=jnp.bfloat16),
    "bits": BitLogits(16, dtype=jnp.bfloat16),
    "titok": ToCodes(16, dtype=jnp.bfloat16),
}


def exact(array) -> np.ndarray:
    """As the head reads it: rounded to bfloat16 once."""
    return np.asarray(array, jnp.bfloat16).astype(np.float64)


@pytest.mark.parametrize("name", HEADS)
def test_logits_are_sums_in_float32(name):
    head, x = HEADS[name], jax.random.normal(jax.random.key(0), (3, 5, 32), jnp.bfloat16)
    params = head.init(jax.random.key(1), x)["params"]
    params = jax.tree.map(lambda p: jax.random.normal(jax.random.key(2), p.shape), params)
    logits = head.apply({"params": params}, x)
    hidden = x
    if "hidden" in params:  # TiTok's is deeper
        layer = {key: p.astype(jnp.bfloat16) for key, p in params["hidden"].items()}
        hidden = jnp.tanh(x @ layer["kernel"] + layer["bias"])
    (last,) = (layer for key, layer in params.items() if key != "hidden")
    kernel, bias = exact(last["kernel"]), exact(last.get("bias", 0.0))
    expected = np.tensordot(exact(hidden), kernel, 1) + bias
    assert logits.dtype == jnp.float32
    np.testing.assert_allclose(logits, expected, atol=1e-4)
    assert not np.array_equal(logits, exact(logits))
