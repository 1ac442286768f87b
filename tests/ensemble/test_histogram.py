"""Growth on bins against brute force over every split, in float64."""

import itertools
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paragone.ensemble import _grow
from paragone.ensemble._binning import bin_features
from paragone.ensemble._grow import GrowParams, Room, grow_histogram
from paragone.ensemble._predict import apply, pack, predict_raw
from paragone.ensemble._tree import LEAF


def term(g, h, lam, alpha):
    shrunk = max(abs(g) - alpha, 0.0)
    return shrunk * shrunk / (h + lam)


def brute_force(values, g, h, lam=1.0, alpha=0.0, mcw=0.0, rows=1):
    """The best gain over all columns, cuts and sides for the missing rows."""
    best = 0.0
    whole = term(g.sum(), h.sum(), lam, alpha)
    for x in values.T:
        known = x[~np.isnan(x)]
        for cut, missing_left in itertools.product(np.unique(known), (False, True)):
            left = (x <= cut) | (np.isnan(x) & missing_left)
            if left.sum() < rows or (~left).sum() < rows:
                continue
            if h[left].sum() < mcw or h[~left].sum() < mcw:
                continue
            gain = term(g[left].sum(), h[left].sum(), lam, alpha)
            gain += term(g[~left].sum(), h[~left].sum(), lam, alpha) - whole
            best = max(best, gain)
    return best


def table(seed, n=60, p=3, missing=0.2, digits=1):
    rng = np.random.default_rng(seed)
    values = np.round(rng.normal(size=(n, p)), digits).astype(np.float32)
    values[rng.random((n, p)) < missing] = np.nan
    return rng, values


def stump(values, g, h, categorical=None, **params):
    categorical = np.zeros(values.shape[1], bool) if categorical is None else categorical
    usual = {"max_depth": 1, "min_child_weight": 0.0} | params
    return grow_histogram(bin_features(values, categorical), g, h, None, GrowParams(**usual))


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10**6),
    st.sampled_from([2, 3, 17, 64, 65]),
    st.sampled_from([0.0, 0.3, 1.0]),
    st.floats(0.01, 5),
    st.sampled_from([0.0, 0.7]),
    st.sampled_from([0.0, 2.0]),
    st.sampled_from([1, 5]),
)
def test_one_split_is_the_best_of_all(seed, n, missing, lam, alpha, mcw, rows):
    rng, values = table(seed, n, 3, missing)
    g, h = rng.normal(size=n), rng.uniform(0.1, 1, n)
    tree, leaf = stump(
        values, g, h, reg_lambda=lam, reg_alpha=alpha, min_child_weight=mcw, min_samples_leaf=rows
    )
    want = brute_force(values, g, h, lam, alpha, mcw, rows)
    assert tree.gain[0] == pytest.approx(want, rel=1e-6, abs=1e-7)
    assert tree.count[np.unique(leaf)].min() >= rows or tree.num_nodes == 1
    for node in np.unique(leaf):
        inside = leaf == node
        shrunk = np.sign(g[inside].sum()) * max(abs(g[inside].sum()) - alpha, 0)
        assert tree.value[node, 0] == pytest.approx(-shrunk / (h[inside].sum() + lam), rel=1e-12)
        assert tree.cover[node] == pytest.approx(h[inside].sum())
        assert tree.count[node] == inside.sum()


def test_the_oracle_notices_a_lost_row():
    rng, values = table(7)
    g, h = rng.normal(size=60), np.ones(60)
    g[0] = 5.0
    lost = g.copy()
    lost[0] = 0.0
    tree, _ = stump(values, lost, h)
    assert tree.gain[0] != pytest.approx(brute_force(values, g, h), rel=1e-3)


@pytest.mark.parametrize("seed", range(6))
def test_categories_reach_the_best_of_all_subsets(seed):
    rng = np.random.default_rng(seed)
    n, c = 120, 7
    codes = rng.integers(0, c, n).astype(np.float32)
    g, h = rng.normal(size=n), np.ones(n)
    tree, leaf = stump(
        codes[:, None], g, h, np.array([True]), reg_lambda=0.0, cat_smooth=0.0, max_cat_to_onehot=1
    )
    best = 0.0
    for bits in range(1, 2**c - 1):
        left = (bits >> codes.astype(int)) & 1 == 1
        if left.any() and not left.all():
            parts = [term(g[m].sum(), h[m].sum(), 0, 0) for m in (left, ~left)]
            best = max(best, sum(parts) - term(g.sum(), h.sum(), 0, 0))
    assert tree.gain[0] == pytest.approx(best, rel=1e-6)
    assert np.array_equal(apply(pack([tree]), codes[:, None])[:, 0], leaf)


def test_one_hot_below_the_limit_and_unseen_categories_follow_missing():
    codes = np.repeat([0, 1, 2, np.nan], 20).astype(np.float32)[:, None]
    g = np.concatenate([np.full(20, 1.0), np.full(20, -3.0), np.full(20, 1.0), np.full(20, -3.0)])
    tree, leaf = stump(codes, g, np.ones(80), np.array([True]), max_cat_to_onehot=4)
    assert leaf[20] == leaf[60] != leaf[0] == leaf[40]
    new = np.array([[3.0], [77.0], [np.nan]], np.float32)
    assert (apply(pack([tree]), new)[:, 0] == leaf[60]).all()


def test_groups_and_threshold_limit_categories():
    rng = np.random.default_rng(0)
    codes = np.repeat(np.arange(40), 3).astype(np.float32)[:, None]
    g = rng.normal(size=120)
    tree, leaf = stump(codes, g, np.ones(120), np.array([True]), min_data_per_group=30)
    assert tree.count[1:].min() >= 30
    tree, leaf = stump(codes, g, np.ones(120), np.array([True]), max_cat_threshold=5)
    sides = [len(np.unique(codes[leaf == k])) for k in (1, 2)]
    assert min(sides) <= 5


def boost(values, target, rounds=8, categorical=None, rows=None, **params):
    categorical = np.zeros(values.shape[1], bool) if categorical is None else categorical
    binned = bin_features(values, categorical, 64)
    trees, leaves, raw = [], [], np.zeros(len(values))
    for r in range(rounds):
        settings_ = GrowParams(learning_rate=0.5, **params)
        tree, leaf = grow_histogram(binned, raw - target, np.ones(len(raw)), rows, settings_, r)
        raw = raw + tree.value[leaf, 0]
        trees.append(tree)
        leaves.append(leaf)
    return trees, np.stack(leaves, 1), raw


@pytest.mark.parametrize("policy", ["leaf", "depth", "symmetric"])
def test_arrays_kept_for_the_next_tree_leave_no_trace(policy):
    rng, values = table(11, 1009, 5, 0.1, 2)
    values[:, 4] = rng.integers(0, 9, 1009)
    binned, room = bin_features(values, np.arange(5) == 4, 64), Room()
    some = np.sort(rng.permutation(1009)[:300]).astype(np.int32)
    for r, (rows, depth) in enumerate([(None, 6), (some, 2), (None, 1), (some, 7), (None, 5)]):
        g, params = rng.normal(size=1009), GrowParams(policy=policy, max_depth=depth)
        given = binned, g, np.ones(1009), rows, params, r
        (a, leaf), (b, fresh) = grow_histogram(*given, room=room), grow_histogram(*given)
        assert np.array_equal(leaf, fresh)
        for name in ("feature", "threshold", "left", "missing_left", "value", "gain", "cover",
                     "count", "category_start", "category_size", "category_bits"):  # fmt: skip
            assert np.array_equal(getattr(a, name), getattr(b, name)), name
        # What is left for the next tree is rubbish.
        for held in room._held.values():
            held.view(np.uint8)[:] = 0xAB


@pytest.mark.parametrize("policy", ["leaf", "depth", "symmetric"])
@pytest.mark.parametrize("sampled", [False, True])
def test_training_leaves_are_those_of_raw_values(policy, sampled):
    rng, values = table(1, 1009, 5, 0.1, 2)
    values[:, 4] = rng.integers(0, 9, 1009)
    values[rng.random(1009) < 0.1, 4] = np.nan
    target = (
        np.nan_to_num(values[:, 0]) * 2 + (np.nan_to_num(values[:, 4]) % 3) + rng.normal(size=1009)
    )
    rows = np.arange(0, 1009, 3, dtype=np.int32) if sampled else None
    categorical = np.array([False] * 4 + [True])
    trees, leaves, raw = boost(
        values,
        target,
        categorical=categorical,
        rows=rows,
        policy=policy,
        max_leaves=13,
        max_depth=5,
    )
    assert all(3 < tree.num_leaves <= 13 for tree in trees)
    assert np.array_equal(apply(pack(trees), values), leaves)
    assert np.array_equal(predict_raw(pack(trees), values)[0], raw)


def test_depth_and_leaf_limits_and_policies_differ():
    _, values = table(2, 800, 4, 0.0, 3)
    target = np.sin(3 * values[:, 0]) + values[:, 1] ** 2
    (deep,), _, _ = boost(values, target, 1, max_depth=3)
    assert 4 < deep.num_leaves <= 8
    (free,), _, _ = boost(values, target, 1, max_depth=0, max_leaves=0, min_child_weight=0.0)
    assert free.num_leaves > 100
    (leafy,), _, _ = boost(values, target, 1, max_depth=0, max_leaves=8, policy="leaf")
    assert leafy.num_leaves == 8
    assert leafy.gain.sum() >= deep.gain.sum()
    (even,), _, _ = boost(values, target, 1, max_depth=3, policy="symmetric")
    for level in ([0], [1, 2]):
        inner = [k for k in level if even.feature[k] != LEAF]
        assert len({(even.feature[k], even.threshold[k]) for k in inner}) == 1


def test_threads_do_not_change_a_tree():
    rng = np.random.default_rng(3)
    values = rng.normal(size=(70_001, 6)).astype(np.float32)
    values[rng.random(values.shape) < 0.05] = np.nan
    binned = bin_features(values, np.zeros(6, bool))
    g, h = rng.normal(size=70_001), rng.uniform(0.5, 1, 70_001)
    trees = [
        grow_histogram(
            binned, g, h, None, GrowParams(max_depth=5, min_samples_leaf=3, threads=threads)
        )
        for threads in (1, 2)
    ]
    assert np.array_equal(trees[0][1], trees[1][1])
    for name in ("feature", "threshold", "value", "gain", "cover"):
        assert np.array_equal(getattr(trees[0][0], name), getattr(trees[1][0], name))


def test_wide_tables_scan_in_parallel_and_short_of_histogram_memory(monkeypatch):
    _, values = table(4, 2100, 130, 0.05, 1)
    target = values[:, 0] + np.nan_to_num(values[:, 7]) * 2
    target = np.nan_to_num(target)
    (one,), _, raw = boost(values, target, 1, max_depth=4)
    (two,), _, _ = boost(values, target, 1, max_depth=4, threads=2)
    monkeypatch.setattr(_grow, "HISTOGRAM_BYTES", 1)
    (poor,), _, poor_raw = boost(values, target, 1, max_depth=4)
    for other in (two, poor):
        assert np.array_equal(one.feature, other.feature)
        assert np.array_equal(one.value, other.value)
    assert np.array_equal(raw, poor_raw)


@pytest.mark.parametrize("policy", ["leaf", "depth", "symmetric"])
def test_monotone_constraints_are_never_violated(policy):
    rng, values = table(5, 1500, 4, 0.05, 1)
    clean = np.nan_to_num(values)
    target = np.sin(4 * clean[:, 0]) - clean[:, 1] ** 3 + rng.normal(size=1500)
    signs = np.array([1, -1, 0, 0], np.int8)
    trees, _, _ = boost(
        values, target, 20, policy=policy, max_depth=6, monotone=signs, reg_lambda=0.0
    )
    packed = pack(trees)
    pairs = rng.normal(size=(20_000, 4)).astype(np.float32)
    for column, sign in ((0, 1), (1, -1)):
        higher = pairs.copy()
        higher[:, column] += rng.exponential(size=len(pairs)).astype(np.float32)
        step = predict_raw(packed, higher)[0] - predict_raw(packed, pairs)[0]
        assert (sign * step >= -1e-12).all()
        assert (step != 0).any()


def paths(tree, node=0, above=frozenset()):
    if tree.feature[node] == LEAF:
        yield above
        return
    for child in (tree.left[node], tree.left[node] + 1):
        yield from paths(tree, child, above | {int(tree.feature[node])})


@pytest.mark.parametrize("policy", ["leaf", "symmetric"])
def test_interaction_constraints_hold_on_every_path(policy):
    _, values = table(6, 2000, 5, 0.0, 2)
    target = values[:, 0] * values[:, 1] + values[:, 2] * values[:, 3] + values[:, 4] * values[:, 0]
    sets = [[0, 1], [1, 2, 3]]
    trees, _, _ = boost(values, target, 10, policy=policy, max_depth=5, interactions=sets)
    met = {path for tree in trees for path in paths(tree)}
    assert any(len(path) > 1 for path in met)
    for path in met:
        assert len(path) <= 1 or any(path <= set(members) for members in sets)


def test_column_draws_by_level_and_node():
    _, values = table(8, 3000, 20, 0.0, 2)
    target = values.sum(axis=1)
    (level,), _, _ = boost(values, target, 1, max_depth=4, colsample_level=0.1)
    depth = {0: 0}
    for k in np.flatnonzero(level.feature != LEAF):
        depth[level.left[k]] = depth[level.left[k] + 1] = depth[k] + 1
    by_level = {}
    for k in np.flatnonzero(level.feature != LEAF):
        by_level.setdefault(depth[k], set()).add(level.feature[k])
    assert max(map(len, by_level.values())) <= 2
    assert len(set.union(*by_level.values())) > 2
    columns = np.array([3, 11], np.int32)
    (few,), _, _ = boost(values, target, 1, max_depth=4, columns=columns, colsample_node=0.5)
    assert set(few.feature[few.feature != LEAF]) == {3, 11}


def test_weak_and_impossible_input():
    values = np.array([[1.0], [1.0], [np.nan]], np.float32)
    tree, leaf = stump(values[:2], np.array([1.0, -1.0]), np.ones(2))
    assert tree.num_nodes == 1
    tree, leaf = stump(values, np.array([1.0, 1.0, -2.0]), np.ones(3))
    assert leaf[0] == leaf[1] != leaf[2]
    tree, _ = stump(values, np.zeros(3), np.ones(3))
    assert tree.num_nodes == 1
    assert tree.value[0, 0] == 0
    with pytest.raises(ValueError, match="not finite"):
        stump(values, np.array([1.0, np.nan, 0.0]), np.ones(3))
    with pytest.raises(ValueError, match="policy='best'"):
        GrowParams(policy="best")


def test_missing_only_at_predict_goes_to_the_heavier_child():
    values = np.arange(10, dtype=np.float32)[:, None]
    g = np.where(values[:, 0] < 3, 1.0, -1.0)
    tree, leaf = stump(values, g, np.ones(10))
    assert apply(pack([tree]), np.array([[np.nan]], np.float32))[0, 0] == leaf[9]


def test_kernels_from_the_cache_run_in_a_process_that_started_no_threads():
    # Numba does not start them when a cached serial kernel calls a parallel one.
    stump(np.array([[0.0], [1.0]], np.float32), np.array([1.0, -1.0]), np.ones(2))
    script = (
        "import numpy as np\n"
        "from paragone.ensemble._binning import bin_features\n"
        "from paragone.ensemble._grow import GrowParams, grow_histogram\n"
        "x = np.array([[0.0], [1.0]], np.float32)\n"
        "params = GrowParams(max_depth=1, min_child_weight=0.0)\n"
        "binned = bin_features(x, np.array([False]))\n"
        "tree, leaf = grow_histogram(binned, np.array([1.0, -1.0]), np.ones(2), None, params)\n"
        "print(leaf.tolist())\n"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert found.stdout.strip() == "[1, 2]"


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([2, 7, 20]), st.sampled_from([3, 130]))
def test_the_least_number_of_rows_is_exact_whatever_the_second_derivatives(seed, rows, p):
    # h spans four orders, so that nearly every candidate is doubtful and has its rows counted.
    rng, values = table(seed, 150, p, 0.1)
    g, h = rng.normal(size=150), 10.0 ** rng.uniform(-4, 0, 150)
    tree, _ = stump(values, g * h, h, min_samples_leaf=rows)
    want = brute_force(values, g * h, h, rows=rows)
    assert tree.gain[0] == pytest.approx(want, rel=1e-6, abs=1e-7)
    assert tree.num_nodes == 1 or tree.count[1:].min() >= rows


def test_categories_keep_the_least_number_of_rows():
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 30, 400).astype(np.float32)[:, None]
    g, h = rng.normal(size=400), rng.uniform(0.01, 1, 400)
    for policy in ("leaf", "symmetric"):
        for onehot in (4, 64):
            tree, leaf = stump(
                codes, g, h, np.array([True]), min_samples_leaf=17, max_cat_to_onehot=onehot,
                policy=policy, max_depth=3,
            )  # fmt: skip
            assert np.unique(leaf, return_counts=True)[1].min() >= 17
            assert tree.num_nodes > 1 or onehot == 64
