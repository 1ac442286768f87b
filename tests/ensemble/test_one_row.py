"""One clean row past the door: the same bits as in a batch, and every check still made."""

import pickle
import threading

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paragone import ensemble
from paragone.ensemble import _one_row
from paragone.ensemble._tree import LEAF

NAMES = ("NewtonBoosting", "GradientBoosting", "RandomForest", "DecisionTree")


def task(classes, n=300, p=5):
    random = np.random.default_rng(classes)
    X = random.normal(size=(n, p))
    X[::9, 1] = np.nan
    y = X[:, 0] + X[:, 2] ** 2 + 0.2 * random.normal(size=n)
    return X, np.digitize(y, np.quantile(y, np.arange(1, classes) / classes)) if classes else y


def fitted(name, classes, **options):
    make = getattr(ensemble, name + ("Classifier" if classes else "Regressor"))
    if name != "DecisionTree":
        options = {"n_estimators": 13, **options}
    return make(random_state=0, **options).fit(*task(classes))


@pytest.fixture(scope="module", params=[(n, c) for n in NAMES for c in (0, 2, 3)], ids=str)
def model(request):
    return fitted(*request.param)


def calls(model):
    return [model.predict] + ([model.predict_proba] if hasattr(model, "classes_") else [])


def walk(tree, x):
    """The leaf of one row by definition."""
    k = 0
    while tree.feature[k] != LEAF:
        value = np.float32(x[tree.feature[k]])
        left = tree.missing_left[k] if np.isnan(value) else value <= tree.threshold[k]
        k = tree.left[k] + (0 if left else 1)
    return k


@pytest.mark.parametrize("classes", [0, 2, 3])
def test_the_sum_over_trees_is_that_of_the_definition(classes):
    model = fitted("NewtonBoosting", classes, booster="dart", rate_drop=0.3)
    X, _ = task(classes)
    for x in X[:40]:
        raw = model.base_score_.copy()
        for trees, weight in zip(model.trees_, model.tree_weights_, strict=True):
            for k, tree in enumerate(trees):
                raw[k] += tree.value[walk(tree, x), 0] * weight
        found = _one_row.raw_of_row(model, x[None], model.trees_, model._row_parts)
        np.testing.assert_array_equal(found[:, 0], raw)


def test_a_row_alone_gives_the_bits_of_the_batch(model):
    X, _ = task(3)
    X[:5] = [[0.0], [-0.0], [1e-42], [3e38], [-3e38]]
    for call in calls(model):
        batch = call(X)
        for i in range(60):
            np.testing.assert_array_equal(call(X[i : i + 1]), batch[i : i + 1])


def test_every_dress_of_a_row_gives_the_same(model):
    x = task(3)[0][7:8]
    fixed = x.copy()
    fixed.flags.writeable = False
    wide = np.repeat(x, 2, axis=1)[:, ::2]
    whole = np.round(x * 3)
    for call in calls(model):
        expected = call(x)
        for dress in (fixed, wide, np.asfortranarray(x), x.tolist(), x.astype(">f8"), x[:, :]):
            np.testing.assert_array_equal(call(dress), expected)
        np.testing.assert_array_equal(call(x.astype(np.float32)), call(np.float64(np.float32(x))))
        whole = np.nan_to_num(whole)
        np.testing.assert_array_equal(call(whole.astype(int)), call(whole))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(width=32, allow_infinity=False), min_size=5, max_size=5))
def test_any_row(values):
    model = cached("RandomForest", 3)
    row = np.array([values])
    np.testing.assert_array_equal(
        model.predict_proba(row), model.predict_proba(row.repeat(2, 0))[:1]
    )


_KEPT = {}


def cached(*key):
    if key not in _KEPT:
        _KEPT[key] = fitted(*key)
    return _KEPT[key]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (np.full((1, 5), np.inf), "infinity"),
        (np.full((1, 5), 1e39), "too large"),
        (np.zeros((1, 4)), "features"),
        (np.zeros((1, 6)), "features"),
        (np.zeros((1, 0)), "feature"),
        (np.zeros(1), "Reshape"),
        (np.zeros((1, 5, 1)), "dim"),
        (np.zeros((1, 5), complex), "Complex"),
    ],
)
def test_what_a_batch_refuses_a_row_refuses(model, row, message):
    model.predict(np.zeros((1, 5)))
    for call in calls(model):
        with pytest.raises(ValueError, match=message):
            call(row)


@pytest.mark.parametrize("name", NAMES)
def test_before_fit_and_after_a_new_fit(name):
    from sklearn.exceptions import NotFittedError

    model = getattr(ensemble, f"{name}Regressor")()
    with pytest.raises(NotFittedError):
        model.predict(np.zeros((1, 5)))
    X, y = task(0)
    before = model.fit(X, y).predict(X[:1])
    assert model.fit(X, y + 100).predict(X[:1]) > before + 90
    model.fit(X[:, :3], y)
    assert len(model.predict(X[:1, :3])) == 1
    with pytest.raises(ValueError, match="features"):
        model.predict(X[:1])


@pytest.mark.parametrize("name", NAMES)
def test_names_warn_as_in_a_batch(name):
    X, y = task(0)
    frame = pd.DataFrame(X, columns=list("abcde"))
    model = getattr(ensemble, f"{name}Regressor")().fit(frame, y)
    with pytest.warns(UserWarning, match="does not have valid feature names"):
        one = model.predict(X[:1])
    np.testing.assert_array_equal(one, model.predict(frame[:1]))


def test_categories_take_the_usual_way():
    X, y = task(0)
    X[:, 4] = np.arange(len(X)) % 7
    for name in NAMES:
        model = getattr(ensemble, f"{name}Regressor")(categorical_features=[4]).fit(X, y)
        np.testing.assert_array_equal(model.predict(X[3:4]), model.predict(X)[3:4])
        unseen = X[3:4].copy()
        unseen[0, 4] = 99
        np.testing.assert_array_equal(model.predict(unseen), model.predict(unseen.repeat(2, 0))[:1])


def test_predicting_changes_nothing_and_copies_work(model):
    x = task(0)[0][:1]
    state = set(vars(model))
    expected = model.predict(x)
    assert set(vars(model)) == state
    for again in (pickle.loads(pickle.dumps(model)), model):
        np.testing.assert_array_equal(again.predict(x), expected)


def test_threads_share_a_fresh_model():
    model, found = fitted("RandomForest", 2), []
    X, _ = task(2)

    def ask():
        found.append([model.predict_proba(X[i : i + 1])[0, 0] for i in range(50)])

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(each == model.predict_proba(X[:50])[:, 0].tolist() for each in found)


def test_an_init_estimator_sees_the_row():
    X, y = task(0)
    X = np.nan_to_num(X)
    init = ensemble.DecisionTreeRegressor(max_depth=2)
    model = ensemble.GradientBoostingRegressor(init=init, n_estimators=5).fit(X, y)
    np.testing.assert_array_equal(model.predict(X[4:5]), model.predict(X)[4:5])


def test_the_definition_catches_a_planted_bug(monkeypatch):
    model = fitted("NewtonBoosting", 0)
    X, _ = task(0)
    plan = _one_row._plan(model, model.trees_, *model._row_parts())
    # Missing values to the wrong side.
    plan.nodes[:, 0] ^= 1 << 32
    monkeypatch.setitem(_one_row._PLANS, model, plan)
    found = [model.predict(X[i : i + 1])[0] for i in range(60)]
    assert found != model.predict(X[:60]).tolist()
