"""The choice: always an exact answer when one is asked for, told in words, and repaid."""

import pickle

import numpy as np
import pytest

from paragone.neighbors import KDForest, _choice
from paragone.neighbors._choice import Chooser, _Promise, brute_seconds
from paragone.neighbors.brute import BruteForce


@pytest.fixture
def promises(monkeypatch):
    """Prices by hand, so that no clock decides: seconds of brute force, and of the others."""
    prices = {"brute": 1e-3, "tree": _Promise(0.0, 1.0), "forest": _Promise(0.0, 1.0)}
    monkeypatch.setattr(_choice, "brute_seconds", lambda *_: prices["brute"])
    for name in ("tree", "forest"):
        monkeypatch.setattr(_choice, f"_pilot_{name}", lambda *_, name=name: prices[name])
    monkeypatch.setattr(_choice, "_seconds", lambda work, repeats=1: work() or prices["trial"])
    prices["trial"] = 0.0
    return prices


def problem(n=600, m=200, d=4, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)), rng.normal(size=(m, d))


def ask(points, x, checks=None, k=3, chooser=None):
    chooser = chooser or Chooser(points)
    return chooser, chooser.query(x, k, 2.0, checks, "auto", 1)


@pytest.mark.parametrize("method", ["tree", "brute"])
@pytest.mark.parametrize("p", [1.0, 2.0, np.inf])
@pytest.mark.parametrize("kind", [np.uint8, np.float32, np.float64])
def test_exact_methods_agree_to_the_last_bit(method, p, kind):
    """So what the clock chooses cannot be seen in the answer."""
    rng = np.random.default_rng(1)
    points, x = (rng.integers(0, 200, (m, 11)).astype(kind) / kind(3) for m in (900, 80))
    a = Chooser(points).query(x, 6, p, None, method, 1)
    b = Chooser(points).query(x, 6, p, None, "auto", 2)
    np.testing.assert_array_equal(a[1], b[1])
    np.testing.assert_array_equal(a[0], b[0])


def test_little_work_is_brute_force_without_a_pilot(promises):
    promises["brute"] = 1e-6
    del promises["tree"]  # a pilot would fail
    points, x = problem()
    chooser, _ = ask(points, x)
    assert chooser.method == "brute"
    assert "too little" in chooser.explain()


def test_many_neighbours_are_brute_force(promises):
    points, x = problem(n=50)
    chooser, found = ask(points, x, k=40)
    assert chooser.method == "brute"
    np.testing.assert_array_equal(found[1], BruteForce(points).query(x, 40)[1])


def test_takes_the_tree_where_it_promises_a_gain(promises):
    promises["tree"] = _Promise(0.0, 1e-4)
    points, x = problem()
    chooser, found = ask(points, x)
    assert chooser.method == "tree"
    assert "tree 0.02 s" in chooser.explain()
    np.testing.assert_array_equal(found[1], BruteForce(points).query(x, 3)[1])


def test_a_small_promise_is_not_enough(promises):
    promises["tree"] = _Promise(0.0, 0.9e-3)
    assert ask(*problem())[0].method == "brute"


def test_a_build_is_repaid_by_the_queries_so_far(promises):
    promises["tree"] = _Promise(0.5, 1e-5)
    points, x = problem()
    chooser, _ = ask(points, x)
    assert chooser.method == "brute"  # 0.2 s of brute force do not repay 0.5 s
    for _ in range(3):
        ask(points, x, chooser=chooser)
    assert chooser.method == "tree"


def test_a_broken_promise_ends_in_brute_force(promises):
    promises["tree"], promises["trial"] = _Promise(0.0, 1e-5), 10.0
    points, x = problem()
    chooser, found = ask(points, x)
    assert chooser.method == "brute"
    assert "but tree took" in chooser.explain()
    np.testing.assert_array_equal(found[1], BruteForce(points).query(x, 3)[1])
    assert ask(points, x, chooser=chooser)[0].method == "brute"


def test_never_approximate_unless_allowed(promises):
    promises["forest"] = _Promise(0.0, 1e-9)
    points, x = problem(d=8)
    assert ask(points, x)[0].method == "brute"
    chooser, found = ask(points, x, checks=150)
    assert chooser.method == "forest"
    true = BruteForce(points).query(x, 3)[1]
    assert 0.6 < np.mean(found[1] == true) < 1.0


def test_a_forest_that_finds_little_is_not_taken(promises):
    """Data without structure in many dimensions: half the neighbours would be missed."""
    promises["brute"] = 1e-2
    promises["forest"] = _Promise(0.0, 1e-9)
    points, x = problem(n=3000, d=60)
    chooser, found = ask(points, x, checks=20)
    assert chooser.method == "brute"
    assert "too few" in chooser.explain()
    true = BruteForce(points).query(x, 3)[1]
    assert np.mean((found[1] == true).all(axis=1)) >= 1 - _choice._TRIAL / len(x)
    assert ask(points, x, checks=20, chooser=chooser)[0].method == "brute"


def test_no_forest_is_built_for_data_without_structure(monkeypatch):
    """The pilot sees it: in sixty ways of variation, twenty looks find next to nothing."""
    monkeypatch.setattr(_choice, "worth_a_pilot", lambda d: 0.0)
    points, x = problem(n=5000, d=60)
    chooser, found = ask(points, x, checks=20)
    assert "forest" not in chooser._engines
    assert "forest inf s" in chooser.explain()
    np.testing.assert_array_equal(found[1], BruteForce(points).query(x, 3)[1])


def test_no_forest_where_the_tree_is_quick(promises):
    promises["tree"] = _Promise(0.0, 1e-5)
    promises["forest"] = _Promise(0.0, 1e-9)
    chooser, _ = ask(*problem(), checks=100)
    assert chooser.method == "tree"
    assert "forest" not in chooser.explain()


def test_brute_force_is_predicted_to_grow():
    small, more, wide = brute_seconds(10_000, 8, 5, 2.0), brute_seconds(90_000, 8, 5, 2.0), 0
    wide = brute_seconds(10_000, 800, 5, 2.0)
    assert 0 < small < more
    assert small < wide
    assert brute_seconds(10_000, 8, 5, 3.0) > 0


def test_real_pilots_run_and_speak(monkeypatch):
    monkeypatch.setattr(_choice, "worth_a_pilot", lambda d: 0.0)
    monkeypatch.setattr(_choice, "_QUICK", 0.0)
    points, x = problem(n=3000, d=3)
    forest = KDForest(points)
    assert forest.method is None
    assert forest.explain() == "no query yet"
    distance, index = forest.query(x, 4, checks=100)
    assert forest.method in ("brute", "tree", "forest")
    assert all(word in forest.explain() for word in ("brute", "tree", "forest", "3000 points"))
    exact = forest.query(x, 4, checks=None)
    np.testing.assert_array_equal(exact[1], BruteForce(points).query(x, 4)[1])
    assert pickle.loads(pickle.dumps(forest)).explain() == forest.explain()
    assert np.mean(index == exact[1]) > 0.5
    assert (distance[:, 0] >= exact[0][:, 0]).all()
