"""A run that is counted: steps, tokens, coins, returns; cost and quality in the method's units.

For questions such as "how many forward passes does a token cost?" or "what return does the
policy get?". The contestant is a function `(problem, ..., seed) -> result`. With `score` the
result is judged by the same code for all; without it the result itself is a mapping of names to
numbers. A number becomes a measure, a sequence of numbers a curve over 1, 2, 3 ...

Options (`Study.options`):
    score: `"module:function"`, called as `score(*problem, result)` off the clock; it returns the
        mapping ("": the contestant returns it).

Values: those of the mapping, and `run_s`, `run_cpu_s`, `run_peak`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from paragone.lab.build import bind, load_inputs, resolve_target
from paragone.lab.probe import Probe
from paragone.lab.spec import Job

__all__ = ["run"]


def run(job: Job, probe: Probe) -> None:
    """Performs one counted run; see the module's text."""
    with probe.phase("load"):
        problem = load_inputs(job)
    probe.digest("data", *problem)
    with probe.phase("import"):
        solve = bind(job.contestant, job.workload.facts)
    with probe.phase("run"):
        result = solve(*problem, seed=job.block.seed)
    score = job.options.get("score")
    counts: Any = resolve_target(score)(*problem, result) if score else result
    if not isinstance(counts, Mapping):
        raise TypeError(f"a mapping of names to numbers is expected, got {type(counts).__name__}")
    for name, count in counts.items():
        if np.ndim(count) == 0:
            probe.value(name, count)
        else:
            probe.curve(name, range(1, len(count) + 1), count)
