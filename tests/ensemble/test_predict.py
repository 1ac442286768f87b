import numpy as np
import pytest

from paragone.ensemble._predict import FEW_ROWS, apply, pack, predict_raw
from paragone.ensemble._tree import LEAF, Tree


def random_tree(rng, p, nodes, outputs=1, categorical=False):
    """A tree with children behind their parents; some splits are sets of categories."""
    feature = np.full(nodes, LEAF, np.int32)
    left = np.zeros(nodes, np.int32)
    open_nodes, used = [0], 1
    while used + 2 <= nodes:
        k = open_nodes.pop(rng.integers(len(open_nodes)))
        feature[k], left[k] = rng.integers(p), used
        open_nodes += [used, used + 1]
        used += 2
    start, size = np.full(nodes, -1, np.int32), np.zeros(nodes, np.int32)
    bits = np.zeros(0, np.uint32)
    if categorical:
        for k in np.flatnonzero((feature != LEAF) & (feature == p - 1)):
            start[k], size[k] = len(bits), 2
            bits = np.append(bits, rng.integers(0, 2**32, 2, dtype=np.uint32))
    return Tree(
        feature=feature,
        threshold=rng.normal(size=nodes).astype(np.float32),
        left=left,
        missing_left=rng.random(nodes) < 0.5,
        value=rng.normal(size=(nodes, outputs)),
        gain=np.zeros(nodes),
        cover=np.ones(nodes),
        count=np.ones(nodes, np.int32),
        category_start=start,
        category_size=size,
        category_bits=bits,
    )


def walk(tree, x):
    k = 0
    while tree.feature[k] != LEAF:
        v = x[tree.feature[k]]
        if np.isnan(v):
            right = not tree.missing_left[k]
        elif tree.category_start[k] >= 0:
            c = int(v)
            if c >= 32 * tree.category_size[k]:
                right = not tree.missing_left[k]
            else:
                word = int(tree.category_bits[tree.category_start[k] + c // 32])
                right = bool(word >> (c % 32) & 1)
        else:
            right = not v <= tree.threshold[k]
        k = tree.left[k] + int(right)
    return k


def table(rng, n, p, categorical):
    values = rng.normal(size=(n, p)).astype(np.float32)
    if categorical:
        values[:, -1] = rng.integers(0, 90, n)
    values[rng.random((n, p)) < 0.2] = np.nan
    return values


@pytest.mark.parametrize("n", [0, 1, 7, 8, 63, 65, 257, 5003])
@pytest.mark.parametrize("categorical", [False, True])
def test_every_row_ends_where_a_plain_walk_ends(n, categorical):
    rng = np.random.default_rng(n)
    trees = [random_tree(rng, 5, size, 1, categorical) for size in (1, 3, 31, 101)]
    values = table(rng, n, 5, categorical)
    packed = pack(trees, group=np.array([0, 1, 0, 1]), scale=np.array([1.0, 2.0, 0.5, 1.0]))
    leaves = apply(packed, values)
    some = slice(0, 300)
    want = [[walk(tree, x) for tree in trees] for x in values[some]]
    assert leaves[some].tolist() == want
    out = np.zeros((2, n))
    for t, (tree, k, s) in enumerate(zip(trees, (0, 1, 0, 1), (1, 2, 0.5, 1), strict=True)):
        out[k] += s * tree.value[leaves[:, t], 0]
    assert np.array_equal(predict_raw(packed, values), out)


def test_many_outputs_ranges_and_threads():
    rng = np.random.default_rng(1)
    trees = [random_tree(rng, 4, 41, 3) for _ in range(20)]
    values = table(rng, 20_011, 4, False)
    packed = pack(trees)
    whole = predict_raw(packed, values)
    assert whole.shape == (3, 20_011)
    leaves = apply(packed, values)
    assert np.allclose(whole.T, sum(t.value[leaves[:, i]] for i, t in enumerate(trees)))
    assert np.array_equal(whole, predict_raw(packed, values, threads=2))
    half = predict_raw(packed, values, end=7)
    predict_raw(packed, values, begin=7, out=half, threads=2)
    assert np.array_equal(half, whole)
    assert np.array_equal(predict_raw(packed, values[100:101]), whole[:, 100:101])


def test_masks_and_walks_agree_to_the_last_bit():
    rng = np.random.default_rng(3)
    trees = [random_tree(rng, 6, 2 * leaves - 1) for leaves in range(1, 36)]
    packed = pack(trees)
    assert packed.masks.small.sum() == 32
    for missing in (False, True):
        values = table(rng, 300, 6, False)
        values = values if missing else np.nan_to_num(values)
        values[:9] = np.float32(trees[20].threshold[:1])
        many = predict_raw(packed, values)
        parts = [values[i : i + FEW_ROWS - 1] for i in range(0, 300, FEW_ROWS - 1)]
        assert np.array_equal(many, np.hstack([predict_raw(packed, part) for part in parts]))


def test_the_walk_notices_a_mask_without_its_left_branch():
    rng = np.random.default_rng(4)
    trees = [random_tree(rng, 3, 31)]
    values = table(rng, 200, 3, False)
    packed = pack(trees)
    right = [walk(trees[0], x) for x in values]
    assert apply(packed, values)[:, 0].tolist() == right
    packed.masks.keep[0] = np.uint32(0xFFFFFFFF)
    assert apply(packed, values)[:, 0].tolist() != right


def test_values_may_be_read_only_or_strided():
    rng = np.random.default_rng(2)
    packed = pack([random_tree(rng, 4, 21)])
    values = table(rng, 64, 8, False)
    strided = values[:, ::2]
    frozen = np.ascontiguousarray(strided)
    frozen.setflags(write=False)
    assert np.array_equal(predict_raw(packed, strided), predict_raw(packed, frozen))


def test_no_trees():
    packed = pack([], outputs=2)
    assert np.array_equal(predict_raw(packed, np.zeros((3, 1), np.float32)), np.zeros((2, 3)))
