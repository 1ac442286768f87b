"""A study that takes milliseconds a run, and its contestants; shared by the lab's tests."""

import time

import numpy as np

from paragone.lab.spec import Contestant, Measure, Request, Study, Workload

HERE = __file__


def load(rows, seed=0):
    return (np.random.default_rng(seed).normal(size=rows),)


def drifting(rows):
    return (np.random.default_rng().normal(size=rows),)


def mean(data, seed):
    return {"error": float(abs(np.mean(data)))}


def median(data, seed):
    return {"error": float(abs(np.median(data)))}


def slow(data, seed, pause=0.05):
    time.sleep(pause)
    return {"error": 0.5}


def fails(data, seed):
    raise RuntimeError("no luck today")


def fails_late(data, seed):
    if seed % 1000 >= 2:
        raise RuntimeError("tired")
    return {"error": 0.25}


def contestant(name, **more):
    more = {"id": name, "title": name, **more}
    return Contestant(make=f"{HERE}:{name}", **more)


def workload(name, rows=100, **more):
    defaults = {"load": f"{HERE}:load", "params": {"rows": rows}}
    return Workload(id=name, title=name, **{**defaults, **more})


def study(**changes):
    parts = {
        "id": "small", "family": "estimation", "question": "Which centre is nearer?",
        "task": "paragone.lab.tasks.count:run",
        "measures": [
            Measure(name="error", title="error", better="lower", role="quality", margin=0.01,
                    primary=True),
            Measure(name="run_s", title="time", better="lower", role="time", margin=0.05,
                    primary=True),
        ],
        "workloads": lambda request: [workload("w")],
        "contestants": lambda request: [contestant("mean"), contestant("median")],
        "reference": "mean", "blocks": (2, 4),
    }  # fmt: skip
    return Study(**{**parts, **changes})


def request(**changes):
    return Request(**{"threads": 1, **changes})


def look(job, probe):
    """A task with an artifact and some time in which it can be killed."""
    from paragone.lab.tasks import count

    count.run(job, probe)
    probe.array("found", np.arange(3))
    time.sleep(0.02)


def parts():
    """Arguments of `execute` for a study of forty runs."""
    contestants = [contestant(name) for name in ("mean", "median", "slow")]
    workloads = [workload("w"), workload("v", rows=50)]
    return study(task=f"{HERE}:look", preload=("numpy",)), request(), contestants, workloads
