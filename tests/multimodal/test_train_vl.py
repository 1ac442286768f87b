"""Training of models of texts and pictures: it learns, goes on bit for bit, and is always whole."""

import json
import os
import signal
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from tests.multimodal.fake_vl import Fake, known, squares

from paragone.multimodal import _train_vl_models
from paragone.multimodal._captions_judge import judge_of
from paragone.multimodal._pictures_out import grid, save_png
from paragone.multimodal._train_vl_data import Feed, Trial
from paragone.multimodal.captions import Captioned, Captions, Page
from paragone.multimodal.contract import open_model
from paragone.multimodal.train_vl import train_vl


@pytest.fixture(autouse=True)
def _known(monkeypatch):
    known(monkeypatch)


def run(out=None, **options):
    options = {"arch": "fake", "batch": 8, "steps": 12, "judged": 4, "lr": 3e-2, **options}
    return train_vl(options.pop("data", squares()), out, **options)


def same(one, other):
    return all((a == b).all() for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_reads_and_draws_what_it_was_shown(tmp_path):
    events = []
    done = run(tmp_path, steps=120, judged=10, progress=events.append)
    assert done.metrics["captions_exact"] == 1
    assert done.metrics["drawn_as_asked"] == 1
    assert done.metrics["validation_text"] < 0.2
    assert done.metrics["validation_image"] < 0.02
    assert done.model.steps == 120
    assert not done.model.training
    assert {"note", "validated", "end"} <= {event.kind for event in events}
    opened = open_model(tmp_path)
    assert same(opened, done.model)
    further = run(model=str(tmp_path), steps=1, lr=1e-9)
    assert further.metrics["captions_exact"] == 1
    assert opened.describe([squares()[1].picture]) == ["a bright square"]
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["captions_exact"] == 1
    assert {"loss", "text", "image", "z_text"} <= set(json.loads(lines[0]))
    with Image.open(tmp_path / "drawn.png") as page:
        assert page.size[0] > 64
    assert not list(tmp_path.glob(".export.*"))


def stopped_after(count):
    """A listener that sends Ctrl-C at the validation of a step."""

    def listen(event):
        if event.kind == "validated" and event.step == count:
            os.kill(os.getpid(), signal.SIGINT)

    return listen


def test_goes_on_bit_for_bit(tmp_path):
    whole = run(tmp_path / "whole", accumulate=2)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts", accumulate=2, progress=stopped_after(5))
    halfway = open_model(tmp_path / "parts")
    assert not same(halfway, whole.model)
    parts = run(tmp_path / "parts", accumulate=2)
    assert same(parts.model, whole.model)
    assert [x["loss"] for x in parts.history] == [x["loss"] for x in whole.history]
    # Once more: all is done, and comes back.
    assert same(run(tmp_path / "parts", accumulate=2).model, whole.model)
    with pytest.raises(ValueError, match=r"another run: batch \(there 8, now 4\);"):
        run(tmp_path / "parts", accumulate=2, batch=4)
    with pytest.raises(ValueError, match="another run: data"):
        run(tmp_path / "parts", accumulate=2, data=squares(30))
    anew = run(tmp_path / "parts", batch=4, resume=False)
    assert not same(anew.model, whole.model)


def test_a_folder_is_openable_at_every_instant(tmp_path, monkeypatch):
    """From the first export on; an export that dies leaves the old model."""
    run(tmp_path, steps=3)
    before = {
        f.name: f.read_bytes() for f in tmp_path.glob("*") if f.suffix != ".pt" and f.is_file()
    }

    def dies(self, folder):
        (tmp_path / folder / "model.safetensors").write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(Fake, "save_pretrained", dies)
    with pytest.raises(OSError, match="disk full"):
        run(tmp_path, steps=3, resume=False, seed=1)
    assert (tmp_path / "model.safetensors").read_bytes() == before["model.safetensors"]
    assert open_model(tmp_path).describe([squares()[0].picture])
    assert not list(tmp_path.glob(".export.*"))


def test_frozen_parts_do_not_move():
    with torch.random.fork_rng():
        start = Fake()
    first = {name: p.clone() for name, p in start.named_parameters()}
    done = run(model=start, freeze=("vision", "language"), steps=2)
    moved = {n for n, p in done.model.named_parameters() if not torch.equal(p, first[n])}
    assert moved == {"language.weight", "language.bias", "pen.weight", "pen.bias"}
    assert done.model.eye.weight.grad is None
    slow = run(model=start, rates={"head": 0.0}, steps=2, weight_decay=0.0, freeze=("vision",))
    # Frozen before, frozen still; a rate of zero moves nothing.
    assert torch.equal(slow.model.pen.weight, done.model.pen.weight)
    for option in ("freeze", "rates"):
        with pytest.raises(ValueError, match="'eyes' is no part of fake: vision, head, language"):
            run(**{option: {"eyes": 1.0}})


def test_tasks_that_model_and_data_allow():
    page = Captions([Captioned(np.full((8, 8), v, np.uint8), "yes", "Is it so?") for v in (1, 9)])
    done = run(data=page, steps=1, validation=0.5)
    assert "answers_exact" in done.metrics
    assert "captions_exact" not in done.metrics
    reads = run(arch="reader", steps=1)
    assert "validation_image" not in reads.metrics
    with pytest.raises(ValueError, match="reads pictures and does not draw"):
        run(arch="reader", tasks=("draw",))
    with pytest.raises(ValueError, match="none of 34 records is for"):
        run(tasks=("answer",))


def test_a_budget_of_seconds(tmp_path):
    ended = []
    done = run(tmp_path, steps=None, seconds=2.0, judged=0, progress=ended.append)
    assert done.history[-1]["step"] >= 1
    assert ended[-1].kind == "end"
    assert ended[-1].done == 1


def test_arguments_out_of_range(tmp_path):
    for options, words in (
        ({"arch": "vit"}, "arch='vit' is none of kimi"), ({"batch": 0}, "batch=0"),
        ({"steps": 0}, "steps=0"), ({"optimizer": "sdg"}, "optimizer='sdg' is none of"),
        ({"freeze": "vision"}, "a sequence of names"), ({"preset": "huge"}, "is no preset"),
        ({"head": "mar"}, "head: options of arch='lossless'"), ({"threads": 0}, "threads=0"),
        ({"model": Fake(), "positions": "1d"}, "positions: the model that is given has its own"),
        ({"data": tmp_path / "none.jsonl"}, "no such file"), ({"validation": 1.0}, "share=1.0"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=words):
            run(**options)


def test_memory_is_looked_at_first(monkeypatch):
    # The package has a function of the module's name.
    module = sys.modules[train_vl.__module__]
    monkeypatch.setattr(module, "free_memory", lambda device: 1000)
    with pytest.raises(ValueError, match=r"0\.0 GB are free on cpu; take a smaller preset"):
        run()

    def full(self, documents):
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(module, "free_memory", lambda device: None)
    monkeypatch.setattr(Fake, "losses", full)
    with pytest.raises(ValueError, match=r"take batch=4 and accumulate=2 \(no room\)"):
        run()


def test_what_was_left_out_is_said(tmp_path):
    lines = [{"image": f"{n}.png", "caption": "a square"} for n in range(4)]
    for n in range(3):
        save_png(np.full((8, 8, 1), 20 * n, np.uint8), tmp_path / f"{n}.png")
    (tmp_path / "captions.jsonl").write_text("\n".join(map(json.dumps, lines)))
    events = []
    done = run(tmp_path / "run", data=tmp_path, steps=1, progress=events.append)
    assert done.notes[0] == "left out: 1 without its file"
    assert "left out: 1 without its file" in [event.text for event in events]
    assert "3.png" in (tmp_path / "run" / "left-out.txt").read_text()


def test_every_item_once_an_epoch():
    feed = Feed(squares(10), ("read", "draw"), 3, 2, seed=1)
    assert len(feed.work) == 20
    kinds = [
        sorted((isinstance(d.parts[0], str), int(d.pictures[0].sum())) for d in part)
        for part in _epochs([d for step in range(10) for m in feed(step) for d in m], 20)
    ]
    assert kinds[0] == kinds[1] == kinds[2]
    assert len(set(kinds[0])) == 20
    # Two ranks share the same epoch; a step depends on its number alone.
    ranks = [Feed(squares(10), ("read",), 5, 1, seed=1, rank=r, ranks=2) for r in (0, 1)]
    both = [int(d.pictures[0].sum()) for one in ranks for d in one(0)[0]]
    assert len(set(both)) == 10
    again = Feed(squares(10), ("read", "draw"), 3, 2, seed=1)(7)
    assert [d.text for m in again for d in m] == [d.text for m in feed(7) for d in m]


def test_pictures_that_are_read_move_and_drawn_ones_do_not():
    ramp = np.arange(25, dtype=np.uint8).reshape(5, 5, 1)
    records = Captions([Captioned(ramp, "a ramp"), Page((ramp, "see"), (False, True))])
    feed = Feed(records, ("read", "draw"), 3, 1, seed=0, shift=1)
    drawn, read = [], []
    for one in (one for step in range(40) for one in feed(step)[0]):
        (drawn if isinstance(one.parts[0], str) else read).append(one.pictures[0])
    assert len(read) == 2 * len(drawn)
    assert all((one == ramp).all() for one in drawn)
    assert len({one.tobytes() for one in read}) == 9
    # What lies inside is the picture's own, from some place of it; the edge is repeated.
    corners = {int(one[2, 2, 0]) for one in read}
    assert corners == {6, 7, 8, 11, 12, 13, 16, 17, 18}
    up = next(one for one in read if one[2, 2, 0] == 6)
    assert up[0].ravel().tolist() == [0, 0, 1, 2, 3]


def _epochs(items, size):
    return [items[at : at + size] for at in range(0, len(items), size)]


def test_the_judge_is_not_fooled():
    """A planted bug: a model that draws the other one."""
    train, held = squares().split(0.3)

    class Wrong(Fake):
        def draw(self, texts, **options):
            return [np.full((8, 8, 1), 0 if "bright" in text else 210, np.uint8) for text in texts]

    found = Trial(Wrong(), train, held, ("draw",), 8, 4, 0)()
    assert found["drawn_as_asked"] == 0
    assert judge_of(Captions(squares()[:3])) is None
    every = Captions([Captioned(one.picture, one.name) for one in squares()])
    assert judge_of(every) is None


def test_first_stage_sees_each_picture_once():
    from types import SimpleNamespace

    grey = Captions([*squares(6), *[Captioned(o.picture, "yes", "Dark?") for o in squares(6)]])
    found = _train_vl_models._pictures(grey, SimpleNamespace(resolution=8, in_channels=1))
    assert len(found) == 6
    assert found[0].shape == (8, 8, 1)


def test_grids(tmp_path):
    page = grid([np.zeros((4, 8, 1), np.uint8), np.full((2, 2, 3), 9, np.uint8)], 2, seen=8)
    assert page.shape == (10, 35, 3)
    assert (page[1:9, 1:17] == 0).all()
    assert (page[0] == 255).all()
    path = save_png(page, tmp_path / "deep" / "page.png")
    with Image.open(path) as read:
        assert (np.asarray(read) == page).all()
    with pytest.raises(ValueError, match="no picture to show"):
        grid([])
