"""Trees of drafts: the likeliest paths, by brute force over all trees."""

import itertools

import numpy as np
import pytest

from paragone.language.draft_trees import dynamic_tree, path_shares, static_tree
from paragone.language.drafting import Plan


def _best(shares, plan):
    """The largest sum of any tree within the plan, over all sets of paths."""
    paths = [path for path in shares if len(path) <= plan.depth]
    best = 0.0
    for count in range(1, plan.nodes + 1):
        for some in itertools.combinations(paths, count):
            held = set(some)
            whole = all(path[:-1] in held or len(path) == 1 for path in some)
            narrow = all(
                sum(other[:-1] == path[:-1] for other in some) <= plan.width for path in some
            )
            if whole and narrow:
                best = max(best, sum(shares[path] for path in some))
    return best


def _paths(accuracies):
    heads, width = accuracies.shape
    return {
        path: float(np.prod([accuracies[d, r] for d, r in enumerate(path)]))
        for depth in range(1, heads + 1)
        for path in itertools.product(range(width), repeat=depth)
    }


@pytest.mark.parametrize(
    "plan", [Plan(1, 1), Plan(3, 3), Plan(4, 2, 2), Plan(5, 3, 2)], ids=lambda p: f"{p.nodes}"
)
def test_static_trees_are_the_best_ones(plan):
    generator = np.random.default_rng(plan.nodes)
    accuracies = np.sort(generator.dirichlet(np.ones(3), 3)[:, :2], 1)[:, ::-1].copy()
    shares = _paths(accuracies)
    for tree in (static_tree(accuracies, plan), static_tree(shares, plan),
                 dynamic_tree(np.log(accuracies), plan)):  # fmt: skip
        assert tree.shares.sum() == pytest.approx(_best(shares, plan))
        assert len(tree.parents) == plan.nodes
        assert (tree.parents < np.arange(plan.nodes)).all()


def test_ranks_of_accuracies_that_do_not_fall():
    """The second guess may be right more often than the first; the tree names it first."""
    tree = static_tree(np.array([[0.2, 0.6]]), Plan(2, 1, 2))
    assert tree.ranks.tolist() == [1, 0]
    assert tree.filled(np.array([[7, 9]])).tokens.tolist() == [9, 7]


def test_shares_of_paths_are_counts():
    ranks = np.random.default_rng(0).integers(0, 4, (997, 3))
    shares = path_shares(ranks, width=3)
    for path, share in shares.items():
        assert share == pytest.approx((ranks[:, : len(path)] == path).all(1).mean())
    assert list(shares.values()) == sorted(shares.values(), reverse=True)
    assert all(path[:-1] in shares for path in shares if len(path) > 1)


def test_chances_give_back_the_expected_tokens():
    """1 + sum over depths of the products of chances is 1 + the sum over the nodes."""
    tree = static_tree(np.array([[0.5, 0.2], [0.4, 0.1], [0.3, 0.3]]), Plan(9, 3, 2))
    chances = tree.chances(3)
    assert np.cumprod(chances).sum() == pytest.approx(tree.shares.sum())
    assert tree.chances(5)[3:].tolist() == [0, 0]


def test_what_is_never_right_takes_no_place():
    assert len(static_tree(np.array([[1.0, 0.0]]), Plan(8, 2, 2)).parents) == 1
    assert len(dynamic_tree(np.array([[0.0, -np.inf]]), Plan(8, 1, 2)).parents) == 1
    with pytest.raises(ValueError, match="never right"):
        static_tree({}, Plan(1, 1))
    with pytest.raises(ValueError, match="from 0 to 1"):
        static_tree(np.array([0.5]), Plan(1, 1))
