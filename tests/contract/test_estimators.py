"""One contract for all estimators: scikit-learn's own checks, then ours, none waived.

The sixteen ensembles take everything below. The neighbours refuse NaN and text, so they stand
under scikit-learn's checks here, and under the rest of ours in `tests/neighbors`.
"""

import pickle

import numpy as np
import pandas as pd
import polars as pl
import pytest
import scipy.sparse as sp
from sklearn.base import clone, is_classifier
from sklearn.utils.estimator_checks import parametrize_with_checks

from paragone import ensemble, neighbors

NAMES = [name for name in ensemble.__all__ if name.endswith(("Classifier", "Regressor"))]
QUICK = {
    "Bagging": {"n_estimators": 5}, "RandomForest": {"n_estimators": 7},
    "AdaBoost": {"n_estimators": 7}, "GradientBoosting": {"n_estimators": 7},
    "NewtonBoosting": {"n_estimators": 7},
}  # fmt: skip


def make(name, **params):
    """The estimator, small and seeded; the composites get two quick members."""
    suffix = "Classifier" if name.endswith("Classifier") else "Regressor"
    stem = name.removesuffix(suffix)
    settings = {"random_state": 0, **QUICK.get(stem, {})}
    if stem in ("Stacking", "Voting"):
        settings["estimators"] = [
            ("tree", getattr(ensemble, "DecisionTree" + suffix)(max_depth=3, random_state=0)),
            ("boost", getattr(ensemble, "NewtonBoosting" + suffix)(n_estimators=3)),
        ]
    return getattr(ensemble, name)(**{**settings, **params})


NEIGHBORS = [
    getattr(neighbors, name)(algorithm=algorithm)
    for name in neighbors.__all__
    if name.endswith(("Classifier", "Regressor"))
    for algorithm in ("auto", "kd_forest")
]


@parametrize_with_checks([make(name) for name in NAMES] + NEIGHBORS)
def test_scikit_learn_checks(estimator, check):
    check(estimator)


def target(name, score):
    """Three named classes, or a number, from a real-valued score."""
    if name.endswith("Regressor"):
        return score
    return np.array(["low", "mid", "top"])[np.digitize(score, np.quantile(score, [0.4, 0.7]))]


def problem(name, rows=211, seed=0, whole=False):
    """Real-valued columns (or whole numbers) with NaN, a tie-ridden and a constant column."""
    rng = np.random.default_rng(seed)
    X = np.round(rng.normal(size=(rows, 5)) * 50) if whole else rng.normal(size=(rows, 5))
    X[:, 3] = np.round(X[:, 3] / (50 if whole else 1))
    X[:, 4] = 7.0
    score = X[:, 0] + X[:, 1] * (X[:, 3] > 0) + 0.1 * rng.normal(size=rows)
    X[rng.random(rows) < 0.15, 1] = np.nan
    return X, target(name, score)


def outputs(model, X):
    """Everything that a row's prediction consists of."""
    if is_classifier(model):
        return [model.predict_proba(X), model.predict(X)]
    return [model.predict(X)]


def assert_same(model, other, X, Z=None):
    for a, b in zip(outputs(model, X), outputs(other, X if Z is None else Z), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.fixture(scope="module", params=NAMES)
def fitted(request):
    """(name, model, X, y) of one fit that many tests only read."""
    X, y = problem(request.param)
    return request.param, make(request.param).fit(X, y), X, y


def test_learns_something(fitted):
    _, model, X, y = fitted
    assert model.score(X, y) > 0.6


def test_survives_pickle_and_json(fitted, tmp_path):
    _, model, X, _ = fitted
    assert_same(model, pickle.loads(pickle.dumps(model)), X)
    model.save_model(tmp_path / "model.json")
    loaded = ensemble.load_model(tmp_path / "model.json")
    assert_same(model, loaded, X)
    assert type(loaded) is type(model)
    assert repr(loaded.get_params()) == repr(model.get_params())
    assert repr(clone(loaded)) == repr(clone(model))


def test_same_seed_same_model(fitted):
    _, model, X, y = fitted
    assert_same(model, clone(model).fit(X, y), X)


def test_every_layout_of_the_same_numbers(fitted):
    _, model, X, _ = fitted
    wide = np.repeat(X, 2, axis=1)
    for Z in (np.asfortranarray(X), wide[:, ::2], X.astype(np.float32), X[::-1][::-1], X.tolist()):
        assert_same(model, model, X, Z)
    for start, stop in ((0, 1), (17, 80)):
        for a, b in zip(outputs(model, X[start:stop]), outputs(model, X), strict=True):
            np.testing.assert_array_equal(a, b[start:stop])


def test_layout_does_not_change_the_fit(fitted):
    _, model, X, y = fitted
    for Z in (np.asfortranarray(X), np.repeat(X, 2, axis=1)[:, ::2]):
        assert_same(model, clone(model).fit(Z, y), X)


def test_data_frames_are_arrays(fitted):
    _, model, X, y = fitted
    names = list("abcde")
    frames = [pd.DataFrame(X, columns=names), pl.DataFrame(X, schema=names).fill_nan(None)]
    for frame in frames:
        other = clone(model).fit(frame, y)
        for again in frames:
            assert_same(model, other, X, again)
        assert other.feature_names_in_.tolist() == names


def test_sparse_zeros_are_zeros(fitted):
    name, model, X, _ = fitted
    Z = np.where(np.abs(X) < 0.7, 0.0, X)
    y = target(name, np.nan_to_num(Z).sum(axis=1))
    dense = clone(model).fit(Z, y)
    for form in (sp.csr_matrix, sp.csc_array):
        assert_same(dense, clone(model).fit(form(Z), y), Z, form(Z))


@pytest.mark.parametrize("name", NAMES)
def test_text_columns(name):
    """A category decides; pandas, polars and codes in an array agree, also on the unseen."""
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 6, 300)
    words = np.array(["ash", "birch", "cedar", "elm", "fir", "yew"], object)[codes]
    words[::17] = None
    y = target(name, (codes % 2) * 3.0 + rng.normal(size=300) * 0.3)
    x = rng.normal(size=300)
    frame = pd.DataFrame({"tree": words, "x": x})
    model = make(name).fit(frame, y)
    assert model.score(frame, y) > 0.6
    polars = pl.DataFrame({"tree": words.tolist(), "x": x})
    as_category = polars.with_columns(pl.col("tree").cast(pl.Categorical))
    for other in (polars, as_category, frame.astype({"tree": "category"})):
        assert_same(model, make(name).fit(other, y), frame, other)
    new, missing = frame.assign(tree="oak"), frame.assign(tree=None)
    assert_same(model, model, new, missing.astype({"tree": object}))


@pytest.mark.parametrize("labels", [[3, 7], [-1.0, 1.0], ["no", "yes"], [True, False]], ids=repr)
@pytest.mark.parametrize("name", [n for n in NAMES if n.endswith("Classifier")])
def test_any_two_labels(name, labels):
    X, score = problem("Regressor")
    y = np.array(labels)[(score > 0).astype(int)]
    model = make(name).fit(X, y)
    assert model.classes_.tolist() == sorted(labels)
    assert set(model.predict(X)) <= set(y.tolist())
    assert model.score(X, y) > 0.8
    probability = model.predict_proba(X)
    assert probability.shape == (len(X), 2)
    np.testing.assert_allclose(probability.sum(axis=1), 1.0)


@pytest.mark.parametrize("name", NAMES)
def test_number_of_threads_does_not_matter(name):
    """Bit for bit, on enough rows that the parallel paths are taken."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(30_011, 9)).astype(np.float32)
    y = target(name, X[:, 0] * X[:, 1] + rng.normal(size=len(X)))
    params = {} if "n_estimators" not in make(name).get_params() else {"n_estimators": 2}
    if "max_depth" in make(name).get_params():
        params["max_depth"] = 6
    one = make(name, n_jobs=1, **params) if "n_jobs" in make(name).get_params() else make(name)
    two = clone(one).set_params(**{k: 2 for k in one.get_params() if k.endswith("n_jobs")})
    assert_same(one.fit(X, y), two.fit(X, y), X)


def no_bootstrap(name):
    """Bootstrap samples follow the rows' content, so moved rows would give other samples."""
    if name.startswith("AdaBoost"):
        return {"sampling": "weights"}
    return {"bootstrap": False} if name.startswith(("Bagging", "RandomForest")) else {}


@pytest.mark.parametrize("name", NAMES)
def test_offset_of_a_million(name):
    """Whole numbers keep their order in float32 when moved by 1e6, so nothing may change."""
    X, y = problem(name, whole=True)
    near, far = make(name, **no_bootstrap(name)), make(name, **no_bootstrap(name))
    assert_same(near.fit(X, y), far.fit(X + 1e6, y), X, X + 1e6)


@pytest.mark.parametrize("name", [n for n in NAMES if n.endswith("Regressor")])
def test_target_far_from_zero(name):
    X, y = problem(name)
    params = no_bootstrap(name)
    near = make(name, **params).fit(X, y).predict(X)
    far = make(name, **params).fit(X, y + 1e6).predict(X)
    assert np.median(np.abs(far - 1e6 - near)) < 0.02 * y.std()


@pytest.mark.parametrize("name", NAMES)
def test_sizes_at_the_edge(name):
    X, y = problem(name, rows=65)
    for rows in (63, 64, 65):
        model = make(name).fit(X[:rows], y[:rows])
        assert len(model.predict(X[:1])) == 1
    with pytest.raises(ValueError, match="0 sample"):
        model.predict(X[:0])
    with pytest.raises(ValueError, match="infinity"):
        model.predict(np.full((1, 5), np.inf))
    with pytest.raises(ValueError, match="features"):
        model.predict(X[:, :4])


@pytest.mark.parametrize("name", NAMES)
def test_only_constant_and_missing_columns(name):
    X = np.c_[np.ones(40), np.full(40, np.nan)]
    y = target(name, np.arange(40.0))
    found = outputs(make(name).fit(X, y), X)[0]
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(found, np.broadcast_to(found[0], found.shape))


# Stacking's folds count rows, so it sees the gaps; all others do not.
WEIGHTED = [n for n in NAMES if not n.startswith("Stacking")]


@pytest.mark.parametrize("name", WEIGHTED)
def test_weight_zero_leaves_a_row_out(name):
    X, y = problem(name)
    keep = np.random.default_rng(1).random(len(X)) < 0.6
    some = make(name).fit(X[keep], y[keep])
    weighed = make(name).fit(X, y, sample_weight=keep.astype(float))
    for a, b in zip(outputs(some, X), outputs(weighed, X), strict=True):
        if a.dtype.kind == "f":
            np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-8)
        else:
            np.testing.assert_array_equal(a, b)
