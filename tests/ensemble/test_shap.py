"""Shapley values against their definition (all subsets), closed forms, and XGBoost's own."""

import itertools
import math

import numpy as np
import pytest

from paragone.ensemble._shap import linear_shap, shap_interactions, shap_values
from paragone.ensemble._tree import LEAF, Tree


def random_tree(rng, columns, depth, outputs=1, categorical=(), empty=False):
    """A tree of random shape; with `empty`, some children have no cover."""
    nodes, bits = [], []

    def add():
        nodes.append(dict(f=LEAF, t=0.0, left=0, miss=False, cover=0.0, start=-1, size=0))
        return len(nodes) - 1

    todo = [(add(), 0, 100.0)]
    while todo:
        i, level, cover = todo.pop(0)
        nodes[i]["cover"] = cover
        if level == depth or rng.random() < 0.15:
            continue
        f = int(rng.integers(columns))
        nodes[i].update(f=f, t=rng.normal(), miss=bool(rng.random() < 0.5), left=add())
        add()
        if f in categorical:
            nodes[i].update(start=len(bits), size=1)
            bits.append(int(rng.integers(1, 2**8)))
        share = 0.0 if empty and rng.random() < 0.2 else rng.uniform(0.05, 0.95)
        left = nodes[i]["left"]
        todo += [(left, level + 1, cover * share), (left + 1, level + 1, cover * (1 - share))]
    take = lambda key, dtype: np.array([node[key] for node in nodes], dtype)  # noqa: E731
    return Tree(
        feature=take("f", np.int32), threshold=take("t", np.float32), left=take("left", np.int32),
        missing_left=take("miss", bool), value=rng.normal(size=(len(nodes), outputs)),
        gain=np.zeros(len(nodes)), cover=take("cover", float), count=np.ones(len(nodes), np.int32),
        category_start=take("start", np.int32), category_size=take("size", np.int32),
        category_bits=np.array(bits, np.uint32),
    )  # fmt: skip


def goes_right(tree, node, x):
    if math.isnan(x):
        return not tree.missing_left[node]
    if tree.category_start[node] >= 0:
        if x >= 32 * tree.category_size[node]:
            return not tree.missing_left[node]
        word = int(tree.category_bits[tree.category_start[node] + int(x) // 32])
        return bool(word >> (int(x) % 32) & 1)
    return not x <= tree.threshold[node]


def game(tree, x, known, node=0):
    """v(S) by recursion: the definition, not the integral that the code computes."""
    if tree.feature[node] == LEAF:
        return tree.value[node]
    left = tree.left[node]
    if tree.feature[node] in known:
        return game(tree, x, known, left + goes_right(tree, node, x[tree.feature[node]]))
    a, b = tree.cover[left], tree.cover[left + 1]
    share = a / (a + b) if a + b > 0 else 0.5
    return share * game(tree, x, known, left) + (1 - share) * game(tree, x, known, left + 1)


def subsets(columns):
    return itertools.chain.from_iterable(
        itertools.combinations(columns, size) for size in range(len(columns) + 1)
    )


def brute_values(tree, x):
    p = len(x)
    phi = np.zeros((tree.value.shape[1], p + 1))
    phi[:, p] = game(tree, x, ())
    for i in range(p):
        for known in subsets([j for j in range(p) if j != i]):
            s = len(known)
            weight = math.factorial(s) * math.factorial(p - s - 1) / math.factorial(p)
            phi[:, i] += weight * (game(tree, x, {*known, i}) - game(tree, x, known))
    return phi


def brute_interaction(tree, x, i, j):
    p = len(x)
    total = 0.0
    for known in subsets([k for k in range(p) if k not in (i, j)]):
        s = len(known)
        weight = math.factorial(s) * math.factorial(p - s - 2) / (2 * math.factorial(p - 1))
        both, one = game(tree, x, {*known, i, j}), game(tree, x, {*known, i})
        total += weight * (both - one - game(tree, x, {*known, j}) + game(tree, x, known))
    return total


def rows(rng, count, columns, categorical=()):
    X = rng.normal(size=(count, columns)).astype(np.float32)
    for j in categorical:
        X[:, j] = rng.integers(0, 40, count)
    X[rng.random(X.shape) < 0.2] = np.nan
    return X


@pytest.mark.parametrize("seed", range(8))
def test_values_are_those_of_the_definition(seed):
    rng = np.random.default_rng(seed)
    tree = random_tree(rng, 5, 6, outputs=2, categorical=(3,), empty=seed % 2 == 1)
    X = rows(rng, 7, 5, categorical=(3,))
    got = shap_values([tree], X, scale=0.5, baseline=[1.0, 2.0])
    expected = np.array([0.5 * brute_values(tree, x) for x in X])
    expected[:, :, -1] += [1.0, 2.0]
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-13)


def test_the_oracle_sees_a_wrong_cover():
    """A planted bug, equal covers everywhere, is caught by the definition."""
    rng = np.random.default_rng(0)
    tree = random_tree(rng, 4, 4)
    X = rows(rng, 3, 4)
    expected = np.array([brute_values(tree, x)[0] for x in X])
    np.testing.assert_allclose(shap_values([tree], X), expected, atol=1e-13)
    tree.cover[:] = 1.0
    assert np.abs(shap_values([tree], X) - expected).max() > 1e-3


@pytest.mark.parametrize("seed", range(3))
def test_interactions_are_those_of_the_definition(seed):
    rng = np.random.default_rng(seed)
    tree = random_tree(rng, 4, 5, categorical=(2,))
    X = rows(rng, 3, 4, categorical=(2,))
    got = shap_interactions([tree], X)
    values = shap_values([tree], X)
    for row, x in enumerate(X):
        for i, j in itertools.permutations(range(4), 2):
            assert got[row, i, j] == pytest.approx(brute_interaction(tree, x, i, j)[0], abs=1e-13)
    np.testing.assert_allclose(got[:, :-1].sum(axis=2), values[:, :-1], atol=1e-13)
    np.testing.assert_allclose(got[:, -1, -1], values[:, -1], atol=1e-13)


@pytest.mark.parametrize("depth", [0, 1, 30])
def test_values_sum_to_the_prediction(depth):
    """Also on paths of 60 distinct columns, where unwinding polynomials loses digits."""
    rng = np.random.default_rng(depth)
    columns = 60
    trees = [random_tree(rng, columns, min(depth, 9)) for _ in range(5)]
    if depth == 30:
        trees.append(chain(rng, columns))
    X = rows(rng, 65, columns)
    raw = np.array([sum(0.1 * game(t, x, set(range(columns)))[0] for t in trees) for x in X])
    values = shap_values(trees, X, scale=0.1, baseline=3.0)
    np.testing.assert_allclose(values.sum(axis=1), raw + 3.0, rtol=0, atol=1e-12)


def chain(rng, columns):
    """A tree that asks one new column on each of `columns` levels."""
    size = 2 * columns + 1
    inner = np.arange(size) % 2 == 0
    inner[-1] = False
    cover = np.repeat(0.9 ** np.arange(columns + 1), 2)[1:].copy()
    cover[1::2] = 0.9 ** np.arange(columns) * 0.1
    return Tree(
        feature=np.where(inner, np.arange(size) // 2, LEAF).astype(np.int32),
        threshold=np.zeros(size, np.float32),
        left=np.where(inner, np.arange(size) + 1, 0).astype(np.int32),
        missing_left=np.zeros(size, bool),
        value=rng.normal(size=(size, 1)),
        gain=np.zeros(size),
        cover=cover,
        count=np.ones(size, np.int32),
        category_start=np.full(size, -1, np.int32),
        category_size=np.zeros(size, np.int32),
    )


def test_deep_chain_against_its_closed_form():
    """One leaf at the end of 60 columns: phi is v (o - z) times an exact rational mean."""
    rng = np.random.default_rng(1)
    p = 60
    tree = chain(rng, p)
    tree.value[:-1] = 0.0
    tree.value[-1] = 1.0
    x = np.ones((1, p), np.float32)
    # All columns pass and every z is 0.9, so each is owed the same share of v(N) - v({}).
    expected = (1.0 - 0.9**p) / p
    np.testing.assert_allclose(shap_values([tree], x)[0, :-1], expected, rtol=1e-12)


def test_rounds_of_trees_and_their_weights():
    rng = np.random.default_rng(2)
    rounds = [[random_tree(rng, 4, 3) for _ in range(3)] for _ in range(5)]
    X = rows(rng, 11, 4)
    weights = rng.uniform(size=(5, 3))
    got = shap_values(rounds, X, scale=weights, baseline=[1.0, 2.0, 3.0])
    assert got.shape == (11, 3, 5)
    for k in range(3):
        alone = shap_values([r[k] for r in rounds], X, scale=weights[:, k], baseline=k + 1.0)
        np.testing.assert_allclose(got[:, k], alone, atol=1e-14)


def test_threads_rows_and_order_of_rows_do_not_matter():
    rng = np.random.default_rng(3)
    trees = [random_tree(rng, 6, 7) for _ in range(3)]
    X = rows(rng, 2003, 6)
    whole = shap_values(trees, X, n_jobs=1)
    np.testing.assert_array_equal(whole, shap_values(trees, X, n_jobs=2))
    np.testing.assert_array_equal(whole[::-1], shap_values(trees, X[::-1]))
    np.testing.assert_array_equal(whole[5:6], shap_values(trees, X[5:6]))
    assert shap_values(trees, X[:0]).shape == (0, 7)


def test_an_unused_column_gets_nothing_and_twins_share():
    rng = np.random.default_rng(4)
    tree = random_tree(rng, 3, 4)
    X = rows(rng, 20, 5)
    assert not shap_values([tree], X)[:, 3:5].any()
    both = shap_values([tree, tree], X, scale=[0.25, 0.75])
    np.testing.assert_allclose(both, shap_values([tree], X), atol=1e-14)


def test_linear_values_are_the_closed_form():
    rng = np.random.default_rng(5)
    X, coef, intercept = rng.normal(size=(9, 3)), rng.normal(size=(2, 3)), np.array([0.5, -1.0])
    mean = X.mean(axis=0)
    got = linear_shap(X, coef, intercept, mean)
    np.testing.assert_allclose(got.sum(axis=2), X @ coef.T + intercept)
    np.testing.assert_allclose(got[:, 1, :-1], coef[1] * (X - mean))
    # The mean row is its own background, so nothing is left to explain.
    np.testing.assert_allclose(linear_shap(mean[None], coef, 0.0, mean)[0, :, :-1], 0, atol=1e-15)
    X[0, 0] = np.nan
    assert linear_shap(X, coef[0], 0.5)[0, 0] == 0
