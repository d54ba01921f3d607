"""Frozen text encoders and their tokenizers, by the converters that read published folders."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from imgen.conditioning.text import subwords
from imgen.conditioning.text.bert import Bert, BertConfig, mean_pooled, sentence_vectors
from imgen.conditioning.text.t5 import T5, T5Config, buckets
from imgen.interop import text_encoders as interop
from tests.parity.golden import Golden


def t5_encoder(g: Golden) -> None:
    module, close = T5(T5Config.read(g.config)), g.meta["tolerance"]
    params = interop.convert_t5(g.params(), module)
    mask = g.input("attention_mask") > 0
    features, hidden, bias = jax.jit(
        lambda p, i, m: module.apply({"params": p}, i, m, method="hidden")
    )(params, g.input("input_ids"), mask)
    depth = module.config.num_layers
    hidden = [*hidden[:depth], features]  # officially the last is after the last norm
    np.testing.assert_allclose(features[mask], g.out("last_hidden_state")[mask], **close)
    for i, ours in enumerate(hidden):
        np.testing.assert_allclose(ours[mask], g.out(f"hidden_states_{i}")[mask], **close)
    np.testing.assert_allclose(bias[None], g.out("position_bias"), **close)
    num, furthest = (
        module.config.relative_attention_num_buckets, module.config.relative_attention_max_distance
    )  # fmt: skip
    ours = buckets(g.input("relative_position"), num, furthest)
    np.testing.assert_array_equal(ours, g.out("relative_position_bucket"))


def t5_sentencepiece(g: Golden) -> None:
    texts, size = json.loads(str(g.input("texts"))), g.config["max_length"]
    tokenizer = subwords.sentencepiece(g.params()["spiece.model"].tobytes(), size)
    assert tokenizer.specials == {
        "pad": g.config["pad_id"], "end": g.config["eos_id"], "unknown": g.config["unk_id"]
    }  # fmt: skip
    tokens = tokenizer(texts)
    np.testing.assert_array_equal(tokens.ids, g.out("input_ids"))
    np.testing.assert_array_equal(tokens.mask, g.out("attention_mask") > 0)
    uncut = tokenizer(texts, 512)
    pieces = json.loads(str(g.out("pieces")))
    np.testing.assert_array_equal(uncut.mask.sum(1), [len(row) + 1 for row in pieces])
    assert list(tokens.cut) == [len(row) >= size for row in pieces]
    vocab = [tokenizer.backend.id_to_piece(i) for i in range(tokenizer.vocab)]
    assert vocab == json.loads(str(g.out("vocab")))
    scores = [tokenizer.backend.get_score(i) for i in range(tokenizer.vocab)]
    np.testing.assert_array_equal(np.float32(scores), g.out("scores"))


def bert_encoder(g: Golden) -> None:
    module, close = Bert(BertConfig.read(g.config)), g.meta["tolerance"]
    params = interop.convert_bert(g.params(), module)
    mask = g.input("attention_mask") > 0
    hidden = jax.jit(lambda p, *x: module.apply({"params": p}, *x, method="hidden"))(
        params, g.input("input_ids"), mask, g.input("token_type_ids")
    )
    for i, ours in enumerate(hidden):
        np.testing.assert_allclose(ours[mask], g.out(f"hidden_states_{i}")[mask], **close)
    np.testing.assert_allclose(hidden[-1][mask], g.out("last_hidden_state")[mask], **close)
    np.testing.assert_allclose(mean_pooled(hidden[-1], mask), g.out("mean_pooled"), **close)
    vectors = sentence_vectors(hidden[-1], mask)
    np.testing.assert_allclose(vectors, g.out("sentence_embedding"), **close)
    np.testing.assert_allclose(vectors @ vectors.T, g.out("similarity"), **close)


def wordpiece_ids(g: Golden) -> None:
    texts, names = json.loads(str(g.input("texts"))), json.loads(str(g.input("vocab_tokens")))
    vocab = dict(zip(names, map(int, g.input("vocab_ids")), strict=True))
    tokenizer = subwords.wordpiece(vocab, 512, g.config["lowercase"])
    assert tokenizer.start + tokenizer.end == (g.config["cls"], g.config["sep"])
    tokens = tokenizer(texts)
    np.testing.assert_array_equal(tokens.ids[tokens.mask], g.out("ids"))
    np.testing.assert_array_equal(tokens.mask.sum(1), g.out("length"))
    short = tokenizer(texts, 16)
    np.testing.assert_array_equal(short.ids, g.out("padded_16"))
    np.testing.assert_array_equal(short.mask, g.out("mask_16") > 0)
    first, second = (tokens.ids[n][tokens.mask[n]] for n in (0, 1))
    np.testing.assert_array_equal([*first, *second[1:]], g.out("pair_ids"))  # [CLS] a [SEP] b [SEP]
    segments = [0] * len(first) + [1] * (len(second) - 1)
    np.testing.assert_array_equal(segments, g.out("pair_type_ids"))


def minilm_embeddings(g: Golden) -> None:
    if g.minilm is None:
        pytest.skip(
            "needs the weights of all-MiniLM-L6-v2: --minilm DIR (specs/assets.md says where)"
        )
    assert Path(g.minilm).is_dir()
    encoder = interop.load_text_encoder(g.minilm)
    texts = json.loads(str(g.input("texts")))
    features, mask = encoder.encode(texts)
    np.testing.assert_array_equal(mask.sum(1), g.input("length"))
    vectors = sentence_vectors(features, mask)
    np.testing.assert_allclose(vectors, g.out("embedding"), **g.meta["tolerance"])
    np.testing.assert_allclose(vectors @ vectors.T, g.out("similarity"), **g.meta["tolerance"])


CASES = {
    case.__name__: case
    for case in (t5_encoder, t5_sentencepiece, bert_encoder, wordpiece_ids, minilm_embeddings)
}
