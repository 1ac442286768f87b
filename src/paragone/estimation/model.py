r"""Any log density, and every way to learn from it through one object.

Bayes' rule gives a posterior up to a constant, $p(\theta \mid y) \propto p(y \mid \theta)
p(\theta)$; what differs is the price of an answer. `map` climbs to its peak; `laplace` puts a
normal there; `variational` fits a normal to the whole; `sample` draws from it, by NUTS or by
thousands of short HMC chains at once. All of them move in an unconstrained space u with
$\log p(u) = \log p(\theta(u)) + \log |\det \partial\theta / \partial u|$, so that bounds,
simplexes and orders are kept by construction.

References:
    Gelman et al. (2013), Bayesian Data Analysis, third edition, chapters 4, 12 and 13.
    Carpenter et al. (2017), "Stan: a probabilistic programming language", section 2: densities
    over unconstrained parameters.

Shapes: n numbers in all parameters, m of them free, in the parameters' order.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from paragone._core.random import RandomState, as_generator
from paragone.estimation._density import Callback, Compiled, Target, call_back
from paragone.estimation._draws import Draws, SamplingWarning, Summary
from paragone.estimation._parameters import Layout, Parameter

__all__ = ["Draws", "Model", "Parameter", "SamplingWarning", "Summary"]


class Model:
    r"""A log density over named parameters.

    Prefer it to PyMC, NumPyro and Stan when the density is at hand: nothing is compiled for most
    models, and a process draws within a second. Prefer those for a language of models.

    Args:
        logp: One of
            a name from `builtin.list()`, or what a function of `builtin` returns;
            a NumPy function of the flat vector x (n,) that returns `(value, gradient (n,))`;
            a torch function of a dict of tensors (chains, *shape) that returns (chains,), with
            `backend="torch"`: all chains are evaluated at once, gradients are autograd's;
            a kernel `f(x, slope, reals, integers)` made by `paragone.kernels.jit.njit` that writes
            the gradient into slope and returns the value.
        parameters: `Parameter`s, or a mapping of names to shapes; built-in models bring theirs.
        data: For a name: keyword arguments of the built-in model. For a kernel: (reals,
            integers), flat arrays handed to it.
        backend: "numpy" (the default for Python functions) or "torch".
        log_likelihood: Function of the dict of draws (chains, draws, *shape) that returns
            (chains, draws, observations), for `loo` and `waic`.

    Raises:
        ValueError: The density is none of these, or parameters are missing.

    Example:
        >>> model = Model(lambda x: (-0.5 * x @ x, -x), [Parameter("x", (2,))])
        >>> model.sample(draws=200, tune=200, random_state=1)["x"].shape
        (4, 200, 2)
    """

    def __init__(
        self,
        logp: Any,
        parameters: Sequence[Parameter] | Mapping[str, Any] | None = None,
        *,
        data: Any = None,
        backend: str | None = None,
        log_likelihood: Callable[[dict[str, np.ndarray]], np.ndarray] | None = None,
    ) -> None:
        if parameters is None:
            raise ValueError("parameters are missing: give a list of Parameter")
        self.layout = Layout(parameters)
        self.log_likelihood = log_likelihood
        self._python = False
        start = time.perf_counter()
        none = np.zeros(1), np.zeros(1, np.int64)
        if hasattr(logp, "py_func"):
            reals, integers = none if data is None else data
            self.target = Target(
                Compiled(logp), np.ascontiguousarray(reals, float),
                np.ascontiguousarray(integers, np.int64), self.layout,
            )  # fmt: skip
        elif callable(logp):
            self._python = True
            callback = Callback(logp, self.layout.n)
            self.target = Target(
                Compiled(call_back), none[0], np.array([callback.address]), self.layout, callback
            )
        else:
            raise ValueError(
                f"logp={logp!r} is no density: give a name from builtin.list(), a function, or a "
                "kernel"
            )
        self._compiling = time.perf_counter() - start

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """The parameters in the order of the flat vector."""
        return self.layout.parameters

    def sample(
        self,
        method: str = "nuts",
        *,
        chains: int = 4,
        draws: int = 1000,
        tune: int = 1000,
        init: Any = None,
        metric: str = "diagonal",
        target: float = 0.8,
        max_depth: int = 10,
        random_state: RandomState = None,
        workers: int | None = None,
    ) -> Draws:
        """Draws from the posterior.

        Args:
            method: "nuts", or "hmc".
            chains: Number of chains; their streams are independent, whatever thread runs them.
            draws: Draws kept of each chain.
            tune: Draws before them, which adapt step size and metric and are dropped.
            init: Where chains start: a dict of values, or (chains, m) unconstrained; None takes
                uniform values in [-2, 2] of the unconstrained space.
            metric: "diagonal", or "dense", which pays with strong correlations and up to some
                hundred parameters.
            target: Acceptance that the step size is tuned for.
            max_depth: A trajectory has at most 2^max_depth - 1 points.
            random_state: Seed or generator.
            workers: Threads; None is one for each processor, at most one for each chain.

        Raises:
            ValueError: An argument is out of range, or no start has a finite density.
        """
        if metric not in ("diagonal", "dense"):
            raise ValueError(f"metric={metric!r} is none of 'diagonal', 'dense'")
        for name, value, least in (("chains", chains, 1), ("draws", draws, 1), ("tune", tune, 0)):
            if value != int(value) or value < least:
                raise ValueError(f"{name}={value}: use a whole number of {least} and above")
        if not 0 < target < 1:
            raise ValueError(f"target={target} is no acceptance: use a value such as 0.8")
        if not 1 <= max_depth <= 20:
            raise ValueError(f"max_depth={max_depth}: use 1 to 20")
        seed = int(as_generator(random_state).integers(2**63))
        from paragone.estimation._sampling import run_nuts

        rows, stats, times, gradients = run_nuts(
            self.target, seed, chains, draws, tune, self._starts(init, chains),
            metric == "dense", max_depth, target, workers, self._python,
        )  # fmt: skip
        times["compile"] += self._compiling
        return Draws(
            rows, self.target.constrained(rows), stats, self.layout, times, gradients, method,
            max_depth, self.log_likelihood,
        )  # fmt: skip

    def _starts(self, init: Any, chains: int) -> np.ndarray | None:
        from paragone.estimation._transforms import unconstrain

        if init is None:
            return None
        if isinstance(init, Mapping):
            x = self.layout.join(init)
            init = unconstrain(x, self.layout.blocks, self.layout.limits, self.layout.m)
        found = np.broadcast_to(np.asarray(init, float), (chains, self.layout.m))
        if not np.isfinite(found).all():
            raise ValueError("init has a value that is not finite: give a point of the support")
        return np.array(found)
