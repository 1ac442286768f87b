"""The rivals of the studies `memory` and `memory_speed`: strings only."""

from __future__ import annotations

from typing import Any

from paragone.lab.spec import Contestant

__all__ = ["contestants", "for_speed"]

_HERE = "paragone.lab.contestants.planners:"
_PLAN = {"target": "paragone.training.memory:plan"}


def _ours(id: str, title: str, name: str, note: str, **more: Any) -> Contestant:
    return Contestant(id=id, title=title, make=_HERE + name, params=_PLAN, method="memory",
                      note=note, **more)  # fmt: skip


def _rule(id: str, title: str, name: str, note: str, **more: Any) -> Contestant:
    return Contestant(id=id, title=title, make=_HERE + name, origin="baseline", note=note, **more)


_TRACKER = Contestant(
    id="torch_memory", title="torch MemTracker", make=_HERE + "tracker", origin="rival",
    distribution="torch", install="pip install torch", needs={"kind": ["measured"]},
    note="torch.distributed._tools: two steps of the whole model on fake tensors",
)  # fmt: skip


def contestants() -> list[Contestant]:
    """Ours by tracing and by arithmetic, torch's tracker, and the rules people use."""
    return [
        _ours("memory", "paragone", "ours", "a module is traced; a name or config is counted"),
        _ours("memory_config", "paragone, config only", "ours_by_config",
              "arithmetic on a config's numbers; fused norms assumed",
              needs={"name": ["gpt", "llama", ""]}),
        _TRACKER,
        _rule("sixteen", "16 B a parameter", "sixteen",
              "ZeRO's model states; accelerate's 4x the fp32 weights is the same"),
        _rule("textbook", "16 B + 34 sbh", "textbook", "Korthikanti's activations on top",
              needs={"kind": ["published"]}),
        _rule("deepspeed", "DeepSpeed's formula", "deepspeed",
              "states of ZeRO-3: 18 B a parameter, 4 of the largest layer; no activations"),
    ]  # fmt: skip


def for_speed() -> list[Contestant]:
    """Who traces a model faster."""
    return [_ours("memory", "paragone", "ours", "traced on fake tensors"), _TRACKER]
