"""ELM's binary autoencoder: features, probabilities and values of bits, reconstruction."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from imgen.interop.elm_bae import IGNORED, rows
from imgen.interop.table import from_official, to_official
from imgen.latents import bits as binary
from imgen.tokenizers.bae import bae
from tests.parity.compare import nchw, nhwc
from tests.parity.golden import Golden


def elm_bae_case(g: Golden) -> None:
    config, tolerance = g.config, g.meta["tolerance"]
    close = functools.partial(
        np.testing.assert_allclose, atol=tolerance["atol"], rtol=tolerance["rtol"]
    )
    sides = [config["img_size"] >> level for level in range(len(config["ch_mult"]))]
    model = bae(
        bits=config["codebook_size"],
        ch=config["nf"],
        ch_mult=tuple(config["ch_mult"]),
        num_res_blocks=config["res_blocks"],
        z_channels=config["emb_dim"],
        attention_levels=[i for i, side in enumerate(sides) if side in config["attn_resolutions"]],
        gen_mul=config["gen_mul"],
        norm_first=config["norm_first"],
    )
    assert config["deterministic"] and not config["use_tanh"]
    images = 2.0 * nhwc(g.input("image")) - 1.0
    like = jax.eval_shape(model.init, jax.random.key(0), images)["params"]
    table = rows(model)
    params = from_official(table, g.params(), like, IGNORED)
    back = to_official(table, params)
    assert back.keys() <= g.params().keys()
    assert all(np.array_equal(value, g.params()[key]) for key, value in back.items())

    expected = np.moveaxis(g.out("bits"), 1, -1).astype(np.int32)

    @jax.jit
    def outputs(params):
        def passes(m):
            unit, code = nhwc(g.input("image")), jnp.asarray(expected)
            values = m.encoder(unit), m.features(images), m.quantizer.decode(code)
            return *values, m.encode(images), m(images), m.decode(code)

        return model.apply({"params": params}, method=passes)

    encoded, logits, embedded, code, out, decoded = outputs(params)
    close(nchw(encoded), g.out("encoder"))
    p = jax.nn.sigmoid(logits)
    close(nchw(p), g.out("bit_probs"))
    close(binary.code_loss(jax.nn.sigmoid(p)), g.out("code_loss_as_coded"))
    clear = np.abs(np.asarray(p) - 0.5) > tolerance["atol"]
    for bits in (code, out["latents"]):
        np.testing.assert_array_equal(np.asarray(bits)[clear], expected[clear])
    close(nchw(embedded), g.out("z_q"))
    close(nchw((decoded + 1.0) / 2.0), g.out("recon"))
    if clear.all():
        close(nchw((out["recon"] + 1.0) / 2.0), g.out("recon"))


CASES = {"elm_bae": elm_bae_case}
