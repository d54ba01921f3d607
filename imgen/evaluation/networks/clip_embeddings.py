"""Images and texts through a frozen CLIP: the unit embeddings of CMMD, CLIPScore and zero-shot heads.

Everything is float32 with float32 products, whatever the device would do by itself. Weights come from
`imgen.interop.clip.load`, the tokenizer from `imgen.conditioning.clip_bpe.load`: the user has both as files.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from imgen.conditioning import clip_bpe
from imgen.conditioning.clip import CLIP, normalised, size_name, to_unit
from imgen.errors import UserError
from imgen.evaluation.images.image_set import padded
from imgen.evaluation.networks.clip_input import RESIZES
from imgen.evaluation.networks.feature_network import FeatureNetwork
from imgen.params import files as weights

Params = dict[str, Any]


def embed_images(model: CLIP, params: Params, images: jax.Array) -> jax.Array:
    """uint8 images [B, S, S, 3] of the network's size -> unit embeddings [B, D]. Pure, to be jitted."""
    with jax.default_matmul_precision("highest"):
        features = model.apply({"params": params}, normalised(images), method="encode_image")
        return to_unit(features)


def embed_texts(model: CLIP, params: Params, ids: jax.Array) -> jax.Array:
    """Ids [B, T] with start and end -> unit embeddings [B, D]. Pure, to be jitted."""
    with jax.default_matmul_precision("highest"):
        return to_unit(model.apply({"params": params}, ids, method="encode_text"))


def network_name(model: CLIP) -> str:
    """As `Protocol.network`: the published size or the image tower's, with "_gelu" if it isn't quick_gelu.

    CMMD's is "clip_l14_336". It is the name of a size and not of OpenAI's weights, which can't be told from
    others of their size, so that no published number may be recorded under it.
    """
    image = model.image
    name = size_name(model) or f"clip_w{image.width}_d{image.depth}_p{image.patch}_{image.size}"
    return name if image.activation == "quick_gelu" else f"{name}_{image.activation}"


def image_network(
    model: CLIP, params: Params, prepare: Callable[[np.ndarray, int], np.ndarray]
) -> FeatureNetwork:
    """The image tower as a network of `features.Extractor`, which gives "embedding", of unit length.

    prepare: of `clip_images`; CMMD's is `square_then_resize`, CLIPScore's `resize_then_square`.
    """

    def apply(params: Params, images: jax.Array) -> dict[str, jax.Array]:
        return {"embedding": embed_images(model, params, images)}

    return FeatureNetwork(
        network_name(model),
        RESIZES[prepare],
        "float32",
        _without(params, "text"),
        apply,
        {"embedding": model.width},
        weights.fingerprint(params),
        functools.partial(prepare, size=model.image.size),
    )


def text_embeddings(
    model: CLIP,
    params: Params,
    tokenizer: clip_bpe.Tokenizer,
    texts: Sequence[str],
    sharding: NamedSharding,
    batch_size: int,
) -> np.ndarray:
    """Unit embeddings of texts, float32 [N, D], in every process; what is too long is cut.

    sharding: of batches, over the mesh's data axes; batch_size: a multiple of their size. Raises UserError
    for a vocabulary that is not the model's.
    """
    _check_vocabulary(model, tokenizer)
    everywhere = NamedSharding(sharding.mesh, PartitionSpec())
    placed = jax.device_put(_without(params, "image"), everywhere)
    step = jax.jit(functools.partial(embed_texts, model), out_shardings=everywhere)
    ids, found = tokenizer(texts, model.text.length), []
    for start in range(0, len(ids), batch_size):
        rows, mask = padded(ids[start : start + batch_size], batch_size)
        batch = jax.make_array_from_callback(rows.shape, sharding, rows.__getitem__)
        found.append(np.asarray(step(placed, batch))[mask > 0])
    return np.concatenate(found)


def _check_vocabulary(model: CLIP, tokenizer: clip_bpe.Tokenizer) -> None:
    """Of another length, a file that ends early among them, its ids would stand for other tokens."""
    tokens, end = len(tokenizer.ids), model.text.end
    if tokens != model.text.vocab:
        raise UserError(
            f"the vocabulary has {tokens} tokens, this CLIP {model.text.vocab}: name the one that belongs to "
            "the weights, whole"
        )
    end = tokens - 1 if end is None else end  # the largest id, see `TextTower`
    if tokenizer.end != end:
        raise UserError(
            f"the vocabulary ends texts with the id {tokenizer.end}, this CLIP with {end}: name the one that "
            "belongs to the weights"
        )


def _without(params: Params, half: str) -> Params:
    return {name: leaf for name, leaf in params.items() if not name.startswith(half)}
