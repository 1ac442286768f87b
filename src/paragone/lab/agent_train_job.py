"""`agent train`: training of an agent as the shell calls it.

Importing this module loads the standard library alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from paragone._core.errors import UsageError

__all__ = ["Trained", "train"]


@dataclass(frozen=True)
class Trained:
    """A finished training; `str()` is what the shell prints."""

    folder: str
    success: dict[str, float]
    seconds: float
    stages: dict[str, dict[str, Any]]
    notes: tuple[str, ...] = field(default=())

    def json(self) -> str:
        return json.dumps({
            "folder": self.folder, "success": self.success, "seconds": round(self.seconds, 1),
            "stages": self.stages, "notes": self.notes,
        })  # fmt: skip

    def __str__(self) -> str:
        from paragone.lab import format as fmt

        lines = [f"{self.folder}: an agent, trained for {fmt.seconds(self.seconds)}"]
        lines += [f"{name:<10}  {_told(stage)}" for name, stage in self.stages.items()]
        if self.success:
            width = max(map(len, self.success))
            tries = self.stages.get("check", {}).get("exercises", 0)
            lines.append(f"success on {tries} unseen exercises of training, a few of each task:")
            lines += [f"  {name:<{width}}  {share:.0%}" for name, share in self.success.items()]
            mean = sum(self.success.values()) / len(self.success)
            lines.append(f"  {'mean':<{width}}  {mean:.0%}")
        lines += self.notes
        lines.append(f"next: paragone agent score {self.folder}")
        return "\n".join(lines)


def _told(stage: dict[str, Any]) -> str:
    """What a stage came to, in a line."""
    parts = []
    for name in ("exercises", "samples", "step", "pairs"):
        if name in stage:
            parts.append(f"{stage[name]:,} {name if name != 'step' else 'steps'}")
    for name in ("success", "mistakes"):
        shares = stage.get(name)
        if isinstance(shares, dict) and shares:
            parts.append(f"{name} {sum(shares.values()) / len(shares):.0%}")
    for name in ("right", "accuracy"):
        if name in stage:
            parts.append(f"{name} {stage[name]:.0%}")
    for name in ("loss", "margin"):
        if name in stage:
            parts.append(f"{name} {stage[name]:.3f}")
    refused = {k: v for k, v in stage.get("refused", {}).items() if k != "kept" and v}
    if refused:
        parts.append("refused: " + ", ".join(f"{name} {count}" for name, count in refused.items()))
    return "  ".join(parts) or "nothing to do"


def train(
    *,
    tasks: str = "",
    minutes: float = 30.0,
    out: str | None = None,
    demonstrations: str = "",
    encoder: Literal["patches", "moonvit", "vq"] = "patches",
    preset: str = "small",
    history: int | None = None,
    no_reflect: bool = False,
    workers: int = 2,
    noise: float = 0.15,
    shares: str = "",
    seed: int = 0,
    threads: int | None = None,
    device: str = "auto",
    fresh: bool = False,
    progress: Callable[[Any], None] | None = None,
) -> Trained:
    """Trains an agent on tasks. The same call continues, also after Ctrl-C.

    The run's folder is an agent's folder: `agent run` and `agent score` open it.

    Args:
        tasks: What is learned, such as miniwob:click-test-2,focus-text or miniwob:12, pages:all, or
            file:FOLDER for one's own pages.
        minutes: Time for the run, over all calls.
        out: The run's folder; runs/agent without it.
        demonstrations: Folders of `agent record` or `agent generate` to learn from, with commas;
            nothing is collected then.
        encoder: What sees: patches, moonvit or vq.
        preset: Size of the agent: tiny, small or medium.
        history: Screenshots that it is shown, 1 to 5; without it, the preset's.
        no_reflect: Imitation alone, without learning from mistakes and successes.
        workers: Browsers at once.
        noise: Share of demonstrated steps behind a wrong one.
        shares: Other shares of the time, such as collect=0.3,imitate=0.5.
        seed: Seed of weights, order and exercises.
        threads: Threads of torch.
        device: Where it is trained: auto, cpu, cuda.
        fresh: Start anew.
        progress: Called with each event.
    """
    from paragone.lab.vl_job import words

    folder = out or "runs/agent"
    folders = list(words(demonstrations, "--demonstrations"))
    parted = _shares(shares)
    try:
        from paragone.multimodal.agent.contract import OperatorError
        from paragone.multimodal.agent.train_agent import train_agent

        try:
            done = train_agent(
                tasks, minutes=minutes, out=folder, demonstrations=folders, encoder=encoder,
                preset=preset, history=history, reflect=not no_reflect, workers=workers,
                noise=noise, shares=parted, seed=seed, threads=threads, device=device,
                fresh=fresh, progress=progress,
            )  # fmt: skip
        except OperatorError as error:
            raise UsageError(str(error)) from error
    except UsageError:
        raise
    except (ValueError, FileNotFoundError) as error:
        raise UsageError(str(error)) from error
    return Trained(str(done.folder), done.success, done.seconds, done.stages, done.notes)


def _shares(text: str) -> dict[str, float] | None:
    """Shares out of a text such as collect=0.3,imitate=0.5."""
    from paragone.lab.vl_job import words

    found = {}
    for part in words(text, "--shares"):
        name, equals, value = part.partition("=")
        try:
            found[name.strip()] = float(value)
        except ValueError:
            equals = ""
        if not equals:
            raise UsageError(f"--shares: {part!r} is not understood; write it like collect=0.3")
    return found or None
