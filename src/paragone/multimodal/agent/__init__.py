"""Agents that see screenshots: actions, coordinates, operators, tasks, learning and scores.

A policy (`paragone.multimodal.UITars`, or anything with `propose`) reads an instruction and
screenshots and answers with a thought and an action in a small grammar. `parse` reads it, `run`
leads it through a browser (`BrowserOperator`) or a desktop (`DesktopOperator`), `train_agent`
teaches it from demonstrations and from its own mistakes, and `score` says how often it succeeds.
"""

from paragone._core.lazy import lazy_exports

_MODULES = {
    "actions": ("ACTIONS", "DIALECTS", "Action", "ActionError", "format_action", "parse"),
    "coordinates": ("Coordinates", "smart_resize"),
    "contract": (
        "Context", "Element", "Exercise", "Operator", "OperatorError", "Policy", "Sample",
        "Screen", "Task", "Wanted",
    ),
    "browser": ("Browser", "BrowserOperator"),
    "desktop": ("DesktopOperator",),
    "dry": ("DryOperator",),
    "loop": ("Episode", "Step", "run"),
    "replay": ("film_strip", "write_replay"),
    "screenspot": ("score_screenspot",),
    "open_tasks": ("open_tasks", "view_of"),
    "miniwob": ("MiniWobTask",),
    "pages": ("FileTask", "PageTask"),
    "demonstrations": ("DemonstrationWriter", "Demonstrations", "demonstrate"),
    "collecting": ("collect",),
    "recording": ("record",),
    "imitation": ("imitate",),
    "published": ("PublishedPolicy", "is_published", "open_published"),
    "reflection": ("find_mistakes", "prefer"),
    "bootstrap": ("bootstrap",),
    "train_agent": ("train_agent",),
    "scoring": ("score",),
    "baselines": ("FirstWidget", "Oracle", "RandomClick"),
}  # fmt: skip

_TARGETS = {
    name: f"paragone.multimodal.agent.{module}:{name}"
    for module, names in _MODULES.items()
    for name in names
}
_TARGETS["format"] = "paragone.multimodal.agent.actions:format_action"

__getattr__, __dir__ = lazy_exports(__name__, _TARGETS)

__all__ = [*_TARGETS]  # pyright: ignore[reportUnsupportedDunderAll]
