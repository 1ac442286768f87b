"""The contestants of the study `rouge_speed`: strings only."""

from __future__ import annotations

from paragone.lab.spec import Contestant

__all__ = ["for_speed"]

_CALLS = "paragone.lab.contestants.rouge_calls:"


def for_speed() -> list[Contestant]:
    """Ours for many texts and for one after the other; the package the paper used; one in C++."""
    return [
        Contestant(id="rouge", title="paragone novel", make=_CALLS + "Ours", method="alpaca"),
        Contestant(id="rouge_each", title="paragone Novelty", make=_CALLS + "OneByOne",
                   method="alpaca", note="one text after the other, each with all",
                   needs={"size": ["small", "middle"]}),
        Contestant(id="rouge_score", title="rouge-score {version}", make=_CALLS + "RougeScore",
                   origin="rival", distribution="rouge-score", install="pip install rouge-score",
                   note="Python; left out where a call takes minutes", needs={"size": ["small"]}),
        Contestant(id="rapidfuzz", title="rapidfuzz {version}", make=_CALLS + "RapidFuzz",
                   origin="rival", distribution="rapidfuzz", install="pip install rapidfuzz",
                   note="C++; its common subsequence, the score by hand",
                   needs={"size": ["small", "middle"]}),
    ]  # fmt: skip
