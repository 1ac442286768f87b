r"""Training of an agent for one's own pages: one call, one budget, and it goes on where it ended.

The stages, and what each adds:

1. collect: a judge that reads the page's DOM leads exercises; its steps are demonstrations, some
   behind a wrong one, so that mending is seen, too.
2. imitate: the agent learns to say what the judge did, from pixels. What it is then is kept in
   `sft/`, to compare with.
3. mistakes: it leads, and where it errs the judge says what was right and mends it.
4. bootstrap: it leads with a temperature, and successes that pass all filters are kept.
5. again: imitation goes on, with both.
6. prefer: right actions against its own wrong ones, by direct preference.
7. check: the last two agents do a few exercises that they have not seen; the better one stays.

Minimised in 2 and 5 is the likelihood of the present action alone, in 6 the loss of `prefer`:

$$ L_2 = -\sum_n \log \pi(t_n, a_n | s_n), \qquad
   L_6 = -\log \sigma(\beta \Delta) - \lambda \log \pi(a_w | s) . $$

Seeds below 1,000,000 are for training, and each stage has its own; scores use those above. All
stages may be interrupted at any moment, and the same call goes on. The run's folder is a model's
folder from the moment that there is a model.

Cost: what was asked for, in minutes; a little more where a browser's last exercise or a last
validation ends late.

References:
    Qin et al. (2025), UI-TARS, arXiv:2501.12326, sections 4.4 and 4.5.
    Ross et al. (2011), arXiv:1011.0686.

Shapes: none; tasks go in, an agent comes out.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from paragone.language._train_setup import threads_of
from paragone.multimodal.agent._mistakes import FAULTS
from paragone.multimodal.agent._train_run import Parts, Run, TrainedAgent
from paragone.multimodal.agent._train_stages import AgentTraining, Ledger, shares_of
from paragone.multimodal.agent.contract import Sample, Task
from paragone.multimodal.agent.demonstrations import Demonstrations

__all__ = ["AgentTraining", "Parts", "TrainedAgent", "built", "train_agent"]

_TEXTS = 3000
"""Demonstrations that the vocabulary is learned from."""
_EXERCISES = 3
"""Exercises that a word is seen in at least; one of fewer is spelled, as unseen ones will be."""
_OWN = (
    "stages.json", "metrics.jsonl", "demonstrations", "mistakes", "bootstrap", "check", "imitation",
    "sft", "again", "preference",
)  # fmt: skip


def built(samples: Sequence[Sample], *, encoder: str, preset: str, history: int, seed: int) -> Any:
    """A new `UITars` whose vocabulary is that of the samples.

    Args:
        samples: What will be learned.
        encoder: What sees.
        preset: Sizes by name.
        history: Screenshots that it is shown.
        seed: Of the weights.
    """
    import torch

    from paragone.multimodal._ui_tars_samples import texts_of
    from paragone.multimodal._ui_tars_words import Words
    from paragone.multimodal.ui_tars import UITars

    every = max(1, len(samples) // _TEXTS)
    shown = (samples[at] for at in range(0, len(samples), every))
    words = Words.learn([*(FAULTS * _EXERCISES), *texts_of(shown)], at_least=_EXERCISES)
    return UITars.from_config(
        preset, encoder=encoder, words=words, generator=torch.Generator().manual_seed(seed),
        screenshots=history,
    )  # fmt: skip


def train_agent(
    tasks: str | Sequence[str] | Sequence[Task] | None,
    *,
    minutes: float,
    out: str | os.PathLike[str],
    demonstrations: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None = None,
    encoder: str = "patches",
    preset: str = "small",
    history: int | None = None,
    reflect: bool = True,
    workers: int = 2,
    seed: int = 0,
    device: str = "auto",
    threads: int | None = None,
    fresh: bool = False,
    shares: Mapping[str, float] | None = None,
    noise: float = 0.15,
    progress: Callable[[AgentTraining], None] | None = None,
    parts: Parts | None = None,
) -> TrainedAgent:
    """Trains an agent on tasks; the same call with the same folder goes on.

    Args:
        tasks: Names for `open_tasks`, or tasks; None with demonstrations: no page is opened, and
            there is nothing but imitation.
        minutes: Budget, by the clock, over all calls.
        out: The run's folder, and the agent's.
        demonstrations: Folders to learn from; nothing is collected then.
        encoder: What sees: "patches", "moonvit" or "vq".
        preset: Sizes by name, as in `UITars.from_config`.
        history: Screenshots that the agent is shown (None: the preset's).
        reflect: Whether it learns from its mistakes and successes.
        workers: Browsers at once; 1: in this process.
        seed: Of weights, order and exercises.
        device: "auto", "cpu", "cuda" and so on.
        threads: Threads of torch; None: as they are.
        fresh: Whether to start anew.
        shares: Shares of the budget that differ from `SHARES`, by stage.
        noise: Share of the judge's steps behind a wrong one.
        progress: Called with each event.
        parts: What it is made with (None: the usual).

    Raises:
        ValueError: An argument out of range, a name that means no task, or a folder of another run.
        FileNotFoundError: A folder without demonstrations.
        MissingPackageError: What drives a browser is missing.
        OperatorError: No browser starts.
        KeyboardInterrupt: Ctrl-C, after the state was written.
    """
    named = [demonstrations] if isinstance(demonstrations, str | os.PathLike) else demonstrations
    folders = [os.fspath(folder) for folder in named or ()]
    _checked(minutes, workers, history, noise, bool(folders), tasks)
    opened = _opened(tasks)
    untaught = [task.name for task in opened if not getattr(task, "taught", True)]
    if untaught:
        raise ValueError(
            f"tasks: {', '.join(untaught)}: nobody knows what is right there, so it can be scored "
            "and not be learned"
        )
    given = [Demonstrations(folder) for folder in folders]
    for one in given:
        if not len(one):
            raise ValueError(f"{one.folder}: there is no sample in it; record or generate some")
    split = shares_of(shares, collects=not given, reflects=reflect and bool(opened))
    if not opened:
        split.pop("check", None)
    usual = _usual_history(preset, encoder)
    asked = {
        "tasks": [task.name for task in opened], "minutes": minutes, "demonstrations": folders,
        "encoder": encoder, "preset": preset, "history": history or usual, "seed": seed,
        "noise": noise,
        "shares": split, "parts": dataclasses.asdict(parts or Parts()),
    }  # fmt: skip
    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder}: expected a folder for the run, found a file")
    folder.mkdir(parents=True, exist_ok=True)
    if fresh:
        _emptied(folder)
    ledger = Ledger(folder, asked, split, 60.0 * minutes, progress)
    run = Run(folder, ledger, opened, given, workers, device, parts or Parts())
    try:
        with threads_of(threads):
            return run.all()
    finally:
        ledger.write()


def _checked(
    minutes: float, workers: int, history: int | None, noise: float, given: bool, tasks: Any
) -> None:
    if not 0 < minutes < float("inf"):
        raise ValueError(f"minutes={minutes}: more than 0 is expected, such as 30")
    if workers < 1:
        raise ValueError(f"workers={workers}: at least 1 is expected")
    if history is not None and not 1 <= history <= 5:
        raise ValueError(f"history={history}: 1 to 5 screenshots are expected")
    if not 0 <= noise <= 1:
        raise ValueError(f"noise={noise}: a share from 0 to 1 is expected")
    if not tasks and not given:
        raise ValueError(
            "there is nothing to learn from: name tasks, such as miniwob:click-test-2,focus-text, "
            "or folders of demonstrations"
        )


def _opened(tasks: Any) -> list[Task]:
    if not tasks:
        return []
    if isinstance(tasks, str) or all(isinstance(task, str) for task in tasks):
        from paragone.multimodal.agent.open_tasks import open_tasks

        return open_tasks(tasks)
    return list(tasks)


def _usual_history(preset: str, encoder: str) -> int:
    """The preset's; what there is none of is refused before anything is collected."""
    from paragone.multimodal._ui_tars_config import UITarsConfig

    return UITarsConfig.of(preset, encoder=encoder).screenshots


def _emptied(folder: Path) -> None:
    """Takes away what an earlier run has left; what is not a run's stays."""
    for name in _OWN:
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
