"""The contestants of the study `optimizers`: strings only.

`space["lr"]` is where the search of the rate begins: in its middle, which is the maker's usual
rate. Decays are such that rate times decay is alike; betas are the same for all of Adam's kin.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from paragone.lab.spec import Contestant

__all__ = ["contestants"]

_HERE = "paragone.training:"
_METHOD = "adamw"
_BETAS = [0.9, 0.95]
_ADAMW: dict[str, Any] = {"betas": _BETAS, "weight_decay": 0.1}
_FREE: dict[str, Any] = {"weight_decay": 0.03}
_LION: dict[str, Any] = {"weight_decay": 1.0}


def _around(rate: float) -> dict[str, Any]:
    return {"lr": {"low": rate / 30, "high": rate * 30, "log": True}}


def _ours(
    id: str, title: str, make: str, rate: float, note: str, params: Mapping[str, Any]
) -> Contestant:
    return Contestant(
        id=id, title=title, make=make, params=params, method=_METHOD, note=note,
        space=_around(rate),
    )  # fmt: skip


def _rival(
    id: str, title: str, make: str, rate: float, distribution: str, params: Mapping[str, Any],
    note: str = "",
) -> Contestant:  # fmt: skip
    return Contestant(
        id=id, title=title, make=make, params=params, origin="rival", note=note,
        distribution=distribution, install=f"pip install {distribution}", space=_around(rate),
    )  # fmt: skip


def contestants() -> list[Contestant]:
    """Eight of ours, and the same work by PyTorch, schedulefree and lion-pytorch."""
    muon = "paragone.lab.contestants.grouped:muon"
    return [
        _ours("adamw", "AdamW", _HERE + "AdamW", 3e-3, "decoupled decay 0.1", _ADAMW),
        _ours("adam", "Adam + L2", _HERE + "Adam", 3e-3, "L2 of 0.001 in the gradient",
              {"betas": _BETAS, "weight_decay": 1e-3}),
        _ours("adamw_8bit", "AdamW, 8-bit states", _HERE + "AdamW", 3e-3,
              "tensors of 4,096 numbers and more keep their moments in 8 bits",
              {**_ADAMW, "states": "8bit"}),
        _ours("muon", "Muon", muon, 3e-3, "vectors, embeddings and head by AdamW, one rate",
              {"target": _HERE + "Muon", "weight_decay": 0.1}),
        _ours("lion", "Lion", _HERE + "Lion", 3e-4, "decoupled decay 1.0", _LION),
        _ours("adafactor", "Adafactor", _HERE + "Adafactor", 3e-2,
              "steps relative to the parameter; the schedule of all in place of its own",
              {"relative": False, "weight_decay": 0.01}),
        _ours("schedule_free", "Schedule-Free AdamW", _HERE + "ScheduleFree", 1e-2,
              "constant rate after the rise", _FREE),
        _ours("sgd", "SGD, momentum", _HERE + "SGD", 0.1, "Nesterov, momentum 0.9, L2 of 0.0005",
              {"momentum": 0.9, "nesterov": True, "weight_decay": 5e-4}),
        _rival("torch_adamw", "torch {version} AdamW", "torch.optim:AdamW", 3e-3, "torch",
               {**_ADAMW, "fused": True}, "fused"),
        _rival("schedulefree", "schedulefree {version}", "schedulefree:AdamWScheduleFree", 1e-2,
               "schedulefree", {**_FREE, "foreach": False}),
        _rival("lion_pytorch", "lion-pytorch {version}", "lion_pytorch:Lion", 3e-4,
               "lion-pytorch", _LION),
    ]  # fmt: skip
