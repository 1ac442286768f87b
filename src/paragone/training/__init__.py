"""Training systems: optimizers, precision, memory, collectives.

Start with `AdamW` in place of torch's; ask `memory.plan` whether a run will fit before it starts,
`MixedPrecision` whether 16 bits need scaling here, `collectives.cost` which all-reduce to take.
`paragone compare optimizers` shows what each optimizer reaches for the same tuning.
"""

from paragone._core.lazy import lazy_exports

_MODULES = {
    "adam": ("Adam", "AdamW"),
    "sgd": ("SGD",),
    "muon": ("Muon",),
    "lion": ("Lion",),
    "adafactor": ("Adafactor",),
    "schedule_free": ("ScheduleFree",),
    "precision": ("MixedPrecision", "UnderflowRecorder"),
    "zero": ("Zero",),
}

_TARGETS = {
    name: f"paragone.training.{module}:{name}"
    for module, names in _MODULES.items()
    for name in names
} | {name: f"paragone.training.{name}" for name in ("formats", "memory", "collectives")}

__getattr__, __dir__ = lazy_exports(__name__, _TARGETS)

__all__ = [*_TARGETS]  # pyright: ignore[reportUnsupportedDunderAll]
