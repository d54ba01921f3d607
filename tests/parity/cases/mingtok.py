"""MingTok: latents, semantic features at once and token by token, pixels, its L1 loss."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from imgen.interop import mingtok as interop
from imgen.tokenizers.losses.terms import RECONSTRUCTION
from imgen.tokenizers.mingtok import MingTok
from tests.parity.compare import nchw, nhwc
from tests.parity.golden import Golden
from tests.tokenizers.causal import token_by_token


def mingtok_case(g: Golden) -> None:
    config = g.config
    close = functools.partial(np.testing.assert_allclose, **g.meta["tolerance"])
    encoder, semantic, pixels = (
        config[name] for name in ("low_level_encoder", "semantic_decoder", "pixel_decoder")
    )
    assert encoder["ffn_layer"] == semantic["ffn_layer"] == "swiglufused"
    assert config["heads"] == "embed_dim//64" and pixels["loss_type"] == "L1-plain"
    images = jnp.asarray(nhwc(g.input("image")))
    model = MingTok(
        image_size=images.shape[1:3],
        patch=encoder["patch_size"],
        pixel_patch=pixels["patch_size"],
        channels=encoder["out_dim"],
        encoder_width=encoder["embed_dim"],
        encoder_depth=encoder["depth"],
        semantic_width=semantic["embed_dim"],
        semantic_depth=semantic["decoder_depth"],
        pixel_width=pixels["embed_dim"],
        pixel_depth=pixels["decoder_depth"],
    )
    like = jax.eval_shape(model.init, jax.random.key(0), images)["params"]
    params = interop.convert(g.params(), like, config["mean"], config["scaling_factor"])
    back = interop.convert_back(params)
    assert back.keys() == g.params().keys()
    assert all(np.array_equal(back[key], value) for key, value in g.params().items())

    def passes(m: MingTok, images: jax.Array):
        features, latents = m.features(images), m.encode(images)
        with_class = m.quantizer.encode(features)
        return {
            "features": features,
            "latents": latents,
            "with_class": with_class,
            "semantic": m.semantic(latents),
            "class": m.semantic_decoder(m.quantizer.decode(with_class))[:, -1],
            "decoded": m.decode(latents),
            "training": m(images),
        }

    variables = {"params": params}
    ours = jax.jit(functools.partial(model.apply, method=passes))(variables, images)
    rows = ours["latents"].reshape(len(images), -1, model.channels)
    close(ours["features"], g.out("encoder_latent"))
    close(ours["with_class"], g.out("latent_normalised"))
    close(rows, ours["with_class"][:, :-1])
    close(ours["training"]["latents"].reshape(rows.shape), rows)
    close(ours["semantic"].reshape(*rows.shape[:2], -1), g.out("semantic"))
    close(ours["class"], g.out("semantic_cls"))
    expected = jnp.asarray(g.out("latent_normalised")[:, :-1])
    one_by_one = jax.jit(functools.partial(token_by_token, model))(variables, expected)
    close(one_by_one, g.out("semantic_incremental"))

    recon = ours["training"]["recon"]
    side = model.pixel_patch
    b, height, width, _ = recon.shape
    patches = recon.reshape(b, height // side, side, width // side, side, 3)
    patches = patches.transpose(0, 1, 3, 2, 4, 5).reshape(b, -1, 3 * side**2)
    close(patches, g.out("pixel_pred"))
    close(nchw(ours["decoded"]), g.out("recon"))
    close(RECONSTRUCTION["l1"](images, recon), g.out("l1_plain"))


CASES = {"mingtok": mingtok_case}
