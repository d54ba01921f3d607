"""LlamaGen's VQ tokenizer: features, codes, reconstruction, losses and gradients."""

import jax
import jax.numpy as jnp
import numpy as np

from imgen.interop import llamagen_vq
from imgen.interop.table import from_official, to_official
from imgen.tokenizers.quantizers.nearest import squared_distances
from imgen.tokenizers.vq import vq
from tests.parity.compare import assert_close, nchw, nhwc
from tests.parity.golden import Golden


def llamagen_vq_case(g: Golden) -> None:
    config, tolerance = g.config, g.meta["tolerance"]
    model = vq(
        ch=config["ch"],
        ch_mult=tuple(config["ch_mult"]),
        num_res_blocks=config["num_res_blocks"],
        z_channels=config["z_channels"],
        codebook_size=config["codebook_size"],
        codebook_dim=config["codebook_embed_dim"],
        l2_norm=config["l2_norm"],
        commit_weight=config["commit_loss_beta"],
        entropy_weight=config["entropy_loss_ratio"],
        entropy_temperature=config["entropy_temperature"],
        groups=config["groups"],
    )
    assert config["gn_eps"] == 1e-6
    images = nhwc(g.input("image"))
    like = jax.eval_shape(model.init, jax.random.key(0), images)["params"]
    rows = llamagen_vq.rows(len(config["ch_mult"]))
    params = from_official(rows, g.params(), like, llamagen_vq.IGNORED)
    back = to_official(rows, params)
    assert all(np.array_equal(back[k], v) for k, v in g.params().items() if k in back)
    assert back.keys() <= g.params().keys()

    def loss(params):
        out = model.apply({"params": params}, images)
        mse = jnp.mean(jnp.square(out["recon"] - images))
        return mse + sum(out["losses"].values()), (out, mse)

    (_, (out, mse)), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    bound = model.bind({"params": params})

    assert_close(nchw(bound.encoder(images)), g.out("enc_features"), tolerance["features"])
    assert_close(nchw(out["z"]), g.out("pre_quant"), tolerance["features"])

    table, z = bound.quantizer.codebook, np.asarray(out["z"]).reshape(-1, like_dim(like))
    if config["l2_norm"]:
        table = table / np.linalg.norm(table, axis=-1, keepdims=True)
        z = z / np.linalg.norm(z, axis=-1, keepdims=True)
    nearest = np.sort(np.asarray(squared_distances(jnp.asarray(z), jnp.asarray(table))), axis=-1)
    margin = nearest[:, 1] - nearest[:, 0]
    assert_close(margin.min(), g.out("dist_margin_min"), 4 * tolerance["features"])
    clear = (margin > 1e-4).reshape(out["latents"].shape)
    np.testing.assert_array_equal(np.asarray(out["latents"])[clear], g.out("indices")[clear])

    codes = jnp.asarray(g.out("indices"))
    values = bound.quantizer.decode(codes)
    assert_close(nchw(values), g.out("quant"), tolerance["features"])
    assert_close(nchw(bound.post_quant_conv(values)), g.out("post_quant"), tolerance["features"])
    assert_close(nchw(bound.decode(codes)), g.out("recon_from_indices"), tolerance["recon"])
    if not clear.all():
        return  # what follows depends on every code, and some ties are too close to call
    assert_close(nchw(out["recon"]), g.out("recon"), tolerance["recon"])

    losses = out["losses"]
    assert_close(mse, g.out("mse_loss"), tolerance["features"])
    assert_close(losses["codebook"], g.out("vq_loss"), tolerance["features"])
    assert_close(losses["commit"], g.out("commit_loss_times_beta"), tolerance["features"])
    if config["entropy_loss_ratio"]:
        entropy = losses["entropy"]
        assert_close(entropy, g.out("entropy_loss_times_ratio"), "rtol 2e-3")
        raw = entropy / config["entropy_loss_ratio"]
        assert_close(raw, g.out("entropy_loss_raw"), "rtol 2e-3")
    # The official ring buffer starts full of zeros: code 0 counts as used.
    used = np.union1d(np.asarray(out["latents"]), [0]).size / config["codebook_size"]
    assert_close(used, g.out("codebook_usage_first_step"), 1e-6)

    official_grads = to_official(rows, grads)
    for key, expected in g.outs("grad/").items():
        assert_close(official_grads[key], expected, tolerance["grads"])


def like_dim(like: dict) -> int:
    return like["quantizer"]["codebook"].shape[1]


CASES = {"llamagen_vq": llamagen_vq_case}
