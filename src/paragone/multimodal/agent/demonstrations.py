r"""Demonstrations: steps to learn from, on disk and from a teacher at work.

A folder holds `samples.jsonl`, one step a line, and `screens/`, each screenshot once as a PNG named
by a hash of its pixels. A step names its last five screenshots; as each of them is also the present
one of an earlier step, a history costs no space:

$$ \text{bytes} \approx \text{steps} \times (1\ \text{PNG} + 1\ \text{line}) . $$

Lines are only ever appended, and a last line that was cut by a crash is dropped on opening, so
writing may be stopped at any moment. Reading is lazy: opening finds where the lines begin.

`demonstrate` leads an exercise by what its own DOM says is right. With `noise`, some steps take a
wrong action first: the learner sees the states after errors, and what is right *there*; a wrong
action itself is never stored as wanted (Ross et al., 2011, is the reason: a learner that is off the
teacher's path meets states that the path never shows).

References:
    Qin et al. (2025), UI-TARS, arXiv:2501.12326, section 4.5 (error correction, post-reflection).
    Ross, Gordon, Bagnell (2011), "A reduction of imitation learning ...", arXiv:1011.0686.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import re
from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np

from paragone.multimodal.agent._dom import DomExercise
from paragone.multimodal.agent.actions import Action
from paragone.multimodal.agent.contract import (
    Context,
    Element,
    Exercise,
    Sample,
    Screen,
    Task,
    Wanted,
)

__all__ = ["DemonstrationWriter", "Demonstrations", "demonstrate"]

_HEAD = re.compile(rb'\{"task": "((?:[^"\\]|\\.)*)", "seed": (-?\d+)')


def _action_out(action: Action) -> dict[str, Any]:
    told = dataclasses.asdict(action)
    return {name: value for name, value in told.items() if value or name == "name"}


def _action_in(told: dict[str, Any]) -> Action:
    arguments = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in told.get("arguments", {}).items()
    }
    return Action(**{**told, "arguments": arguments})


class DemonstrationWriter:
    """Appends samples to a folder; what was added before a crash is kept.

    Args:
        folder: Made if it is not there.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        (self.folder / "screens").mkdir(parents=True, exist_ok=True)
        self._known: set[str] = set()
        path = self.folder / "samples.jsonl"
        if path.exists():
            whole = path.read_bytes().rfind(b"\n") + 1
            if whole < path.stat().st_size:
                os.truncate(path, whole)
        self._file = path.open("ab")

    def _screen(self, screen: Screen) -> str:
        pixels = np.ascontiguousarray(screen.pixels)
        digest = hashlib.blake2b(pixels.data, digest_size=12)
        digest.update(repr(pixels.shape).encode())
        name = digest.hexdigest()
        path = self.folder / "screens" / f"{name}.png"
        if name not in self._known and not path.exists():
            from PIL import Image

            held = io.BytesIO()
            Image.fromarray(pixels).save(held, "PNG", compress_level=3)
            part = path.with_suffix(f".{os.getpid()}")
            part.write_bytes(held.getvalue())
            part.replace(path)
        self._known.add(name)
        return name

    def line(self, sample: Sample) -> str:
        """Writes a sample's screenshots and returns its line, which `append` takes."""
        context = sample.context
        wanted = sample.wanted
        return json.dumps({
            "task": sample.task, "seed": sample.seed, "step": sample.step,
            "instruction": context.instruction,
            "screens": [
                [self._screen(s), s.device_pixel_ratio, *s.scroll] for s in context.screens
            ],
            "history": [_action_out(action) for action in context.history],
            "note": context.note,
            "wanted": _action_out(wanted.action), "box": wanted.box,
            "elements": [[e.text, e.role, *e.box] for e in sample.elements],
            "rejected": [_action_out(action) for action in sample.rejected],
        }, ensure_ascii=False)  # fmt: skip

    def append(self, lines: Sequence[str]) -> None:
        """Appends lines that `line` made, here or in another process on the same folder."""
        self._file.write("".join(line + "\n" for line in lines).encode())
        self._file.flush()

    def add(self, sample: Sample) -> None:
        """Appends a sample."""
        self.append([self.line(sample)])

    def close(self) -> None:
        """Closes the file; more than once is as good as once."""
        self._file.close()

    def __enter__(self) -> DemonstrationWriter:
        return self

    def __exit__(self, *told: object) -> None:
        self.close()


class Demonstrations(Sequence[Sample]):
    """The samples of a folder, read when they are asked for.

    Args:
        folder: What `DemonstrationWriter`, `paragone agent record` or `generate` wrote.
        cache: Decoded screenshots that are kept.

    Raises:
        FileNotFoundError: A folder without samples.
    """

    def __init__(self, folder: str | Path, *, cache: int = 256) -> None:
        self.folder = Path(folder)
        path = self.folder / "samples.jsonl"
        if not path.is_file():
            raise FileNotFoundError(
                f"{path}: no demonstrations; `paragone agent generate` and `record` make them"
            )
        raw = path.read_bytes()
        ends = np.flatnonzero(np.frombuffer(raw, np.uint8) == 10)
        starts = np.concatenate([[0], ends + 1])[: len(ends)]
        self._heads: list[tuple[str, int]] = []
        self._at: list[tuple[int, int]] = []
        for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
            head = _HEAD.match(raw, start, end)
            if head is None or raw[end - 1] != ord("}"):
                raise ValueError(f"{path}: line {len(self._at) + 1} is no sample")
            self._heads.append((json.loads(b'"' + head[1] + b'"'), int(head[2])))
            self._at.append((start, end))
        self._cache: OrderedDict[str, np.ndarray] = OrderedDict()
        self._most = cache
        self._path = path

    def __len__(self) -> int:
        return len(self._at)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(len(self)))]
        start, end = self._at[index]
        with self._path.open("rb") as file:
            file.seek(start)
            told = json.loads(file.read(end - start))
        context = Context(
            told["instruction"],
            tuple(
                Screen(self._pixels(name), ratio, (x, y)) for name, ratio, x, y in told["screens"]
            ),
            tuple(_action_in(action) for action in told["history"]),
            told["note"],
        )  # fmt: skip
        box = told["box"]
        return Sample(
            context, Wanted(_action_in(told["wanted"]), None if box is None else tuple(box)),
            tuple(Element(text, role, tuple(at)) for text, role, *at in told["elements"]),
            tuple(_action_in(action) for action in told["rejected"]),
            told["task"], told["seed"], told["step"],
        )  # fmt: skip

    def __iter__(self) -> Iterator[Sample]:
        for at in range(len(self)):
            yield self[at]

    def tasks(self) -> Counter[str]:
        """How many samples there are of each task."""
        return Counter(task for task, _ in self._heads)

    def exercises(self) -> set[tuple[str, int]]:
        """The (task, seed) that samples are from."""
        return set(self._heads)

    def heads(self) -> list[tuple[str, int]]:
        """Of each sample its task and seed, without reading it."""
        return list(self._heads)

    def concat(self, *others: Sequence[Sample]) -> Sequence[Sample]:
        """These samples and others as one sequence, still lazy."""
        return _Concatenated((self, *others))

    def _pixels(self, name: str) -> np.ndarray:
        if name in self._cache:
            self._cache.move_to_end(name)
            return self._cache[name]
        from PIL import Image

        path = self.folder / "screens" / f"{name}.png"
        with Image.open(path) as picture:
            pixels = np.asarray(picture.convert("RGB"))
        self._cache[name] = pixels
        if len(self._cache) > self._most:
            self._cache.popitem(last=False)
        return pixels

    def __repr__(self) -> str:
        return f"Demonstrations({str(self.folder)!r}, {len(self)} samples)"


class _Concatenated(Sequence[Sample]):
    def __init__(self, parts: Sequence[Sequence[Sample]]) -> None:
        self._parts = parts
        self._ends = np.cumsum([len(part) for part in parts])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def heads(self) -> list[tuple[str, int]]:
        """Of each sample its task and seed."""
        return [
            head
            for part in self._parts
            for head in (
                part.heads()
                if isinstance(part, Demonstrations | _Concatenated)
                else [(sample.task, sample.seed) for sample in part]
            )
        ]

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(len(self)))]
        at = range(len(self))[index]
        part = int(np.searchsorted(self._ends, at, side="right"))
        return self._parts[part][at - (int(self._ends[part - 1]) if part else 0)]


def _wrong(
    wanted: Wanted, elements: Sequence[Element], screen: Screen, random: np.random.Generator
) -> Action:
    """A click on something else that is seen, or anywhere but where it is wanted."""
    rows, columns = screen.size
    box = wanted.box or (-1.0, -1.0, -1.0, -1.0)

    def outside(x: float, y: float) -> bool:
        return not (box[0] <= x <= box[2] and box[1] <= y <= box[3])

    others = [
        (
            element.text,
            ((element.box[0] + element.box[2]) / 2, (element.box[1] + element.box[3]) / 2),
        )
        for element in elements
    ]
    others = [(text, point) for text, point in others if outside(*point)]
    if others and random.random() < 0.7:
        text, point = others[int(random.integers(len(others)))]
        return Action("click", {"start_box": point}, thought=f'Click "{text}".')
    for _ in range(20):
        x, y = float(random.integers(columns)), float(random.integers(rows))
        if outside(x, y):
            break
    return Action("click", {"start_box": (x, y)}, thought="Click here.")


def _state(exercise: Exercise) -> tuple[float | None, Wanted | None, tuple[Element, ...]]:
    if isinstance(exercise, DomExercise):
        return exercise.state()
    reward = exercise.reward()
    return (reward, None, ()) if reward is not None else (
        None, exercise.wanted(), exercise.elements()
    )  # fmt: skip


def demonstrate(
    task: Task,
    browser: Any,
    seed: int,
    *,
    screenshots: int = 5,
    noise: float = 0.0,
    random_state: int | np.random.Generator | None = None,
) -> tuple[list[Sample], float]:
    """Leads an exercise by what is wanted, and keeps each step as a sample.

    Args:
        task: With exercises that know what is wanted.
        browser: A `Browser`.
        seed: Of the exercise.
        screenshots: The last ones that a sample holds.
        noise: Probability that a step takes a wrong action, which the sample names as rejected,
            before the right one; it may end an exercise.
        random_state: Seed or generator of the wrong actions (None: the exercise's seed).

    Returns:
        The samples, and the page's reward in the end (0 for an exercise without one).

    Raises:
        OperatorError: A page that does not start or answer.
    """
    random = np.random.default_rng(seed if random_state is None else random_state)
    exercise = task.start(browser, seed)
    samples: list[Sample] = []
    screens: list[Screen] = []
    history: list[Action] = []
    slipped = False
    try:
        reward, wanted, elements = _state(exercise)
        while reward is None and wanted is not None and len(history) < 2 * task.max_steps:
            screens.append(exercise.operator.screenshot())
            slips = not slipped and random.random() < noise
            action = _wrong(wanted, elements, screens[-1], random) if slips else wanted.action
            context = Context(exercise.instruction, tuple(screens[-screenshots:]), tuple(history))
            rejected = (action,) if slips else ()
            samples.append(
                Sample(context, wanted, elements, rejected, task.name, seed, len(history))
            )
            exercise.operator.execute(action)
            history.append(action)
            slipped = slips
            reward, wanted, elements = _state(exercise)
    finally:
        exercise.close()
    return samples, 0.0 if reward is None else reward
