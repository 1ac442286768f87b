"""What a sampler returns: draws by name, how far they can be trusted, and what they cost."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np

from paragone.estimation import diagnostics
from paragone.estimation._parameters import Layout

__all__ = ["Draws", "SamplingWarning", "Summary"]


class SamplingWarning(UserWarning):
    """A sampler ended, and its draws must not be trusted without a look."""


class Summary:
    """A table of numbers, one row for each scalar quantity; `str` prints it.

    Attributes:
        columns: Names of the columns.
        rows: Name of a quantity to its values by column.
        notes: Lines printed below.
    """

    def __init__(self, rows: dict[str, dict[str, float]], notes: tuple[str, ...] = ()) -> None:
        self.rows, self.notes = rows, notes
        self.columns = tuple(next(iter(rows.values())))

    def __getitem__(self, name: str) -> dict[str, float]:
        return self.rows[name]

    def __str__(self) -> str:
        cells = [["", *self.columns]]
        for name, row in self.rows.items():
            cells.append([name, *(_shown(column, row[column]) for column in self.columns)])
        wide = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
        lines = [
            "  ".join(
                cell.ljust(wide[0]) if i == 0 else cell.rjust(wide[i])
                for i, cell in enumerate(line)
            )
            for line in cells
        ]
        return "\n".join([*lines, *self.notes])

    __repr__ = __str__


def _shown(column: str, value: float) -> str:
    if value is None or not np.isfinite(value):
        return "-"
    if column.startswith("ess"):
        return f"{value:.0f}"
    return f"{value:.3f}" if 1e-2 <= abs(value) < 1e4 or value == 0 else f"{value:.3g}"


class Draws:
    """Draws of several chains from a posterior.

    Attributes:
        draws: Name to (chains, draws, *shape), in the parameters' own space.
        unconstrained: (chains, draws, m), where the sampler moved.
        stats: Name to (chains, draws): logp, energy, diverging, acceptance, step, and with NUTS
            depth and leapfrogs.
        flat: (chains, draws, n), all of it side by side.
        times: Seconds: "compile" (kernels made or loaded), "tune", "sample".
        gradients: Gradients spent, (tuning, sampling).
        method: "nuts" or "hmc".
    """

    def __init__(
        self, unconstrained: np.ndarray, constrained: np.ndarray, stats: dict[str, np.ndarray],
        layout: Layout, times: dict[str, float], gradients: tuple[int, int], method: str,
        max_depth: int | None = None,
        log_likelihood: Callable[[dict[str, np.ndarray]], np.ndarray] | None = None,
        groups: int = 0,
    ) -> None:  # fmt: skip
        self.unconstrained, self.stats, self.times = unconstrained, stats, times
        self.gradients, self.method = gradients, method
        self.flat, self._layout, self._max_depth = constrained, layout, max_depth
        self._likelihood, self._groups = log_likelihood, groups
        self.draws = layout.split(constrained)

    def __getitem__(self, name: str) -> np.ndarray:
        return self.draws[name]

    def __repr__(self) -> str:
        chains, draws, n = self.flat.shape
        return f"Draws({chains} chains x {draws}, {n} numbers, method={self.method!r})"

    def _of(self, function: Callable[[np.ndarray], Any]) -> dict[str, np.ndarray]:
        return self._layout.split(np.asarray(function(self.flat)))

    @cached_property
    def rhat(self) -> dict[str, np.ndarray]:
        """Rank-normalised split R-hat of each parameter; nested R-hat of grouped short chains."""
        if self._groups:
            return self._of(lambda flat: diagnostics.nested_rhat(flat, self._groups))
        return self._of(diagnostics.rhat)

    @cached_property
    def ess(self) -> dict[str, np.ndarray]:
        """Bulk effective sample size of each parameter."""
        return self._of(diagnostics.ess_bulk)

    @cached_property
    def ess_tail(self) -> dict[str, np.ndarray]:
        """Tail effective sample size of each parameter."""
        return self._of(diagnostics.ess_tail)

    @cached_property
    def mcse(self) -> dict[str, np.ndarray]:
        """Monte Carlo standard error of the mean of each parameter."""
        return self._of(diagnostics.mcse_mean)

    @property
    def divergences(self) -> int:
        """Number of draws whose trajectory diverged."""
        return int(self.stats["diverging"].sum())

    @property
    def diverged(self) -> str:
        """The divergences in words."""
        total = self.flat.shape[0] * self.flat.shape[1]
        return f"{self.divergences} of {total} draws diverged: reparametrise, or raise target"

    @property
    def saturated(self) -> int:
        """Number of draws that stopped at the greatest depth."""
        if self._max_depth is None:
            return 0
        return int((self.stats["depth"] >= self._max_depth).sum())

    @property
    def bfmi(self) -> np.ndarray:
        """Bayesian fraction of missing information of each chain."""
        return diagnostics.bfmi(self.stats["energy"])

    @property
    def problems(self) -> tuple[str, ...]:
        """What speaks against these draws, each with its remedy; empty if nothing does."""
        total, found = self.flat.shape[0] * self.flat.shape[1], []
        if self.divergences:
            found.append(self.diverged)
        if self.saturated:
            found.append(
                f"{self.saturated} of {total} draws reached max_depth={self._max_depth}: "
                "raise max_depth, or rescale the parameters"
            )
        if self.flat.shape[1] >= 4:
            worst = max(float(np.max(each)) for each in self.rhat.values())
            if not worst <= 1.01:
                found.append(f"R-hat is up to {worst:.3f}: run longer chains, or reparametrise")
            # Of a short chain alone it is mostly noise.
            least = self.bfmi.mean() if self._groups else self.bfmi.min()
            if least < 0.3:
                found.append(f"BFMI is down to {least:.2f}: the tails are not explored")
        return tuple(found)

    def summary(self) -> Summary:
        """Mean, sd, quantiles, standard error, effective sizes and R-hat of each number."""
        flat = self.flat
        low, middle, high = np.quantile(flat, [0.05, 0.5, 0.95], axis=(0, 1))
        columns = {
            "mean": flat.mean(axis=(0, 1)), "sd": flat.std(axis=(0, 1), ddof=1),
            "mcse": diagnostics.mcse_mean(flat), "5%": low, "50%": middle, "95%": high,
            "ess_bulk": self._joined(self.ess), "ess_tail": self._joined(self.ess_tail),
            "rhat": self._joined(self.rhat),
        }  # fmt: skip
        rows = {
            label: {name: float(values[i]) for name, values in columns.items()}
            for i, label in enumerate(self._layout.labels())
        }
        times = ", ".join(f"{name} {value:.3f} s" for name, value in self.times.items())
        notes = (
            f"{self.method}: {flat.shape[0]} chains x {flat.shape[1]} draws; {times}",
            *(f"! {problem}" for problem in self.problems),
        )
        return Summary(rows, notes)

    def _joined(self, parts: dict[str, np.ndarray]) -> np.ndarray:
        return np.concatenate([np.ravel(parts[each.name]) for each in self._layout.parameters])

    def log_likelihood(self) -> np.ndarray:
        """Log density of each observation, (chains, draws, observations).

        Raises:
            ValueError: The model does not tell it.
        """
        if self._likelihood is None:
            raise ValueError(
                "this model has no pointwise likelihood: give Model(..., log_likelihood=) a "
                "function of the dict of draws that returns (chains, draws, observations)"
            )
        return np.asarray(self._likelihood(self.draws))

    def loo(self) -> diagnostics.Elpd:
        """Leave-one-out cross-validation of the model (`diagnostics.loo`)."""
        return diagnostics.loo(self.log_likelihood())

    def waic(self) -> diagnostics.Elpd:
        """WAIC of the model (`diagnostics.waic`)."""
        return diagnostics.waic(self.log_likelihood())
