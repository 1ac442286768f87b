"""Several engines on one model, side by side: moments, evidence, and where the time went."""

from __future__ import annotations

from typing import Any

import numpy as np

from paragone.estimation._approximate import Mode, NormalApproximation, join_moments
from paragone.estimation._draws import Draws, Summary

__all__ = ["Comparison"]


class Comparison:
    """What each engine says of each number.

    Attributes:
        results: Engine to its own result.
        refused: Engine to the reason why it gave none.
    """

    def __init__(self, results: dict[str, Any], refused: dict[str, str], labels: list[str]) -> None:
        self.results, self.refused, self._labels = results, refused, labels

    def __getitem__(self, method: str) -> Any:
        return self.results[method]

    def moments(self) -> Summary:
        """Mean and sd of each number by each engine; a mode has no sd."""
        found = {method: join_moments(result) for method, result in self.results.items()}
        rows: dict[str, dict[str, float]] = {}
        for i, label in enumerate(self._labels):
            rows[label] = {}
            for method, (mean, sd) in found.items():
                rows[label][method] = float(mean[i])
                if not isinstance(self.results[method], Mode):
                    rows[label][f"sd {method}"] = float(sd[i])
        return Summary(rows, self._notes())

    def costs(self) -> Summary:
        """Evidence, bound, Pareto k, worst R-hat, least ESS, and seconds of each engine."""
        rows = {}
        for method, result in self.results.items():
            row = dict.fromkeys(("evidence", "elbo", "k", "rhat", "ess"), np.nan)
            if isinstance(result, NormalApproximation):
                row |= {"evidence": result.evidence_is, "elbo": result.elbo, "k": float(result.k)}
            elif isinstance(result, Draws):
                row["rhat"] = max(float(np.max(each)) for each in result.rhat.values())
                row["ess"] = min(float(np.min(each)) for each in result.ess.values())
            rows[method] = {**row, **result.times}
        return Summary(rows)

    def _notes(self) -> tuple[str, ...]:
        modes = [r.space for r in self.results.values() if isinstance(r, Mode)]
        told = tuple(f"map: mode in the {space} space" for space in modes)
        return told + tuple(f"! {method}: {why}" for method, why in self.refused.items())

    def __str__(self) -> str:
        if not self.results:
            return "\n".join(self._notes())
        return f"{self.moments()}\n\n{self.costs()}"

    __repr__ = __str__
