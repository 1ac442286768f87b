"""The contestants of `multi_token_training`: the next token alone, and further ones beside it.

A stranger's contestant is a function of a `Llama` that returns a module as
`lab.tasks.multi_token_training.Objective` says.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from paragone._core.lazy import resolve
from paragone.lab.contestants.scaling import SPREAD
from paragone.lab.spec import Contestant

__all__ = ["Ahead", "NextToken", "ahead", "contestants", "next_token"]


class NextToken(nn.Module):
    """The usual loss.

    Args:
        model: A `Llama`.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.model(ids[:, :-1]).logits
        loss = functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        return loss, loss.detach()

    def agreed(self, ids: Tensor) -> list[float]:
        return []


def next_token(model: Any) -> NextToken:
    """Next tokens alone."""
    return NextToken(model)


class Ahead(nn.Module):
    """The usual loss, and that of further tokens beside it.

    Args:
        model: A `Llama`.
        depth: Further tokens.
        kind: "sequential" (modules as in DeepSeek-V3) or "parallel" (heads as Meta's).
        weight: As in `MultiTokenPrediction.losses`.
    """

    def __init__(self, model: Any, depth: int, kind: str, weight: float) -> None:
        super().__init__()
        self.model, self.weight = model, weight
        here = "paragone.language.multi_token_prediction:MultiTokenPrediction"
        self.heads = resolve(here)(model, depth, kind=kind)
        self.modules_ahead = self.heads.modules
        with torch.no_grad():
            # As the model's own first weights, see `scaling.decoder`.
            for weights in self.modules_ahead.parameters():
                if weights.ndim > 1:
                    weights.mul_(SPREAD * model.config.hidden_size**-0.5 / 0.02)

    def __deepcopy__(self, memo: dict[int, Any]) -> Ahead:
        model = copy.deepcopy(self.model, memo)
        return Ahead(model, self.heads.depth, self.heads.kind, self.weight)

    def _losses(self, ids: Tensor) -> Any:
        rows, time = ids.shape[0], ids.shape[1] - 1
        make = resolve("paragone.language.packing:Row")
        row = make(ids[:, :-1], ids[:, 1:], torch.full((rows,), time), ())
        return self.heads.losses(row, self.weight)

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        found = self._losses(ids)
        return (found.main + found.weighted) / found.count, found.main.detach() / found.count

    @torch.no_grad()
    def agreed(self, ids: Tensor) -> list[float]:
        return [float(same / count) for same, count in self._losses(ids).agreed]


def ahead(model: Any, depth: int, kind: str, weight: float) -> Ahead:
    """Next tokens and `depth` further ones."""
    return Ahead(model, depth, kind, weight)


_QUICK = {
    "sequential1": ("quick-tokens", "quick-time"),
    "parallel2": ("quick-tokens", "quick-time"),
    "sequential2": ("quick-tokens",),
    "parallel4": ("quick-tokens",),
}


def _one(id: str, title: str, kind: str, depth: int, weight: float, note: str) -> Contestant:
    return Contestant(
        id=id, title=title, make="paragone.lab.contestants.multi_token:ahead", note=note,
        method="multi_token_prediction",
        params={"depth": depth, "kind": kind, "weight": weight},
        needs={"crew": ["all", *_QUICK.get(id, ())]},
    )  # fmt: skip


def contestants() -> list[Contestant]:
    """Next tokens alone, modules in sequence, parallel heads, at the papers' weights and others."""
    return [
        Contestant(
            id="next", title="next token only", method="llama", origin="paragone",
            make="paragone.lab.contestants.multi_token:next_token", note="the usual loss",
        ),
        _one("sequential1", "1 module", "sequential", 1, 0.3, "DeepSeek-V3's form, weight 0.3"),
        _one("sequential2", "2 modules", "sequential", 2, 0.3, "the same, 0.15 each"),
        _one("parallel2", "2 heads", "parallel", 1, 1.0, "Meta's form, all heads alike"),
        _one("parallel4", "4 heads", "parallel", 3, 1.0, "the same, three further heads"),
        _one("sequential1_light", "1 module, 0.1", "sequential", 1, 0.1, "weight 0.1"),
        _one("parallel4_light", "4 heads, 0.1", "parallel", 3, 0.1, "weight 0.1 each"),
    ]  # fmt: skip
