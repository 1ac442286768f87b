r"""Step sizes, and whether they satisfy the conditions under which a recursion converges.

A recursion $w_{k+1} = w_k - a_k\, \tilde g(w_k)$ must be able to go any distance and must quiet
the noise in the end:

- Robbins-Monro: $\sum a_k = \infty$ and $\sum a_k^2 < \infty$.
- Kiefer-Wolfowitz, with differences over a width $c_k$: $c_k \to 0$, $\sum a_k = \infty$,
  $\sum a_k c_k < \infty$, $\sum (a_k / c_k)^2 < \infty$.
- Dvoretzky, for $\Delta_{k+1} = (1 - \alpha_k) \Delta_k + \beta_k \eta_k$ with noise of bounded
  variance: $\sum \alpha_k = \infty$, $\sum \alpha_k^2 < \infty$, $\sum \beta_k^2 < \infty$.

For powers $a_k = a / (k + b)^c$ the sums are decided by exponents, $\sum k^{-p} < \infty$ if and
only if $p > 1$; that verdict is a proof. For a function of k only a slope can be measured, that
of $\log a_k$ over $\log k$ up to $10^9$, which is evidence and is called so: a step that changes
its mind later deceives it.

Two things hold that conditions do not say. A constant step satisfies neither sum: the iterate
comes within a ball about the root, of radius proportional to $\sqrt a$, and stays there. And
$a/k$ converges at the rate $\sqrt n$ only if $a > 1/(2 g'(w^*))$; averaging the path of a slower
step, $1/2 < c < 1$, has that rate for every a.

References:
    Robbins and Monro (1951), "A stochastic approximation method", eq. 5, 27.
    Kiefer and Wolfowitz (1952), "Stochastic estimation of the maximum of a regression
    function", eq. 1-4.
    Dvoretzky (1956), "On stochastic approximation", theorem (2.1-2.4).
    Polyak and Juditsky (1992), "Acceleration of stochastic approximation by averaging",
    theorem 2.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

__all__ = ["Check", "Condition", "Constant", "Custom", "Harmonic", "Power", "Steps", "check", "of"]


class Steps(Protocol):
    """A step policy: called with k = 1, 2, ... it returns $a_k$ > 0."""

    def __call__(self, k: Any) -> Any: ...


@dataclass(frozen=True)
class Power:
    """$a_k = a / (k + b)^c$.

    Args:
        a: Factor, above 0.
        b: Shift, above -1; a large one keeps the first steps from being wild.
        c: Exponent, at least 0; within (1/2, 1] the Robbins-Monro conditions hold.

    Example:
        >>> float(Power(a=1.0, c=0.5)(4))
        0.5
    """

    a: float = 1.0
    b: float = 0.0
    c: float = 0.7

    def __post_init__(self) -> None:
        if not 0 < self.a < math.inf:
            raise ValueError(f"a={self.a} is no step: use a number above 0")
        if not -1 < self.b < math.inf:
            raise ValueError(f"b={self.b} makes the first step infinite: use a number above -1")
        if not 0 <= self.c < math.inf:
            raise ValueError(f"c={self.c} lets steps grow: use 0 or above")

    def __call__(self, k: Any) -> Any:
        shifted = np.asarray(k, np.float64) + self.b
        return self.a / (shifted if self.c == 1.0 else shifted**self.c)


class Harmonic(Power):
    """$a_k = a / (k + b)$: the sample mean's own step for a = 1, b = 0."""

    def __init__(self, a: float = 1.0, b: float = 0.0) -> None:
        super().__init__(a, b, 1.0)


class Constant(Power):
    """$a_k = a$: follows what drifts, and never comes to rest."""

    def __init__(self, a: float = 0.1) -> None:
        super().__init__(a, 0.0, 0.0)


@dataclass(frozen=True)
class Custom:
    """Steps from a function.

    Args:
        function: Takes whole numbers k (an array, or one at a time) and returns $a_k$.
    """

    function: Callable[[Any], Any]

    def __call__(self, k: Any) -> Any:
        k = np.asarray(k)
        values = np.array([self.function(int(one)) for one in k.reshape(-1)], np.float64)
        if not (np.isfinite(values) & (values >= 0)).all():
            raise ValueError("the step function returns a negative or no number: use 0 or above")
        return values.reshape(k.shape)[()]


def of(steps: Any) -> Power | Custom:
    """A policy from what a user gives: a policy, a number (constant), or a function of k.

    Raises:
        ValueError: It is none of these.
    """
    if isinstance(steps, Power | Custom):
        return steps
    if isinstance(steps, int | float | np.number):
        return Constant(float(steps))
    if callable(steps):
        return Custom(steps)
    raise ValueError(f"steps={steps!r} are no steps: give a number, a policy or a function of k")


@dataclass(frozen=True)
class Condition:
    """One condition of a theorem.

    Attributes:
        text: As in the theorem.
        holds: Whether it does; None where no slope could be told from the border.
        reason: The exponent that decides, or the slope that was measured.
    """

    text: str
    holds: bool | None
    reason: str


@dataclass(frozen=True)
class Check:
    """What `check` found; true if every condition holds.

    Attributes:
        theorem: "robbins_monro", "kiefer_wolfowitz" or "dvoretzky".
        conditions: Each with its verdict.
        proof: True if exponents decide, False if slopes were measured.
        notes: What the conditions do not say.
    """

    theorem: str
    conditions: tuple[Condition, ...]
    proof: bool
    notes: tuple[str, ...] = ()

    @property
    def violated(self) -> tuple[str, ...]:
        """The conditions that do not hold."""
        return tuple(one.text for one in self.conditions if one.holds is False)

    def __bool__(self) -> bool:
        return all(one.holds for one in self.conditions)

    def __str__(self) -> str:
        words = {True: "holds", False: "VIOLATED", None: "undecided"}
        head = f"{self.theorem} ({'by exponents' if self.proof else 'measured, no proof'})"
        lines = [f"  {one.text}: {words[one.holds]} ({one.reason})" for one in self.conditions]
        return "\n".join([head, *lines, *(f"  note: {note}" for note in self.notes)])


_BORDER = 0.15
_EXACT = 1e-9
_FROM, _TO = 10**6, 10**9


def _exponent(steps: Power | Custom, name: str) -> tuple[float, bool]:
    """P of $a_k \\sim k^{-p}$, and whether it is known."""
    if isinstance(steps, Power):
        return steps.c, True
    first, last = (float(steps(k)) for k in (_FROM, _TO))
    if last == 0.0:
        return math.inf, False
    if first == 0.0:
        raise ValueError(f"{name} is 0 at k = {_FROM:,} and not later: its sums cannot be judged")
    return -math.log(last / first) / math.log(_TO / _FROM), False


def _sum(text: str, p: float, known: bool, finite: bool) -> Condition:
    """A condition on a sum of terms like k^-p: that it is finite, or that it is not."""
    verdict: bool | None = (p > 1.0) == finite
    if not known and _EXACT < abs(p - 1.0) < _BORDER:
        verdict = None
    how = "exponent" if known else "slope from 1e6 to 1e9"
    return Condition(text, verdict, f"terms fall as k^-{p:.3g}, {how}; finite above 1")


def check(
    steps: Any, *, theorem: str = "robbins_monro", widths: Any = None, noise: Any = None,
    slope: float | None = None,
) -> Check:  # fmt: skip
    """Says which conditions of a theorem steps satisfy, and which they violate.

    Args:
        steps: $a_k$ (Dvoretzky: alpha): a policy, a number, or a function of k.
        theorem: "robbins_monro", "kiefer_wolfowitz" or "dvoretzky".
        widths: $c_k$ of Kiefer-Wolfowitz.
        noise: beta of Dvoretzky; as `steps` if None.
        slope: $g'(w^*)$ (the least eigenvalue of the Jacobian), if it is known: then `a/k` is
            also asked whether it keeps the rate.

    Raises:
        ValueError: An unknown theorem, or Kiefer-Wolfowitz without widths.

    Example:
        >>> check(Constant(0.1)).violated
        ('sum a_k^2 < inf',)
    """
    a = of(steps)
    p, known = _exponent(a, "a_k")
    if theorem == "robbins_monro":
        found = [
            _sum("sum a_k = inf", p, known, False),
            _sum("sum a_k^2 < inf", 2 * p, known, True),
        ]
    elif theorem == "kiefer_wolfowitz":
        if widths is None:
            raise ValueError("kiefer_wolfowitz needs the widths c_k: give widths=Power(...)")
        q, sure = _exponent(of(widths), "c_k")
        both = known and sure
        settled: bool | None = q > 0 if sure or abs(q) > _BORDER else None
        found = [
            Condition("c_k -> 0", settled, f"c_k falls as k^-{q:.3g}"),
            _sum("sum a_k = inf", p, known, False),
            _sum("sum a_k c_k < inf", p + q, both, True),
            _sum("sum (a_k / c_k)^2 < inf", 2 * (p - q), both, True),
        ]
        known = both
    elif theorem == "dvoretzky":
        q, sure = (p, known) if noise is None else _exponent(of(noise), "beta_k")
        found = [
            _sum("sum alpha_k = inf", p, known, False),
            _sum("sum alpha_k^2 < inf", 2 * p, known, True),
            _sum("sum beta_k^2 < inf", 2 * q, sure, True),
        ]
        known = known and sure
    else:
        raise ValueError(
            f"theorem={theorem!r} is none of 'robbins_monro', 'kiefer_wolfowitz', 'dvoretzky'"
        )
    return Check(theorem, tuple(found), known, _notes(a, p, slope))


def _notes(steps: Power | Custom, p: float, slope: float | None) -> tuple[str, ...]:
    notes = []
    if isinstance(steps, Power) and p == 0.0:
        notes.append(
            "a constant step brings the iterate into a ball about the root, of radius "
            "proportional to sqrt(a), and leaves it there; averaging shrinks the noise, not the "
            "bias of a curved problem"
        )
    if isinstance(steps, Power) and p == 1.0:
        if slope is None:
            notes.append(
                f"a / k keeps the rate sqrt(n) only if a > 1 / (2 g'(w*)), here g'(w*) > "
                f"{1 / (2 * steps.a):.3g}; averaging with 1/2 < c < 1 needs no such luck"
            )
        elif steps.a * slope <= 0.5:
            notes.append(
                f"a = {steps.a:g} <= 1 / (2 g'(w*)) = {1 / (2 * slope):.3g}: the error falls only "
                f"as k^-{steps.a * slope:.2g}, not k^-0.5; enlarge a, or average with c < 1"
            )
    return tuple(notes)
