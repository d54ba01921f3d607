"""Lexinvariant embeddings: random, learned and mixed tables, tied logits, invariance to renaming."""

import jax
import jax.numpy as jnp
import numpy as np

from imgen.generators.lexinvariant import draw_tables, embed, logits, mix
from tests.parity.golden import Golden


def lexinvariant(golden: Golden) -> None:
    close = golden.meta["tolerance"]
    random, learned = (jnp.asarray(golden.input(k), jnp.float32) for k in ("table", "learned"))
    ids = jnp.asarray(golden.input("ids"))
    table = mix(random, learned, jnp.asarray(golden.input("random_mask")))
    np.testing.assert_allclose(embed(table, ids), golden.out("embedded"), **close)
    hidden = jnp.asarray(golden.input("hidden"), jnp.float32)
    # The file's logits have no scale.
    tied = logits(table, hidden, 1.0)
    np.testing.assert_allclose(tied, golden.out("logits"), **close)
    np.testing.assert_allclose(embed(random, ids), golden.out("embedded_fully_random"), **close)
    # Renaming the codes together with the table's rows changes nothing.
    renaming = jnp.asarray(golden.input("permutation"))
    renamed = jnp.take_along_axis(renaming, ids, axis=1)
    np.testing.assert_array_equal(renamed, golden.out("ids_permuted"))
    moved = jnp.take_along_axis(random, jnp.argsort(renaming, axis=1)[..., None], axis=1)
    np.testing.assert_allclose(embed(moved, renamed), golden.out("embedded_fully_random"), **close)

    keys = jax.random.split(jax.random.key(0), len(ids))
    share = golden.config["random_fraction"]
    drawn = draw_tables(keys, learned, *learned.shape, share)
    np.testing.assert_array_equal(drawn, draw_tables(keys, learned, *learned.shape, share))
    is_random = (drawn != learned).all(-1)
    assert (drawn == learned).all(-1).any() and is_random.any()
    fully = draw_tables(keys, None, *learned.shape, 1.0)
    assert (fully[0] != fully[1]).all()


CASES = {"lexinvariant": lexinvariant}
