"""LaVIT's dynamic tokenizer: which features stay, what they become, their codes, the decoder's trunk."""

import jax
import jax.numpy as jnp
import numpy as np

from imgen.interop import lavit
from imgen.interop.table import from_official, to_official
from imgen.tokenizers.dynamic import keep_mask, pack_order
from imgen.tokenizers.quantizers.nearest import squared_distances
from tests.parity.golden import Golden


def lavit_dynamic_tokenizer(golden: Golden) -> None:
    close = {k: golden.meta["tolerance"][k] for k in ("atol", "rtol")}
    features = jnp.asarray(golden.input("features"))
    model = lavit.tokenizer_from_config(golden.config)
    images = jnp.zeros((1, *model.image_size, 3))
    like = jax.eval_shape(model.init, jax.random.key(0), images)["params"]
    like = {name: tree for name, tree in like.items() if name not in lavit.OUTSIDE}
    params = from_official(lavit.rows(), golden.params(), like)
    for key, value in to_official(lavit.rows(), params).items():
        np.testing.assert_array_equal(value, golden.params()[key])
    bound = model.bind({"params": params})

    log_p = bound.selector(features)
    np.testing.assert_allclose(log_p, golden.out("log_probs"), **close)
    keep = keep_mask(log_p, jnp.asarray(golden.input("gumbel_noise")))
    some = golden.out("token_count") > 0  # where LaVIT drops everything, one position is kept here
    np.testing.assert_array_equal(keep[some], golden.out("keep")[some])
    np.testing.assert_array_equal(keep.sum(-1), np.maximum(golden.out("token_count"), 1))
    keep = jnp.asarray(golden.out("keep"), jnp.float32)

    np.testing.assert_allclose(bound.merger(features, keep), golden.out("merged"), **close)
    z = bound.code_inputs(features, keep)
    official, kept = golden.out("code_index_or_-1"), np.asarray(keep) > 0.5
    np.testing.assert_array_equal(official >= 0, kept)
    table = bound.quantizer.normed(bound.quantizer.codebook)
    distances = squared_distances(z.reshape(-1, z.shape[-1]), table)
    nearest = np.sort(np.asarray(distances), axis=-1)
    clear = kept & (nearest[:, 1] - nearest[:, 0] > 1e-4).reshape(kept.shape)
    codes = np.asarray(bound.quantizer.encode(z))
    np.testing.assert_array_equal(codes[clear], official[clear])

    marked = np.where(kept, official, golden.config["n_code"])
    packed = np.take_along_axis(marked, np.asarray(pack_order(keep)), axis=1)
    values, valid = bound.code_values(jnp.asarray(packed, jnp.int32))
    np.testing.assert_array_equal(valid.sum(-1), golden.out("token_count"))
    queries = bound.decoder(values, valid)
    np.testing.assert_allclose(queries, golden.out("decoder_queries_normed"), **close)


CASES = {"lavit_dynamic_tokenizer": lavit_dynamic_tokenizer}
