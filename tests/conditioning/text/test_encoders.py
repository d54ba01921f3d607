import json
import operator
from pathlib import Path

import jax
import numpy as np
import pytest

from imgen.conditioning import clip_bpe
from imgen.conditioning.text.bert import sentence_vectors
from imgen.conditioning.text.lm import LM, LMConfig
from imgen.errors import UserError
from imgen.interop import clip
from imgen.interop.text_encoders import load_text_encoder
from tests.conditioning.text.folders import (
    LLAMA,
    PIECES,
    bert_folder,
    lm_folder,
    random_params,
    t5_folder,
)
from tests.conditioning.tiny_clip import write_clip

TEXTS = ["a red circle above a blue square", "", "zebra", "Cafe\u0301 circles \ud800", "a " * 50]


def test_features_do_not_depend_on_the_other_texts_nor_on_the_padding(tmp_path):
    encoder = load_text_encoder(bert_folder(tmp_path))
    features, mask = encoder.encode(TEXTS)
    assert features.shape == (5, 12, 16) and features.dtype == np.float32
    assert list(mask.sum(1)) == [9, 2, 3, 6, 12]  # [CLS] and [SEP] count; the last one is cut
    assert not features[~mask].any() and np.isfinite(features).all()
    for text, row, shown in zip(TEXTS, features, mask, strict=True):
        alone, _ = encoder.encode([text])
        np.testing.assert_allclose(alone[0][shown], row[shown], atol=1e-5)
    left, moved = encoder.encode(TEXTS, side="left")
    np.testing.assert_array_equal(left[moved], features[mask])
    assert moved[:, -1].all()
    np.testing.assert_allclose(np.linalg.norm(sentence_vectors(features, mask), axis=1), 1, 1e-5)
    assert load_text_encoder(tmp_path).fingerprint == encoder.fingerprint
    assert load_text_encoder(tmp_path, length=5).encode(TEXTS)[0].shape == (5, 5, 16)


def test_wordpiece_of_a_folder_knows_where_its_tokens_stand(tmp_path):
    tokens = load_text_encoder(bert_folder(tmp_path)).tokenizer(["Café  circles"])
    names = [PIECES[i] for i in tokens.ids[0][tokens.mask[0]]]
    assert names == ["[CLS]", "[UNK]", "circle", "##s", "[SEP]"]  # café has lost its accent
    assert [tuple(x) for x in tokens.offsets[0, 1:4]] == [(0, 4), (6, 12), (12, 13)]


def _break(folder, what):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    if what == "vocab":
        (folder / "vocab.txt").write_text("\n".join(PIECES + [f"x{i}" for i in range(9)]))
    elif what == "not bert":
        (folder / "vocab.txt").write_text("a\nb\n")
    elif what in ("config.json", "model.safetensors", "vocab.txt"):
        (folder / what).unlink()
    elif what == "damaged":
        (folder / "model.safetensors").write_bytes(b"no tensors")
    elif what == "index":
        names = {"embeddings.LayerNorm.weight": "model-00001-of-00002.safetensors"}
        text = json.dumps({"weight_map": names})
        (folder / "model.safetensors.index.json").write_text(text)
    else:
        path.write_text(json.dumps(config | what))


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("vocab", "vocabulary is of another model"),
        ("not bert", r"without \[PAD\] is not BERT's"),
        ("config.json", "has no config.json"),
        ("model.safetensors", "no .safetensors file"),
        ("vocab.txt", "no readable tokenizer.json or vocab.txt"),
        ("damaged", "not a readable safetensors file"),
        ("index", "lacks model-00001-of-00002.safetensors"),
        ({"num_hidden_layers": 3}, "lacks encoder.layer.2"),
        ({"num_hidden_layers": 1}, "no place for: encoder.layer.1"),
        ({"hidden_size": 32}, "shape"),
        ({"hidden_act": "relu"}, "hidden_act 'relu'"),
        ({"model_type": "berd"}, "did you mean 'bert'"),
        ({"model_type": "vit"}, "no text encoder is built"),
        ({"pad_token_id": 3}, "pad is 0 in its tokenizer and 3"),
    ],
)
def test_a_wrong_or_partial_folder_is_one_line(tmp_path, what, message):
    _break(bert_folder(tmp_path), what)
    with pytest.raises(UserError, match=message) as error:
        load_text_encoder(tmp_path)
    assert "\n" not in str(error.value) and str(tmp_path) in str(error.value)


def test_more_tokens_than_the_model_has_positions_are_refused(tmp_path):
    with pytest.raises(UserError, match="reads up to 12"):
        load_text_encoder(bert_folder(tmp_path), length=13)
    with pytest.raises(UserError, match="no such folder"):
        load_text_encoder(tmp_path / "nowhere")


def test_a_language_model_gives_a_feature_for_each_of_its_layers(tmp_path):
    encoder = load_text_encoder(lm_folder(tmp_path), length=16)
    texts = ["a red circle", "", "one two three four five"]
    features, mask = encoder.encode(texts, side="left")
    assert features.shape == (3, 3, 16, 16) and encoder.layers == 3
    assert list(mask.sum(1)) == [12, 0, 16]  # this one has no start token: nothing is left of ""
    assert not features[1].any()
    longer, _ = encoder.encode(["a red circle is here"])
    np.testing.assert_allclose(longer[0, :, :12], features[0, :, 4:], atol=1e-5)  # causal


def test_t5_in_several_files_is_read_without_its_decoder(tmp_path):
    encoder = load_text_encoder(t5_folder(tmp_path), length=6)
    features, mask = encoder.encode(["ab", "", "abcabcabc"])
    assert features.shape == (3, 6, 16) and encoder.tokenizer.specials == {"pad": 0, "end": 1}
    assert list(mask.sum(1)) == [3, 1, 6] and not features[~mask].any()
    alone, _ = encoder.encode(["ab"])
    np.testing.assert_allclose(alone[0], features[0], atol=1e-5)
    (tmp_path / "model-2.safetensors").unlink()
    with pytest.raises(UserError, match="lacks model-2.safetensors"):
        load_text_encoder(tmp_path)


def test_clip_gives_the_tokens_of_its_text_tower(tmp_path):
    merges = [("a", "b</w>"), ("c", "ab</w>")]
    vocab = clip_bpe.numbered(merges)
    folder = Path(write_clip(tmp_path / "clip", vocab=len(vocab)))
    (folder / "vocab.json").write_text(json.dumps(vocab))
    lines = [" ".join(pair) for pair in merges]
    (folder / "merges.txt").write_text("\n".join(["#version", *lines]))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "clip"}))
    encoder = load_text_encoder(folder)
    features, mask = encoder.encode(["ab", "", "cab ab cab ab cab ab cab"])
    assert features.shape == (3, 8, 64) and list(mask.sum(1)) == [3, 2, 8]
    model, params = clip.load(folder)
    tokens = model.bind({"params": params}).text(clip_bpe.load(folder)(["ab"], 8))[0]
    np.testing.assert_allclose(features[0, :3], tokens[0, :3], atol=1e-5)


@pytest.mark.parametrize("kind", ["llama", "olmo"])
def test_a_language_model_is_what_its_formula_says(kind):
    config = LMConfig.read(LLAMA | {"model_type": kind, "num_key_value_heads": 2})
    module = LM(config)
    params = random_params(module)
    ids = np.random.default_rng(1).integers(0, 40, (2, 7))
    ours = jax.jit(module.apply)({"params": params}, ids, np.ones((2, 7), bool))
    for row, expected in zip(ids, ours, strict=True):
        np.testing.assert_allclose(expected, _by_formula(config, params, row), atol=2e-5)


def _by_formula(c, params, ids):
    """[L, T, D], a head and a query at a time."""

    def norm(x, gain):
        x = x.astype(np.float64)
        if c.norm == "rms":
            return x / np.sqrt((x**2).mean(-1, keepdims=True) + c.norm_eps) * gain["scale"]
        return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + c.norm_eps)

    def turn(x, t):
        half = len(x) // 2
        z = (x[:half] + 1j * x[half:]) * np.exp(1j * t * c.rope_theta ** (-np.arange(half) / half))
        return np.concatenate([z.real, z.imag])

    x, size = params["table"]["embedding"][ids].astype(np.float64), 16 // c.num_attention_heads
    outputs = []
    for n in range(c.num_hidden_layers):
        p = jax.tree.map(operator.itemgetter(n), params["blocks"])
        h, mixed = norm(x, p.get("norm1")), np.zeros_like(x)
        for head in range(c.num_attention_heads):
            mine = slice(head * size, (head + 1) * size)
            shared = head * c.num_key_value_heads // c.num_attention_heads
            theirs = slice(shared * size, (shared + 1) * size)
            q, k, v = (
                h @ p[name]["kernel"][:, at]
                for name, at in zip("qkv", (mine, theirs, theirs), strict=True)
            )
            for t in range(len(ids)):
                scores = [turn(q[t], t) @ turn(k[s], s) / np.sqrt(size) for s in range(t + 1)]
                weights = np.exp(scores - np.max(scores))
                mixed[t, mine] = weights @ v[: t + 1] / weights.sum()
        x = x + mixed @ p["out"]["kernel"]
        h = norm(x, p.get("norm2"))
        gate = h @ p["gate"]["kernel"]
        x = x + (gate / (1 + np.exp(-gate)) * (h @ p["up"]["kernel"])) @ p["down"]["kernel"]
        outputs.append(x)
    outputs[-1] = norm(x, params.get("norm"))
    return np.stack(outputs)
