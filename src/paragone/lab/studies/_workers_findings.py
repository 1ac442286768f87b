r"""What only the study `workers` can say: thread or process, for which work, from which length on.

A speedup S on n workers says which share f of the work ran at once (Amdahl), and processes that
cost c seconds to create pay once the work takes longer than T:

$$ f = \frac{1 - 1/S}{1 - 1/n}, \qquad T - T / S = n c \;\Rightarrow\; T = \frac{n c}{1 - 1/S} . $$
"""

from __future__ import annotations

from paragone.lab import format as fmt
from paragone.lab.claims import seen
from paragone.lab.outcome import Summary
from paragone.lab.spec import Workload

__all__ = ["CLAIMS", "findings", "median", "of"]

THREADS, PROCESSES = "thread_pool", "process_pool"
_GAIN = 1.2


def of(summary: Summary, place: str, name: str, measure: str) -> float | None:
    """A contestant's number on one workload."""
    for row in summary.tables.get(place, ()):
        cell = row.cells.get(measure)
        if row.contestant == name and cell is not None and cell.value is not None:
            return float(cell.value)
    return None


def median(summary: Summary, name: str, measure: str) -> float | None:
    """A contestant's middle number over all workloads."""
    found = sorted(
        value for w in summary.workloads
        if (value := of(summary, w.id, name, measure)) is not None
    )  # fmt: skip
    return found[len(found) // 2] if found else None


def _places(summary: Summary) -> list[Workload]:
    """One workload of each kind of work: the one with as many workers as asked for."""
    found: dict[str, Workload] = {}
    for workload in summary.workloads:
        found.setdefault(str(workload.facts.get("work")), workload)
    return list(found.values())


def _both(summary: Summary, workload: Workload) -> tuple[float, float] | None:
    pair = [of(summary, workload.id, name, "speedup") for name in (THREADS, PROCESSES)]
    return None if pair[0] is None or pair[1] is None else (pair[0], pair[1])


def _answer(summary: Summary) -> str:
    """Thread or process, by kind of work."""
    words: dict[str, list[str]] = {"threads": [], "processes": [], "neither": []}
    cores = 0
    for workload in _places(summary):
        pair = _both(summary, workload)
        if pair is None:
            continue
        cores = int(workload.facts.get("cores", 0))
        threads, processes = pair
        which = "neither"
        if max(pair) >= _GAIN:
            which = "threads" if threads >= 0.9 * processes else "processes"
        title = workload.title.partition(",")[0]
        words[which].append(f"{title} ({threads:.1f}x by threads, {processes:.1f}x by processes)")
    told = [f"{which} for {fmt.join(found)}" for which, found in words.items() if found]
    if not told:
        return ""
    return f"Thread or process? On this machine of {cores} processors {'; '.join(told)}."


def _prices(summary: Summary) -> str:
    """What a worker costs to create, to send to and to hold."""
    told = []
    for name, word in ((THREADS, "a thread"), (PROCESSES, "a process")):
        create, trip, ram = (median(summary, name, m) for m in ("create_s", "trip_s", "worker_ram"))
        if create is not None and trip is not None and ram is not None:
            told.append(
                f"{word} takes {fmt.seconds(create)} to create, {fmt.seconds(trip)} for a task and "
                f"{fmt.size(ram)} of memory"
            )
    text = "; ".join(told)
    return f"{text[0].upper()}{text[1:]}." if text else ""


def _pays(summary: Summary) -> str:
    """From which length on processes pay for work that threads cannot share out."""
    for workload in _places(summary):
        gain = of(summary, workload.id, PROCESSES, "speedup")
        create = of(summary, workload.id, PROCESSES, "create_s")
        if workload.facts.get("work") == "python" and gain and create and gain > 1.05:
            workers = int(workload.facts["workers"])
            length, share = workers * create / (1 - 1 / gain), (1 - 1 / gain) / (1 - 1 / workers)
            return (
                f"Processes made for the occasion pay for pure Python that takes longer than "
                f"{fmt.seconds(length)} alone; of it {min(share, 1):.0%} ran at once (Amdahl, "
                f"{workers} workers)."
            )
    return ""


def findings(summary: Summary) -> list[str]:
    """Sentences that follow the verdict."""
    return [text for text in (_answer(summary), _prices(summary), _pays(summary)) if text]


def _gain(summary: Summary, work: str) -> tuple[float, float, int] | None:
    for workload in _places(summary):
        pair = _both(summary, workload)
        if workload.facts.get("work") == work and pair is not None:
            return (*pair, int(workload.facts["workers"]))
    return None


def _locked(summary: Summary) -> tuple[str, bool] | None:
    found = _gain(summary, "python")
    if found is None:
        return None
    threads, processes, workers = found
    return (
        f"pure Python on {workers} workers: {threads:.2f}x by threads, {processes:.2f}x by "
        "processes", threads < 1.15 < processes,
    )  # fmt: skip


def _free(summary: Summary) -> tuple[str, bool] | None:
    pairs = {w: found for w in ("numpy", "numba") if (found := _gain(summary, w)) is not None}
    if not pairs:
        return None
    words = "; ".join(f"{w}: {t:.2f}x by threads, {p:.2f}x by processes"
                      for w, (t, p, _) in pairs.items())  # fmt: skip
    return words, all(t > _GAIN and t >= 0.85 * p for t, p, _ in pairs.values())


def _waiting(summary: Summary) -> tuple[str, bool] | None:
    found = _gain(summary, "wait")
    if found is None:
        return None
    threads, _, workers = found
    return f"{workers} threads that wait: {threads:.1f}x", threads > 0.7 * workers


def _dear(summary: Summary) -> tuple[str, bool] | None:
    thread, process = (median(summary, n, "create_s") for n in (THREADS, PROCESSES))
    if not thread or not process:
        return None
    return (
        f"{fmt.seconds(thread)} a thread, {fmt.seconds(process)} a process: "
        f"{process / thread:.0f}x", process > 30 * thread,
    )  # fmt: skip


def _small(summary: Summary) -> tuple[str, bool] | None:
    thread, process = (median(summary, n, "worker_ram") for n in (THREADS, PROCESSES))
    if thread is None or process is None:
        return None
    return (
        f"{fmt.size(thread)} a thread, {fmt.size(process)} a process", process > 4 * thread
    )  # fmt: skip


CLAIMS = (
    seen("Threads do not speed up pure Python: one at a time runs bytecode.",
         "Beazley (2010), Understanding the Python GIL; Python's manual, `threading`", _locked),
    seen("Threads speed up code that lets go of Python's lock as much as processes do.",
         "Numba's manual, `nogil`; NumPy's manual, thread safety", _free),
    seen("Waiting overlaps: n threads that wait are almost n times as fast.",
         "Silberschatz, Galvin and Gagne (2018), section 4.1.2", _waiting),
    seen("Creating a process is about thirty times slower than creating a thread, or more.",
         "Silberschatz, Galvin and Gagne (2018), section 4.1.2 (on Solaris)", _dear),
    seen("Threads share the memory of their process; processes hold their own.",
         "Silberschatz, Galvin and Gagne (2018), section 4.1", _small),
)  # fmt: skip
