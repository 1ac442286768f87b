from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_diabetes

from paragone.ensemble import NewtonBoostingRegressor
from paragone.ensemble._dart import Dropout, Leaves

X, Y = load_diabetes(return_X_y=True)


def dart(**params):
    usual = {"booster": "dart", "n_estimators": 8, "random_state": 0, "max_depth": 3}
    return NewtonBoostingRegressor(**usual | params)


@pytest.mark.peers
@pytest.mark.parametrize("normalize", ["tree", "forest"])
def test_dropping_everything_is_what_xgboost_does(normalize):
    xgboost = pytest.importorskip("xgboost")
    params = {"rate_drop": 1.0, "normalize_type": normalize, "base_score": 150.0}
    params |= {"tree_method": "exact", "n_estimators": 6, "max_depth": 3}
    ours = dart(**params).fit(X, Y)
    theirs = xgboost.XGBRegressor(booster="dart", **params, n_jobs=1).fit(X, Y)
    assert ours.predict(X) == pytest.approx(theirs.predict(X), rel=1e-5)


def test_no_dropout_is_plain_boosting():
    plain = dart(booster="gbtree").fit(X, Y).predict(X)
    assert dart().fit(X, Y).predict(X) == pytest.approx(plain, rel=1e-12)
    skipped = dart(rate_drop=0.9, skip_drop=1.0).fit(X, Y).predict(X)
    assert skipped == pytest.approx(plain, rel=1e-12)


@pytest.mark.parametrize("sample", ["uniform", "weighted"])
def test_the_running_score_is_the_weighted_sum_of_trees(sample):
    model = dart(rate_drop=0.5, one_drop=True, sample_type=sample, n_estimators=25)
    model.fit(X, Y, eval_set=(X, Y))
    last = model.evals_result_["validation_0"]["squared"][-1]
    assert 0.5 * np.mean((Y - model.predict(X)) ** 2) == pytest.approx(last, rel=1e-9)
    assert (model.tree_weights_ < 1).all()


def test_weights_follow_the_formulas():
    for normalize, new, factor in (("tree", 1 / 2.5, 2 / 2.5), ("forest", 1 / 1.5, 1 / 1.5)):
        dropout = Dropout(0.5, 0.0, False, "uniform", normalize, 0.5)
        dropout.weights = [1.0, 0.5, 0.25]
        assert dropout.rescale(np.array([0, 2])) == pytest.approx((new, factor))
        assert dropout.weights == pytest.approx([factor, 0.5, 0.25 * factor, new])
        assert dropout.rescale(np.zeros(0, int)) == (1.0, 1.0)


def test_draws_have_the_rate_and_follow_weights():
    generator = np.random.default_rng(0)
    for sample, want in (("uniform", [0.2, 0.2]), ("weighted", [0.1, 0.3])):
        dropout = Dropout(0.2, 0.0, False, sample, "tree", 0.1)
        dropout.weights = [0.5, 1.5]
        drawn = np.zeros(2)
        for _ in range(4000):
            drawn[dropout.draw(generator)] += 1
        assert drawn / 4000 == pytest.approx(want, abs=0.03)
    always = Dropout(0.0, 0.0, True, "uniform", "tree", 0.1)
    always.weights = [1.0, 1.0]
    assert all(len(always.draw(generator)) == 1 for _ in range(20))


@pytest.mark.parametrize(
    ("name", "value"), [("rate_drop", 2.0), ("sample_type", "x"), ("normalize_type", "y")]
)
def test_bad_parameters_are_named(name, value):
    with pytest.raises(ValueError, match=name):
        dart(**{name: value}).fit(X, Y)


@pytest.mark.parametrize("dropped", [0, 1, 3, 4, 5, 11])
@pytest.mark.parametrize("n", [0, 1, 64, 1009])
def test_trees_dropped_four_at_a_time_add_up_as_one_by_one(dropped, n):
    rng = np.random.default_rng(dropped)
    memory, weights = Leaves(), list(rng.random(12))
    kept = []
    for r in range(12):
        # Trees of more than 256 nodes keep wider numbers of leaves and go alone.
        nodes = 300 if r in (2, 7) else 1 + 23 * r
        pair = [(rng.integers(0, nodes, n), rng.normal(size=(nodes, 1))) for _ in range(2)]
        kept.append(pair)
        trees: Any = [SimpleNamespace(num_nodes=nodes, value=value) for _, value in pair]
        memory.remember(trees, [leaf for leaf, _ in pair])
    chosen = np.sort(rng.permutation(12)[:dropped])
    want = np.zeros((2, n))
    for r in chosen:
        for k, (leaf, value) in enumerate(kept[r]):
            want[k] += weights[r] * value[leaf, 0]
    assert np.array_equal(memory.score(chosen, weights, np.zeros((2, n))), want)
