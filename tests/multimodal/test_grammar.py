"""The grammar: a regular expression as the oracle, and draws that cannot leave it."""

import re

import numpy as np
import pytest
import torch

from paragone.multimodal._chameleon_sampling import draw_tokens, guided, penalised, uniforms
from paragone.multimodal.grammar import Grammar

BEGIN, END, STOP, TURN, LENGTH, VOCABULARY = 2, 3, 1, 22, 4, 24
MODES = ("none", "one", "free")
LETTERS = {BEGIN: "B", END: "E", STOP: "$", TURN: "$", **dict.fromkeys(range(4, 14), "t"),
           **dict.fromkeys(range(14, 22), "c")}  # fmt: skip
LANGUAGE = {
    "none": re.compile(r"t*\$?"),
    "one": re.compile(r"Bc{4}E"),
    "free": re.compile(r"(t|Bc{4}E)*\$?"),
}


def made(**changes):
    options = {
        "text": range(4, 14), "image": torch.arange(14, 22), "begin": BEGIN, "end": END,
        "stops": [STOP, TURN], "length": LENGTH,
    }  # fmt: skip
    return Grammar(VOCABULARY, **{**options, **changes})


def walked(grammar, modes, left, wild=False, seed=0):
    """Rows of tokens drawn from random logits."""
    rows, noise = np.arange(len(left)), torch.Generator().manual_seed(seed)
    state, found, step = grammar.start(modes, left), [[] for _ in left], 0
    while not bool(state.done.all()):
        logits = torch.randn(len(left), VOCABULARY, generator=noise) * 8
        if wild:
            odd = torch.randint(0, 12, logits.shape, generator=noise)
            for at, value in enumerate((torch.nan, torch.inf, -torch.inf, 3e38, -3e38)):
                logits = logits.masked_fill(odd == at, value)
            logits[:7] = -torch.inf
        logits = guided(logits, logits.roll(1, 0), logits.roll(2, 0), 3.0, 1.2)
        draws = torch.from_numpy(uniforms(seed, rows, step))
        tokens = draw_tokens(logits, grammar.allowed(state), 1.0, (0.9, 1.0)[step % 2], draws)
        for row, token, done in zip(found, tokens.tolist(), state.done.tolist(), strict=True):
            if not done:
                row.append(token)
        state, step = grammar.advance(state, tokens), step + 1
    return found


def violations(rows, modes, left):
    words = ["".join(LETTERS.get(token, "x") for token in row) for row in rows]
    return [
        (word, mode, room)
        for word, mode, room in zip(words, modes, left, strict=True)
        if not LANGUAGE[mode].fullmatch(word) or len(word) > room
        or (len(word) < room and mode != "one" and not word.endswith("$"))
    ]  # fmt: skip


@pytest.mark.parametrize("wild", [False, True])
def test_random_logits_never_leave_the_language(wild):
    modes = [MODES[at % 3] for at in range(2000)]
    left = [6 + at % 19 for at in range(2000)]
    rows = walked(made(), modes, left, wild)
    assert violations(rows, modes, left) == []
    words = ["".join(LETTERS[token] for token in row) for row in rows]
    assert any(word.count("B") > 1 for word in words), "several pictures in a row"


def test_a_picture_that_does_not_fit_would_be_caught(monkeypatch):
    monkeypatch.setattr(Grammar, "room", LENGTH + 1)
    modes, left = ["free"] * 500, [5 + at % 9 for at in range(500)]
    assert violations(walked(made(), modes, left), modes, left)


def test_a_picture_begins_only_where_it_fits():
    grammar = made()
    state = grammar.start("free", [5, 6, 0])
    assert grammar.allowed(state)[:, BEGIN].tolist() == [False, True, False]
    assert state.done.tolist() == [False, False, True]
    logits = torch.zeros(3, VOCABULARY)
    assert (grammar.mask(logits, state) == -torch.inf).equal(~grammar.allowed(state))


def test_rows_in_different_states_go_on_together():
    grammar = made()
    state = grammar.start(["free", "one", "none", "free"], [9, 6, 2, 9])
    for tokens in ([BEGIN, BEGIN, 5, TURN], [14, 20, 4, 0], [15, 21, 9, 0], [14, 14, 9, 9]):
        state = grammar.advance(state, torch.tensor(tokens))
    assert state.count.tolist() == [3, 3, 0, 0]
    assert state.left.tolist() == [5, 2, 0, 8]
    assert state.drawing.tolist() == [True, True, False, False]
    assert state.done.tolist() == [False, False, True, True]
    picked = state.select(torch.tensor([1, 0]))
    assert picked.left.tolist() == [2, 5]
    state = grammar.advance(state, torch.tensor([14, 14, 0, 0]))
    assert grammar.allowed(state)[:2].nonzero().tolist() == [[0, END], [1, END]]
    state = grammar.advance(state, torch.tensor([END, END, 0, 0]))
    assert state.done.tolist() == [False, True, True, True]


def test_what_is_refused():
    grammar = made()
    with pytest.raises(ValueError, match=r"row 1: token 14 may not come"):
        grammar.advance(grammar.start("free", [9, 9]), torch.tensor([5, 14]))
    with pytest.raises(ValueError, match=r"5 tokens are left, and a picture takes 6"):
        grammar.start("one", [5])
    with pytest.raises(ValueError, match=r"pictures='two' is none of none, one, free"):
        grammar.start("two", [9])
    with pytest.raises(ValueError, match=r"\(2, 24\) is expected"):
        grammar.mask(torch.zeros(2, 23), grammar.start("free", [9, 9]))
    with pytest.raises(ValueError, match=r"a token has two meanings"):
        made(begin=5)
    with pytest.raises(ValueError, match=r"tokens go from 1 to 24"):
        made(image=[24])
    with pytest.raises(ValueError, match=r"length=0"):
        made(length=0)


def test_parts():
    grammar = made()
    row = [5, 6, BEGIN, 14, 15, 16, 17, END, BEGIN, 14, 14, 14, 14, END, 7, TURN]
    assert grammar.parts(row) == [
        ("text", [5, 6]), ("image", [14, 15, 16, 17]), ("image", [14] * 4), ("text", [7]),
    ]  # fmt: skip
    assert grammar.parts([]) == []
    for broken in ([BEGIN, 14, 14, 14, END], [BEGIN, 14, 14, 14, 14], [BEGIN, 14]):
        with pytest.raises(ValueError, match=r"the picture at token 0 is not 4 codes"):
            grammar.parts(broken)


def test_draws_follow_the_distribution():
    rows = 40_000
    logits = torch.tensor([[2.0, 1.0, torch.nan, 0.5, 3.0, -torch.inf]])
    allowed = torch.tensor([[True, True, True, True, False, True]])
    draws = torch.from_numpy(uniforms(7, np.arange(rows), 3))
    tokens = draw_tokens(logits.expand(rows, -1), allowed.expand(rows, -1), 0.7, 1.0, draws)
    wanted = np.exp(np.array([2.0, 1.0, 0.5]) / 0.7)
    found = np.bincount(tokens, minlength=6)[[0, 1, 3]] / rows
    assert np.abs(found - wanted / wanted.sum()).max() < 0.01
    # 0.85 is reached by the first two; the third has never a chance.
    few = draw_tokens(logits.expand(rows, -1), allowed.expand(rows, -1), 0.7, 0.85, draws)
    assert set(few.tolist()) == {0, 1}
    assert draw_tokens(logits, allowed, 0.0, 0.5, draws[:1]).tolist() == [0]
    assert draw_tokens(logits, allowed, 1.0, 1e-9, draws[:1]).tolist() == [0]


def test_equal_logits_and_none_at_all():
    same = torch.full((1, 5), -torch.inf)
    allowed = torch.tensor([[False, True, False, True, True]])
    edges = torch.tensor([0.0, 0.34, 1 - 2**-53], dtype=torch.float64)
    found = [
        int(draw_tokens(same, allowed, 1.0, 1.0, one[None])) for one in edges
    ]  # fmt: skip
    assert found == [1, 3, 4]
    assert int(draw_tokens(same, allowed, 0.0, 1.0, edges[:1])) == 1


def test_guidance_and_penalty():
    full, image, none = torch.randn(3, 2, 5, dtype=torch.float64, generator=torch.Generator())
    assert torch.allclose(guided(full, image, none, 1.0, 1.0), full)
    assert torch.allclose(guided(full, image, none, 0.0, 1.0), image)
    assert torch.allclose(guided(full, image, none, 3.0, 1.2), 3 * full - 1.8 * image - 0.2 * none)
    logits = torch.tensor([[2.0, -2.0, 1.0]])
    seen = torch.tensor([[True, True, False]])
    assert penalised(logits, seen, 2.0).tolist() == [[1.0, -4.0, 1.0]]


def test_draws_are_those_of_seed_row_and_step():
    rows = np.arange(1000)
    first = uniforms(0, rows, 0)
    assert first.min() >= 0
    assert first.max() < 1
    assert abs(first.mean() - 0.5) < 0.03
    assert (uniforms(0, rows[::-7], 0) == first[::-7]).all()
    for other in (uniforms(1, rows, 0), uniforms(0, rows, 1), uniforms(0, rows + 1, 0)):
        assert (other != first).all()
    assert len(np.unique(np.concatenate([uniforms(seed, rows, 5) for seed in range(4)]))) == 4000
