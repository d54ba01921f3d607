import numpy as np
import pytest

from imgen.conditioning.text import edits
from imgen.conditioning.text.edits import Encoded
from imgen.conditioning.text.tokens import words_at
from imgen.conditioning.text.words import Bytes
from imgen.interop.text_encoders import load_text_encoder
from tests.conditioning.text.folders import bert_folder

MASK = np.array([[1, 1, 1, 1, 0], [1, 1, 1, 0, 0]], bool)
CHOSEN = np.array([[0, 1, 1, 0, 0], [1, 0, 0, 0, 1]], bool)


def encoded(layers=()):
    rng = np.random.default_rng(0)
    features = rng.normal(size=(2, *layers, 5, 4)).astype(np.float32)
    return Encoded(features * MASK.reshape(2, *(1,) * len(layers), 5, 1), MASK)


@pytest.mark.parametrize("layers", [(), (3,)])
def test_what_is_dropped_and_what_is_kept_make_up_the_text(layers):
    text = encoded(layers)
    kept, dropped = edits.keep(text, CHOSEN), edits.drop(text, CHOSEN)
    np.testing.assert_array_equal(kept.mask | dropped.mask, MASK)
    assert not (kept.mask & dropped.mask).any()
    np.testing.assert_array_equal(kept.features + dropped.features, text.features)
    assert kept.mask.sum() == 3  # the padding that was chosen stays padding


@pytest.mark.parametrize("layers", [(), (3,)])
def test_models_that_see_padding_get_padding_of_the_same_place(layers):
    text, pads = encoded(layers), np.full((*layers, 5, 4), 9.0, np.float32)
    dropped = edits.drop(text, CHOSEN, pads)
    np.testing.assert_array_equal(dropped.mask, MASK)
    assert (dropped.features[0, ..., 1:3, :] == 9).all()
    np.testing.assert_array_equal(dropped.features[1, ..., 1:, :], text.features[1, ..., 1:, :])


def test_merged_tokens_are_their_mean_at_the_first_place():
    text = encoded()
    merged = edits.merge(text, CHOSEN)
    np.testing.assert_allclose(merged.features[0, 1], text.features[0, 1:3].mean(0), rtol=1e-6)
    assert list(merged.mask[0]) == [1, 1, 0, 1, 0] and list(merged.mask[1]) == [1, 1, 1, 0, 0]


def test_of_each_word_one_token_stays():
    text = "red ox"
    tokens = Bytes(8)([text])
    spans = [[(0, 3), (4, 6)]]
    assert list(edits.redundant(tokens, spans)[0]) == [1, 1, 0, 0, 1, 0, 0, 0]
    assert list(edits.redundant(tokens, spans, "first")[0]) == [0, 1, 1, 0, 0, 1, 0, 0]


def test_words_out_of_their_context(tmp_path):
    encoder = load_text_encoder(bert_folder(tmp_path))
    prompt, span = "a red circle above a blue square", "blue square"
    text, alone = Encoded(*encoder.encode([prompt])), Encoded(*encoder.encode([span]))
    tokens, clean = encoder.tokenizer([prompt]), encoder.tokenizer([span])
    start = prompt.index(span)
    chosen = words_at(tokens, 0, start, start + len(span))[None]
    source = words_at(clean, 0, 0, len(span))[None]
    assert chosen.sum() == source.sum() == 2
    edited = edits.decontextualise(text, chosen, alone, source)
    np.testing.assert_array_equal(edited.features[chosen], alone.features[source])
    np.testing.assert_array_equal(edited.features[~chosen], text.features[~chosen])
    with pytest.raises(ValueError, match="2 tokens are to take the place of 3"):
        edits.decontextualise(text, chosen, alone, np.eye(1, 12, dtype=bool) | source)


def test_padding_that_is_seen_has_features(tmp_path):
    encoder = load_text_encoder(bert_folder(tmp_path))
    assert encoder.padding().shape == (12, 16) and (abs(encoder.padding()).sum(1) > 0).all()
