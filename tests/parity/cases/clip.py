"""CLIP's towers, projections and logits, read from both layouts; and its tokenizer.

The golden ids need the vocabulary, which is a file of the user's: without it the test looks at all that the
words and bytes alone decide, and is then skipped.
"""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgen.conditioning import clip_bpe
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


def clip_bpe_ids(g: Golden) -> None:
    texts, ids, lengths = json.loads(str(g.input("texts"))), g.out("input_ids"), g.out("length")
    size = g.config["context_length"]
    if g.clip_vocabulary is None:
        _without_vocabulary(g.config, texts, ids, lengths)
        pytest.skip(
            "lengths, words and single bytes agree; the ids of merges need CLIP's vocabulary: "
            "--clip_vocab bpe_simple_vocab_16e6.txt.gz"
        )
    tokenizer = clip_bpe.load(g.clip_vocabulary)
    special = tokenizer.start, tokenizer.end, len(tokenizer.ids)
    assert special == (g.config["sot"], g.config["eot"], g.config["vocab"])
    np.testing.assert_array_equal(tokenizer(texts, size, pad=0), ids)
    uncut = [2 + len(tokens) for tokens in tokenizer.encode(texts)]
    np.testing.assert_array_equal(np.minimum(uncut, size), lengths)


def _without_vocabulary(config, texts, ids, lengths) -> None:
    """Ids below 512 are single bytes, with and without the end of a word, in every vocabulary of CLIP; a word
    takes from one id to one for each of its bytes, and the same words take the same ids."""
    start, end = config["sot"], config["eot"]
    alone = clip_bpe.Tokenizer((), clip_bpe.numbered(()))
    assert clip_bpe.MERGES + len(alone.ids) == config["vocab"]
    assert (start, end) == (config["vocab"] - 2, config["vocab"] - 1)
    seen = {}
    for text, row, length in zip(texts, ids, lengths, strict=True):
        assert row[0] == start and row[length - 1] == end and (row[length:] == 0).all()
        tokens, words = list(row[1 : length - 1]), list(clip_bpe.words(clip_bpe.clean(text)))
        most = sum(len(word.encode()) for word in words)
        assert length == config["context_length"] or len(words) <= len(tokens) <= most
        if len(words) == len(tokens):
            for word, token in zip(words, tokens, strict=True):
                assert seen.setdefault(word, token) == token
                (single,) = alone.encode([word])
                assert len(single) > 1 or single == [token] or token in (start, end)


CASES = {"clip": clip, "clip_bpe_ids": clip_bpe_ids}
