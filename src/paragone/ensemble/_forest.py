"""What the forest's classifier and regressor share: growing, out-of-bag rows, leaves."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import scipy.sparse as sp
from sklearn.base import is_classifier
from sklearn.utils.validation import check_is_fitted

from paragone._core.random import RandomState, as_generator
from paragone.ensemble._bootstrap import RowSampler, row_keys
from paragone.ensemble._cart import grow_cart, rank_columns
from paragone.ensemble._cart_model import CartModel, Problem
from paragone.ensemble._forest_predict import (
    ForestWords,
    add_left_out,
    forest_sum,
    forest_words,
)
from paragone.ensemble._forest_state import pack_trees, unpack_trees
from paragone.ensemble._importance import tree_importances
from paragone.ensemble._one_row import raw_of_row
from paragone.ensemble._predict import PackedTrees, apply, pack, predict_raw
from paragone.ensemble._pruning import prune
from paragone.ensemble._shap import shap_values
from paragone.ensemble._threads import PARALLEL_WORK, num_threads, worth_threads
from paragone.ensemble._tree import Tree

__all__ = [
    "Forest", "in_threads", "left_out_means", "mean_left_out", "packed_once", "score_left_out",
    "tree_means",
]  # fmt: skip

_PACKED: WeakKeyDictionary[Any, tuple[Any, PackedTrees]] = WeakKeyDictionary()
_WORDS: WeakKeyDictionary[Any, tuple[Any, ForestWords | None]] = WeakKeyDictionary()


def packed_once(owner: Any, members: Any, trees: Callable[[], list[Tree]]) -> PackedTrees:
    """Packs the trees of a fitted estimator at the first call; not part of its state.

    Args:
        owner: The estimator.
        members: What the packing stands for; another object (a new fit) is packed anew.
        trees: Makes the trees of the members.
    """
    known = _PACKED.get(owner)
    if known is None or known[0] is not members:
        known = _PACKED[owner] = (members, pack(trees()))
    return known[1]


def _words_once(
    owner: Any, members: Any, trees: Callable[[], list[Tree]], columns: int
) -> ForestWords | None:
    """As `packed_once`, in the form of `_forest_predict`; None if the trees do not fit it."""
    known = _WORDS.get(owner)
    if known is None or known[0] is not members:
        known = _WORDS[owner] = (members, forest_words(trees(), columns))
    return known[1]


def tree_means(
    owner: Any, members: Any, trees: Callable[[], list[Tree]], values: np.ndarray
) -> np.ndarray:
    """Returns the mean over the trees of a fitted estimator, (n, K); see `packed_once`."""
    n, count = len(values), len(members)
    forest = _words_once(owner, members, trees, values.shape[1])
    if forest is None:
        packed = packed_once(owner, members, trees)
        threads = num_threads(owner.n_jobs)
        return np.ascontiguousarray(predict_raw(packed, values, threads=threads).T) / count
    total = np.zeros((n, forest.values.shape[1]))
    size = max(2048, -(-n // 16))
    in_threads(
        lambda low: forest_sum(forest, values, total, low, min(n, low + size)),
        range(0, n, size), owner.n_jobs, n * count,
    )  # fmt: skip
    two = len(getattr(owner, "classes_", ())) == 2
    return _all_outputs(total / count, two)


def _all_outputs(means: np.ndarray, two: bool) -> np.ndarray:
    """Adds the first of two classes, which is not summed."""
    return np.column_stack((1.0 - means, means)) if two and means.shape[1] == 1 else means


def in_threads(
    function: Any, items: Any, n_jobs: int | None, work: int = PARALLEL_WORK
) -> list[Any]:
    """Calls `function` on each item, on `n_jobs` threads; results in order.

    Less `work` (elementary steps) than pays for threads is done without any.
    """
    threads = min(num_threads(n_jobs), len(items)) if worth_threads(work) else 1
    if threads <= 1:
        return [function(item) for item in items]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(function, items))


def mean_left_out(
    draws: Iterable[np.ndarray],
    says: Callable[[int, np.ndarray], np.ndarray],
    weight: np.ndarray,
    outputs: int,
) -> np.ndarray:
    """Returns each row's mean prediction by the members that did not see it, (n, K), or NaN.

    Args:
        draws: For each member the counts of the rows that it was fitted on, (n,).
        says: Member t's prediction of these rows, (rows, K).
        weight: Rows of weight 0 are no part of the training data and get NaN.
        outputs: K.
    """
    total, times = np.zeros((len(weight), outputs)), np.zeros((len(weight), 1))
    for t, counts in enumerate(draws):
        rows = np.flatnonzero((counts == 0) & (weight > 0))
        if len(rows):
            total[rows] += says(t, rows)
            times[rows] += 1
    return _divide(total, times, weight)


def _divide(total: np.ndarray, times: np.ndarray, weight: np.ndarray) -> np.ndarray:
    never = int(np.sum((times[:, 0] == 0) & (weight > 0)))
    if never:
        warnings.warn(
            f"{never} rows were in the samples of all members, so they have no out-of-bag "
            "prediction (NaN); raise n_estimators",
            UserWarning,
            stacklevel=6,
        )
    return np.divide(total, times, out=np.full_like(total, np.nan), where=times > 0)


def left_out_means(
    owner: Any,
    members: Any,
    trees: Callable[[], list[Tree]],
    values: np.ndarray,
    outside: Callable[[int], np.ndarray],
    weight: np.ndarray,
    outputs: int,
) -> np.ndarray:
    """As `mean_left_out` for trees, whose left-out rows walk on several threads.

    Args:
        owner: The estimator.
        members: As in `packed_once`.
        trees: As in `packed_once`.
        values: float32 (n, p), the training rows.
        outside: Tells for tree t which rows it was not grown on, as from `np.packbits`.
        weight: As in `mean_left_out`.
        outputs: K.
    """
    count = len(members)
    forest = _words_once(owner, members, trees, values.shape[1])
    if forest is None:
        packed = packed_once(owner, members, trees)
        return mean_left_out(
            (1.0 - np.unpackbits(outside(t), count=len(weight)) for t in range(count)),
            lambda t, rows: predict_raw(packed, values[rows], begin=t, end=t + 1).T,
            weight, outputs,
        )  # fmt: skip
    n, inside = len(values), np.packbits(weight > 0)
    total, times = np.zeros((n, forest.values.shape[1])), np.zeros((n, 1))
    # Few large parts: here a tree is fetched for a third of the rows only.
    size = -(-n // num_threads(owner.n_jobs))
    for start in range(0, count, 64):
        some = slice(start, min(count, start + 64))
        bits = np.array([outside(t) & inside for t in range(some.start, some.stop)])
        in_threads(
            lambda low, some=some, bits=bits: add_left_out(
                forest, some, values, bits, low, min(n, low + size), total, times
            ),
            range(0, n, size), owner.n_jobs, n * len(bits),
        )  # fmt: skip
    found = _divide(total, times, weight)
    return _all_outputs(found, outputs == 2)


def score_left_out(
    estimator: Any, labels: np.ndarray, predicted: np.ndarray, weight: np.ndarray, measure: Any
) -> float:
    """Returns `measure` (or `estimator.oob_score`, if callable) over the rows not NaN."""
    rows = ~np.isnan(predicted[:, 0])
    if np.sum(rows) < 2:
        return np.nan
    said = predicted[rows, 0]
    if predicted.shape[1] > 1 or is_classifier(estimator):
        said = estimator.classes_[predicted[rows].argmax(axis=1)]
    if callable(estimator.oob_score):
        measure, options = estimator.oob_score, {}
    else:
        options = {"sample_weight": weight[rows]}
    return float(measure(labels[rows], said, **options))


class Forest(CartModel):
    """Base of `RandomForestClassifier` and `RandomForestRegressor`."""

    class_weight: Any = None
    trees_: list[Tree]

    def __init__(
        self,
        n_estimators: int = 100,
        *,
        criterion: str = "squared_error",
        splitter: str = "best",
        max_depth: int | None = None,
        min_samples_split: int | float = 2,
        min_samples_leaf: int | float = 1,
        min_weight_fraction_leaf: float = 0.0,
        max_features: int | float | str | None = 1.0,
        max_leaf_nodes: int | None = None,
        min_impurity_decrease: float = 0.0,
        bootstrap: bool = True,
        max_samples: int | float | None = None,
        oob_score: bool | Callable[..., float] = False,
        ccp_alpha: float = 0.0,
        monotonic_cst: Any = None,
        categorical_features: Any = "from_dtype",
        tree_method: str = "hist",
        max_bins: int = 255,
        keep_leaves: bool = False,
        warm_start: bool = False,
        n_jobs: int | None = None,
        random_state: RandomState = None,
    ) -> None:
        self.n_estimators = n_estimators
        self.criterion = criterion
        self.splitter = splitter
        self.max_depth = max_depth
        self.min_samples_split = min_samples_split
        self.min_samples_leaf = min_samples_leaf
        self.min_weight_fraction_leaf = min_weight_fraction_leaf
        self.max_features = max_features
        self.max_leaf_nodes = max_leaf_nodes
        self.min_impurity_decrease = min_impurity_decrease
        self.bootstrap = bootstrap
        self.max_samples = max_samples
        self.oob_score = oob_score
        self.ccp_alpha = ccp_alpha
        self.monotonic_cst = monotonic_cst
        self.categorical_features = categorical_features
        self.tree_method = tree_method
        self.max_bins = max_bins
        self.keep_leaves = keep_leaves
        self.warm_start = warm_start
        self.n_jobs = n_jobs
        self.random_state = random_state

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Any:
        """Grows the trees, or adds trees if `warm_start`; returns the estimator."""
        self._check_options()
        known = getattr(self, "classes_", None) if self.warm_start else None
        problem = self._problem(X, y, sample_weight)
        old = getattr(self, "trees_", []) if self.warm_start else []
        if old and known is not None and not np.array_equal(known, self.classes_):
            raise ValueError(
                f"warm_start: y has the classes {self.classes_.tolist()}, the trees so far were "
                f"grown for {known.tolist()}; set warm_start=False to begin anew"
            )
        if self.n_estimators < len(old):
            raise ValueError(
                f"n_estimators={self.n_estimators} is less than the {len(old)} trees there are; "
                "raise it, or set warm_start=False"
            )
        if not old:
            self._seed = int(as_generator(self.random_state).integers(2**63))
        sampler = self._sampler(problem)
        self._left_out: dict[int, np.ndarray] = {}
        self.trees_ = old + self._grow(problem, sampler, range(len(old), self.n_estimators))
        for name in ("oob_score_", "oob_decision_function_", "oob_prediction_", "leaves_"):
            self.__dict__.pop(name, None)
        if self.oob_score:
            self._score_out_of_bag(problem, sampler)
        del self._left_out
        if self.keep_leaves:
            threads = num_threads(self.n_jobs)
            packed = self._packed()
            self.leaves_ = apply(packed, problem.features.values, threads=threads)
            self._leaf_targets, self._leaf_weights = problem.target, problem.weight
        return self

    def __getstate__(self) -> dict[str, Any]:
        """The state to store: trees without what follows from the rest of them."""
        state: dict[str, Any] = {**super().__getstate__()}  # pyright: ignore[reportGeneralTypeIssues]
        packed = pack_trees(state.get("trees_", []))
        if packed is not None:
            del state["trees_"]
            state["_packed_trees"] = packed
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        packed = state.pop("_packed_trees", None)
        if packed is not None:
            state["trees_"] = unpack_trees(packed, state["n_features_in_"])
        super().__setstate__(state)

    def _check_options(self) -> None:
        if self.n_estimators != int(self.n_estimators) or self.n_estimators < 1:
            raise ValueError(f"n_estimators={self.n_estimators!r} must be a whole number >= 1")
        if not self.bootstrap and self.max_samples is not None:
            raise ValueError(
                f"max_samples={self.max_samples} is the size of a bootstrap sample; set "
                "bootstrap=True, or use Bagging to draw without replacement"
            )
        if self.oob_score and not self.bootstrap:
            raise ValueError("oob_score needs rows left out; set bootstrap=True")

    def _sampler(self, problem: Problem) -> RowSampler:
        keys = row_keys(problem.features.values, problem.target)
        return RowSampler(keys, problem.weight, self.max_samples, replace=self.bootstrap)

    def _random(self, t: int) -> np.random.Generator:
        """The stream of tree t: first its rows are drawn from it, then its seed."""
        return np.random.default_rng([self._seed, t])

    def _row_factor(self, problem: Problem, counts: np.ndarray) -> np.ndarray:
        """Returns what the class weights multiply a tree's weights with."""
        return np.ones(len(counts))

    def _grow(self, problem: Problem, sampler: RowSampler, numbers: range) -> list[Tree]:
        options = self._growth(problem)
        self.max_features_ = options["max_features"]
        features = problem.features
        bins = self.max_bins if self.tree_method == "hist" else None
        threads = num_threads(self.n_jobs)
        columns = rank_columns(features.values, features.categorical, bins, threads, problem.weight)
        ranks = None
        if self.criterion == "absolute_error":
            ranks = np.unique(problem.target, return_inverse=True)[1].astype(np.int32)

        def grow(t: int) -> Tree:
            random = self._random(t)
            counts = sampler.counts(random)
            if self.oob_score:
                self._left_out[t] = np.packbits(counts == 0)
            tree = grow_cart(
                columns, problem.target, counts * self._row_factor(problem, counts),
                shuffle=True, target_rank=ranks, seed=int(random.integers(2**62)), **options,
            )  # fmt: skip
            tree = prune(tree, self.ccp_alpha)
            # Half of what is kept of a node would be its impurity and gain.
            tree.impurity = np.zeros(0)
            return tree

        tried = features.values.shape[0] * options["max_features"] * len(numbers)
        return in_threads(grow, numbers, self.n_jobs, tried)

    def _out_of_bag(self, problem: Problem, sampler: RowSampler) -> np.ndarray:
        """Returns the mean prediction of the trees that did not see a row, (n, K), or NaN."""
        return left_out_means(
            self, self.trees_, lambda: self.trees_, problem.features.values,
            lambda t: self._outside(sampler, t), problem.weight, self.trees_[0].value.shape[1],
        )  # fmt: skip

    def _outside(self, sampler: RowSampler, t: int) -> np.ndarray:
        """Which rows tree t did not see, one bit each; kept from its growth, or drawn again."""
        kept = self._left_out.get(t)
        return np.packbits(sampler.counts(self._random(t)) == 0) if kept is None else kept

    def _packed(self) -> PackedTrees:
        return packed_once(self, self.trees_, lambda: self.trees_)

    def _score_out_of_bag(self, problem: Problem, sampler: RowSampler) -> None:
        raise NotImplementedError

    def _row_parts(self) -> Any:
        return self.trees_, None, np.zeros(self.trees_[0].value.shape[1])

    def _outputs(self, X: Any) -> np.ndarray:
        """Returns the mean over the trees, (n, K)."""
        row = raw_of_row(self, X, getattr(self, "trees_", None), self._row_parts)
        if row is not None:
            # As a batch is summed: of two classes only the second.
            two = len(getattr(self, "classes_", ())) == 2
            return _all_outputs((row[1:] if two else row).T / len(self.trees_), two)
        check_is_fitted(self)
        values = self._read(X).values
        return tree_means(self, self.trees_, lambda: self.trees_, values)

    def apply(self, X: Any) -> np.ndarray:
        """Returns the node in which each row ends in each tree, int32 (n, T)."""
        values = self._read(X).values
        packed = self._packed()
        return apply(packed, values, threads=num_threads(self.n_jobs))

    @property
    def feature_importances_(self) -> np.ndarray:
        """Mean over the trees of each column's share in the decrease of impurity, (p,)."""
        check_is_fitted(self)
        return tree_importances(self.trees_, self.n_features_in_, each=True)

    def shap_values(self, X: Any) -> np.ndarray:
        """Returns exact Shapley values, (n, p + 1), or (n, K, p + 1) of class shares.

        The last column is the expected value; each row sums to the prediction.
        """
        values = self._read(X).values
        return shap_values(self.trees_, values, scale=1.0 / len(self.trees_), n_jobs=self.n_jobs)

    def _incidence(self, leaves: np.ndarray) -> sp.csr_array:
        """Returns 0/1 (n, all nodes): one entry a row and tree."""
        n, count = leaves.shape
        sizes = np.array([tree.num_nodes for tree in self.trees_], np.int64)
        starts = np.concatenate(([0], np.cumsum(sizes)))
        shape = (n, int(starts[-1]))
        indices = (leaves + starts[:-1]).ravel()
        return sp.csr_array((np.ones(n * count), indices, np.arange(n + 1) * count), shape=shape)

    def proximity(self, X: Any, Y: Any = None, *, sparse: bool = False) -> Any:
        """Returns the share of trees in which two rows end in the same leaf, (n, m).

        Args:
            X: Rows, (n, p).
            Y: Rows to compare with, (m, p); X itself if None.
            sparse: Return a CSR array; a full forest leaves most pairs at 0.
        """
        left = self._incidence(self.apply(X))
        right = left if Y is None else self._incidence(self.apply(Y))
        turned, count = right.T.tocsr(), len(self.trees_)
        if sparse:
            return (left @ turned) / count
        n, m = left.shape[0], right.shape[0]  # pyright: ignore[reportOptionalSubscript]
        out = np.empty((n, m))
        block = max(1, 2**22 // max(1, m))
        for start in range(0, n, block):
            out[start : start + block] = (left[start : start + block] @ turned).toarray() / count
        return out
