"""CLIP's towers, projections and logits, read from both layouts."""

import jax
import jax.numpy as jnp
import numpy as np

from imgen.conditioning.clip import CLIP, to_unit
from imgen.interop import clip as interop
from imgen.interop.table import to_official
from tests.parity.compare import nhwc
from tests.parity.golden import Golden


def clip(g: Golden) -> None:
    model = interop.from_config(g.config)
    params = interop.convert(g.params(), model)
    back = to_official(interop.huggingface_rows(), params)
    assert back.keys() == g.params().keys()
    assert all(np.array_equal(back[key], value) for key, value in g.params().items())
    openai = to_official(interop.openai_rows(), params)
    jax.tree.map(np.testing.assert_array_equal, interop.convert(openai, model), params)

    close = g.meta["tolerance"]
    ids, valid = jnp.asarray(g.input("input_ids")), jnp.asarray(g.input("attention_mask") > 0)
    images = jnp.asarray(nhwc(g.input("pixel_values")))
    ours = jax.jit(_outputs, static_argnums=0)(model, params, images, ids, valid)
    for name in g.outputs():
        np.testing.assert_allclose(ours[name], g.out(name), **close, err_msg=name)


def _outputs(model: CLIP, params, images, ids, valid) -> dict[str, jax.Array]:
    bound = model.bind({"params": params})
    tokens, pooled = bound.text(ids, valid)
    patches, image = bound.image(images)
    image_features, text_features = bound.encode_image(images), bound.encode_text(ids)
    return {
        "text_last_hidden_state": tokens,
        "text_pooled": pooled,
        "text_features": text_features,
        "text_embeds_normalised": to_unit(text_features),
        "vision_last_hidden_state": patches,
        "vision_pooled": image,
        "image_features": image_features,
        "image_embeds_normalised": to_unit(image_features),
        "logits_per_image": bound(images, ids),
        "logits_per_text": bound(images, ids).T,
    }


CASES = {"clip": clip}
