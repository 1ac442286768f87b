"""The supervised task: metrics against scikit-learn's, splits by their definition, real runs."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk
from sklearn.base import BaseEstimator, ClassifierMixin

from paragone.lab import data
from paragone.lab.probe import Probe
from paragone.lab.spec import Block, Contestant, Job, Workload
from paragone.lab.tasks import estimators, metrics, splits, supervised


@pytest.mark.peers
@pytest.mark.parametrize("classes", [2, 3, 7])
def test_classification_metrics_equal_scikit_learns(classes):
    generator = np.random.default_rng(classes)
    codes = generator.integers(0, classes, 401)
    chances = generator.dirichlet(np.ones(classes), 401).round(2)
    chances = metrics.probabilities(chances + 0.01, np.arange(classes), classes)
    values, losses = metrics.classification(chances, codes)
    labels = np.arange(classes)
    assert values["log_loss"] == pytest.approx(sk.log_loss(codes, chances, labels=labels))
    assert values["accuracy"] == sk.accuracy_score(codes, chances.argmax(axis=1))
    score = chances[:, 1] if classes == 2 else chances
    area = sk.roc_auc_score(codes, score, multi_class="ovr", labels=labels)
    assert values["auc"] == pytest.approx(area, abs=1e-12)
    brier = ((chances - np.eye(classes)[codes]) ** 2).sum(axis=1).mean()
    assert values["brier"] == pytest.approx(brier)
    assert losses.mean() == pytest.approx(values["log_loss"])


@pytest.mark.peers
def test_regression_metrics_equal_scikit_learns():
    generator = np.random.default_rng(0)
    truth, guess = generator.normal(5, 2, 211), generator.normal(5, 2, 211)
    values, squares = metrics.regression(guess, truth)
    assert values["rmse"] == pytest.approx(sk.root_mean_squared_error(truth, guess))
    assert values["mae"] == pytest.approx(sk.mean_absolute_error(truth, guess))
    assert values["r2"] == pytest.approx(sk.r2_score(truth, guess))
    assert np.sqrt(squares.mean()) == pytest.approx(values["rmse"])


@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=2, max_size=40))
@settings(max_examples=60, deadline=None)
def test_the_area_counts_pairs(pairs):
    score = np.array([s for s, _ in pairs], float)
    positive = np.array([p for _, p in pairs])
    found = metrics.area_under_curve(score, positive)
    wins = [
        (a > b) + 0.5 * (a == b) for a in score[positive] for b in score[~positive]
    ]  # fmt: skip
    assert np.isnan(found) if not wins else found == pytest.approx(np.mean(wins))


def test_probabilities_of_absent_classes_and_impossible_ones():
    given_ = np.array([[0.5, 0.5], [0.0, 0.0]])
    full = metrics.probabilities(given_, np.array([0, 2]), 3)
    np.testing.assert_allclose(full, [[0.5, 0, 0.5], [1 / 3] * 3])
    values, losses = metrics.classification(full[:1], np.array([1]))
    assert losses[0] == pytest.approx(-np.log(metrics.CLIP))
    assert "auc" not in values
    with pytest.raises(ValueError, match="NaN"):
        metrics.probabilities(np.array([[np.nan, 1]]), np.arange(2), 2)
    with pytest.raises(ValueError, match="3 columns for 2 classes"):
        metrics.probabilities(np.ones((1, 3)), np.arange(2), 2)


@given(
    st.lists(st.integers(0, 3), min_size=5, max_size=80), st.integers(0, 3), st.integers(2, 5)
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_folds_partition_the_rows_class_by_class(codes, seed, folds):
    target = np.array(codes)
    tests = []
    for number in range(folds, 2 * folds):
        train, test = splits.split(target, number, stratified=True, seed=seed, folds=folds)
        assert set(train) | set(test) == set(range(len(target)))
        assert not set(train) & set(test)
        tests.append(test)
    assert sorted(np.concatenate(tests)) == list(range(len(target)))
    sizes = [len(test) for test in tests]
    assert max(sizes) - min(sizes) <= 1
    for code in set(codes):
        counts = [(target[test] == code).sum() for test in tests]
        assert max(counts) - min(counts) <= 1


def test_repeats_and_seeds_shuffle_anew():
    target = np.zeros(50)
    first = splits.split(target, 0, stratified=False, seed=0)[1]
    assert not np.array_equal(first, splits.split(target, 5, stratified=False, seed=0)[1])
    assert not np.array_equal(first, splits.split(target, 0, stratified=False, seed=1)[1])
    assert np.array_equal(first, splits.split(target, 0, stratified=False, seed=0)[1])


def table(rows=120, classes=3, mixed=True):
    import polars as pl

    generator = np.random.default_rng(5)
    size, other = generator.normal(size=(2, rows))
    color = generator.choice(["red", "green", "blue"], rows)
    signal = size + (color == "red") * 1.5
    frame = {"size": size, "other": other, "color": color}
    if classes:
        frame["y"] = [f"class {int(c)}" for c in np.digitize(signal, [0.0, 1.0][: classes - 1])]
    else:
        frame["y"] = signal + 0.1 * generator.normal(size=rows)
    frame = pl.DataFrame(frame)
    if mixed:
        hole = pl.int_range(rows) % 9 == 0
        frame = frame.with_columns(
            pl.when(hole).then(None).otherwise(pl.col(c)).alias(c) for c in ("size", "color")
        )
    else:
        frame = frame.drop("color")
    return data.from_frame(frame, "y", source="t", task="auto")


def perform(tmp_path, contestant, given_table, **more):
    data.save(given_table, tmp_path / "table")
    facts = {**data.facts(given_table), "split_seed": 0}
    job = Job(
        key="k", task="", contestant=contestant, threads=1, folder=str(tmp_path),
        workload=Workload(id="t", title="t", load="paragone.lab.data:load",
                          params={"folder": str(tmp_path / "table")}, facts=facts),
        block=Block(workload="t", index=0, split=0, seed=3), **more,
    )  # fmt: skip
    probe = Probe(tmp_path)
    supervised.run(job, probe)
    return probe


def sklearn(target, **params):
    return Contestant(id="x", title="x", make=target, params=params, origin="rival")


@pytest.mark.parametrize(
    "make",
    [
        "sklearn.tree:DecisionTree{kind}",
        "sklearn.ensemble:HistGradientBoosting{kind}",
        "sklearn.ensemble:AdaBoost{kind}",
        "sklearn.neighbors:KNeighbors{kind}",
        "paragone.lab.contestants.committees:Baseline{kind}",
        pytest.param("lightgbm:LGBM{kind}", marks=pytest.mark.peers),
        pytest.param("xgboost:XGB{kind}", marks=pytest.mark.peers),
    ],
)
@pytest.mark.parametrize("classes", [0, 2, 3])
def test_mixed_tables_with_holes_run_on_every_kind_of_library(tmp_path, make, classes):
    params = {"verbose": -1, "n_estimators": 10} if make.startswith("lightgbm") else {}
    given_table = table(classes=classes)
    probe = perform(tmp_path, sklearn(make, **params), given_table)
    wanted = {"rmse", "mae", "r2"} if not classes else {"log_loss", "accuracy", "auc", "brier"}
    times = {"fit_s", "fit_cpu_s", "predict_s", "latency_s", "import_s", "first_call_s"}
    assert wanted | times | {"fit_peak", "predict_peak"} <= set(probe.values)
    losses = np.load(tmp_path / "example_loss.npy")
    test = splits.split(given_table.target, 0, stratified=bool(classes), seed=0)[1]
    assert len(losses) == len(test)
    mean = losses.mean()
    assert probe.values["log_loss" if classes else "rmse"] == pytest.approx(
        mean if classes else np.sqrt(mean)
    )
    if classes:
        hits = np.load(tmp_path / "correct.npy")
        assert probe.values["accuracy"] == hits.mean()
    assert set(probe.digests) == {"data", "split"}


def test_the_figures_are_those_of_a_fit_by_hand(tmp_path):
    from sklearn.tree import DecisionTreeClassifier

    given_table = table(mixed=False)
    probe = perform(
        tmp_path, sklearn("sklearn.tree:DecisionTreeClassifier", max_depth=3), given_table
    )
    train, test = splits.split(given_table.target, 0, stratified=True, seed=0)
    model = DecisionTreeClassifier(max_depth=3, random_state=3)
    model.fit(given_table.values[train], given_table.target[train])
    chances = np.clip(model.predict_proba(given_table.values[test]), 1e-6, 1)
    truth = given_table.target[test]
    expected = -np.log(chances[np.arange(len(test)), truth]).mean()
    assert probe.values["log_loss"] == pytest.approx(expected)
    leaky = DecisionTreeClassifier(max_depth=3, random_state=3)
    leaky.fit(given_table.values, given_table.target)
    planted = metrics.classification(leaky.predict_proba(given_table.values[test]), truth)[0]
    assert abs(planted["log_loss"] - expected) > 1e-3


class Voter(ClassifierMixin, BaseEstimator):
    """Predicts the first class it saw, and gives no probabilities."""

    def fit(self, X, y):
        self.classes_ = np.unique(y)
        return self

    def predict(self, X):
        return np.full(len(X), self.classes_[0])


def test_without_probabilities_a_class_counts_as_certain(tmp_path):
    path = tmp_path / "voter.py"
    path.write_text(
        "import numpy as np\nclass Voter:\n"
        "    def fit(self, X, y):\n        self.classes_ = np.unique(y)\n"
        "    def predict(self, X):\n        return np.full(len(X), self.classes_[0])\n"
    )
    given_table = table()
    probe = perform(tmp_path, sklearn(f"{path}:Voter"), given_table)
    share = probe.values["accuracy"]
    assert probe.values["log_loss"] == pytest.approx((1 - share) * -np.log(metrics.CLIP))
    assert not estimators.Prepared(Voter(), {}, None).gives_probabilities


def test_a_class_that_training_never_saw_costs_its_rows_only(tmp_path):
    given_table = table(mixed=False)
    rare = given_table.target.copy()
    test = splits.split(rare, 0, stratified=True, seed=0)[1]
    given_table.classes = [*given_table.classes, "rare"]
    rare[test[0]] = 3
    number = next(
        s for s in range(5)
        if test[0] in splits.split(rare, s, stratified=True, seed=0)[1]
    )  # fmt: skip
    given_table.target = rare
    data.save(given_table, tmp_path / "table")
    job = Job(
        key="k", task="", threads=1, folder=str(tmp_path),
        contestant=sklearn("sklearn.tree:DecisionTree{kind}"),
        workload=Workload(id="t", title="t", load="paragone.lab.data:load",
                          params={"folder": str(tmp_path / "table")},
                          facts={"kind": "Classifier", "split_seed": 0}),
        block=Block(workload="t", index=number, split=number, seed=3),
    )  # fmt: skip
    probe = Probe(tmp_path)
    supervised.run(job, probe)
    assert np.load(tmp_path / "prediction.npy").shape[1] == 4
    assert np.isfinite(probe.values["log_loss"])


def test_tuning_takes_the_best_on_the_inner_split_and_never_sees_the_test_rows(tmp_path):
    given_table = table(rows=150, classes=0, mixed=False)
    given_table.target = np.sin(2 * given_table.values[:, 0].astype(np.float64))
    contestant = Contestant(
        id="x", title="x", make="sklearn.tree:DecisionTree{kind}", params={"max_depth": 1},
        space={"max_depth": [1, 6]},
    )  # fmt: skip
    probe = perform(tmp_path, contestant, given_table, tune=6)
    chosen = json.loads(bytes(np.load(tmp_path / "parameters.npy")))
    assert chosen == {"max_depth": 6}
    assert probe.values["trials"] == 6
    plain = perform(tmp_path, contestant, given_table)
    assert probe.values["rmse"] < plain.values["rmse"]
    spoiled = data.load(tmp_path / "table")
    test = splits.split(spoiled.target, 0, stratified=False, seed=0)[1]
    spoiled.target[test] += np.random.default_rng(0).normal(size=len(test)) * 50
    perform(tmp_path, contestant, spoiled, tune=6)
    assert json.loads(bytes(np.load(tmp_path / "parameters.npy"))) == chosen


def test_draws_stay_in_their_space():
    generator = np.random.default_rng(0)
    space = {
        "a": {"low": 0.01, "high": 1.0, "log": True},
        "b": {"low": 2, "high": 9, "integer": True},
        "c": ["x", None],
    }
    drawn = [estimators.draw_parameters(space, generator) for _ in range(300)]
    values = np.array([d["a"] for d in drawn])
    assert values.min() >= 0.01
    assert values.max() <= 1
    assert 0.05 < np.median(values) < 0.2
    assert {d["b"] for d in drawn} == set(range(2, 10))
    assert {d["c"] for d in drawn} == {"x", None}


def test_threads_go_to_the_innermost_level_that_takes_them():
    from sklearn.ensemble import BaggingClassifier, RandomForestClassifier, VotingClassifier

    members = [("a", RandomForestClassifier()), ("b", BaggingClassifier(RandomForestClassifier()))]
    stack = estimators.prepare(
        VotingClassifier(members), categorical=np.zeros(2, bool), missing=False, seed=0, threads=3
    ).estimator
    known = stack.get_params()
    assert {key: known[key] for key in known if key.endswith("n_jobs")} == {
        "n_jobs": 1, "a__n_jobs": 3, "b__n_jobs": 1, "b__estimator__n_jobs": 3,
    }  # fmt: skip
    alone = estimators.prepare(
        BaggingClassifier(), categorical=np.zeros(2, bool), missing=False, seed=0, threads=3
    ).estimator
    assert alone.n_jobs == 3
