import pickle

import numpy as np
import pandas as pd
import polars as pl
import pytest
import scipy.sparse as sp
from sklearn import datasets
from sklearn.tree import DecisionTreeClassifier as PeerClassifier
from sklearn.tree import DecisionTreeRegressor as PeerRegressor

from paragone.ensemble import DecisionTreeClassifier, DecisionTreeRegressor, load_model
from paragone.ensemble._tree import LEAF

DATA = ["wine", "breast_cancer", "digits", "diabetes"]


def load(name):
    X, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    if name == "diabetes":
        return X, y, DecisionTreeRegressor, PeerRegressor
    return X, y, DecisionTreeClassifier, PeerClassifier


def steps(path, total):
    """The path with equal alphas made one step: which of equals is cut first is arbitrary."""
    alphas, impurities = np.asarray(path.ccp_alphas), np.asarray(path.impurities)
    last = np.append(np.diff(alphas) > 1e-12 * total, True)
    return alphas[last], impurities[last]


def stable_tree_options(name):
    """Limits under which no split is a tie, so that both libraries grow the same tree."""
    leaf = {"wine": 8, "breast_cancer": 20, "digits": 25, "diabetes": 6}[name]
    return {"min_samples_leaf": leaf, "random_state": 0}


@pytest.mark.peers
@pytest.mark.parametrize("name", DATA)
def test_the_pruning_path_equals_scikit_learn(name):
    X, y, ours, theirs = load(name)
    options = stable_tree_options(name)
    tree, peer = ours(**options).fit(X, y), theirs(**options).fit(X, y)
    assert tree.get_n_leaves() == peer.get_n_leaves()
    path = tree.cost_complexity_pruning_path(X, y)
    want = peer.cost_complexity_pruning_path(X, y)
    total = float(want.impurities[-1])
    found, expected = steps(path, total), steps(want, total)
    for one, two in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-9, atol=1e-9 * total)
    for alpha in expected[0][:: max(1, len(expected[0]) // 6)]:
        # Between two steps, where no rounding can decide.
        price = float(alpha) * 1.0001 + 1e-9 * total
        pruned = ours(ccp_alpha=price, **options).fit(X, y)
        peer = theirs(ccp_alpha=price, **options).fit(X, y)
        assert pruned.get_n_leaves() == peer.get_n_leaves()
        assert pruned.get_depth() == peer.get_depth()
        np.testing.assert_allclose(pruned.predict(X), peer.predict(X))


@pytest.mark.parametrize("name", ["wine", "diabetes"])
def test_a_pruned_tree_is_the_best_of_its_family(name):
    X, y, ours, _ = load(name)
    full = ours(min_samples_leaf=3).fit(X, y)
    path = full.cost_complexity_pruning_path(X, y)

    def impurity(tree):
        leaf = tree.tree_.feature == LEAF
        return float(np.sum((tree.tree_.cover * tree.tree_.impurity)[leaf]) / len(y))

    assert impurity(full) == pytest.approx(path.impurities[0])
    family = [ours(min_samples_leaf=3, ccp_alpha=a).fit(X, y) for a in np.unique(path.ccp_alphas)]
    for alpha in path.ccp_alphas[1::3] * 1.01:
        pruned = ours(min_samples_leaf=3, ccp_alpha=alpha).fit(X, y)
        cost = impurity(pruned) + alpha * pruned.get_n_leaves()
        assert cost <= min(impurity(t) + alpha * t.get_n_leaves() for t in family) + 1e-12
        assert np.all(pruned.tree_.count[pruned.tree_.feature == LEAF] >= 3)


@pytest.mark.peers
@pytest.mark.parametrize("name", DATA)
def test_predictions_and_importances_equal_scikit_learn(name):
    X, y, ours, theirs = load(name)
    options = stable_tree_options(name)
    if name in ("breast_cancer", "digits"):
        options["max_leaf_nodes"] = 4 if name == "breast_cancer" else 15
    tree, peer = ours(**options).fit(X, y), theirs(**options).fit(X, y)
    np.testing.assert_allclose(tree.predict(X), peer.predict(X), rtol=1e-9)
    np.testing.assert_allclose(tree.feature_importances_, peer.feature_importances_, atol=1e-9)
    if name != "diabetes":
        np.testing.assert_allclose(tree.predict_proba(X), peer.predict_proba(X), atol=1e-12)
    assert tree.get_depth() == peer.get_depth()
    leaves, peers = tree.apply(X), peer.apply(X)
    pairs = set(zip(leaves.tolist(), peers.tolist(), strict=True))
    assert len(pairs) == len(set(leaves)) == len(set(peers))


@pytest.mark.parametrize("criterion", ["gini", "entropy", "log_loss"])
def test_class_weights_are_weights(criterion):
    X, y, _, _ = load("wine")
    given = {0: 1.0, 1: 2.0, 2: 5.0}
    weighted = DecisionTreeClassifier(criterion=criterion, class_weight=given, max_depth=3)
    plain = DecisionTreeClassifier(criterion=criterion, max_depth=3)
    weight = np.array([given[label] for label in y])
    one, two = weighted.fit(X, y), plain.fit(X, y, sample_weight=weight)
    np.testing.assert_allclose(one.predict_proba(X), two.predict_proba(X))
    balanced = DecisionTreeClassifier(class_weight="balanced", max_depth=1).fit(X, y)
    np.testing.assert_allclose(balanced.tree_.value[0], 1 / 3)
    with pytest.raises(ValueError, match="class_weight='fair'"):
        DecisionTreeClassifier(class_weight="fair").fit(X, y)


def test_missing_values_learn_their_side_and_else_follow_the_many():
    rng = np.random.default_rng(0)
    x = rng.random(400)
    y = (x > 0.7).astype(int)
    holes = x.copy()
    holes[y == 1] = np.where(rng.random(np.sum(y)) < 0.5, np.nan, holes[y == 1])
    tree = DecisionTreeClassifier().fit(holes[:, None], y)
    assert tree.score(holes[:, None], y) == 1
    assert tree.predict([[np.nan]]) == [1]
    never = DecisionTreeClassifier().fit(x[:, None], y)
    assert never.predict([[np.nan]]) == [0]


@pytest.mark.parametrize("frame", [pd.DataFrame, pl.DataFrame])
def test_text_columns_are_categories(frame):
    rng = np.random.default_rng(0)
    town = rng.choice(["Rome", "Bari", "Pisa", "Asti"], 300)
    size = rng.random(300)
    y = np.isin(town, ["Rome", "Asti"]) * 10.0 + (size > 0.5)
    table = frame({"town": town.tolist(), "size": size.tolist()})
    tree = DecisionTreeRegressor().fit(table, y)
    assert tree.score(table, y) == 1
    assert tree.get_n_leaves() == 4
    text = tree.export_text()
    assert "town in {Bari, Pisa}" in text
    assert "size <= 0.5" in text
    unknown = frame({"town": ["Oslo"], "size": [0.1]})
    assert tree.predict(unknown)[0] in y


def test_text_shows_every_leaf_and_every_question():
    X, y, _, _ = load("wine")
    tree = DecisionTreeClassifier(max_depth=2).fit(X, y)
    lines = tree.export_text(feature_names=[f"f{j}" for j in range(13)], decimals=2).splitlines()
    assert len(lines) == tree.tree_.num_nodes
    assert lines[0] == "1 [0.33, 0.40, 0.27] (178 rows)"
    assert lines[1].startswith(f"|   f{tree.tree_.feature[0]} <= {tree.tree_.threshold[0]:.2f}")
    assert sum(line.startswith("|   |   ") for line in lines) == tree.get_n_leaves()
    with pytest.raises(ValueError, match="2 names for 13"):
        tree.export_text(feature_names=["a", "b"])


@pytest.mark.parametrize("name", ["wine", "diabetes"])
def test_a_tree_comes_back_from_pickle_and_json(name, tmp_path):
    X, y, ours, _ = load(name)
    tree = ours(max_depth=4).fit(X, y)
    tree.save_model(tmp_path / "tree.json")
    for back in (pickle.loads(pickle.dumps(tree)), load_model(tmp_path / "tree.json")):
        np.testing.assert_array_equal(back.predict(X), tree.predict(X))
        assert back.export_text() == tree.export_text()
        assert back.get_params() == tree.get_params()


@pytest.mark.parametrize("name", ["wine", "diabetes"])
def test_shapley_values_sum_to_the_prediction(name):
    X, y, ours, _ = load(name)
    tree = ours(max_depth=5).fit(X, y)
    values = tree.shap_values(X[:20])
    said = tree.predict_proba(X[:20]) if name == "wine" else tree.predict(X[:20])
    np.testing.assert_allclose(values.sum(axis=-1), said, atol=1e-9)


def test_sparse_zeros_are_zeros():
    rng = np.random.default_rng(0)
    X = np.where(rng.random((200, 6)) < 0.7, 0.0, rng.normal(size=(200, 6)))
    y = (X[:, 0] > 0) + 2 * (X[:, 1] == 0)
    dense = DecisionTreeClassifier().fit(X, y)
    sparse = DecisionTreeClassifier().fit(sp.csr_matrix(X), y)
    np.testing.assert_array_equal(dense.predict_proba(X), sparse.predict_proba(sp.csc_array(X)))


@pytest.mark.parametrize("labels", [["b", "a", "b"], [True, False, True], [-3, 9, -3]])
def test_labels_may_be_anything_ordered(labels):
    tree = DecisionTreeClassifier().fit([[0.0], [1.0], [2.0]], labels)
    assert tree.predict([[0.0], [1.0]]).tolist() == labels[:2]
    assert tree.classes_.tolist() == sorted(set(labels))


def test_one_row_two_rows_and_one_class():
    assert DecisionTreeRegressor().fit([[1.0]], [5.0]).predict([[9.0]]) == [5.0]
    two = DecisionTreeClassifier().fit([[1.0], [2.0]], ["x", "y"])
    assert two.predict([[1.4], [1.6]]).tolist() == ["x", "y"]
    one = DecisionTreeClassifier().fit([[1.0], [2.0]], ["x", "x"])
    np.testing.assert_array_equal(one.predict_proba([[3.0]]), [[1.0]])
    np.testing.assert_array_equal(two.predict_log_proba([[1.0]]), [[0.0, -np.inf]])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"criterion": "poisson"}, "criterion='poisson'"),
        ({"splitter": "worst"}, "splitter='worst'"),
        ({"max_depth": 0}, "max_depth=0"),
        ({"min_samples_leaf": 0}, "min_samples_leaf=0"),
        ({"min_samples_split": 1.5}, "min_samples_split=1.5"),
        ({"min_weight_fraction_leaf": 0.6}, "min_weight_fraction_leaf=0.6"),
        ({"max_features": 0.0}, "max_features=0.0"),
        ({"max_features": "auto"}, "max_features='auto'"),
        ({"max_leaf_nodes": 1}, "max_leaf_nodes=1"),
        ({"ccp_alpha": -1.0}, "ccp_alpha=-1.0"),
        ({"monotonic_cst": [1] * 13}, "two classes"),
    ],
)
def test_a_wrong_option_is_named(options, words):
    X, y, _, _ = load("wine")
    with pytest.raises(ValueError, match=words):
        DecisionTreeClassifier(**options).fit(X, y)


def test_poisson_wants_counts():
    with pytest.raises(ValueError, match="least value is -1"):
        DecisionTreeRegressor(criterion="poisson").fit([[0.0], [1.0]], [-1.0, 3.0])
    with pytest.raises(ValueError, match="positive sum"):
        DecisionTreeRegressor(criterion="poisson").fit([[0.0], [1.0]], [0.0, 0.0])
