"""Three whole studies of other kinds than cross-validation, each in a few lines.

A sweep over length (sorting), a race of learning curves (descent on least squares), and a count
(coin change). Their tests show that a study of any of these kinds is short.
"""

import numpy as np

from paragone.lab.spec import Contestant, Measure, Request, Study, Workload

HERE = __file__
REQUEST = Request(threads=1, quick=True)


def measure(name, role="quality", primary=True, better="lower"):
    return Measure(name=name, title=name, better=better, role=role, margin=0.05, primary=primary)


# How does sorting time grow with length?


def numbers(length, seed):
    return (np.random.default_rng(seed).integers(0, 1 << 30, length),)


def insertion(values):
    found = values.copy()
    for i in range(1, len(found)):
        place = np.searchsorted(found[:i], found[i], side="right")
        found[place + 1 : i + 1], found[place] = found[place:i].copy(), found[i]
    return found


def wrong(values):
    return np.sort(values)[::-1]


def in_place(values):
    values.sort()
    return values


def sort_lengths(request):
    return [
        Workload(id=f"n{n}", title=f"{n} integers", load=f"{HERE}:numbers",
                 params={"length": n}, axis={"length": n})
        for n in (100, 2000)
    ]  # fmt: skip


def sort_kinds(request):
    kinds = [
        Contestant(id=kind, title=kind, make="numpy:sort", params={"kind": kind})
        for kind in ("quicksort", "stable")
    ]
    names = ("insertion", "wrong", "in_place")
    return kinds + [Contestant(id=n, title=n, make=f"{HERE}:{n}", origin="guest") for n in names]


SORTING = Study(
    id="sorting", family="runtime", question="How does sorting time grow with length?",
    task="paragone.lab.tasks.sweep:run", options={"reference": "numpy:sort"},
    measures=[measure("error"), measure("call_s", "time"), measure("call_extra", "memory")],
    workloads=sort_lengths, contestants=sort_kinds, reference="stable", preload=("numpy",),
    quick_blocks=(2, 2),
)  # fmt: skip


# Which descent reaches the target first?


def least_squares(seed):
    rng = np.random.default_rng(seed)
    a = rng.normal(size=(60, 8)) * np.logspace(0, 1, 8)
    return a, a @ np.ones(8)


def loss(a, b, x):
    return np.mean((a @ x - b) ** 2)


def descent(a, b, seed, momentum=0.0, rate=0.01):
    x, v = np.zeros(a.shape[1]), 0.0
    for step in range(1, 100_000):
        v = momentum * v - rate * 2 * a.T @ (a @ x - b) / len(b)
        x = x + v
        yield step, x


def diverging(a, b, seed):
    yield from descent(a, b, seed, rate=1.0)


def descents(request):
    make = f"{HERE}:descent"
    return [
        Contestant(id="plain", title="gradient descent", make=make, params={"rate": 0.004}),
        Contestant(id="momentum", title="heavy ball", make=make,
                   params={"rate": 0.004, "momentum": 0.9}),
        Contestant(id="diverging", title="rate 1", make=f"{HERE}:diverging"),
    ]  # fmt: skip


DESCENT = Study(
    id="descent", family="training", question="Which descent reaches the target first?",
    task="paragone.lab.tasks.race:run",
    options={"steps": 150, "target": 1e-2, "evaluate": f"{HERE}:loss"},
    measures=[measure("final"), measure("target_steps", "count"), measure("race_s", "time")],
    workloads=lambda request: [Workload(id="ls", title="60 x 8", load=f"{HERE}:least_squares")],
    contestants=descents, reference="plain", preload=("numpy",), quick_blocks=(2, 2),
)  # fmt: skip


# How many coins does the greedy change cost?


def purses(seed):
    rng = np.random.default_rng(seed)
    return (1, 5, 12, 25), rng.integers(1, 200, 40)


def greedy(coins, sums, seed):
    counts = []
    for total in map(int, sums):
        used = 0
        for coin in sorted(coins, reverse=True):
            used, total = used + total // coin, total % coin
        counts.append(used)
    return counts


def optimal(coins, sums, seed):
    best = [0]
    for total in range(1, int(max(sums)) + 1):
        best.append(1 + min(best[total - coin] for coin in coins if coin <= total))
    return [best[int(total)] for total in sums]


def coins_used(coins, sums, counts):
    return {"coins": np.mean(counts), "each": counts}


CHANGE = Study(
    id="change", family="estimation", question="How many coins does the greedy change cost?",
    task="paragone.lab.tasks.count:run", options={"score": f"{HERE}:coins_used"},
    measures=[measure("coins"), measure("run_s", "time")],
    workloads=lambda request: [Workload(id="c", title="coins", load=f"{HERE}:purses")],
    contestants=lambda request: [
        Contestant(id=n, title=n, make=f"{HERE}:{n}") for n in ("greedy", "optimal")
    ],
    preload=("numpy",), quick_blocks=(3, 3), timed=False,
)  # fmt: skip
