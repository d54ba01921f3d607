"""MaskGIT's VQGAN in the layout of its PyTorch port: features, codes, losses, reconstruction."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from imgen.interop.maskgit_vqgan import rows
from imgen.interop.table import from_official, to_official
from imgen.nn.conv import ResBlock
from imgen.tokenizers.quantizers.nearest import squared_distances
from imgen.tokenizers.vq import maskgit_vqgan
from tests.parity.compare import assert_close, nchw, nhwc
from tests.parity.golden import Golden


def maskgit_vqgan_case(g: Golden) -> None:
    config = g.config
    close = functools.partial(assert_close, tolerance=g.meta["tolerance"]["default"])
    model = maskgit_vqgan(
        ch=config["hidden_channels"],
        ch_mult=tuple(config["channel_mult"]),
        num_res_blocks=config["num_res_blocks"],
        codebook_size=config["codebook"],
        codebook_dim=config["z_channels"],
        entropy_weight=0.0,  # the port leaves it out
    )
    images = 2.0 * nhwc(g.input("image")) - 1.0
    like = jax.eval_shape(model.init, jax.random.key(0), images)["params"]
    params = from_official(rows(), g.params(), like)
    back = to_official(rows(), params)
    assert back.keys() == g.params().keys()
    assert all(np.array_equal(back[key], value) for key, value in g.params().items())

    out = jax.jit(model.apply)({"params": params}, images)
    close(nchw(out["z"]), g.out("latent"))
    # The port puts beta on the other of the two losses; their values are equal.
    close(sum(out["losses"].values()), g.out("port_loss_e_plus_quarter_q"))

    z = out["z"].reshape(-1, config["z_channels"])
    distances = squared_distances(z, jnp.asarray(params["quantizer"]["codebook"]))
    nearest = np.sort(np.asarray(distances), axis=-1)
    clear = nearest[:, 1] - nearest[:, 0] > 1e-4
    expected = g.out("indices").reshape(-1)
    np.testing.assert_array_equal(np.asarray(out["latents"]).reshape(-1)[clear], expected[clear])

    codes = jnp.asarray(expected.reshape(out["latents"].shape))
    bound = model.bind({"params": params})
    close(nchw(bound.quantizer.decode(codes)), g.out("quant"))
    recon = jax.jit(functools.partial(model.apply, method="decode"))({"params": params}, codes)
    close(nchw((recon + 1.0) / 2.0), g.out("recon"))

    block = params["encoder"]["level_1"]["res_0"]
    width = block["conv2"]["kernel"].shape[-1]
    layer = ResBlock(width, use_bias=False, output_shortcut=True)
    h = layer.apply({"params": block}, nhwc(g.input("res_in")))
    close(nchw(h), g.out("resblock_down1_0"))


CASES = {"maskgit_vqgan": maskgit_vqgan_case}
