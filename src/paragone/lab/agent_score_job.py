"""`agent score`: how often an agent succeeds, as the shell calls it.

Importing this module loads the standard library alone.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from paragone._core.errors import UsageError

__all__ = ["AgentScored", "ScreenSpotScored", "score"]

_ROWS = {"random-click": "random", "first-widget": "first widget", "oracle": "oracle"}
_SHOWN = 24
"""Episodes of a replay."""


@dataclass(frozen=True)
class AgentScored:
    """Scores of an agent and of the rows beside it; `str()` is what the shell prints.

    Attributes:
        agent: Its folder or name.
        scores: Row to what `Scores.as_dict` says; the agent's comes first.
        above: Row to how the agent stands to it, in words.
        files: What was written.
        notes: What a reader must know.
    """

    agent: str
    scores: dict[str, dict[str, Any]]
    above: dict[str, str] = field(default_factory=dict)
    files: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def json(self) -> str:
        return json.dumps({
            "agent": self.agent, "scores": self.scores, "above": self.above, "files": self.files,
            "notes": self.notes,
        })  # fmt: skip

    @property
    def _own(self) -> dict[str, Any]:
        return next(iter(self.scores.values()))

    def _line(self, name: str, row: dict[str, Any], others: list[str], wide: int) -> str:
        share = f"{100 * row['success']:5.1f} [{100 * row['low']:.0f}, {100 * row['high']:.0f}]"
        rest = "".join(f"  {text:>12}" for text in others)
        return f"{name:<{wide}}  {share:<17}{rest}  {row['steps']:>5.1f}  {row['step_ms']:>9.0f}"

    def _table(self) -> list[str]:
        own, others = self._own, list(self.scores.items())[1:]
        tasks = own["tasks"]
        total = f"mean of {len(tasks)}"
        wide = max(len(total), 4, *(len(row["task"]) for row in tasks))
        heads = "".join(f"  {_ROWS.get(name, name):>12}" for name, _ in others)
        lines = [f"{'task':<{wide}}  {'agent, %':<17}{heads}  steps  ms a step"]
        for number, row in enumerate(tasks):
            beside = [f"{100 * other['tasks'][number]['success']:{len(name)}.1f}"
                      for name, other in others]  # fmt: skip
            lines.append(self._line(row["task"], row, beside, wide))
        if len(tasks) > 1:
            beside = [f"{100 * other['success']:{len(name)}.1f}" for name, other in others]
            lines.append(self._line(total, own, beside, wide))
        return lines

    def _sentence(self) -> str:
        own = self._own
        count = len(own["tasks"])
        episodes = sum(row["episodes"] for row in own["tasks"])
        text = (
            f"{self.agent} succeeds in {100 * own['success']:.1f} % "
            f"[{100 * own['low']:.1f}, {100 * own['high']:.1f}] of {episodes} episodes of "
            f"{count} task{'s' * (count != 1)} with seeds never trained on"
        )
        if "random-click" in self.above:
            text += f", {self.above['random-click']} against random clicks"
        return text + (
            f"; a step takes {own['step_ms']:.0f} ms, browser included (agent "
            f"{own['policy_ms']:.0f}, browser {own['browser_ms']:.0f})."
        )

    def __str__(self) -> str:
        own = self._own
        lines = [*self._table(), "", self._sentence()]
        lines += [f"{self.agent} less {name}, on the same exercises: {told}"
                  for name, told in self.above.items() if name not in _ROWS]  # fmt: skip
        if (unseen := own["unseen_instructions"]) is not None:
            told = "no episode had one"
            if unseen["episodes"]:
                told = f"{unseen['hits']} of {unseen['episodes']} episodes succeed "
                told += f"[{100 * unseen['low']:.0f}, {100 * unseen['high']:.0f}] %"
            lines.append(f"instructions never seen in training: {told}")
        ends = ", ".join(f"{name} {count}" for name, count in own["outcomes"].items())
        lines.append(f"episodes ended by: {ends}")
        lines += self.notes
        lines += [f"written: {', '.join(self.files)}"] if self.files else []
        return "\n".join(lines)


@dataclass(frozen=True)
class ScreenSpotScored:
    """What predictions of a grounding benchmark are worth."""

    benchmark: str
    found: Any

    def json(self) -> str:
        told = {"benchmark": self.benchmark, "accuracy": self.found.accuracy,
                "by_group": self.found.by_group}  # fmt: skip
        return json.dumps(told, default=_plain)

    def __str__(self) -> str:
        return str(self.found)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    found = getattr(value, "__dict__", None)
    return dict(found) if dataclasses.is_dataclass(value) and found else str(value)


def _asked(folder: Path) -> dict[str, Any]:
    """What a training was asked for: the agent's, or that of the run that its folder is in."""
    for path in (folder / "stages.json", folder.resolve().parent / "stages.json"):
        if path.is_file():
            try:
                found = json.loads(path.read_text(encoding="utf-8"))
            except ValueError as error:
                raise UsageError(f"{path}: no JSON ({error})") from error
            asked = found.get("asked", found) if isinstance(found, dict) else {}
            return asked if isinstance(asked, dict) else {}
    return {}


def _texts(found: Any) -> list[str]:
    listed = [found] if isinstance(found, str) else found if isinstance(found, list) else []
    return [one for one in listed if isinstance(one, str) and one]


def _taught(folder: Path, data: str | None) -> list[Path]:
    """Folders in which the demonstrations of an agent lie."""
    if data is not None:
        return [Path(data)]
    given = [Path(one) for one in _texts(_asked(folder).get("demonstrations"))]
    inside = folder.resolve()
    run = inside.parent if (inside.parent / "stages.json").is_file() else inside
    return [run, *(path for path in given if path.is_dir())]


def _instructions(*folders: Path) -> set[str] | None:
    """All that training was told, from the demonstrations in folders; None: there are none."""
    files = sorted({path for folder in folders for path in folder.rglob("samples.jsonl")})
    if not files:
        return None
    found: set[str] = set()
    for path in files:
        with path.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                try:
                    found.add(" ".join(str(json.loads(line)["instruction"]).split()))
                except (ValueError, KeyError, TypeError):
                    # The last line of a run that was killed.
                    continue
    return found


def score(
    agent: str | None = None,
    *,
    tasks: str = "",
    against: str = "",
    episodes: int = 20,
    seed: int = 1_000_000,
    workers: int = 1,
    threads: int | None = None,
    max_steps: int | None = None,
    no_baselines: bool = False,
    data: str | None = None,
    out: str | None = None,
    kept: int = 2,
    fresh: bool = False,
    screenspot: str = "",
    predictions: str = "",
    benchmark: str = "screenspot-pro",
    dialect: str = "ui-tars-1.5",
    space: str = "",
    images: str = "",
    progress: Callable[[Any], None] | None = None,
) -> AgentScored | ScreenSpotScored:
    """Says how often an agent succeeds in a real browser. The same call goes on after Ctrl-C.

    Beside it stand clicks at random, clicks on one widget after another, and an oracle that reads
    the page, all on the same exercises. Writes scores.json, episodes.jsonl, replay.html and film
    strips of the first failures and successes.

    Args:
        agent: A trained agent's folder; random-click, first-widget or oracle for one of these.
        tasks: Such as miniwob:12 or miniwob:click-test,focus-text,pages:form; without it, those
            that the agent was trained on.
        against: Folders of other agents, with commas: they do the same exercises, and the
            difference is told with its interval.
        episodes: Episodes of each task.
        seed: Seed of the first; those below 1,000,000 are for training.
        workers: Processes with a browser each.
        threads: Threads of torch in each.
        max_steps: Most steps of an episode; without it, the task's.
        no_baselines: Leave out the rows beside the agent.
        data: Demonstrations that training had, to report instructions apart that it never had;
            without it, those in the agent's folder.
        out: Folder for what is written; AGENT/score without it.
        kept: Failures and successes of each task that are kept for replays.
        fresh: Start anew.
        screenspot: An annotation file of ScreenSpot, in place of tasks.
        predictions: The file of predictions that goes with it.
        benchmark: screenspot, screenspot-v2 or screenspot-pro.
        dialect: Of predictions that are texts.
        space: Where points of predictions lie: pixels, resized, relative-1 or relative-1000;
            without it, as the dialect has it, and bare points in pixels.
        images: Folder of the screenshots, where the annotations do not tell their sizes.
        progress: Called after each episode.
    """
    from paragone.lab.vl_job import words

    if screenspot or predictions:
        how = {"dialect": dialect, "space": space or None, "images": images or None}
        return _screenspot(screenspot, predictions, benchmark, how)
    if agent is None:
        raise UsageError("name an agent's folder, or give --screenspot and --predictions")
    if episodes < 1 or workers < 1 or kept < 0 or seed < 0:
        raise UsageError(
            f"--episodes {episodes} --workers {workers} --kept {kept} --seed {seed}: expected at "
            "least 1, 1, 0 and 0"
        )
    beside = [*words(against, "--against"), *([] if no_baselines else _ROWS)]
    try:
        return _scored(
            agent, tasks, beside, data, out, fresh, threads,
            {"episodes": episodes, "first_seed": seed, "workers": workers, "max_steps": max_steps,
             "kept": kept},
            progress,
        )  # fmt: skip
    except (ValueError, FileNotFoundError, NotADirectoryError) as error:
        raise UsageError(str(error)) from error


def _screenspot(
    annotations: str, predictions: str, benchmark: str, how: dict[str, Any]
) -> ScreenSpotScored:
    if not annotations or not predictions:
        raise UsageError("--screenspot and --predictions go together: a file for each")
    for name, path in (("--screenspot", annotations), ("--predictions", predictions)):
        if not Path(path).exists():
            raise UsageError(f"{name}: {path}: no such file")
    from paragone._core.lazy import resolve

    count = resolve("paragone.multimodal.agent.screenspot:score_screenspot")
    try:
        return ScreenSpotScored(benchmark, count(annotations, predictions, benchmark, **how))
    except (ValueError, OSError) as error:
        raise UsageError(str(error)) from error


def _place(agent: str, out: str | None) -> Path:
    if out is not None:
        return Path(out)
    return Path(agent) / "score" if Path(agent).is_dir() else Path("runs") / f"score-{agent}"


def _scored(
    agent: str, tasks: str, beside: list[str], data: str | None, out: str | None, fresh: bool,
    threads: int | None, options: dict[str, Any], progress: Callable[[Any], None] | None,
) -> AgentScored:  # fmt: skip
    known = agent in _ROWS
    for name in (agent, *beside):
        if name not in _ROWS and not Path(name).is_dir():
            raise UsageError(
                f"{name}: no such folder; paragone agent train makes one, and {', '.join(_ROWS)} "
                "are agents without training"
            )
    if data is not None and not Path(data).is_dir():
        raise UsageError(f"--data {data}: no such folder of demonstrations")
    names = [tasks] if tasks else [] if known else _texts(_asked(Path(agent)).get("tasks"))
    if not names:
        raise UsageError(f"{agent} does not tell what it was trained on: give --tasks miniwob:12")
    from paragone._core.lazy import resolve
    from paragone.multimodal.agent.scoring import score as count

    if threads is not None:
        resolve("torch").set_num_threads(threads)
    opened = resolve("paragone.multimodal.agent.open_tasks:open_tasks")(names)
    folder = _place(agent, out)
    if fresh and (folder / "episodes.jsonl").exists():
        (folder / "episodes.jsonl").unlink()
        shutil.rmtree(folder / "episodes", ignore_errors=True)
    seen = None if known and data is None else _instructions(*_taught(Path(agent), data))
    rows = list(dict.fromkeys([agent, *beside]))
    total = len(rows) * len(opened) * options["episodes"]
    found = {}
    for number, row in enumerate(rows):
        tell = _telling(progress, number * total // len(rows), total)
        found[row] = count(row, opened, out=folder, seen=seen, threads=threads, progress=tell,
                           **options)  # fmt: skip
    own = found[agent]
    above = {row: str(own.difference(other)) for row, other in found.items() if row != agent}
    files = _written(folder, {row: one.as_dict() for row, one in found.items()}, above, own)
    notes = _notes(found, agent, options["first_seed"])
    return AgentScored(
        agent, {row: one.as_dict() for row, one in found.items()}, above, files, notes
    )


def _telling(
    progress: Callable[[Any], None] | None, before: int, total: int
) -> Callable[[Any, int, int], None] | None:  # fmt: skip
    """Episodes as steps of one run."""
    if progress is None:
        return None
    from paragone.language.fitting import Progressed

    hits: list[bool] = []

    def tell(one: Any, done: int, count: int) -> None:
        hits.append(one.success)
        step = before + done
        share = {"success": sum(hits) / len(hits)}
        progress(Progressed("step", step=step, steps=total, metrics=share, done=step / total))

    return tell


def _notes(found: dict[str, Any], agent: str, first_seed: int) -> tuple[str, ...]:
    notes = []
    if first_seed < 1_000_000:
        notes.append("these seeds are for training: the agent may have seen these very exercises")
    oracle = found.get("oracle")
    if oracle is not None and agent != "oracle" and oracle.success < 1:
        short = [row.task for row in oracle.tasks if row.success < 1]
        notes.append(f"the oracle itself does not always succeed in {', '.join(short)}")
    widget = found.get("first-widget")
    if widget is not None and agent != "first-widget" and found[agent].success <= widget.success:
        notes.append("clicking one widget after another does as well: no sign of reading")
    return tuple(notes)


def _written(
    folder: Path, scores: dict[str, Any], above: dict[str, str], own: Any
) -> tuple[str, ...]:  # fmt: skip
    """Scores, a replay and film strips of the agent's kept episodes."""
    from paragone._core.lazy import resolve

    path = folder / "scores.json"
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps({"scores": scores, "above": above}, indent=1), encoding="utf-8")
    os.replace(partial, path)
    kept = [one for one in own.attempts if one.kept and Path(one.kept).is_dir()]
    if not kept:
        return (str(path),)
    load = resolve("paragone.multimodal.agent.loop:Episode").load
    strip = resolve("paragone.multimodal.agent.replay:film_strip")
    save = resolve("paragone.multimodal._pictures_out:save_png")
    # Failures first: they are what one looks for.
    kept.sort(key=lambda one: one.success)
    episodes = [load(one.kept) for one in kept[:_SHOWN]]
    strips = folder / "strips"
    for one, episode in zip(kept, episodes, strict=False):
        name = "".join(c if c.isalnum() else "-" for c in one.task)
        save(
            strip(episode), strips / f"{name}-{one.seed}-{'done' if one.success else 'failed'}.png"
        )
    page = folder / "replay.html"
    resolve("paragone.multimodal.agent.replay:write_replay")(episodes, page)
    return str(path), str(page), str(strips)
