"""UITars: losses against direct sums, independence of rows, gradients, files."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.multimodal.ui_tars_pages import samples, squares
from torch import Tensor

from paragone.multimodal._ui_tars_config import ENCODERS, UITarsConfig
from paragone.multimodal._ui_tars_reader import read_elements
from paragone.multimodal._ui_tars_samples import (
    Row,
    answer_of,
    collated,
    perception_rows,
    prompt_of,
)
from paragone.multimodal._ui_tars_screens import right_patches
from paragone.multimodal.agent.actions import Action
from paragone.multimodal.agent.contract import Context, Element, Policy, Sample, Screen, Wanted
from paragone.multimodal.ui_tars import UITars

MANY = samples(6)
BOX = (10.0, 20.0, 20.0, 30.0)


def made(encoder: str = "patches", seed: int = 0, **changes: object) -> UITars:
    generator = torch.Generator().manual_seed(seed)
    return UITars.for_samples(
        MANY, "tiny", encoder=encoder, generator=generator, dtype=torch.float64, **changes
    )


def other_size(one: Sample, rows: int, columns: int) -> Sample:
    pixels = np.full((rows, columns, 3), 99, np.uint8)
    part = one.context.screens[-1].pixels[:rows, :columns]
    pixels[: part.shape[0], : part.shape[1]] = part
    return dataclasses.replace(
        one, context=dataclasses.replace(one.context, screens=(Screen(pixels),))
    )


def what_tokens_are(model: UITars) -> Tensor:
    """Embeddings, with the mean of the letters of each word added to it."""
    table = model.language.embedding.weight.clone()
    for word in model.words.words:
        whole = model.words.encode(word)
        letters = model.words.encode(word, lambda _: True)
        assert len(whole) == 1 < len(letters) == len(word)
        table[whole[0]] += table[letters].mean(0)
    return table


def directly(model: UITars, sample: Sample) -> tuple[float, float]:
    """Losses of tokens and of points of one sample, token by token, from the formulas."""
    row = answer_of(
        prompt_of(sample.context, model.words, 160), sample.wanted.action, model.words, 64,
        box=sample.wanted.box,
    )  # fmt: skip
    memory, _ = model.see([sample.context])
    tokens = torch.tensor([row.tokens])
    points = None
    if row.points:
        columns = torch.tensor([at for at, _ in row.points])
        xy = torch.tensor([place for _, place in row.points], dtype=torch.float32)
        points = (torch.zeros_like(columns), columns, xy)
    x = model.language.embedded(tokens, points, memory, model.config.patch)
    hidden, _ = model.language(x, memory)
    query, key = model.language.copy.weight.chunk(2)
    total = 0.0
    for at in range(row.start, len(row.tokens) - 1):
        h = hidden[0, at]
        word = row.tokens[at + 1]
        written = (what_tokens_are(model) @ h + model.language.bias).softmax(0)[word]
        may = [0] + [
            j for j in range(1, at + 1)
            if row.tokens[j] >= model.words.text_tokens.start
            or row.tokens[j] in (model.words.marks["join"], model.words.marks["word"])
        ]  # fmt: skip
        scores = torch.stack([(query @ h) @ (key @ hidden[0, j]) for j in may])
        taken = (scores / model.config.width**0.5).softmax(0)
        copied = sum(float(t) for t, j in zip(taken, may, strict=True) if row.tokens[j] == word)
        gate = float(model.language.gate(h).sigmoid())
        total -= float(np.log(gate * float(written) + (1 - gate) * copied))
    places = 0.0
    for at, boxes in row.targets:
        chances = (memory.keys[0] @ model.pointer(hidden[0, at]) / model.config.width**0.5).softmax(
            0
        )
        columns = int(memory.columns[0])
        inside = 0.0
        for patch, chance in enumerate(chances.tolist()):
            y, x = (part * 8 + 4 for part in divmod(patch, columns))
            inside += chance * any(b[0] <= x < b[2] and b[1] <= y < b[3] for b in boxes)
        places -= float(np.log(inside))
    return total, places


@pytest.mark.parametrize("at", range(3))
def test_losses_are_those_of_the_formulas(at: int):
    model = made().eval()
    with torch.no_grad():
        tokens, points = directly(model, MANY[at])
        found = model.losses([MANY[at]], perception=0)
        assert float(found.action_tokens) == pytest.approx(tokens, rel=1e-4)
        assert float(found.points) == pytest.approx(points, rel=1e-4, abs=1e-12)
        assert float(found.total) == pytest.approx(tokens + points, rel=1e-4)
        whole = float(model.log_probability([MANY[at]]))
    assert whole == pytest.approx(-tokens - points, rel=1e-4)


def test_letters_are_those_of_the_patches_under_them():
    model = made().eval()
    sizes = (48, 40)
    lines = (("Im", "text", (2.0, 3.0, 26.0, 13.0)), ("so", "link", (40.0, 30.0, 60.0, 38.0)))
    some = [
        dataclasses.replace(
            other_size(MANY[at], sizes[at], 48),
            elements=(Element(*line), Element("x", "button", BOX)),
        )
        for at, line in enumerate(lines)
    ]
    wanted = 0.0
    with torch.no_grad():
        memory, scales = model.see([one.context for one in some])
        read = read_elements(some, model.words, scales, model.device, np.random.default_rng(0))
        found, count = model.reader._spelled(read, memory, 8)
        for at, (text, _, (left, top, right, bottom)) in enumerate(lines):
            widths = {"I": 0.55, "m": 1.45, "s": 1.0, "o": 1.0}
            one = (right - left) / sum(widths[c] for c in text)
            xs = (left + widths[text[0]] * one / 2, right - widths[text[1]] * one / 2)
            lost = []
            for c, x in zip(text, xs, strict=True):
                column, row = int(x // 8), int((top + bottom) / 2 // 8)
                if column < 6:
                    half = int(x % 8 >= 4)
                    halves = model.reader.spell(memory.fine[at, row * 6 + column])
                    logits = halves.view(2, -1)[half]
                    number = model.words.characters.index(c)
                    lost.append(-float(logits.float().log_softmax(-1)[number]))
            wanted += sum(lost) / len(lost)
    assert count == 2
    assert float(found) == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_a_sample_does_not_see_the_batch(encoder: str):
    model = made(encoder).eval()
    mixed = [MANY[0], other_size(MANY[1], 40, 75), MANY[3], other_size(MANY[2], 16, 90)]
    with torch.no_grad():
        together = model.log_probability(mixed)
        alone = torch.cat([model.log_probability([one]) for one in mixed])
        backwards = model.log_probability(mixed[::-1]).flip(0)
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(together, backwards, rtol=1e-5, atol=1e-5)


def test_a_place_is_not_told_before_it_is_found():
    model = made().eval()
    one = MANY[0]
    actions = [
        Action("drag", {"start_box": at, "end_box": (40.0, 8.0)}) for at in ((9, 9), (30, 9))
    ]
    with torch.no_grad():
        memory, scales = model.see([one.context] * 2)
        made_rows = model._action_rows([one] * 2, actions, scales, [None] * 2)
        rows = collated([[row] for row in made_rows], model.device)
        tokens, places, _ = model._scored(rows, memory)
    first = int(rows.asked[1][0])
    assert torch.equal(tokens[0, : first + 1], tokens[1, : first + 1])
    assert not torch.equal(tokens[0, first + 1 :], tokens[1, first + 1 :])
    # The second place of a drag knows the first one.
    assert len(places) == 4
    assert places[1] != places[3]


def test_the_present_action_alone_is_learned():
    model = made().eval()
    one = MANY[1]
    past = dataclasses.replace(one.context.history[0], thought="Now something else entirely.")
    rows = [
        model._action_rows([one], None, [(1.0, 1.0)], [None]),
        model._action_rows(
            [dataclasses.replace(one, context=dataclasses.replace(one.context, history=(past,)))],
            None, [(1.0, 1.0)], [None],
        ),
    ]  # fmt: skip
    found = [collated([row], model.device) for row in rows]
    said = [row.tokens[0, 1:][row.learned[0, :-1]].tolist() for row in found]
    assert said[0] == said[1]
    assert model.words.decode(said[0]).startswith("Type it.")
    assert len(said[0]) == int(found[0].learned.sum()) < found[0].tokens.shape[1] / 2


def test_rows_of_a_line_do_not_see_each_other():
    model = made().eval()
    rng = np.random.default_rng(2)
    lines = [
        [row, *perception_rows(one.elements, model.words, 5, rng)]
        for row, one in zip(
            model._action_rows(MANY[:3], None, [(1.0, 1.0)] * 3, [None] * 3), MANY[:3], strict=True
        )
    ]
    assert all(len(line) > 2 for line in lines)
    with torch.no_grad():
        memory, _ = model.see([one.context for one in MANY[:3]])
        together = model._scored(collated(lines, model.device), memory)
        alone = []
        for at, line in enumerate(lines):
            memory, _ = model.see([MANY[at].context])
            alone += [model._scored(collated([[row]], model.device), memory) for row in line]
    torch.testing.assert_close(together[0].sum(), torch.stack([x[0].sum() for x in alone]).sum())
    torch.testing.assert_close(together[1], torch.cat([x[1].float() for x in alone]))


def test_older_screens_are_seen_and_have_an_age():
    model = made(screenshots=3).eval()
    shots = [one.context.screens[-1] for one in (MANY[0], MANY[2], MANY[4])]

    def value(*screens: Screen) -> Tensor:
        context = dataclasses.replace(MANY[0].context, screens=screens)
        with torch.no_grad():
            return model.log_probability([dataclasses.replace(MANY[0], context=context)])

    one = value(shots[1], shots[2], shots[0])
    assert one != value(shots[2], shots[1], shots[0])
    assert one != value(shots[0])
    torch.testing.assert_close(one, value(shots[0], shots[1], shots[2], shots[0]))


@pytest.mark.parametrize("encoder", ENCODERS)
def test_every_trained_parameter_has_a_finite_gradient(encoder: str):
    model = made(encoder, screenshots=2)
    found = model.losses(MANY, perception=6, generator=torch.Generator().manual_seed(3))
    assert found.samples == 6
    assert found.point_count == 3
    assert found.perception_count > 18
    found.total.backward()
    # Nothing is asked of bytes and marks that no text has, and the older age is not seen here.
    for name, parameter in model.named_parameters():
        if name.startswith("encoder.stem.tokenizer."):
            assert not parameter.requires_grad
        else:
            assert parameter.grad is not None, name
            assert bool(parameter.grad.isfinite().all()), name
            assert bool(parameter.grad.any()), name


def test_frozen_parts_get_no_gradient():
    model = made()
    model.freeze("vision", "pointer")
    model.losses(MANY, perception=4).total.backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is None) == (not name.startswith("language.")), name
    model.freeze()
    assert all(parameter.requires_grad for parameter in model.parameters())
    with pytest.raises(ValueError, match="part 'eyes' is none of vision, language, pointer"):
        model.freeze("eyes")


def test_narrow_types_of_autocast():
    model = made().float()
    found = []
    for narrow in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=narrow):
            losses = model.losses(MANY, perception=4, generator=torch.Generator().manual_seed(0))
        losses.total.backward()
        found.append(float(losses.total.detach()))
    assert found[1] == pytest.approx(found[0], rel=0.02)
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())


def test_what_is_drawn_depends_on_generators_alone():
    first, second, third = made(seed=1), made(seed=1), made(seed=2)
    state = {name: x for name, x in first.state_dict().items()}
    assert all(torch.equal(x, state[name]) for name, x in second.state_dict().items())
    assert not torch.equal(third.pointer.weight, first.pointer.weight)
    losses = [
        first.losses(MANY, generator=torch.Generator().manual_seed(seed)).total.item()
        for seed in (4, 4, 5)
    ]
    assert losses[0] == losses[1] != losses[2]


def test_right_patches_against_counting():
    model = made()
    memory, _ = model.see([MANY[0].context])
    rng = np.random.default_rng(0)
    boxes = []
    for _ in range(40):
        left, top = rng.uniform(-4, 46, 2)
        boxes.append(((left, top, left + rng.uniform(0, 30), top + rng.uniform(0, 30)),))
    boxes.append(((0.0, 0.0, 8.0, 8.0), (40.0, 40.0, 48.0, 48.0)))
    found = right_patches(boxes, memory, torch.zeros(len(boxes), dtype=torch.long), 8)
    for own, row in zip(boxes, found.tolist(), strict=True):
        centres = [(8 * (n % 6) + 4.0, 8 * (n // 6) + 4.0) for n in range(36)]
        inside = [any(b[0] <= x < b[2] and b[1] <= y < b[3] for b in own) for x, y in centres]
        if not any(inside):
            middle = ((own[0][0] + own[0][2]) / 2, (own[0][1] + own[0][3]) / 2)
            far = [(x - middle[0]) ** 2 + (y - middle[1]) ** 2 for x, y in centres]
            inside[int(np.argmin(far))] = True
        assert row == inside


def test_rejected_points_count_the_patch_that_holds_them():
    model = made().eval()
    one = MANY[0]
    with torch.no_grad():
        there, beside = (
            model.log_probability([one], [Action("click", {"start_box": at})])
            for at in ((9.0, 9.0), (9.0, 17.0))
        )
        box = dataclasses.replace(
            one, wanted=Wanted(Action("click", {"start_box": (9.0, 9.0)}), (8.0, 8.0, 16.0, 16.0))
        )
        assert float(there) == pytest.approx(float(model.log_probability([box])), rel=1e-6)
    assert float(there) != float(beside)
    with pytest.raises(ValueError, match="2 actions for 1 samples"):
        model.log_probability([one], [one.wanted.action] * 2)


def test_long_histories_lose_old_thoughts_first_and_then_old_steps():
    words = made().words
    steps = [Action("click", {"start_box": (i, i)}, thought="The red one. " * 3) for i in range(9)]
    context = Context("Click the red square.", MANY[0].context.screens, tuple(steps), "Again.")
    row = prompt_of(context, words, 60)
    assert len(row.tokens) <= 60
    assert row.tokens[-1] == words.marks["answer"]
    assert words.decode(row.tokens[: row.tokens.index(words.marks["past"])]) == context.instruction
    assert [place[0] for _, place in row.points] == sorted(place[0] for _, place in row.points)
    assert row.points[-1][1] == (8, 8)
    assert len(row.points) < 9
    assert all(row.tokens[at] == words.marks["point"] for at, _ in row.points)
    assert words.marks["note"] in row.tokens


def test_questions_about_a_page_are_right():
    rng = np.random.default_rng(0)
    words = made().words
    twice = (
        Element("red", "button", (0, 0, 8, 8)), Element("red", "link", (16, 0, 24, 8)),
        Element("", "checkbox", (0, 16, 8, 24)), Element("x" * 40, "text", (0, 30, 40, 38)),
    )  # fmt: skip
    rows = perception_rows(twice, words, 200, rng, (2.0, 1.0))
    asked = {tuple(row.tokens[1:-2]): boxes for row in rows for _, boxes in row.targets}
    assert asked[tuple(words.encode("red"))] == ((0, 0, 16, 8), (32, 0, 48, 8))
    assert asked[tuple(words.encode("button") + words.encode("red"))] == ((0, 0, 16, 8),)
    assert asked[tuple(words.encode("checkbox"))] == ((0, 16, 16, 24),)
    said = [row for row in rows if row.start >= 0 and row.points]
    echoes = [row for row in rows if row.start >= 0 and not row.points]
    assert 10 < len(echoes) < 50
    for row in echoes:
        assert row.tokens[1 : row.start] == row.tokens[row.start + 1 : -1]
        assert words.decode(row.tokens[1 : row.start]).isalnum()
    assert said
    assert {words.decode(row.tokens[row.start :]) for row in said} == {"red"}
    assert perception_rows((), words, 4, rng) == []
    assert all(isinstance(row, Row) for row in rows)


def test_it_is_a_policy_with_places_in_its_own_pixels():
    coordinates = pytest.importorskip("paragone.multimodal.agent.coordinates")
    model = made(max_pixels=32 * 48)
    assert isinstance(model, Policy)
    assert model.screenshots == 1
    small, large = Screen(np.zeros((32, 48, 3), np.uint8)), Screen(np.zeros((64, 96, 3), np.uint8))
    assert model.coordinates(small).to_screenshot(5, 7) == (5, 7)
    resized = coordinates.smart_resize(64, 96, 16, 256, 32 * 48)
    x, y = model.coordinates(large).to_screenshot(5, 7)
    assert (x, y) == pytest.approx((5 * 96 / resized[1], 7 * 64 / resized[0]))


@pytest.mark.parametrize("encoder", ENCODERS)
def test_files_give_the_same_model(encoder: str, tmp_path: Path):
    model = made(encoder).eval()
    model.save_pretrained(tmp_path)
    again = UITars.from_pretrained(tmp_path)
    assert again.config == model.config
    assert again.dtype == torch.float64
    with torch.no_grad():
        assert torch.equal(again.log_probability(MANY), model.log_probability(MANY))
    assert UITars.from_pretrained(tmp_path, dtype=torch.float32).dtype == torch.float32


def test_files_that_do_not_fit(tmp_path: Path):
    with pytest.raises(ValueError, match="no such file"):
        UITars.from_pretrained(tmp_path)
    made().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps({**values, "width": 64}))
    with pytest.raises(ValueError, match=r"encoder.merge.weight: shape"):
        UITars.from_pretrained(tmp_path)
    path.write_text(json.dumps({**values, "model_type": "llama"}))
    with pytest.raises(ValueError, match="model_type='llama'"):
        UITars.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 30}, "multiple of 4"), ({"patch": 6}, "power of two"),
        ({"encoder": "eyes"}, "is none of"), ({"screenshots": 6}, "1 to 5"),
        ({"stem": 0}, "at least 1"), ({"spelled": 2.0}, "from 0 to 1"), ({"size": 1}, "no field"),
    ],
    ids=lambda x: next(iter(x)) if isinstance(x, dict) else None,
)  # fmt: skip
def test_sizes_that_cannot_be(changes: dict[str, object], message: str):
    with pytest.raises(ValueError, match=message):
        UITarsConfig.of("tiny", **changes)


def test_contexts_that_cannot_be():
    model = made()
    with pytest.raises(ValueError, match="at least one"):
        model.losses([])
    with pytest.raises(ValueError, match="no screenshot"):
        model.see([Context("x", ())])
    with pytest.raises(ValueError, match="uint8"):
        model.see([Context("x", (Screen(np.zeros((4, 4, 3))),))])
    with pytest.raises(ValueError, match="preset 'huge'"):
        UITars.from_config("huge")
    with pytest.raises(ValueError, match="action 'fly'"):
        model.log_probability([MANY[0]], [Action("fly")])


def test_sizes_on_meta():
    model = UITars.from_config("medium", device="meta")
    assert sum(p.numel() for p in model.parameters()) > 8e6
    assert squares(np.random.default_rng(0)).wanted.box is not None
