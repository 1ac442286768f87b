"""Imitation: it learns pages that it has not seen, goes on, and moves pages with their boxes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.multimodal.ui_tars_pages import samples, squares

from paragone.multimodal.agent.actions import Action
from paragone.multimodal.agent.contract import Sample, Screen
from paragone.multimodal.agent.imitation import augmented, imitate, judged
from paragone.multimodal.ui_tars import UITars

MANY = samples(40)


def made(seed: int = 0, **changes: object) -> UITars:
    generator = torch.Generator().manual_seed(seed)
    return UITars.for_samples(MANY, "tiny", generator=generator, **changes)


def drawn(count: int, seed: int) -> list[Sample]:
    rng = np.random.default_rng(seed)
    return [dataclasses.replace(squares(rng), seed=at) for at in range(count)]


def test_it_learns_to_click_what_it_is_told_on_pages_it_has_not_seen():
    model = made()
    held = drawn(60, 1)
    before = judged(model, held)["right"]
    found = imitate(
        model, drawn(300, 0), steps=50, batch=16, held_out=held, perception=2,
        augment=False,
    )  # fmt: skip
    assert before < 0.4
    assert found.metrics["right"] >= 0.85
    assert found.samples == 50 * 16
    assert found.metrics["right/squares"] == found.metrics["right"]


def test_a_run_goes_on_as_if_it_had_not_stopped(tmp_path: Path):
    options = {"steps": 4, "batch": 2, "held_out": 0.2, "perception": 2, "evaluations": 2}
    whole = imitate(made(), MANY, **options)

    def stop(event: object) -> None:
        if getattr(event, "kind", "") == "validated" and getattr(event, "step", 0) == 2:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        imitate(made(), MANY, out=tmp_path, progress=stop, **options)
    assert UITars.from_pretrained(tmp_path).config.patch == 8
    again = imitate(made(), MANY, out=tmp_path, **options)
    assert again.folder == tmp_path
    assert again.history[-1]["step"] == 4
    state = whole.model.state_dict()
    for name, x in again.model.state_dict().items():
        torch.testing.assert_close(x, state[name], rtol=0, atol=0)
    opened = UITars.from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(x, state[name]) for name, x in opened.items())


def test_exercises_are_held_out_whole():
    seen: list[tuple[str, int]] = []

    class Watched(list):
        def __getitem__(self, at):
            one = super().__getitem__(at)
            seen.append((one.task, one.seed))
            return one

    pages = Watched(dataclasses.replace(one, seed=at // 4) for at, one in enumerate(MANY))
    found = imitate(
        made(), pages, steps=8, batch=8, held_out=0.3, perception=0, augment=False, judge=1000
    )
    assert found.metrics["right"] >= 0
    # What judges is read once, before the steps; what is learned is read from then on.
    learned = set(seen[-8 * 8 :])
    judges = set(seen[: -8 * 8])
    assert learned
    assert judges
    assert not (learned & judges)


def test_tasks_are_learned_alike_however_many_samples_they_have():
    few = [dataclasses.replace(one, task="rare") for one in MANY[:2]]
    many = [dataclasses.replace(one, task="common") for one in MANY[2:]]
    taken: list[str] = []
    model = made()
    inner = model.losses

    def watched(batch, **options):
        taken.extend(one.task for one in batch)
        return inner(batch, **options)

    model.losses = watched  # type: ignore[method-assign]
    imitate(model, few + many, steps=10, batch=8, held_out=0.0, perception=0, augment=False)
    assert 20 < taken.count("rare") < 60
    assert len(taken) == 80


def test_frozen_parts_do_not_move():
    model = made()
    before = {name: x.clone() for name, x in model.state_dict().items()}
    imitate(
        model,
        MANY,
        steps=2,
        batch=4,
        freeze=["vision"],
        rates={"pointer": 0.5},
        held_out=0.0,
        optimizer="adamw",
    )
    for name, x in model.state_dict().items():
        if name.startswith("encoder."):
            assert torch.equal(x, before[name]), name
    assert not torch.equal(model.pointer.weight, before["pointer.weight"])


@pytest.mark.parametrize("seed", range(8))
def test_pages_move_with_their_boxes(seed: int):
    rng = np.random.default_rng(seed)
    one = squares(rng)
    past = Action("click", {"start_box": one.wanted.action.point})
    one = dataclasses.replace(
        one, rejected=(past,), context=dataclasses.replace(one.context, history=(past,))
    )
    moved = augmented(one, rng)
    pixels = moved.context.screens[-1].pixels
    for before, after in zip(one.elements, moved.elements, strict=True):
        colour = one.context.screens[-1].pixels[int(before.box[1]) + 5, int(before.box[0]) + 5]
        left, top, right, bottom = (int(v) for v in after.box)
        if left >= 0 and top >= 0 and right <= 48 and bottom <= 48:
            inside = pixels[top:bottom, left:right].reshape(-1, 3).astype(int)
            assert np.abs(inside - colour).max() < 20
    x, y = moved.wanted.action.point
    box = moved.wanted.box
    assert box[0] <= x <= box[2]
    assert box[0] >= 0
    assert box[2] <= 48
    assert moved.context.history[0].point == moved.rejected[0].point == (x, y)
    assert one.wanted.box != moved.wanted.box or one.elements == moved.elements


def test_judging_knows_right_from_wrong():
    one = MANY[0]
    model = made()
    assert set(judged(model, [one, MANY[1]])) == {"right", "right/squares", "right/typing"}
    large = Screen(np.zeros((96, 96, 3), np.uint8))
    assert judged(made(max_pixels=48 * 48), [
        dataclasses.replace(one, context=dataclasses.replace(one.context, screens=(large,)))
    ])["right"] in (0.0, 1.0)  # fmt: skip


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch": 0}, "batch=0"), ({"held_out": 1.5}, "held_out=1.5"),
        ({"optimizer": "best"}, "'best' is none of"), ({"freeze": ["x"]}, "part 'x'"),
        ({"rates": {"x": 1.0}}, "parts x"), ({"perception": -1}, "perception=-1"),
    ],
    ids=lambda x: next(iter(x)) if isinstance(x, dict) else None,
)  # fmt: skip
def test_arguments_that_cannot_be(options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        imitate(made(), MANY, steps=1, **options)


def test_no_samples():
    with pytest.raises(ValueError, match="no samples"):
        imitate(made(), [])
