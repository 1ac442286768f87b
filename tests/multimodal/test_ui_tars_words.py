"""The vocabulary: every text there and back, one token for a word wherever it stands."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paragone.multimodal._ui_tars_words import MARKS, Words

WORDS = Words.learn(["Enter the Ann now", "Enter Ann the now é", "naïve naïve"])

TEXTS = st.one_of(st.text(), st.text(alphabet="AnEterhow \"'12.é\n\t漢_"))


@settings(max_examples=60)
@given(TEXTS)
def test_every_text_comes_back(text: str):
    known = text.encode("utf-8", "replace").decode()
    assert WORDS.decode(WORDS.encode(known)) == known
    assert WORDS.decode(WORDS.encode(known, lambda word: True)) == known


@settings(max_examples=40)
@given(st.sampled_from(WORDS.words), st.sampled_from(['"{}"', "({})", "x {} y", "{}.", "a\n{}"]))
def test_a_word_is_the_same_token_wherever_it_stands(word: str, around: str):
    (token,) = WORDS.encode(word)
    assert token in WORDS.encode(around.format(word))


@settings(max_examples=40)
@given(st.text(alphabet="abcXYZ019", min_size=1))
def test_unknown_words_are_spelled_alike_in_quotes_and_alone(word: str):
    alone, quoted = WORDS.encode(word), WORDS.encode(f'say "{word}" now')
    assert any(quoted[at : at + len(alone)] == alone for at in range(len(quoted)))


def test_tokens_of_one_sentence():
    marks, names = WORDS.marks, [WORDS.encode(c)[0] for c in 'qx"']
    tokens = WORDS.encode('Enter "qx" now')
    later_x, later_quote = tokens[4], tokens[5]
    assert tokens == [
        *WORDS.encode("Enter"), names[2], marks["join"], names[0], later_x, later_quote,
        *WORDS.encode("now"),
    ]  # fmt: skip
    assert later_x != names[1]
    assert later_quote != names[2]


def test_learning_takes_frequent_words_and_all_characters():
    words = Words.learn(["one one two ü", "one two three"], size=1)
    assert words.words == ("one",)
    assert "ü" in words.characters
    assert len(words.encode("ü")) == 1
    assert len(Words().encode("ü")) == 3
    again = Words(**words.to_dict())
    assert again.encode("one two ü") == words.encode("one two ü")
    assert len(again) == len(words)


def test_all_tokens_are_different_and_marks_come_first():
    tokens = [t for c in WORDS.characters for t in (*WORDS.encode(c), WORDS.encode("x" + c)[-1])]
    assert len(set(tokens)) == len(set(zip(tokens, tokens, strict=True)))
    assert list(WORDS.marks) == list(MARKS)
    assert WORDS.marks["pad"] == 0
    assert min(tokens) >= WORDS.text_tokens.start > max(WORDS.names.values())


@pytest.mark.parametrize(
    ("given_words", "message"), [(["a b"], "no word"), (["aa", "aa"], "twice")]
)
def test_lists_that_cannot_be(given_words: list[str], message: str):
    with pytest.raises(ValueError, match=message):
        Words(given_words)


def test_limits_of_learning():
    with pytest.raises(ValueError, match="size=-1"):
        Words.learn([], size=-1)
