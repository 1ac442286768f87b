"""What is shown of a text at each token: whole characters, nothing that a stop string takes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paragone.language._serve_text import Writer, score, shown


def shown_by_brute_force(text, stops):
    """(What may be shown after each character, whether it has ended there)."""
    steps = []
    for end in range(1, len(text) + 1):
        part = text[:end]
        starts = [end - len(stop) for stop in stops if part.endswith(stop)]
        if starts:
            return [*steps, (part[: min(starts)], True)]
        held = [n for stop in stops for n in range(1, len(stop)) if part.endswith(stop[:n])]
        steps.append((part[: end - max(held, default=0)], False))
    return steps


@settings(max_examples=300)
@given(
    st.text("ab", max_size=12),
    st.lists(st.text("ab", min_size=1, max_size=4), max_size=3),
    st.booleans(),
)
def test_stop_strings_against_brute_force(fake, text, stops, wanted):
    writer = Writer(fake.FakeTokenizer(), [99, 100], stops, "lead ")
    told, entries = writer.take()
    assert (told, entries) == ("lead ", [])
    for letter, (visible, ended) in zip(text, shown_by_brute_force(text, stops), strict=False):
        writer.push(ord(letter), -1.0, [] if wanted else None)
        more, new = writer.take()
        told, entries = told + more, entries + new
        assert (told, writer.stopped) == ("lead " + visible, ended)
        if ended:
            break
    writer.finish()
    more, new = writer.take()
    told, entries = told + more, entries + new
    if not writer.stopped:
        assert told == "lead " + text
    assert "".join(entry.text for entry in entries) == (told[5:] if wanted else "")
    assert [entry.offset for entry in entries] == [5 + i for i in range(len(entries))]


@given(st.text(max_size=9), st.integers(0, 3))
def test_pieces_join_to_the_text_and_hold_whole_characters(fake, text, cut):
    data = text.encode("utf-8", "replace")
    data = data[: len(data) - cut]
    writer, told, entries = Writer(fake.FakeTokenizer(), []), "", []
    for byte in data:
        writer.push(byte, None, [])
        more, new = writer.take()
        told, entries = told + more, entries + new
        assert data.decode(errors="ignore").startswith(told)
    writer.finish()
    rest, new = writer.take()
    assert told + rest == data.decode(errors="replace")
    assert b"".join(entry.raw for entry in entries + new) == data


def test_scores_are_the_softmax_and_ties_go_to_the_lower_number():
    row = np.array([0.0, 2.0, 1.0, 2.0, -np.inf, 2.0], np.float32)
    log_prob, top = score(row, 2, 4)
    whole = np.exp(row.astype(np.float64))
    assert log_prob == pytest.approx(np.log(whole[2] / whole.sum()))
    assert [token for token, _ in top] == [1, 3, 5, 2]
    assert score(row, 4, 0) == (-np.inf, [])
    far = score(row + np.float32(1e6), 1, 1)[0]
    assert far == pytest.approx(np.log(whole[1] / whole.sum()), abs=1e-6)


def test_tokens_that_are_no_characters_are_shown_as_bytes():
    assert shown(b"\xf0\x9f") == "bytes:\\xf0\\x9f"
    assert shown(b"") == ""
    assert shown(b" x", "x") == "x"
    assert shown(b" x", "y") == " x"
