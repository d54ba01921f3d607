import numpy as np
import pytest

from imgen.conditioning.text.tokens import to_left, words_at
from imgen.conditioning.text.words import Bytes, Words, load_words, save_words, words_of
from imgen.errors import UserError

CAPTIONS = ["A red circle.", "a blue circle's edge", "a red square"]


def test_words_know_those_of_the_captions_only():
    words = words_of(CAPTIONS, length=6)
    assert words.words == (".", "a", "blue", "circle", "circle's", "edge", "red", "square")
    tokens = words(["a RED  zebra.", "", "été ☃ 🟥"])
    assert [list(row) for row in tokens.ids] == [
        [4, 9, 2, 3, 1, 0],
        [1, 0, 0, 0, 0, 0],  # the end token: no text is without one
        [2, 2, 2, 1, 0, 0],
    ]
    assert list(tokens.mask.sum(1)) == [5, 1, 4] and not tokens.cut.any()
    assert words.unknown("a RED zebra") == ["zebra"]
    assert words_of(CAPTIONS[::-1], 6) == words and words_of(CAPTIONS, 6, most=2).words == (
        "a",
        "red",
    )


def test_a_text_that_is_too_long_is_cut_before_its_end_token_and_says_so():
    tokens = words_of(CAPTIONS, 3)(["a red circle", "a red"])
    assert list(tokens.ids[0]) == [4, 9, 1] and list(tokens.cut) == [True, False]
    with pytest.raises(UserError, match="no room for words"):
        words_of(CAPTIONS, 1)(["a"])


def test_a_token_knows_its_characters():
    text = "A red circle above a blue square."
    for tokenizer in (words_of([text], 12), Bytes(40)):
        tokens = tokenizer([text])
        start = text.index("blue")
        chosen = words_at(tokens, 0, start, start + len("blue"))
        assert {text[a:b].lower() for a, b in tokens.offsets[0][chosen]} <= {"blue", *"blue"}
        assert chosen.sum() == (1 if isinstance(tokenizer, Words) else 4)


def test_bytes_take_any_text():
    tokens = Bytes(8)(["é!", "\ud800"])
    assert list(tokens.ids[0]) == [3 + 0xC3, 3 + 0xA9, 3 + ord("!"), 1, 0, 0, 0, 0]
    assert list(tokens.offsets[0, :3, 0]) == [0, 0, 1]
    assert list(tokens.ids[1]) == [3 + ord("?"), 1, 0, 0, 0, 0, 0, 0]


def test_a_vocabulary_is_read_as_it_was_written(tmp_path):
    words = words_of(CAPTIONS, 6)
    save_words(tmp_path / "words.json", words)
    assert load_words(tmp_path / "words.json") == words
    for content in ("[]", '{"words": [1], "length": 2}', '{"words": ["a"]}'):
        (tmp_path / "bad.json").write_text(content)
        with pytest.raises(UserError, match="not a vocabulary of words"):
            load_words(tmp_path / "bad.json")
    with pytest.raises(UserError, match="captions at all"):
        words_of(["", " "], 6)


def test_padding_moves_in_front_of_the_text():
    tokens = words_of(CAPTIONS, 6)(["a red circle", "a"])
    left = tokens.padded(6, 0, "left")
    assert list(left.ids[0]) == [0, 0, 4, 9, 6, 1] and list(left.ids[1]) == [0, 0, 0, 0, 4, 1]
    features = np.broadcast_to(tokens.ids[:, None, :, None], (2, 3, 6, 1)).astype(np.float32)
    moved, mask = to_left(features, tokens.mask)
    np.testing.assert_array_equal(mask, left.mask)
    np.testing.assert_array_equal(moved[:, 1, :, 0], left.ids)
