"""A run of a size sweep: one callable on one input, called again and again.

For questions such as "how does time grow with length?". Each point of the sweep is a workload;
its `load` makes the inputs, the contestant is called with them. The first call (JIT, caches,
lazy set-up) is timed apart; after it the steady state is the median over calls, repeated until
they took `least_time` together:

    call_s = median(t_1 ... t_n),   call_extra = peak during the calls - resident before the first.

With a `reference` the first result is compared with the truth, as a root-mean-square ratio:

    error = ||out - truth|| / ||truth||.

Options (`Study.options`):
    reference: `"module:function"`, called with the same inputs, off the clock ("": no error).
    least_time: Seconds that the timed calls take at least, 0.2 (0.02 in quick studies).
    least_calls: Timed calls at least, 3.
    most_calls: Timed calls at most, 10000.

Values: `call_s`, `call_cpu_s` (a call's share), `call_extra`, `calls`, `error`, and of the
phases import, load, first_call and call what `Probe.phase` records.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from paragone.lab.build import bind, load_inputs, resolve_target
from paragone.lab.probe import Probe, digest_arrays
from paragone.lab.spec import Job

__all__ = ["one_call", "relative_error", "run"]


def relative_error(found: Any, truth: Any) -> float:
    """Returns the root-mean-square error of `found` relative to the size of `truth`.

    Several outputs (a tuple) count as one long vector.

    Example:
        >>> relative_error([1.0, 2.0], [1.0, 2.0])
        0.0
    """
    ours, theirs = _flat(found), _flat(truth)
    if ours.shape != theirs.shape:
        raise ValueError(
            f"the contestant returned {ours.size} numbers, the reference {theirs.size}; "
            "both must return the same shapes"
        )
    size = np.linalg.norm(theirs)
    return float(np.linalg.norm(ours - theirs) / (size if size > 0 else 1.0))


def _flat(result: Any) -> np.ndarray:
    parts = result if isinstance(result, tuple) else (result,)
    detached = [part.detach().cpu() if hasattr(part, "detach") else part for part in parts]
    return np.concatenate([np.asarray(part, dtype=np.float64).ravel() for part in detached])


def run(job: Job, probe: Probe) -> None:
    """Performs one run of a sweep; see the module's text."""
    options = job.options
    with probe.phase("load"):
        inputs = load_inputs(job)
    before = digest_arrays(*inputs)
    probe.digests["data"] = before
    with probe.phase("import"):
        call = bind(job.contestant, job.workload.facts)
    with probe.phase("first_call"):
        result = call(*inputs)
    if reference := options.get("reference"):
        truth = resolve_target(reference)(*inputs)
        probe.value("error", relative_error(result, truth))
    del result
    enough = float(options.get("least_time", 0.02 if job.quick else 0.2))
    least, most = int(options.get("least_calls", 3)), int(options.get("most_calls", 10_000))
    times: list[float] = []
    with probe.phase("call"):
        while len(times) < least or (sum(times) < enough and len(times) < most):
            start = time.perf_counter()
            call(*inputs)
            times.append(time.perf_counter() - start)
    if digest_arrays(*inputs) != before:
        raise ValueError("the contestant changed its inputs; it must leave them as they are")
    first, steady = probe.phases["first_call"], probe.phases["call"]
    probe.value("call_s", float(np.median(times)))
    probe.value("call_cpu_s", steady["cpu"] / len(times))
    probe.value("call_extra", max(first["peak"], steady["peak"]) - first["start"])
    probe.value("calls", len(times))


def one_call(job: Job) -> Callable[[], Callable[[], Any]]:
    """Returns what, called, imports the contestant and returns one call of it on the inputs."""
    inputs = load_inputs(job)

    def load() -> Callable[[], Any]:
        call = bind(job.contestant, job.workload.facts)
        return lambda: call(*inputs)

    return load
