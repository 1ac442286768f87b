"""XGBoost's files against XGBoost itself: read, written, read again; NaN, categories, damage."""

import contextlib
import json
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paragone.ensemble import NewtonBoostingClassifier, NewtonBoostingRegressor
from paragone.ensemble._ubjson import read_ubjson
from paragone.ensemble._xgboost_read import read_booster

xgb = pytest.importorskip("xgboost")
pytestmark = pytest.mark.peers

ROWS = 300
RNG = np.random.default_rng(0)
X = RNG.normal(size=(ROWS, 4)).astype(np.float32)
X[RNG.random(X.shape) < 0.1] = np.nan
SCORE = np.nan_to_num(X[:, 0]) * 2 + np.nan_to_num(X[:, 1]) + RNG.normal(size=ROWS)
TARGETS = {
    "two": (SCORE > 0).astype(int), "three": np.digitize(SCORE, [-1.0, 1.0]), "real": SCORE,
    "positive": np.exp(SCORE / 3), "counts": np.floor(np.exp(SCORE / 2)),
}  # fmt: skip
CASES = {
    "logistic": ("two", {"objective": "binary:logistic"}),
    "logistic exact": ("two", {"objective": "binary:logistic", "tree_method": "exact"}),
    "pruned": ("two", {"objective": "binary:logistic", "tree_method": "exact", "gamma": 2.0}),
    "approx, base score": ("two", {"objective": "binary:logistic", "base_score": 0.2}),
    "raw logistic": ("two", {"objective": "binary:logitraw"}),
    "regression logistic": ("two", {"objective": "reg:logistic"}),
    "softprob": ("three", {"objective": "multi:softprob", "num_class": 3}),
    "softmax": ("three", {"objective": "multi:softmax", "num_class": 3}),
    "forest": (
        "three",
        {"objective": "multi:softprob", "num_class": 3, "num_parallel_tree": 3, "subsample": 0.5},
    ),
    "dart": ("three", {"objective": "multi:softprob", "num_class": 3, "booster": "dart",
                       "rate_drop": 0.3}),
    "linear": ("three", {"objective": "multi:softprob", "num_class": 3, "booster": "gblinear"}),
    "squared": ("real", {"objective": "reg:squarederror"}),
    "deep": ("real", {"objective": "reg:squarederror", "max_depth": 0, "max_leaves": 40,
                      "grow_policy": "lossguide"}),
    "squared dart": ("real", {"objective": "reg:squarederror", "booster": "dart",
                              "rate_drop": 0.3}),
    "squared linear": ("real", {"objective": "reg:squarederror", "booster": "gblinear"}),
    "absolute": ("real", {"objective": "reg:absoluteerror"}),
    "pseudo-Huber": ("real", {"objective": "reg:pseudohubererror", "huber_slope": 2.0}),
    "squared log": ("positive", {"objective": "reg:squaredlogerror"}),
    "quantile": ("real", {"objective": "reg:quantileerror", "quantile_alpha": 0.3}),
    "quantiles": ("real", {"objective": "reg:quantileerror", "quantile_alpha": [0.1, 0.5, 0.9]}),
    "poisson": ("counts", {"objective": "count:poisson"}),
    "gamma": ("positive", {"objective": "reg:gamma"}),
    "tweedie": ("counts", {"objective": "reg:tweedie", "tweedie_variance_power": 1.3}),
}  # fmt: skip


def ours(case):
    return NewtonBoostingClassifier if TARGETS[CASES[case][0]].dtype == int else (
        NewtonBoostingRegressor
    )  # fmt: skip


def train(case, rounds=8, **more):
    target, params = CASES[case]
    # One thread: XGBoost's linear updater is not deterministic with more.
    params = {"max_depth": 4, "nthread": 1, "verbosity": 0, "eta": 0.2, **params, **more}
    return xgb.train(params, xgb.DMatrix(X, TARGETS[target]), rounds)


def columns(values):
    return np.asarray(values, np.float64).reshape(ROWS, -1)


def margin(model):
    return columns(model.predict(X, output_margin=True))


@pytest.mark.parametrize("form", ["json", "ubj"])
@pytest.mark.parametrize("case", CASES)
def test_reads_what_xgboost_wrote(case, form, tmp_path):
    booster = train(case)
    path = tmp_path / f"model.{form}"
    booster.save_model(path)
    model = ours(case).load_xgboost(path)
    data = xgb.DMatrix(X)
    expected = columns(booster.predict(data, output_margin=True))
    np.testing.assert_allclose(margin(model), expected, rtol=1e-6, atol=1e-6)
    final = booster.predict(data)
    if case in ("softmax", "raw logistic"):
        return
    if isinstance(model, NewtonBoostingClassifier):
        found = model.predict_proba(X)
        found = found[:, 1] if final.ndim == 1 else found
    else:
        found = model.predict(X)
        if case == "quantiles":
            final = np.sort(final, axis=1)
    np.testing.assert_allclose(found, final, rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_what_was_read_is_written_the_same(case, tmp_path):
    booster = train(case)
    booster.save_model(tmp_path / "theirs.json")
    model = ours(case).load_xgboost(tmp_path / "theirs.json")
    model.save_xgboost(tmp_path / "ours.json")
    again = xgb.Booster(model_file=tmp_path / "ours.json")
    data = xgb.DMatrix(X)
    expected = columns(booster.predict(data, output_margin=True))
    got = columns(again.predict(data, output_margin=True))
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-6)


OWN = {
    "binary": (NewtonBoostingClassifier, "two", {}),
    "named classes": (NewtonBoostingClassifier, "named", {}),
    "multi-class": (NewtonBoostingClassifier, "three", {"grow_policy": "symmetric"}),
    "exponential": (NewtonBoostingClassifier, "two", {"objective": "exponential"}),
    "linear": (NewtonBoostingClassifier, "three", {"booster": "gblinear"}),
    "dart": (NewtonBoostingClassifier, "two", {"booster": "dart", "rate_drop": 0.4}),
    "exact": (NewtonBoostingRegressor, "real", {"tree_method": "exact"}),
    "absolute": (NewtonBoostingRegressor, "real", {"objective": "absolute"}),
    "huber": (NewtonBoostingRegressor, "real", {"objective": "huber"}),
    "quantiles": (NewtonBoostingRegressor, "real", {"objective": "quantile",
                                                    "quantile_alpha": [0.2, 0.8]}),
    "poisson": (NewtonBoostingRegressor, "counts", {"objective": "poisson"}),
    "tweedie": (NewtonBoostingRegressor, "counts", {"objective": "tweedie"}),
    "gamma": (NewtonBoostingRegressor, "positive", {"objective": "gamma"}),
}  # fmt: skip


@pytest.mark.parametrize("case", OWN)
def test_xgboost_reads_what_we_wrote(case, tmp_path):
    make, target, params = OWN[case]
    y = np.array(["c", "a", "b"])[TARGETS["three"]] if target == "named" else TARGETS[target]
    model = make(n_estimators=8, random_state=0, **params).fit(X, y)
    model.save_xgboost(tmp_path / "model.json")
    booster = xgb.Booster(model_file=tmp_path / "model.json")
    data = xgb.DMatrix(X)
    if make is NewtonBoostingClassifier:
        found, expected = booster.predict(data), model.predict_proba(X)
        expected = expected[:, 1] if found.ndim == 1 else expected
    else:
        found = booster.predict(data, output_margin=True)
        expected = model.predict(X, output_margin=True)
    np.testing.assert_allclose(found, expected, rtol=2e-6, atol=1e-6)
    back = make.load_xgboost(tmp_path / "model.json")
    if make is NewtonBoostingClassifier:
        assert back.classes_.tolist() == model.classes_.tolist()
        np.testing.assert_allclose(back.predict_proba(X), model.predict_proba(X), atol=1e-6)


WORDS = [*"zyxwvutsrqponmlkjihg", "a", "long word"]
CODE = RNG.integers(0, 22, ROWS)
GROUP = RNG.integers(0, 4, ROWS)
FRAME = pd.DataFrame({
    "x": X[:, 0],
    "word": pd.Categorical.from_codes(CODE, WORDS),
    "number": pd.Categorical.from_codes(GROUP, [10, 30, 20, 40]),
})  # fmt: skip
FRAME.loc[::7, "word"] = None
BY_CATEGORY = ((CODE % 3 == 0) ^ (GROUP % 2 == 1)).astype(int)


@pytest.mark.parametrize("onehot", [1, 4, 50])
def test_categories_of_a_data_frame(onehot, tmp_path):
    data = xgb.DMatrix(FRAME, BY_CATEGORY, enable_categorical=True)
    params = {"objective": "binary:logistic", "max_cat_to_onehot": onehot, "max_depth": 4}
    booster = xgb.train(params, data, 8)
    booster.save_model(tmp_path / "theirs.json")
    model = NewtonBoostingClassifier.load_xgboost(tmp_path / "theirs.json")
    assert model.feature_names_in_.tolist() == ["x", "word", "number"]
    expected = booster.predict(data)
    # By value, not by code: another order of the categories changes nothing.
    shuffled = FRAME.assign(word=FRAME["word"].cat.reorder_categories(sorted(WORDS)))
    for frame in (FRAME, shuffled):
        np.testing.assert_allclose(model.predict_proba(frame)[:, 1], expected, atol=1e-6)
    model.save_xgboost(tmp_path / "ours.json")
    again = xgb.Booster(model_file=tmp_path / "ours.json")
    np.testing.assert_allclose(again.predict(data), expected, atol=1e-6)


def test_our_own_categories_are_recoded_by_xgboost(tmp_path):
    model = NewtonBoostingClassifier(n_estimators=8, max_depth=4).fit(FRAME, BY_CATEGORY)
    assert model.score(FRAME, BY_CATEGORY) > 0.7
    model.save_xgboost(tmp_path / "ours.json")
    booster = xgb.Booster(model_file=tmp_path / "ours.json")
    found = booster.predict(xgb.DMatrix(FRAME, enable_categorical=True))
    np.testing.assert_allclose(found, model.predict_proba(FRAME)[:, 1], atol=1e-6)


def test_names_beyond_ascii(tmp_path):
    """XGBoost 3.2 counts characters where it stores bytes; nothing may be read askew."""
    frame = pd.DataFrame({"w": pd.Categorical.from_codes(CODE % 3, ["äa", "b", "c"])})
    data = xgb.DMatrix(frame, CODE % 3, enable_categorical=True)
    xgb.train({"max_cat_to_onehot": 1}, data, 1).save_model(tmp_path / "theirs.json")
    with pytest.raises(ValueError, match="not ASCII"):
        NewtonBoostingRegressor.load_xgboost(tmp_path / "theirs.json")
    model = NewtonBoostingRegressor(n_estimators=5).fit(frame, CODE % 3)
    model.save_xgboost(tmp_path / "ours.json")
    codes = frame["w"].map({"b": 0, "c": 1, "äa": 2}).to_numpy(float)[:, None]
    data = xgb.DMatrix(codes, feature_types=["c"], feature_names=["w"], enable_categorical=True)
    booster = xgb.Booster(model_file=tmp_path / "ours.json")
    np.testing.assert_allclose(booster.predict(data), model.predict(frame), atol=1e-6)


def test_category_codes_in_an_array(tmp_path):
    """Also a code above all sets of the file, which XGBoost sends left."""
    table = np.c_[X[:, 0], CODE, GROUP].astype(np.float32)
    kinds = ["q", "c", "c"]
    data = xgb.DMatrix(table, BY_CATEGORY, feature_types=kinds, enable_categorical=True)
    booster = xgb.train({"objective": "binary:logistic", "max_cat_to_onehot": 1}, data, 8)
    booster.save_model(tmp_path / "theirs.json")
    model = NewtonBoostingClassifier.load_xgboost(tmp_path / "theirs.json")
    table[:50, 1], table[50:60, 1] = 99, np.nan
    data = xgb.DMatrix(table, feature_types=kinds, enable_categorical=True)
    np.testing.assert_allclose(model.predict_proba(table)[:, 1], booster.predict(data), atol=1e-6)


@pytest.mark.parametrize("method", ["exact", "hist"])
def test_missing_only_at_prediction_follows_the_source(method, tmp_path):
    """XGBoost's exact sends an unseen NaN left, hist right; both rules survive the import."""
    full = np.nan_to_num(X)
    booster = xgb.train(
        {"tree_method": method, "max_depth": 3}, xgb.DMatrix(full, TARGETS["real"]), 4
    )
    booster.save_model(tmp_path / "model.json")
    model = NewtonBoostingRegressor.load_xgboost(tmp_path / "model.json")
    inner = [t.missing_left[t.feature >= 0] for group in model.trees_ for t in group]
    assert set(np.concatenate(inner).tolist()) == {method == "exact"}
    np.testing.assert_allclose(model.predict(X), booster.predict(xgb.DMatrix(X)), atol=1e-6)


def test_values_at_and_beside_a_threshold(tmp_path):
    """x < t there and x <= t' here agree on t itself and on its float32 neighbours."""
    booster = train("squared", max_depth=3)
    booster.save_model(tmp_path / "model.json")
    model = NewtonBoostingRegressor.load_xgboost(tmp_path / "model.json")
    raw = json.loads((tmp_path / "model.json").read_text())
    trees = raw["learner"]["gradient_booster"]["model"]["trees"]
    edges = np.unique(np.concatenate([
        np.float32(t["split_conditions"])[np.array(t["left_children"]) >= 0] for t in trees
    ]))  # fmt: skip
    near = [edges, np.nextafter(edges, np.float32(-9)), np.nextafter(edges, np.float32(9)), [-0.0]]
    grid = np.concatenate(near).astype(np.float32)
    table = np.random.default_rng(1).choice(grid, size=(4000, 4))
    expected = booster.predict(xgb.DMatrix(table))
    np.testing.assert_allclose(model.predict(table), expected, atol=1e-5)
    # The planted bug: the same threshold on both sides goes wrong exactly there.
    for group in model.trees_:
        for tree in group:
            tree.threshold = np.nextafter(tree.threshold, np.float32(np.inf))
    model._repack()
    assert np.abs(model.predict(table) - expected).max() > 1e-2


def test_early_stopping_keeps_the_best_rounds(tmp_path):
    held = np.arange(ROWS) % 2 == 0
    y = TARGETS["two"]
    peer = xgb.XGBClassifier(n_estimators=60, early_stopping_rounds=3, max_depth=6)
    peer.fit(X[~held], y[~held], eval_set=[(X[held], y[held])], verbose=False)
    peer.save_model(tmp_path / "model.json")
    model = NewtonBoostingClassifier.load_xgboost(tmp_path / "model.json")
    assert model.best_iteration_ == peer.best_iteration
    assert model.n_estimators_ == peer.best_iteration + 1 < peer.get_booster().num_boosted_rounds()
    np.testing.assert_allclose(model.predict_proba(X), peer.predict_proba(X), atol=1e-6)
    assert model.best_score_ == pytest.approx(peer.best_score)


@pytest.mark.parametrize("case", ["logistic", "softprob", "forest", "dart", "squared linear"])
def test_shapley_values_agree_with_xgboost(case, tmp_path):
    booster = train(case)
    booster.save_model(tmp_path / "model.json")
    model = ours(case).load_xgboost(tmp_path / "model.json")
    data = xgb.DMatrix(X)
    found, expected = model.shap_values(X), booster.predict(data, pred_contribs=True)
    np.testing.assert_allclose(found, expected, atol=3e-6)
    if "linear" not in case:
        pairs = booster.predict(data, pred_interactions=True)
        np.testing.assert_allclose(model.shap_interactions(X), pairs, atol=5e-6)


def test_importances_agree_with_xgboost(tmp_path):
    booster = train("squared")
    booster.save_model(tmp_path / "model.json")
    model = NewtonBoostingRegressor.load_xgboost(tmp_path / "model.json")
    gain = booster.get_score(importance_type="total_gain")
    expected = np.array([gain[f"f{j}"] for j in range(4)])
    np.testing.assert_allclose(model.feature_importances_, expected / expected.sum(), rtol=1e-5)


def test_a_loaded_model_goes_on(tmp_path):
    booster = train("squared")
    booster.save_model(tmp_path / "model.json")
    start = NewtonBoostingRegressor.load_xgboost(tmp_path / "model.json")
    more = NewtonBoostingRegressor(n_estimators=30).fit(X, TARGETS["real"], init_model=start)
    before, after = start.predict(X) - TARGETS["real"], more.predict(X) - TARGETS["real"]
    assert np.square(after).mean() < 0.7 * np.square(before).mean()


@pytest.mark.parametrize(
    ("case", "wrong", "message"),
    [
        ("logistic", NewtonBoostingRegressor, "objective 'binary:logistic'; use the other"),
        ("squared", NewtonBoostingClassifier, "objective 'reg:squarederror'; use the other"),
    ],
)
def test_wrong_kind_of_estimator(case, wrong, message, tmp_path):
    train(case).save_model(tmp_path / "model.json")
    with pytest.raises(ValueError, match=message):
        wrong.load_xgboost(tmp_path / "model.json")


def test_what_has_no_equal_is_refused(tmp_path):
    data = xgb.DMatrix(X, TARGETS["positive"])
    xgb.train({"objective": "survival:cox"}, data, 1).save_model(tmp_path / "cox.json")
    with pytest.raises(ValueError, match="'survival:cox'; it has no equal here"):
        NewtonBoostingRegressor.load_xgboost(tmp_path / "cox.json")
    two = xgb.DMatrix(X, np.c_[SCORE, SCORE])
    vector = {"multi_strategy": "multi_output_tree", "tree_method": "hist"}
    for params, message in ((vector, "vector leaves"), ({}, "2 targets at once")):
        xgb.train(params, two, 1).save_model(tmp_path / "two.json")
        with pytest.raises(ValueError, match=message):
            NewtonBoostingRegressor.load_xgboost(tmp_path / "two.json")

    def own(y, raw):
        return raw - y, np.ones_like(raw)

    model = NewtonBoostingRegressor(n_estimators=2, objective=own).fit(X, SCORE)
    with pytest.raises(ValueError, match="no name in XGBoost"):
        model.save_xgboost(tmp_path / "own.json")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("damage")
    booster = train("dart", rounds=2)
    booster.save_model(folder / "model.json")
    booster.save_model(folder / "model.ubj")
    return folder


@settings(max_examples=80, deadline=None)
@given(form=st.sampled_from(["json", "ubj"]), share=st.floats(0, 1, exclude_max=True))
def test_truncated_files(files, form, share):
    raw = (files / f"model.{form}").read_bytes()
    path = files / f"cut.{form}"
    path.write_bytes(raw[: int(share * len(raw))])
    with pytest.raises(ValueError, match="is not a readable XGBoost model"):
        read_booster(path)


@settings(max_examples=150, deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), byte=st.integers(0, 255))
def test_one_wrong_byte_never_does_more_than_raise(files, place, byte):
    raw = bytearray((files / "model.ubj").read_bytes())
    raw[int(place * len(raw))] = byte
    path = files / "bent.ubj"
    path.write_bytes(raw)
    with contextlib.suppress(ValueError):
        model = NewtonBoostingClassifier.load_xgboost(path)
        table = np.zeros((5, model.n_features_in_), np.float32)
        assert model.shap_values(table).shape[0] == 5


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("left_children", [0], "form a cycle"),
        ("left_children", [10**6], "IndexError|lie outside|index"),
        ("split_indices", [77], "beyond the 4 known"),
        ("split_indices", [-3], "beyond the 4 known"),
        ("right_children", [-7], "lie outside"),
    ],
)
def test_hostile_trees(files, key, value, message, tmp_path):
    document = json.loads((files / "model.json").read_text())
    tree = document["learner"]["gradient_booster"]["gbtree"]["model"]["trees"][0]
    tree[key][: len(value)] = value
    (tmp_path / "bad.json").write_text(json.dumps(document))
    with pytest.raises(ValueError, match=message):
        read_booster(tmp_path / "bad.json")


def test_older_forms_of_base_score(files, tmp_path):
    """Version 1 and 2 wrote one number as text."""
    document = json.loads((files / "model.json").read_text())
    document["learner"]["learner_model_param"]["base_score"] = "5E-1"
    (tmp_path / "old.json").write_text(json.dumps(document))
    assert read_booster(tmp_path / "old.json").base.tolist() == [0.5, 0.5, 0.5]
    document["learner"]["objective"]["name"] = "binary:logistic"
    (tmp_path / "old.json").write_text(json.dumps(document))
    assert read_booster(tmp_path / "old.json").base.tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"Z", None),
        (b"T", True),
        (b"F", False),
        (b"NNi\xff", -1),
        (b"I\x01\x00", 256),
        (b"l\x00\x01\x00\x00", 65536),
        (b"L\x00\x00\x00\x01\x00\x00\x00\x00", 2**32),
        (b"D\x3f\xf8\x00\x00\x00\x00\x00\x00", 1.5),
        (b"SU\x03abc", "abc"),
        (b"Cx", "x"),
        (b"HU\x042e10", 2e10),
        (b"[]", []),
        (b"[U\x01SU\x01aZ]", [1, "a", None]),
        (b"[#U\x02TF", [True, False]),
        (b"{U\x01ad\x3f\xc0\x00\x00}", {"a": 1.5}),
        (b"{$U#U\x02U\x01a\x05U\x01b\x06", {"a": 5, "b": 6}),
    ],
)
def test_ubjson_values(raw, expected):
    assert read_ubjson(raw) == expected


def test_ubjson_typed_arrays():
    found = read_ubjson(b"[$d#U\x02\x3f\x80\x00\x00\xbf\x00\x00\x00")
    assert found.tolist() == [1.0, -0.5]
    assert found.dtype == np.float32


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "ends early"),
        (b"Q", "unknown marker"),
        (b"U", "ends early"),
        (b"SU\x09ab", "ends early"),
        (b"Si\xff", "a length of -1"),
        (b"[$d#l\x7f\xff\xff\xff", "do not fit"),
        (b"[$Z#L\x00\x00\x00\xff\xff\xff\xff\xff", "do not fit"),
        (b"[$dU\x01", "without a count"),
        (b"[" * 1000, "nested deeper"),
        (b"U\x01U\x02", "follow the end"),
        (b"{Sa}", "a length of type"),
    ],
)
def test_ubjson_damage(raw, message):
    with pytest.raises(ValueError, match=message):
        read_ubjson(raw)


def test_the_file_says_its_own_limits(files):
    file = read_booster(files / "model.ubj")
    assert (file.booster, file.num_columns, len(file.base)) == ("dart", 4, 3)
    assert file.trees_per_round == 1
    assert all(math.isfinite(value) for value in file.base)
