"""The task of a neighbour search: what it accepts, what it measures, what it catches."""

import numpy as np
import pytest

from paragone.lab.points import truth
from paragone.lab.probe import Probe
from paragone.lab.spec import Block, Contestant, Job, Workload
from paragone.lab.tasks import search

HERE = __file__


def cloud(rows=300, columns=3, seed=0):
    generator = np.random.default_rng(seed)
    grid = generator.integers(0, 6, (rows, columns)).astype(float)
    return grid, generator.random((40, columns)) * 5


def brute(points, queries, k, skip=0):
    gaps = ((queries[:, None, :] - points[None]) ** 2).sum(-1)
    order = np.argsort(gaps, axis=1, kind="stable")[:, skip : k + skip]
    return np.sqrt(np.take_along_axis(gaps, order, axis=1)), order


class Exact:
    exact = True

    def __init__(self, threads=0):
        assert threads == 1

    def fit(self, points):
        self.points = points

    def query(self, queries, k):
        return brute(self.points, queries, k)


class Plain:
    """No promise, another method's name, built as scikit-learn's."""

    def fit(self, points):
        self.points = points
        return self

    def kneighbors(self, queries, k):
        return brute(self.points, queries, k)


class OnPoints:
    def __init__(self, points):
        self.points = points

    def query(self, queries, k):
        distances, indices = brute(self.points, queries, k)
        return (distances[:, 0], indices[:, 0]) if k == 1 else (distances, indices)


class MissesOne(Exact):
    def query(self, queries, k):
        return brute(self.points, queries, k, skip=1)


class Repeats(Exact):
    def query(self, queries, k):
        distances, indices = brute(self.points, queries, k)
        indices[:, 1:] = indices[:, :1]
        return distances, indices


class Nowhere(Exact):
    def query(self, queries, k):
        distances, indices = brute(self.points, queries, k)
        return distances, indices + len(self.points)


class Growing:
    """Looks at a share of the points that grows with the effort."""

    efforts = (30, 150, 290, 300, 1000)

    def fit(self, points):
        self.points = points

    def query(self, queries, k, effort=100):
        return brute(self.points[:effort], queries, k)


def run(name, k=4, **more):
    job = Job(
        key="k", task="", contestant=Contestant(id="c", title="c", make=f"{HERE}:{name}"),
        workload=Workload(id="w", title="w", load=f"{HERE}:cloud", facts={"k": k}, **more),
        block=Block(workload="w", index=0, split=0, seed=0), threads=1,
    )  # fmt: skip
    probe = Probe()
    search.run(job, probe)
    return probe


@pytest.mark.parametrize("name", ["Exact", "Plain", "OnPoints"])
@pytest.mark.parametrize("k", [1, 4])
def test_every_accepted_form_is_measured_and_exact(name, k):
    values = run(name, k).values
    assert values["recall"] == 1.0
    assert values["error"] < 1e-12
    for key in ("query_s", "query_cpu_s", "build_s", "latency_s", "extra", "import_s",
                "first_call_s", "contrast"):  # fmt: skip
        assert key in values
    assert "approx_s" not in values


def test_an_approximate_one_stops_at_the_least_effort_that_is_good_enough():
    probe = run("Growing")
    curve = probe.curves["recall over seconds a query"]
    assert len(curve["x"]) == 4  # nothing is missed at 300: 1000 is not tried
    assert curve["y"] == sorted(curve["y"])
    assert curve["y"][-1] == 1.0
    good = [r for r in curve["y"] if r >= search.RECALL]
    assert probe.values["recall"] == good[0]
    assert "query_s" not in probe.values
    assert probe.values["approx_s"] in curve["x"]


@pytest.mark.parametrize("name", ["MissesOne", "Repeats"])
def test_an_exact_one_that_misses_a_neighbour_has_failed(name):
    with pytest.raises(ValueError, match="some nearest neighbour was missed"):
        run(name)


def test_indices_that_are_none_are_refused():
    with pytest.raises(ValueError, match="indices must be 0 to 299"):
        run("Nowhere")


def test_ties_may_be_broken_either_way_but_distances_must_be_true():
    points = np.array([[0.0], [1.0], [-1.0], [5.0]])
    asked = np.zeros((1, 1))
    nearest, _ = truth(points, asked, 2)
    for index in (1, 2):
        found = np.array([[0.0, 1.0]]), np.array([[0, index]])
        assert search.judge(points, asked, nearest, found) == (1.0, 0.0)
    wrong = np.array([[0.0, 2.0]]), np.array([[0, 1]])
    assert search.judge(points, asked, nearest, wrong) == (1.0, 1.0)
    far = np.array([[0.0, 5.0]]), np.array([[0, 3]])
    assert search.judge(points, asked, nearest, far)[0] == 0.5
    with pytest.raises(ValueError, match=r"shape \(1, 2\) are expected"):
        search.judge(points, asked, nearest, (np.zeros((1, 3)), np.zeros((1, 3), int)))


def test_one_call_builds_and_asks():
    job = Job(
        key="k", task="", contestant=Contestant(id="c", title="c", make=f"{HERE}:Plain"),
        workload=Workload(id="w", title="w", load=f"{HERE}:cloud", facts={"k": 2}),
        block=Block(workload="w", index=0, split=0, seed=0), threads=1,
    )  # fmt: skip
    assert search.one_call(job)()() is None
