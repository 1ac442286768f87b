"""Proposals: always an action, the same with and without a cache, drawn by seeds."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from tests.multimodal.ui_tars_pages import samples
from torch import Tensor, nn

from paragone.multimodal._ui_tars_generate import Grammar, State, answers, placed, propose_all
from paragone.multimodal._ui_tars_language import Memory
from paragone.multimodal._ui_tars_samples import ARGUMENTS, collated, prompt_of
from paragone.multimodal._ui_tars_words import NAMES
from paragone.multimodal.agent.actions import Action
from paragone.multimodal.ui_tars import UITars

MANY = samples(6)
CONTEXTS = [one.context for one in MANY]


def made(seed: int = 0, scale: float = 1.0, **changes: object) -> UITars:
    generator = torch.Generator().manual_seed(seed)
    model = UITars.for_samples(
        MANY, "tiny", generator=generator, dtype=torch.float64, **{"max_answer": 20, **changes}
    )
    with torch.no_grad():
        # Louder heads: what is likely then differs from token to token.
        model.language.bias.normal_(std=scale, generator=generator)
        model.language.norm.weight.mul_(3.0)
    return model.eval()


def allowed_only(model: UITars, actions: list[Action]) -> None:
    for action in actions:
        assert set(action.arguments) <= set(ARGUMENTS[action.name])
        needed = [a for a in ARGUMENTS[action.name] if a not in ("content",)]
        assert all(name in action.arguments for name in needed)
        if "direction" in action.arguments:
            assert action.arguments["direction"] in ("up", "down", "left", "right")
        if action.name in ("type", "hotkey", "open_app"):
            assert all(action.arguments.values())


@pytest.mark.parametrize("seed", range(4))
def test_whatever_the_weights_a_proposal_is_an_action(seed: int):
    model = made(seed, scale=3.0)
    allowed_only(model, propose_all(model, CONTEXTS, 0.0, 0))
    drawn = propose_all(model, CONTEXTS * 4, 3.0, seed)
    allowed_only(model, drawn)
    assert len({one.name for one in drawn}) > 4


def test_texts_can_be_parsed_and_mean_what_was_proposed():
    actions = pytest.importorskip("paragone.multimodal.agent.actions")
    if not hasattr(actions, "parse"):
        pytest.skip("the grammar of actions is not there")
    model = made(1, scale=3.0, max_answer=20)
    said = propose_all(model, CONTEXTS * 6, 2.0, 3)
    texts = model.propose_many(CONTEXTS * 6, temperature=2.0, seed=3)
    for one, text in zip(said, texts, strict=True):
        (read,) = actions.parse(text, dialect=model.dialect)
        assert read.name == one.name
        for name, value in one.arguments.items():
            if name.endswith("_box"):
                assert read.arguments[name] == pytest.approx(value, abs=0.6)
            elif value:
                assert read.arguments[name] == value
    assert set(NAMES) == set(actions.ACTIONS)


def test_tokens_one_at_a_time_are_those_of_the_whole_row():
    model = made(2, screenshots=2)
    older = MANY[2].context.screens
    contexts = [
        dataclasses.replace(one, screens=(*older, *one.screens) if at % 2 else one.screens)
        for at, one in enumerate(CONTEXTS)
    ]
    said = answers(model, contexts, 0.0, 0)
    grammar = Grammar(model.words, model.config.max_answer)
    for context, one in zip(contexts, said, strict=True):
        (alone,) = answers(model, [context], 0.0, 0)
        length = min(len(alone.tokens), len(one.tokens))
        assert alone.tokens[:length] == one.tokens[:length]
        assert alone.action == one.action
        row = prompt_of(context, model.words, model.config.max_prompt)
        begin = len(row.tokens)
        for token in one.tokens:
            if token == model.words.marks["point"]:
                row.points.append((len(row.tokens), one.action.point))
            row.tokens.append(token)
        rows = collated([[row]], model.device)
        memory, _ = model.see([context])
        state = State()
        with torch.no_grad():
            x = model.language.embedded(rows.tokens, rows.points, memory, 8)
            hidden, _ = model.language(x, memory)
        for at in range(begin, len(row.tokens)):
            chances = chances_at(model, memory, rows.tokens, hidden, at)
            chances = chances.masked_fill(~grammar.allowed(state), -1)
            assert int(chances.argmax()) == row.tokens[at]
            grammar.follow(state, row.tokens[at], (0.0, 0.0))
        assert "start_box" in state.arguments or state.name in ARGUMENTS


@torch.no_grad()
def chances_at(model: UITars, memory: Memory, tokens: Tensor, hidden: Tensor, at: int) -> Tensor:
    """Probabilities of the token at a place of a whole row."""
    h = hidden[:, at - 1]
    gate = model.language.gate(h).sigmoid()
    read = model.copyable(tokens[:, :at])
    taken = model.language.copied(h[:, None], hidden[:, :at], read[:, None])[:, 0]
    written = gate * model.language.written(h, memory).softmax(-1)
    return written.scatter_add(1, tokens[:, :at], (1 - gate) * taken)


def test_draws_depend_on_the_seed_and_the_place_in_the_batch_alone():
    model = made(3)
    first = propose_all(model, CONTEXTS[:3], 1.0, 5)
    assert first == propose_all(model, CONTEXTS[:3], 1.0, 5)
    assert first[:2] == propose_all(model, CONTEXTS[:2], 1.0, 5)
    assert first != propose_all(model, CONTEXTS[:3], 1.0, 6)


def test_contents_are_copied_from_the_instruction():
    model = made(4)
    with torch.no_grad():
        nn.init.constant_(model.language.gate.bias, -50.0)
    (said,) = answers(model, [CONTEXTS[1]], 0.0, 0)
    prompt = prompt_of(CONTEXTS[1], model.words, model.config.max_prompt).tokens
    text = [token for token in said.tokens if token >= model.words.text_tokens.start]
    assert text
    assert set(text) <= set(prompt)


def test_a_place_is_the_weighted_mean_around_the_best_patch():
    rng = np.random.default_rng(0)
    for rows, columns in ((1, 1), (3, 4), (5, 2)):
        logits = torch.from_numpy(rng.normal(size=rows * columns + 3))
        x, y = placed(logits, (rows, columns), 8)
        chances = logits[: rows * columns].exp().view(rows, columns)
        best = int(chances.argmax())
        near = [
            (r, c) for r in range(rows) for c in range(columns)
            if max(abs(r - best // columns), abs(c - best % columns)) <= 1
        ]  # fmt: skip
        total = sum(float(chances[at]) for at in near)
        middle = [
            sum(float(chances[r, c]) * 8 * ((r, c)[axis] + 0.5) for r, c in near) / total
            for axis in (1, 0)
        ]
        assert (x, y) == pytest.approx(middle, abs=0.006)


def test_a_patch_drawn_against_all_odds_is_still_a_place():
    class Least:
        def random(self) -> float:
            return 0.999999

    logits = torch.tensor([900.0, 0.0, 0.0, 0.0, -900.0, -900.0])
    x, y = placed(logits, (1, 6), 8, Least(), temperature=1e9)
    assert 0 <= x <= 48
    assert y == 4


def test_contexts_and_temperatures_that_cannot_be():
    model = made()
    assert model.propose_many([]) == []
    with pytest.raises(ValueError, match="temperature=-1"):
        model.propose_many(CONTEXTS, temperature=-1.0)
