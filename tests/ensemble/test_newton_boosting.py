"""Newton boosting against XGBoost's exact method, closed forms, and its own promises."""

import os
import pickle
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import (
    load_breast_cancer,
    load_diabetes,
    load_iris,
    load_svmlight_files,
    load_wine,
)
from sklearn.metrics import roc_auc_score

from paragone.ensemble import NewtonBoostingClassifier, NewtonBoostingRegressor, load_model
from paragone.ensemble._custom_loss import torch_objective
from paragone.ensemble._tree import LEAF

DIABETES = load_diabetes(return_X_y=True)
CANCER = load_breast_cancer(return_X_y=True)
WINE = load_wine(return_X_y=True)


def holes(X, share=0.1):
    X = X.copy()
    X[np.random.default_rng(0).random(X.shape) < share] = np.nan
    return X


def agree(ours, theirs, X, tolerance=1e-6):
    """Same number of nodes in each tree, same raw scores."""
    a = ours.predict(X, output_margin=True)
    b = theirs.predict(X, output_margin=True)
    sizes = theirs.get_booster().trees_to_dataframe().groupby("Tree").size()
    assert [tree.num_nodes for group in ours.trees_ for tree in group] == sizes.tolist()
    assert np.abs(a - b).max() <= tolerance * np.abs(b).max()


@pytest.mark.peers
@pytest.mark.parametrize(
    "params",
    [
        {},
        {"reg_alpha": 50.0, "reg_lambda": 3.0, "gamma": 2000.0, "min_child_weight": 5.0},
        {"max_depth": 8, "min_child_weight": 0.0, "reg_lambda": 0.1},
        {"monotone_constraints": (0, 0, 1, 0, 0, 0, 0, -1, 0, 0)},
    ],
)
def test_exact_trees_are_xgboosts_in_regression(params):
    xgboost = pytest.importorskip("xgboost")
    X, y = DIABETES
    usual = {"n_estimators": 10, "max_depth": 4, "tree_method": "exact", "base_score": 150.0}
    ours = NewtonBoostingRegressor(**usual | params).fit(X, y)
    agree(ours, xgboost.XGBRegressor(**usual | params, n_jobs=1).fit(X, y), X)


@pytest.mark.peers
@pytest.mark.parametrize(
    "params",
    [
        {},
        {"gamma": 0.5, "reg_lambda": 0.1, "min_child_weight": 2.0, "max_depth": 8},
        {"max_delta_step": 0.3},
        {"reg_alpha": 0.5, "learning_rate": 1.0},
    ],
)
@pytest.mark.parametrize("missing", [False, True])
def test_exact_trees_are_xgboosts_in_classification(params, missing):
    xgboost = pytest.importorskip("xgboost")
    X, y = CANCER
    if missing and "max_delta_step" not in params:
        # Clipped weights make many cuts tie but for XGBoost's float32 rounding.
        X = holes(X)
    usual = {"n_estimators": 10, "max_depth": 4, "tree_method": "exact", "base_score": 0.5}
    ours = NewtonBoostingClassifier(**usual | params).fit(X, y)
    agree(ours, xgboost.XGBClassifier(**usual | params, n_jobs=1).fit(X, y), X)


@pytest.mark.peers
@pytest.mark.parametrize("method", ["exact", "hist"])
def test_softmax_takes_xgboosts_second_derivative(method):
    xgboost = pytest.importorskip("xgboost")
    X, y = WINE
    usual = {"n_estimators": 8, "max_depth": 3, "tree_method": method, "base_score": 0.5}
    ours = NewtonBoostingClassifier(**usual).fit(X, y)
    agree(ours, xgboost.XGBClassifier(**usual, n_jobs=1).fit(X, y), X)


@pytest.mark.peers
@pytest.mark.parametrize(
    ("objective", "theirs"), [("gamma", "reg:gamma"), ("tweedie", "reg:tweedie")]
)
def test_exact_trees_are_xgboosts_for_other_losses(objective, theirs):
    xgboost = pytest.importorskip("xgboost")
    X, y = DIABETES
    usual = {"n_estimators": 6, "max_depth": 3, "tree_method": "exact", "base_score": 100.0}
    ours = NewtonBoostingRegressor(objective=objective, **usual).fit(X, y)
    peer = xgboost.XGBRegressor(objective=theirs, **usual, n_jobs=1).fit(X, y)
    agree(ours, peer, X, 1e-5)


def interaction_data(seed):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(4000, 8))
    y = (X[:, 0] * X[:, 1] + np.sin(2 * X[:, 2]) + rng.normal(size=4000) > 0).astype(int)
    return X, y


def auc_behind(make, peer):
    """Student's t of (peer's AUC - ours) over eight seeds, less a margin of .002."""
    gaps = []
    for seed in range(8):
        X, y = interaction_data(seed)
        scores = [
            roc_auc_score(y[2000:], model.fit(X[:2000], y[:2000]).predict_proba(X[2000:])[:, 1])
            for model in (make(), peer())
        ]
        gaps.append(scores[1] - scores[0])
    return (np.mean(gaps) - 0.002) / (np.std(gaps, ddof=1) / np.sqrt(len(gaps)))


@pytest.mark.peers
def test_quality_is_not_behind_xgboost_over_seeds():
    xgboost = pytest.importorskip("xgboost")
    usual = {"n_estimators": 40, "learning_rate": 0.2, "max_depth": 5}

    def peer():
        return xgboost.XGBClassifier(**usual, n_jobs=1)

    def ours(**more):
        return lambda: NewtonBoostingClassifier(**usual, **more)

    one_percent = 2.998  # Student's t, 7 degrees of freedom
    for method in ("hist", "approx", "exact"):
        assert auc_behind(ours(tree_method=method), peer) < one_percent
    # The rule has power: three bins lose what the data hold.
    assert auc_behind(ours(max_bin=3), peer) > one_percent


def test_gamma_prunes_from_the_bottom_in_exact_and_refuses_at_once_in_hist():
    X = np.array([[a, b] for a in (0, 1) for b in (0, 1)] * 25, float)
    y = (X[:, 0] != X[:, 1]) * 10.0
    X[0, 0] = 1 - X[0, 0]  # a hair's breadth of gain at the root
    usual = {"n_estimators": 1, "max_depth": 2, "gamma": 5.0, "max_leaves": 0}
    (exact,) = NewtonBoostingRegressor(tree_method="exact", **usual).fit(X, y).trees_[0]
    (hist,) = NewtonBoostingRegressor(tree_method="hist", **usual).fit(X, y).trees_[0]
    assert exact.num_nodes == 7
    assert exact.gain[0] < 5.0
    assert hist.num_nodes == 1


@pytest.mark.parametrize("method", ["hist", "approx", "exact"])
@pytest.mark.parametrize("policy", ["depthwise", "lossguide", "symmetric"])
def test_what_training_saw_is_what_predict_gives(method, policy):
    if method == "exact" and policy != "depthwise":
        pytest.skip("exact grows depth-wise only")
    X, y = DIABETES
    X = holes(X)
    model = NewtonBoostingRegressor(
        n_estimators=12, tree_method=method, grow_policy=policy, subsample=0.7, random_state=3,
        colsample_bytree=0.8, colsample_bynode=0.8,
    ).fit(X, y, eval_set=(X, y), )  # fmt: skip
    seen = model.evals_result_["validation_0"]["squared"]
    for loss, stage in zip(seen, model.staged_predict(X), strict=True):
        assert 0.5 * np.mean((y - stage) ** 2) == pytest.approx(loss, rel=1e-12)
    assert seen[-1] < 0.5 * seen[0]
    again = NewtonBoostingRegressor(**model.get_params()).fit(X, y)
    assert np.array_equal(again.predict(X), model.predict(X))


@pytest.mark.parametrize(
    "params",
    [
        {"objective": "quantile", "quantile_alpha": 0.8},
        {"objective": "absolute"},
        {"booster": "dart", "rate_drop": 0.3},
        {"max_delta_step": 5.0},
        {"tree_method": "exact"},
    ],
)
def test_monotone_constraints_survive_refits_and_dropout(params):
    X, y = DIABETES
    signs = {2: 1, 8: -1}
    model = NewtonBoostingRegressor(
        n_estimators=20, monotone_constraints=signs, random_state=0, **params
    ).fit(X, y)
    rng = np.random.default_rng(1)
    at = X[rng.integers(len(X), size=5000)]
    for column, sign in signs.items():
        higher = at.copy()
        higher[:, column] += rng.exponential(0.05, size=5000)
        assert (sign * (model.predict(higher) - model.predict(at)) >= -1e-9).all()


def test_constraints_are_checked():
    X, y = DIABETES
    for constraints in ([1], {"age": 1}, {99: 1}, [3] * 10):
        with pytest.raises(ValueError, match="monotone_constraints"):
            NewtonBoostingRegressor(monotone_constraints=constraints).fit(X, y)
    with pytest.raises(ValueError, match="interaction_constraints"):
        NewtonBoostingRegressor(interaction_constraints=[[0, 44]]).fit(X, y)


@pytest.mark.parametrize("method", ["hist", "exact"])
def test_interaction_constraints_reach_the_trees(method):
    X, y = DIABETES
    model = NewtonBoostingRegressor(
        n_estimators=10, tree_method=method, interaction_constraints=[[2, 8], [3]]
    ).fit(X, y)
    for (tree,) in model.trees_:
        used = set(tree.feature[tree.feature != LEAF].tolist())
        assert used <= {2, 8} or len(used) == 1


def test_quantiles_cover_their_share_and_do_not_cross():
    X, y = DIABETES
    levels = [0.1, 0.5, 0.9]
    model = NewtonBoostingRegressor(
        objective="quantile", quantile_alpha=levels, n_estimators=60, learning_rate=0.1, max_depth=3
    ).fit(X, y)
    found = model.predict(X)
    assert found.shape == (len(y), 3)
    assert (np.diff(found, axis=1) >= 0).all()
    assert np.mean(y[:, None] <= found, axis=0) == pytest.approx(levels, abs=0.06)


def test_custom_and_torch_objectives_equal_the_built_in_one():
    X, y = CANCER

    def logistic(codes, raw):
        p = 1 / (1 + np.exp(-raw))
        return p - codes, p * (1 - p)

    def formula(codes, raw):
        return raw.exp().log1p() - codes * raw

    usual = {"n_estimators": 8, "max_depth": 3}
    want = NewtonBoostingClassifier(**usual).fit(X, y).predict_proba(X)
    for objective in (logistic, torch_objective(formula)):
        found = NewtonBoostingClassifier(objective=objective, **usual).fit(X, y).predict_proba(X)
        assert found == pytest.approx(want, abs=1e-6)


@pytest.mark.parametrize("booster", ["gbtree", "gblinear", "dart"])
def test_early_stopping_keeps_the_best_round(booster):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(400, 5))
    y = X[:, 0] + rng.normal(size=400)
    usual = {
        "booster": booster,
        "rate_drop": 0.2,
        "random_state": 0,
        "eval_metric": ["mae", "rmse"],
    }
    model = NewtonBoostingRegressor(n_estimators=200, early_stopping_rounds=5, **usual)
    weight = rng.uniform(0, 2, 200)
    model.fit(X[:200], y[:200], eval_set=[(X[200:], y[200:])], sample_weight_eval_set=[weight])
    history = model.evals_result_["validation_0"]["rmse"]
    best = int(np.argmin(history))
    assert model.best_iteration_ == best
    assert model.n_estimators_ == best + 1
    if booster != "gblinear":
        assert len(history) == best + 6
    found = np.sqrt(np.average((y[200:] - model.predict(X[200:])) ** 2, weights=weight))
    assert found == pytest.approx(model.best_score_, rel=1e-9)
    assert model.best_score_ == pytest.approx(history[best])


def test_early_stopping_holds_rows_out_and_maximises_what_is_greater():
    X, y = CANCER

    def hits(codes, share, sample_weight):
        return np.average((share > 0.5) == codes, weights=sample_weight)

    hits.greater_is_better = True
    for metric in ("auc", hits):
        model = NewtonBoostingClassifier(
            n_estimators=60, early_stopping_rounds=4, validation_fraction=0.3, eval_metric=metric,
            random_state=0,
        ).fit(X, y)  # fmt: skip
        (history,) = model.evals_result_["validation_0"].values()
        assert model.best_iteration_ == int(np.argmax(history))
        assert 0.9 < model.best_score_ <= 1


@pytest.mark.parametrize("booster", ["gbtree", "gblinear", "dart"])
def test_continuing_equals_going_on(booster):
    X, y = DIABETES
    usual = {"booster": booster, "rate_drop": 0.3, "subsample": 0.7, "random_state": 5}
    whole = NewtonBoostingRegressor(n_estimators=15, **usual).fit(X, y)
    part = NewtonBoostingRegressor(n_estimators=6, warm_start=True, **usual).fit(X, y)
    part.set_params(n_estimators=15).fit(X, y)
    first = NewtonBoostingRegressor(n_estimators=6, **usual).fit(X, y)
    other = NewtonBoostingRegressor(n_estimators=15, **usual).fit(X, y, init_model=first)
    for model in (part, other):
        assert model.predict(X) == pytest.approx(whole.predict(X), rel=1e-9)
    with pytest.raises(ValueError, match="n_estimators=3"):
        part.set_params(n_estimators=3).fit(X, y)


def test_iteration_ranges_add_up_and_shap_sums_to_the_score():
    X, y = WINE
    model = NewtonBoostingClassifier(n_estimators=6, max_depth=3).fit(X, y)
    whole = model.predict(X, output_margin=True)
    parts = [
        model.predict(X, output_margin=True, iteration_range=(a, a + 2)) - model.base_score_
        for a in (0, 2, 4)
    ]
    assert sum(parts) + model.base_score_ == pytest.approx(whole)
    assert model.apply(X).shape == (len(X), 18)
    assert model.shap_values(X[:7]).sum(axis=-1) == pytest.approx(whole[:7])
    importance = model.feature_importances_
    assert importance.sum() == pytest.approx(1)
    with pytest.raises(ValueError, match="iteration_range"):
        model.predict(X, iteration_range=(3, 9))


def test_weights_are_repeated_rows_and_zero_is_absence():
    X, y = DIABETES
    rng = np.random.default_rng(2)
    weight = rng.integers(0, 4, len(y))
    usual = {"n_estimators": 8, "max_bin": 20}
    weighted = NewtonBoostingRegressor(**usual).fit(X, y, sample_weight=weight)
    repeated = NewtonBoostingRegressor(**usual).fit(np.repeat(X, weight, 0), np.repeat(y, weight))
    assert weighted.predict(X) == pytest.approx(repeated.predict(X), rel=1e-9)


def test_labels_of_any_kind_and_frames_with_categories():
    pandas = pytest.importorskip("pandas")
    X, y = load_iris(return_X_y=True, as_frame=True)
    labels = np.array(["setosa", "versi", "virginica"])[y]
    rng = np.random.default_rng(0)
    X = X.assign(kind=pandas.Categorical(rng.choice(["a", "b", None], 150)), leaf=labels)
    X.loc[rng.random(150) < 0.1, "leaf"] = None
    model = NewtonBoostingClassifier(n_estimators=5).fit(X, labels)
    assert model.score(X, labels) > 0.98
    assert model.feature_importances_[5] > 0.2
    unseen = X.assign(leaf="new")
    assert set(model.predict(unseen)) <= set(labels)
    polars = pytest.importorskip("polars")
    assert np.array_equal(model.predict_proba(polars.from_pandas(X)), model.predict_proba(X))


@pytest.mark.parametrize("booster", ["gbtree", "dart", "gblinear"])
def test_pickle_and_json_give_the_same_predictions(booster, tmp_path):
    X, y = CANCER
    model = NewtonBoostingClassifier(n_estimators=5, booster=booster, rate_drop=0.5, random_state=0)
    model.fit(holes(X), y)
    want = model.predict_proba(X)
    assert np.array_equal(pickle.loads(pickle.dumps(model)).predict_proba(X), want)
    model.save_model(tmp_path / "model.json")
    assert np.array_equal(load_model(tmp_path / "model.json").predict_proba(X), want)


def test_goss_learns_from_a_third_of_the_rows():
    X, y = DIABETES
    model = NewtonBoostingRegressor(n_estimators=20, sampling_method="goss", random_state=0)
    model.fit(X, y)
    assert model.trees_[0][0].count[0] == pytest.approx(0.3 * len(y), abs=3)
    assert model.score(X, y) > 0.7
    # Weak rows are weighted up, so the root's weight stays that of all rows.
    assert model.trees_[0][0].cover[0] == pytest.approx(len(y), rel=0.01)


def test_threads_do_not_change_the_model():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(12_000, 25))
    y = np.sin(X[:, 0]) + X[:, 1] * X[:, 2]
    models = [
        NewtonBoostingRegressor(n_estimators=3, n_jobs=jobs, random_state=0).fit(X, y)
        for jobs in (1, 2)
    ]
    assert np.array_equal(models[0].predict(X), models[1].predict(X))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"reg_lambda": -1.0}, "reg_lambda=-1.0"),
        ({"subsample": 0.0}, "subsample=0.0"),
        ({"max_bin": 300}, "max_bin=300"),
        ({"booster": "forest"}, "booster='forest'"),
        ({"tree_method": "magic"}, "tree_method='magic'"),
        ({"grow_policy": "wide"}, "grow_policy='wide'"),
        ({"objective": "logistic"}, "use the other estimator"),
        ({"tree_method": "exact", "grow_policy": "lossguide"}, "exact"),
        ({"eval_metric": "auc"}, "eval_metric='auc'"),
        ({"learning_rate": 0.0}, "learning_rate=0.0"),
        ({"gradient_bits": 1}, "gradient_bits=1"),
        ({"gradient_bits": 4, "tree_method": "exact"}, "needs histograms"),
        ({"n_jobs": 0}, "n_jobs=0"),
    ],
)
def test_bad_parameters_are_named(params, message):
    X, y = DIABETES
    with pytest.raises(ValueError, match=message):
        NewtonBoostingRegressor(**params).fit(X, y)


def test_verbose_prints_metrics(capsys):
    X, y = DIABETES
    NewtonBoostingRegressor(n_estimators=3, verbose=2).fit(X, y, eval_set=(X, y))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert lines[1].startswith("[2] validation_0-squared: ")


def test_extreme_targets_stay_finite():
    X, y = DIABETES
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for scale, shift in ((1e-9, 0.0), (1e9, 0.0), (1.0, 1e6)):
            model = NewtonBoostingRegressor(n_estimators=20).fit(X, y * scale + shift)
            assert model.score(X, y * scale + shift) > 0.9
        flat = NewtonBoostingRegressor().fit(X, np.full(len(y), 7.0))
    assert (flat.predict(X) == 7).all()


def _data_folder():
    default = Path(__file__).resolve().parents[3] / "shared" / "data"
    return Path(os.environ.get("PARAGONE_DATA", default)) / "tabular"


def test_agaricus_demo_gives_the_published_errors():
    folder = _data_folder()
    if not (folder / "agaricus.txt.train").exists():
        pytest.skip("agaricus.txt.train is not there; set PARAGONE_DATA to a folder that has it")
    X, y, X_test, y_test = load_svmlight_files(
        [str(folder / "agaricus.txt.train"), str(folder / "agaricus.txt.test")], n_features=127
    )[:4]
    # In the demo what is not stored is missing, not zero.
    tables = [np.where(X.toarray() == 0, np.nan, X.toarray()) for X in (X, X_test)]
    model = NewtonBoostingClassifier(
        n_estimators=2, max_depth=2, learning_rate=1.0, base_score=0.5, eval_metric="error"
    ).fit(tables[0], y, eval_set=(tables[1], y_test))
    errors = model.evals_result_["validation_0"]["error"]
    assert errors == pytest.approx([0.042831, 0.021726], abs=1e-6)


@pytest.mark.parametrize("params", [{}, {"subsample": 0.6, "colsample_bytree": 0.7}])
def test_fifty_and_fifty_rounds_of_a_saved_model_are_a_hundred_bit_for_bit(params, tmp_path):
    X, y = CANCER
    usual = {"max_leaves": 7, "random_state": 3, **params}
    whole = NewtonBoostingClassifier(n_estimators=100, **usual).fit(X, y)
    first = NewtonBoostingClassifier(n_estimators=50, **usual).fit(X, y)
    first.save_model(tmp_path / "half.json")
    loaded = load_model(tmp_path / "half.json")
    for start in (first, loaded):
        more = NewtonBoostingClassifier(n_estimators=100, **usual).fit(X, y, init_model=start)
        assert np.array_equal(more.predict_proba(X), whole.predict_proba(X))
    first.set_params(warm_start=True, n_estimators=100).fit(X, y)
    assert np.array_equal(first.predict_proba(X), whole.predict_proba(X))


@pytest.mark.parametrize("bits", [2, 4, 8, 16])
def test_few_bits_learn_as_well_and_leaves_come_from_unrounded_sums(bits):
    X, y = CANCER
    train, test = np.arange(len(y)) % 3 > 0, np.arange(len(y)) % 3 == 0
    usual = {"n_estimators": 40, "max_leaves": 15, "random_state": 0}
    plain = NewtonBoostingClassifier(**usual).fit(X[train], y[train])
    few = NewtonBoostingClassifier(gradient_bits=bits, **usual).fit(X[train], y[train])
    scores = [roc_auc_score(y[test], m.predict_proba(X[test])[:, 1]) for m in (plain, few)]
    assert scores[1] > scores[0] - 0.02
    tree, leaves = few.trees_[0][0], few.apply(X[train])[:, 0]
    p = y[train].mean()
    for leaf in np.unique(leaves):
        inside = leaves == leaf
        weight = -(p - y[train][inside]).sum() / (inside.sum() * p * (1 - p) + 1.0)
        assert tree.value[leaf, 0] == pytest.approx(0.3 * weight, rel=1e-9)


THREADS = """
import hashlib, sys, numpy as np
from paragone.ensemble import NewtonBoostingClassifier
rng = np.random.default_rng(0)
X = rng.normal(size=(140_001, 5)).astype(np.float32)
X[rng.random(X.shape) < 0.02] = np.nan
y = (np.nan_to_num(X[:, 0] * X[:, 1]) + rng.normal(size=len(X)) > 0).astype(int)
usual = {"n_estimators": 3, "max_leaves": 20, "random_state": 0, "gradient_bits": int(sys.argv[1])}
for jobs in (1, 2, 16):
    model = NewtonBoostingClassifier(n_jobs=jobs, **usual).fit(X, y)
    print(hashlib.sha256(model.predict_proba(X).tobytes()).hexdigest())
"""


@pytest.mark.parametrize("bits", [0, 4])
def test_one_two_and_sixteen_threads_give_one_model(bits):
    found = subprocess.run(
        [sys.executable, "-c", THREADS, str(bits)], capture_output=True, text=True, check=True,
        env=os.environ | {"NUMBA_NUM_THREADS": "16"},
    )  # fmt: skip
    assert len(found.stdout.split()) == 3
    assert len(set(found.stdout.split())) == 1
