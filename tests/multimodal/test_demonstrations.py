"""Demonstrations on disk and a teacher at work: lossless, safe against cuts, right after errors."""

import json
import string
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paragone.multimodal.agent import collecting
from paragone.multimodal.agent.actions import Action
from paragone.multimodal.agent.collecting import collect
from paragone.multimodal.agent.contract import (
    Context,
    Element,
    OperatorError,
    Sample,
    Screen,
    Wanted,
)
from paragone.multimodal.agent.demonstrations import (
    Demonstrations,
    DemonstrationWriter,
    demonstrate,
)


def screen(seed, rows=6, columns=9):
    pixels = np.random.default_rng(seed).integers(0, 256, (rows, columns, 3), dtype=np.uint8)
    return Screen(pixels, 1.5, (0.0, 12.5))


def sample(seed=0, text="Save", task="pages:form"):
    history = (Action("type", {"content": text}, thought=text),)
    return Sample(
        Context(text, (screen(seed), screen(seed + 1)), history, "nothing changed"),
        Wanted(Action("click", {"start_box": (1.5, 2.0)}, thought="Go.", reflection="no"),
               (0.0, 1.0, 3.0, 4.0)),
        (Element(text, "button", (0.0, 1.0, 3.0, 4.0)),),
        (Action("drag", {"start_box": (0.0, 0.0), "end_box": (1.0, 2.0, 3.0, 4.0)}),),
        task, seed, 3,
    )  # fmt: skip


def same(one, two):
    assert one.wanted == two.wanted
    assert one.elements == two.elements
    assert one.rejected == two.rejected
    assert (one.task, one.seed, one.step) == (two.task, two.seed, two.step)
    assert one.context.history == two.context.history
    assert (one.context.instruction, one.context.note) == (
        two.context.instruction, two.context.note,
    )  # fmt: skip
    assert len(one.context.screens) == len(two.context.screens)
    for left, right in zip(one.context.screens, two.context.screens, strict=True):
        np.testing.assert_array_equal(left.pixels, right.pixels)
        assert (left.device_pixel_ratio, left.scroll) == (right.device_pixel_ratio, right.scroll)


class TestFolder:
    @settings(max_examples=8, deadline=None)
    @given(text=st.text(max_size=20), task=st.text(string.printable, max_size=8))
    def test_what_is_written_is_read(self, tmp_path_factory, text, task):
        folder = tmp_path_factory.mktemp("demo")
        with DemonstrationWriter(folder) as writer:
            writer.add(sample(1, text, task))
        held = Demonstrations(folder)
        same(held[0], sample(1, text, task))
        assert held.tasks() == {task: 1}

    def test_screens_are_stored_once(self, tmp_path):
        with DemonstrationWriter(tmp_path) as writer:
            for _ in range(3):
                writer.add(sample(4))
        assert len(list((tmp_path / "screens").iterdir())) == 2

    def test_same_bytes_in_other_shapes_are_other_screens(self, tmp_path):
        pixels = np.zeros((2, 3, 3), np.uint8)
        context = Context("x", (Screen(pixels), Screen(pixels.reshape(3, 2, 3))))
        with DemonstrationWriter(tmp_path) as writer:
            writer.add(Sample(context, Wanted(Action("wait"))))
        assert [s.size for s in Demonstrations(tmp_path)[0].context.screens] == [(2, 3), (3, 2)]

    @pytest.mark.parametrize("cut", [1, 2, 40, 200])
    def test_a_cut_last_line_is_dropped(self, tmp_path, cut):
        with DemonstrationWriter(tmp_path) as writer:
            writer.add(sample(0))
            writer.add(sample(1))
        path = tmp_path / "samples.jsonl"
        path.write_bytes(path.read_bytes()[:-cut])
        assert len(Demonstrations(tmp_path)) == 1
        with DemonstrationWriter(tmp_path) as writer:
            writer.add(sample(2))
        assert [one.seed for one in Demonstrations(tmp_path)] == [0, 2]

    def test_a_foreign_line_is_named(self, tmp_path):
        with DemonstrationWriter(tmp_path) as writer:
            writer.add(sample(0))
            writer.append(['{"other": 1}'])
        with pytest.raises(ValueError, match="line 2"):
            Demonstrations(tmp_path)
        with pytest.raises(FileNotFoundError, match="agent generate"):
            Demonstrations(tmp_path / "none")

    def test_opening_reads_no_screens_and_no_bodies(self, tmp_path):
        """Lines are found by their ends and their heads: 15,000 of them at once."""
        with DemonstrationWriter(tmp_path) as writer:
            line = json.dumps({"task": "a", "seed": 0, "rest": "x" * 100})
            writer.append([line.replace('"seed": 0', f'"seed": {n}') for n in range(15_000)])
        held = Demonstrations(tmp_path)
        assert len(held) == 15_000
        assert ("a", 14_999) in held.exercises()

    def test_sequence(self, tmp_path):
        for name, seeds in (("a", range(3)), ("b", range(3, 5))):
            with DemonstrationWriter(tmp_path / name) as writer:
                for seed in seeds:
                    writer.add(sample(seed))
        both = Demonstrations(tmp_path / "a", cache=1).concat(Demonstrations(tmp_path / "b"))
        assert both.heads() == [(sample.task, sample.seed) for sample in both]
        assert [one.seed for one in both] == [0, 1, 2, 3, 4]
        assert both[-1].seed == 4
        assert [one.seed for one in both[1:4]] == [1, 2, 3]
        with pytest.raises(IndexError):
            both[5]


class Count:
    """A counter that must reach 3: a click on the left adds 1, one on the right takes 1."""

    instruction = "Count to three."

    def __init__(self):
        self.value, self.operator, self.actions = 0, self, frozenset({"click"})

    def screenshot(self):
        return Screen(np.full((4, 8, 3), 100 + self.value, np.uint8))

    def execute(self, action):
        x, _ = action.point
        self.value += 1 if x < 4 else -1

    def reward(self):
        return 1.0 if self.value == 3 else None

    def wanted(self):
        return Wanted(Action("click", {"start_box": (2.0, 2.0)}, thought="More."), (0, 0, 3, 4))

    def elements(self):
        return (Element("less", "button", (4, 0, 8, 4)),)

    def close(self):
        self.value = None


class Counting:
    name, max_steps = "count", 20

    def start(self, browser, seed):
        return Count()


class TestTeacher:
    def test_it_leads_to_success(self):
        samples, reward = demonstrate(Counting(), None, 0, screenshots=2)
        assert reward == 1
        assert [one.step for one in samples] == [0, 1, 2]
        assert [len(one.context.screens) for one in samples] == [1, 2, 2]
        assert samples[2].context.screens[-1].pixels[0, 0, 0] == 102
        assert [a.thought for a in samples[2].context.history] == ["More.", "More."]
        assert not any(one.rejected for one in samples)

    def test_noise_shows_states_after_errors_and_never_wants_them(self):
        samples, reward = demonstrate(Counting(), None, 0, noise=0.7)
        assert reward == 1
        slips = [one for one in samples if one.rejected]
        assert slips
        for one in samples:
            assert one.wanted.action.point == (2.0, 2.0)
        for one in slips:
            after = next(other for other in samples if other.step == one.step + 1)
            assert after.context.history[-1] == one.rejected[0]
            assert not after.rejected
            x, _ = one.rejected[0].point
            assert x > 3

    def test_a_seed_repeats_it(self):
        one, two = (demonstrate(Counting(), None, 5, noise=0.5)[0] for _ in range(2))
        assert [s.rejected for s in one] == [s.rejected for s in two]

    def test_an_endless_exercise_ends(self):
        class Endless(Counting):
            def start(self, browser, seed):
                exercise = Count()
                exercise.execute = lambda action: None
                return exercise

        samples, reward = demonstrate(Endless(), None, 0)
        assert (len(samples), reward) == (40, 0)


STUB = """
import json, os, sys, time
settings = json.loads(sys.stdin.readline())
print('{"ready": true}', flush=True)
for line in sys.stdin:
    job = json.loads(line)
    kind, seed = job["task"].split(":")[1], job["seed"]
    if kind == "menu" and seed == 1:
        os._exit(3)
    if kind == "menu" and seed == 2:
        time.sleep(60)
    if kind == "tabs":
        answer = {"fatal": "no Chromium is installed"}
    elif kind == "table":
        answer = {"error": "the page is gone"}
    else:
        told = {"task": job["task"], "seed": seed, "noise": settings["noise"]}
        answer = {"reward": 1.0, "lines": [json.dumps(told)] * 2}
        if kind == "form":
            answer |= {"reward": 0.0, "slipped": seed % 2 == 1}
    print(json.dumps(answer), flush=True)
"""


class TestCollecting:
    """The collector against workers that crash, hang, fail and slip; a real one: tests/lab."""

    @pytest.fixture(autouse=True)
    def stub(self, monkeypatch):
        monkeypatch.setattr(collecting, "WORKER", [sys.executable, "-I", "-S", "-c", STUB])

    def test_it_goes_on_where_it_stopped(self, tmp_path):
        told = []
        first = collect("pages:buttons", 5, folder=tmp_path, workers=1, progress=told.append)
        assert first.samples == first.fresh == 6
        assert first.succeeded == first.episodes == len(told) == 3
        again = collect("pages:buttons", 5, folder=tmp_path)
        assert (again.fresh, again.episodes) == (0, 0)
        more = collect("pages:buttons", 8, folder=tmp_path, workers=1)
        assert more.samples == 8
        assert Demonstrations(tmp_path).exercises() == {("pages:buttons", n) for n in range(4)}

    def test_a_crash_and_a_hang_cost_themselves(self, tmp_path):
        done = collect("pages:menu", 6, folder=tmp_path, workers=1, timeout=2.0)
        assert Demonstrations(tmp_path).exercises() == {("pages:menu", n) for n in (0, 3, 4)}
        assert [why.split(": ")[1] for why in done.failures] == [
            "its process ended", "no end after 2 s",
        ]  # fmt: skip
        rows = [json.loads(line) for line in (tmp_path / "episodes.jsonl").read_text().splitlines()]
        assert [row["seed"] for row in rows] == [0, 1, 2, 3, 4]

    def test_only_what_a_slip_ended_is_kept_of_failures(self, tmp_path):
        done = collect("pages:form", 4, folder=tmp_path, workers=1, noise=0.5)
        assert Demonstrations(tmp_path).exercises() == {("pages:form", 1), ("pages:form", 3)}
        assert (done.succeeded, done.slipped, len(done.failures)) == (0, 2, 2)

    def test_what_never_works_is_told(self, tmp_path):
        with pytest.raises(OperatorError, match="every task failed; such as pages:table"):
            collect("pages:table", 4, folder=tmp_path, workers=1)
        mixed = collect("pages:table,buttons", 20, folder=tmp_path, workers=1)
        assert mixed.samples == 20
        assert len(mixed.failures) <= 6
        with pytest.raises(OperatorError, match="no Chromium"):
            collect("pages:tabs", 1, folder=tmp_path / "none", workers=1)

    def test_what_makes_no_sense_is_refused(self, tmp_path):
        with pytest.raises(ValueError, match="count 0"):
            collect("pages:form", 0, folder=tmp_path)
        with pytest.raises(ValueError, match="no such kind"):
            collect("pages:nothing", 5, folder=tmp_path)
