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
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from paragone._core.random import RandomState, as_generator
from paragone.estimation import builtin
from paragone.estimation._approximate import Mode, NormalApproximation, find_mode, laplace
from paragone.estimation._comparison import Comparison
from paragone.estimation._density import Callback, Compiled, Target, call_back
from paragone.estimation._draws import Draws, SamplingWarning, Summary
from paragone.estimation._parameters import Layout, Parameter
from paragone.estimation._transforms import unconstrain
from paragone.estimation._variational import fit_normal

__all__ = [
    "Comparison", "Draws", "Mode", "Model", "NormalApproximation", "Parameter", "SamplingWarning",
    "Summary",
]  # fmt: skip


class Model:
    r"""A log density over named parameters.

    Prefer it to PyMC, NumPyro and Stan when the density is at hand: nothing is compiled for most
    models, and a process draws within a second. Prefer those for a language of models.

    Args:
        logp: One of
            a name from `builtin.list()`, or what a function of `builtin` returns;
            a NumPy function of the flat vector x (n,) that returns `(value, gradient (n,))`;
            a torch function of a dict of tensors `(chains, *shape)` that returns (chains,), with
            `backend="torch"`: all chains are evaluated at once, gradients are autograd's;
            a kernel `f(x, slope, reals, integers)` made by `paragone.kernels.jit.njit` that writes
            the gradient into slope and returns the value.
        parameters: `Parameter`s, or a mapping of names to shapes; built-in models bring theirs.
        data: For a name: keyword arguments of the built-in model. For a kernel: (reals,
            integers), flat arrays handed to it.
        backend: "numpy" (the default for Python functions) or "torch".
        log_likelihood: Function of the dict of draws `(chains, draws, *shape)` that returns
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
        start = time.perf_counter()
        derived = None
        if isinstance(logp, str):
            logp, data = builtin.get(logp, data), None
        if isinstance(logp, builtin.Density):
            if parameters is not None or data is not None:
                raise ValueError(f"{logp.name} brings its own parameters and data: give none")
            parameters, derived = logp.parameters, logp.derived
            log_likelihood = log_likelihood or logp.log_likelihood
            data, log_likelihood = (
                (logp.reals, logp.integers),
                log_likelihood or logp.log_likelihood,
            )
            logp = logp.kernel
        if parameters is None:
            raise ValueError("parameters are missing: give a list of Parameter")
        if backend not in (None, "numpy", "torch"):
            raise ValueError(f"backend={backend!r} is none of 'numpy', 'torch'")
        self.layout, self.log_likelihood = Layout(parameters), log_likelihood
        self.target, self._python = _target(logp, data, self.layout, backend, derived)
        self._compiling = time.perf_counter() - start

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """The parameters in the order of the flat vector."""
        return self.layout.parameters

    def sample(
        self,
        method: str = "nuts",
        *,
        chains: int | None = None,
        draws: int | None = None,
        tune: int | None = None,
        init: Any = None,
        metric: str = "auto",
        target: float = 0.8,
        max_depth: int = 10,
        random_state: RandomState = None,
        workers: int | None = None,
    ) -> Draws:
        """Draws from the posterior.

        Args:
            method: "nuts", a few long chains; or "hmc", hundreds of short ones that move together,
                to be preferred for torch densities.
            chains: Number of chains, by default 4 (nuts) or 512 (hmc). Their streams are
                independent, whatever thread runs them.
            draws: Draws kept of each chain, by default 1000 or 50.
            tune: Draws before them, which adapt step size and metric (hmc: and trajectory length)
                and are dropped; by default 1000 or 300.
            init: Where chains start: a dict of values, or (m,) or (chains, m) unconstrained; None
                takes uniform values in [-2, 2] of the unconstrained space, one for each chain
                (nuts) or each of 16 groups of chains (hmc), which nested R-hat compares.
            metric: Of nuts. "dense" learns correlations where there are more than chance would
                show; "diagonal" only scales; "auto" is dense up to 32 numbers.
            target: Acceptance that the step size is tuned for.
            max_depth: A trajectory of nuts has at most 2^max_depth - 1 points.
            random_state: Seed or generator.
            workers: Threads; None is one for each processor, at most one for each chain.

        Raises:
            ValueError: An argument is out of range, or no start has a finite density.

        Warns:
            SamplingWarning: Draws diverged.
        """
        if method not in ("nuts", "hmc"):
            raise ValueError(f"method={method!r} is none of 'nuts', 'hmc'")
        if metric not in ("auto", "diagonal", "dense") or (metric == "dense" and method == "hmc"):
            raise ValueError(f"metric={metric!r}: use 'auto', 'diagonal', or 'dense' with 'nuts'")
        correlated = metric == "dense" or (metric == "auto" and self.layout.m <= 32)
        usual = (4, 1000, 1000) if method == "nuts" else (512, 50, 300)
        sizes: list[int] = []
        for name, value, default in zip(
            ("chains", "draws", "tune"), (chains, draws, tune), usual, strict=True
        ):
            value = default if value is None else value
            least = 0 if name == "tune" else 1
            if value != int(value) or value < least:
                raise ValueError(f"{name}={value}: use a whole number of {least} and above")
            sizes.append(int(value))
        if not 0 < target < 1:
            raise ValueError(f"target={target} is no acceptance: use a value such as 0.8")
        if not 1 <= max_depth <= 20:
            raise ValueError(f"max_depth={max_depth}: use 1 to 20")
        generator = as_generator(random_state)
        starts, groups = self._starts(init, sizes[0]), 0
        if method == "nuts":
            from paragone.estimation._sampling import run_nuts

            seed = int(generator.integers(2**63))
            found = run_nuts(
                self.target, seed, sizes[0], sizes[1], sizes[2], starts, correlated,
                max_depth, target, workers, self._python,
            )  # fmt: skip
        else:
            from paragone.estimation._hmc import group_count, run_hmc

            if starts is None:
                groups = group_count(sizes[0])
                starts = self._random_starts(generator, groups or sizes[0])
                starts = np.repeat(starts, sizes[0] // len(starts), axis=0)
            found = run_hmc(self.target, generator, sizes[0], sizes[1], sizes[2], starts, target)
        rows, stats, times, gradients = found
        times["compile"] += self._compiling
        result = Draws(
            rows, self.target.results(rows), stats, self.target.shown, times, gradients, method,
            max_depth if method == "nuts" else None, self.log_likelihood, groups,
        )  # fmt: skip
        if result.divergences:
            warnings.warn(result.diverged, SamplingWarning, stacklevel=2)
        return result

    def map(
        self,
        *,
        space: str = "unconstrained",
        init: Any = None,
        restarts: int = 4,
        random_state: RandomState = None,
    ) -> Mode:
        """The posterior mode.

        A mode belongs to a parametrisation. In the "unconstrained" space the Jacobians of bounds
        count; in the "constrained" space they do not, and with flat priors the mode is the maximum
        likelihood estimate.

        Args:
            space: "unconstrained" or "constrained".
            init: Where to start; None starts from the origin and `restarts` random points.
            restarts: Number of random starts besides.
            random_state: Seed or generator of those.

        Raises:
            ValueError: The density has no peak in that space.
        """
        if space not in ("unconstrained", "constrained"):
            raise ValueError(f"space={space!r} is none of 'unconstrained', 'constrained'")
        starts = self._climbing(init, restarts, as_generator(random_state))
        return find_mode(self.target, space, starts)[0]

    def laplace(
        self, *, init: Any = None, restarts: int = 4, random_state: RandomState = None
    ) -> NormalApproximation:
        """A normal at the mode of the unconstrained space, with the evidence.

        Args:
            init: Where the climb starts.
            restarts: Number of random starts besides the origin.
            random_state: Seed or generator.

        Raises:
            ValueError: The density has no peak.
        """
        generator = as_generator(random_state)
        return laplace(self.target, self._climbing(init, restarts, generator), generator)

    def variational(
        self,
        *,
        full_rank: bool = True,
        fixed_draws: int = 200,
        init: Any = None,
        random_state: RandomState = None,
    ) -> NormalApproximation:
        """The normal that is closest to the posterior in the sense of the evidence bound.

        Args:
            full_rank: Learn all covariances; False takes a diagonal, for many parameters.
            fixed_draws: Draws that the bound is taken over; at least four for each parameter.
            init: Where to start; None starts from the mode if there is one.
            random_state: Seed or generator.

        Raises:
            ValueError: The bound is not finite at the start, or fixed_draws is below 2.
        """
        if fixed_draws != int(fixed_draws) or fixed_draws < 2:
            raise ValueError(f"fixed_draws={fixed_draws}: use a whole number of 2 and above")
        generator = as_generator(random_state)
        starts = self._climbing(init, 2, generator)
        return fit_normal(self.target, full_rank, starts, generator, int(fixed_draws))

    def run(self, method: str = "nuts", **options: Any) -> Any:
        """Runs any engine by its name, with the options of its own method.

        Args:
            method: "map", "laplace", "variational", "nuts" or "hmc".
            options: Handed on.

        Raises:
            ValueError: There is no such engine.
        """
        if method in ("nuts", "hmc"):
            return self.sample(method, **options)
        if method not in ("map", "laplace", "variational"):
            raise ValueError(
                f"method={method!r} is none of 'map', 'laplace', 'variational', 'nuts', 'hmc'"
            )
        return getattr(self, method)(**options)

    def compare(
        self,
        methods: Sequence[str] = ("map", "laplace", "variational", "nuts"),
        *,
        random_state: RandomState = None,
        **options: Mapping[str, Any],
    ) -> Comparison:
        """Runs several engines on this model and lays their answers side by side.

        Args:
            methods: Names as for `run`.
            random_state: Seed or generator for all.
            options: Options of an engine under its name, such as `nuts={"draws": 500}`.
        """
        generator = as_generator(random_state)
        results: dict[str, Any] = {}
        refused: dict[str, str] = {}
        for method in methods:
            settings = {"random_state": generator, **options.get(method, {})}
            try:
                results[method] = self.run(method, **settings)
            except ValueError as error:
                refused[method] = str(error)
        return Comparison(results, refused, self.target.shown.labels())

    def _starts(self, init: Any, chains: int) -> np.ndarray | None:
        if init is None:
            return None
        if isinstance(init, Mapping):
            x = self.layout.join(init)
            init = unconstrain(x, self.layout.blocks, self.layout.limits, self.layout.m)
        found = np.asarray(init, float)
        if found.shape not in ((self.layout.m,), (chains, self.layout.m)):
            raise ValueError(
                f"init has shape {found.shape}: give a dict of values, or ({self.layout.m},) "
                f"or ({chains}, {self.layout.m}) unconstrained"
            )
        if not np.isfinite(found).all():
            raise ValueError("init has a value that is not finite: give a point of the support")
        return np.array(np.broadcast_to(found, (chains, self.layout.m)))

    def _random_starts(self, generator: np.random.Generator, count: int) -> np.ndarray:
        """Points of finite density, uniform in [-2, 2]."""
        found = generator.uniform(-2, 2, (count, self.layout.m))
        for _ in range(100):
            bad = ~np.isfinite(self.target.rows(found)[0])
            if not bad.any():
                break
            found[bad] = generator.uniform(-2, 2, (int(bad.sum()), self.layout.m))
        return found

    def _climbing(self, init: Any, restarts: int, generator: np.random.Generator) -> np.ndarray:
        given = self._starts(init, 1)
        if given is not None:
            return given
        points = self._random_starts(generator, restarts + 1)
        origin = np.zeros((1, self.layout.m))
        if np.isfinite(self.target.rows(origin)[0][0]):
            points[0] = origin
        return points


def _target(
    logp: Any, data: Any, layout: Layout, backend: str | None, derived: Any
) -> tuple[Target, bool]:
    """The density as the engines take it, and whether Python evaluates it."""
    if hasattr(logp, "py_func"):
        reals, integers = (np.zeros(1), np.zeros(1)) if data is None else data
        reals = np.ascontiguousarray(reals, float)
        integers = np.ascontiguousarray(integers, np.int64)
        return Target(Compiled(logp), reals, integers, layout, derived=derived), False
    if not callable(logp):
        raise ValueError(
            f"logp={logp!r} is no density: give a name from builtin.list(), a function, or a kernel"
        )
    if data is not None:
        raise ValueError("data go with a name or a kernel; a Python function holds its own")
    function: Any = logp
    vectorised = None
    if backend == "torch":
        from paragone.estimation._torch_density import vectorised as torch_rows

        vectorised = rows = torch_rows(function, layout)

        def one_row(x: np.ndarray) -> tuple[float, np.ndarray]:
            values, slopes = rows(x[None])
            return values[0], slopes[0]

        function = one_row
    callback = Callback(function, layout.n)
    address = np.array([callback.address], np.int64)
    found = Target(Compiled(call_back), np.zeros(1), address, layout, callback, vectorised)
    return found, True
