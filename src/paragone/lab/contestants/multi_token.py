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
from paragone.language.drafting import Draft, Drafter, Drafting, Plan

__all__ = ["Ahead", "NextToken", "TrunkDrafter", "ahead", "contestants", "next_token"]


class NextToken(nn.Module):
    """The usual loss.

    Args:
        model: A `Llama`.
    """

    drafter = None

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.model(ids[:, :-1]).logits
        loss = functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        return loss, loss.detach()


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
        with torch.no_grad():
            # As the model's own first weights, see `scaling.decoder`.
            for weights in self.heads.parameters():
                if weights.ndim > 1:
                    weights.mul_(SPREAD * model.config.hidden_size**-0.5 / 0.02)
        self.drafter = TrunkDrafter(self.heads) if kind == "parallel" else self.heads

    def __deepcopy__(self, memo: dict[int, Any]) -> Ahead:
        model = copy.deepcopy(self.model, memo)
        return Ahead(model, self.heads.depth, self.heads.kind, self.weight)

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        rows, time = ids.shape[0], ids.shape[1] - 1
        row = resolve("paragone.language.packing:Row")(
            ids[:, :-1], ids[:, 1:], torch.full((rows,), time), ()
        )
        found = self.heads.losses(row, self.weight)
        return (found.main + found.weighted) / found.count, found.main.detach() / found.count


class TrunkDrafter(Drafter):
    """Lets heads that read the stream before the last layer draft, slowly: for a measurement.

    Args:
        heads: Parallel heads of a `MultiTokenPrediction`.
    """

    name = "parallel heads"

    def __init__(self, heads: Any) -> None:
        self.heads, self.depth = heads, heads.depth

    def plans(self) -> list[Plan]:
        return [Plan(self.depth, self.depth)]

    def open(self, engine: Any) -> Drafting:
        return _Reading(self.heads)


class _Reading(Drafting):
    def __init__(self, heads: Any) -> None:
        self.heads, self.texts = heads, {}

    def add(self, key: Any, tokens: Any, sampling: Any) -> None:
        self.texts[key] = list(tokens)

    def observe(self, keys: Any, tokens: Any, hidden: Any) -> None:
        for key, new in zip(keys, tokens, strict=True):
            self.texts[key] += new.tolist()

    @torch.no_grad()
    def draft(self, keys: Any, plan: Plan) -> list[Draft]:
        decoder, found = self.heads.base.model, []
        for key in keys:
            # The last token is the root: what predicted it is the stream before it.
            ids = torch.tensor([self.texts[key][:-1]])
            h = decoder.embed_tokens(ids)
            for block in decoder.layers[:-1]:
                h, _ = block(h, None, None, None)
            last = [stream[:, -1] for stream in self.heads.streams(h, ids)]
            scores = [self.heads.base.lm_head(stream) for stream in last[: plan.depth]]
            found.append(Draft.chain([int(one.argmax()) for one in scores]))
        return found

    def drop(self, key: Any) -> None:
        del self.texts[key]


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
