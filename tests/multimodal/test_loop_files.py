"""Episodes as files: every pixel and number back, whole at every instant, damaged ones refused."""

import dataclasses
import json

import numpy as np
import pytest
from tests.multimodal.agent_loop_fakes import BUTTON, FINISHED, NOWHERE, SWITCH, FakePage, Scripted

from paragone.multimodal.agent.actions import Action
from paragone.multimodal.agent.contract import Screen
from paragone.multimodal.agent.loop import Episode, Step, run
from paragone.training import run_folder


def equal(one, other):
    """Whether two episodes are one and the same, pixel by pixel."""

    def told(episode):
        screens = [step.screen for step in episode.steps]
        screens += [] if episode.last is None else [episode.last]
        plain = dataclasses.replace(
            episode, last=None, steps=tuple(dataclasses.replace(s, screen=None)
                                            for s in episode.steps)
        )  # fmt: skip
        return plain, [(s.pixels.tolist(), s.device_pixel_ratio, s.scroll) for s in screens]

    return told(one) == told(other)


def test_round_trip(tmp_path):
    episode = run(Scripted(BUTTON, "garbage", SWITCH, NOWHERE), FakePage(), "Ünï ✓", max_steps=4)
    assert episode.last is not None
    episode.save(tmp_path / "run" / "one")
    assert equal(Episode.load(tmp_path / "run" / "one"), episode)
    # Four steps and the end show three different screens.
    assert len(list((tmp_path / "run" / "one" / "screens").iterdir())) == 3
    noise = np.random.default_rng(0).integers(0, 256, (33, 65, 3), np.uint8)
    screen = Screen(noise[::-1], 1.5, (0.1, 1e6))
    odd = Action(
        "drag", {"start_box": (0.1, 2 / 3, 5.0, 7.0), "end_box": (1e-9, 3.0)}, "t", "r", "s"
    )
    texts = Action("type", {"content": "</script>\x00\x1b\ud800\n\u202e"})
    steps = (Step(screen, "\ud800 text", (odd, texts), None, 1 / 3, "e"),)
    for outcome in ("error", "loop"):
        hostile = Episode("a\x00\ud800", steps, outcome, 0.1, None, "why")
        hostile.save(tmp_path / "odd")
        assert equal(Episode.load(tmp_path / "odd"), hostile)
    (tmp_path / "odd" / "screens" / "notes.txt").write_text("a person's own")
    empty = Episode("", (), "error", 0.0)
    empty.save(tmp_path / "odd")
    assert equal(Episode.load(tmp_path / "odd"), empty)
    # What the old episode alone needed is gone.
    assert [one.name for one in (tmp_path / "odd" / "screens").iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("killed_at", range(4))
def test_a_kill_leaves_the_old_episode(tmp_path, monkeypatch, killed_at):
    old = run(Scripted(NOWHERE, FINISHED), FakePage(), "old")
    old.save(tmp_path)
    new = run(Scripted(BUTTON, SWITCH, FINISHED), FakePage(), "new")
    writes = iter(range(99))
    write = run_folder.os.replace

    def killed(source, target):
        if next(writes) == killed_at:
            raise KeyboardInterrupt
        write(source, target)

    monkeypatch.setattr(run_folder.os, "replace", killed)
    try:
        new.save(tmp_path)
    except KeyboardInterrupt:
        assert equal(Episode.load(tmp_path), old)
    else:
        assert killed_at == 3
        assert equal(Episode.load(tmp_path), new)


def test_damage_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"no episode\.json"):
        Episode.load(tmp_path / "none")
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match="expected a folder"):
        Episode("", (), "error", 0.0).save(tmp_path / "file")
    run(Scripted(BUTTON, FINISHED), FakePage(), "").save(tmp_path / "e")
    file = tmp_path / "e" / "episode.json"
    good = json.loads(file.read_text())

    def damaged(change):
        told = json.loads(json.dumps(good))
        change(told)
        file.write_text(json.dumps(told))
        with pytest.raises(ValueError, match=r"episode\.json: a damaged episode"):
            Episode.load(tmp_path / "e")

    damaged(lambda told: told.pop("steps"))
    damaged(lambda told: told.update(version=9))
    (tmp_path / "s.png").write_bytes(next((tmp_path / "e" / "screens").iterdir()).read_bytes())
    damaged(lambda told: told["steps"][0]["screen"].update(file="../../s.png"))
    damaged(lambda told: told["steps"][0]["screen"].update(file="0" * 32 + ".png"))
    damaged(lambda told: told["steps"][0]["actions"][0].update(strange=1))
    damaged(lambda told: told.update(steps=3))
    file.write_text("{")
    with pytest.raises(ValueError, match="damaged"):
        Episode.load(tmp_path / "e")
