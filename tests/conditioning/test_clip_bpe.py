"""CLIP's tokenizer, with a vocabulary made here."""

import gzip
import json

import numpy as np
import pytest

from imgen.conditioning import clip_bpe
from imgen.conditioning.clip_bpe import clean, words
from imgen.errors import UserError

MERGES = [
    ("l", "o"),
    ("lo", "w</w>"),
    ("e", "r</w>"),
    ("lo", "w"),
    ("low", "er</w>"),
    ("Ã", "©</w>"),
]


def write(path, merges=MERGES):
    text = "#version: 0.2\n" + "\n".join(" ".join(pair) for pair in merges) + "\n"
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return clip_bpe.load(write(tmp_path_factory.mktemp("clip") / "merges.txt.gz"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("they'll don't 'say", ["they", "'ll", "don", "'t", "'s", "ay"]),
        ("a12²½ⅷ", ["a", "1", "2", "²", "½", "ⅷ"]),
        ("x-ray @user #tag ...", ["x", "-", "ray", "@", "user", "#", "tag", "..."]),
        ("!?'s", ["!?'", "s"]),  # a run that has begun goes on to its end
        ("snake_case", ["snake", "_", "case"]),
        ("你好 一", ["你好", "一"]),  # letters, though they have a numeric value
        ("हिन्दी", ["ह", "ि", "न", "्", "द", "ी"]),  # marks are no letters
        ("a<|endoftext|>b <|end", ["a", "<|endoftext|>", "b", "<|", "end"]),
        ("👍🏽 ok", ["👍🏽", "ok"]),
        ("", []),
    ],
)
def test_words(text, expected):
    assert list(words(text)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  A\u00a0Photo,\n of\u3000TWO ", "a photo, of two"),
        ("&amp;lt;b&amp;gt; &eacute;", "<b> é"),
        ("It’s “nice”", 'it\'s "nice"'),
        ("cafe\u0301 ﬁne ＦＵＬＬ", "café fine full"),
        ("\ufeffa\x07b", "ab"),
    ],
)
def test_clean(text, expected):
    assert clean(text) == expected


def test_pairs_are_joined_in_the_order_of_the_file(tokenizer):
    ids, first = tokenizer.ids, 512
    lo, low_, er_, low, lower_, e_acute = range(first, first + len(MERGES))
    assert (tokenizer.start, tokenizer.end, len(ids)) == (518, 519, 520)
    assert tokenizer.encode(["low lower Slow lo é"]) == [
        [low_, lower_, ids["s"], low_, ids["l"], ids["o</w>"], e_acute]
    ]
    assert tokenizer.encode(["lowlow"]) == [[low, low_]]
    assert ids["!"] == 0 and ids["!</w>"] == 256 and ids["Ā"] == 188
    assert low in ids.values() and er_ in ids.values() and lo in ids.values()


def test_texts_are_cut_before_the_end_and_padded_either_way(tokenizer):
    start, end, low = tokenizer.start, tokenizer.end, 513
    ids = tokenizer(["low", "low " * 9, ""], length=5)
    assert ids.tolist() == [
        [start, low, end, end, end],
        [start, low, low, low, end],
        [start] + 4 * [end],
    ]
    assert tokenizer(["low"], 5, pad=0).tolist() == [[start, low, end, 0, 0]]
    assert tokenizer(["low"]).shape == (1, 77) and ids.dtype == np.int32
    assert tokenizer.encode(["<|startoftext|> low <|ENDOFTEXT|>"]) == [[start, low, end]]


def test_decoding_gives_the_clean_words_back(tokenizer):
    text = "Lower 你好 café 👍🏽 2½"
    assert tokenizer.decode(tokenizer([text])[0]) == "lower 你好 café 👍🏽 2 ½"
    assert tokenizer.decode(tokenizer([""])[0]) == ""


def test_all_kinds_of_files_give_the_same_tokenizer(tokenizer, tmp_path):
    assert clip_bpe.load(write(tmp_path / "merges.txt")) == tokenizer
    with pytest.raises(UserError, match=r"vocab\.json.*Hugging Face"):
        clip_bpe.load(tmp_path)
    (tmp_path / "vocab.json").write_text(json.dumps(tokenizer.ids))
    assert clip_bpe.load(tmp_path) == tokenizer
    (tmp_path / "vocab.json").write_text(json.dumps({"!": 0}))
    with pytest.raises(UserError, match="lacks"):
        clip_bpe.load(tmp_path)


def test_what_is_no_vocabulary_is_refused_with_the_way_to_one(tmp_path):
    (tmp_path / "damaged.gz").write_bytes(b"not gzip")
    (tmp_path / "prose.txt").write_text("version\none two three\n")
    for path in (None, tmp_path / "gone.gz", tmp_path / "damaged.gz", tmp_path / "prose.txt"):
        with pytest.raises(UserError, match=r"bpe_simple_vocab_16e6\.txt\.gz from") as raised:
            clip_bpe.load(path)
        assert "\n" not in str(raised.value)
