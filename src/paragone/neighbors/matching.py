r"""Matching descriptors of two images: nearest, clearly nearest, and nearest in return.

A descriptor of image A always has a nearest one in image B, also when its point is not seen in B.
Three tests keep the pairs that mean something:

- **ratio** (Lowe 2004, section 7.1): the nearest must be much nearer than the second,
  $d_1 < r\, d_2$, since a wrong match has rivals at about the same distance, and a right one has
  none. In Lowe's data r = 0.8 removes 90 % of the wrong matches and 5 % of the right ones.
- **cross check**: a must also be the nearest to b of all in A. Pairs are then one to one.
- **most distance**: an absolute bound, if given.

The search behind it is exact (brute force or a tree, whichever is quicker), or best-bin-first
with a number of `checks`. The way back is searched only for the b that are left.

Cost: that of two-nearest-neighbour search of A in B, and a fraction of B's in A.

References:
    Lowe (2004), "Distinctive image features from scale-invariant keypoints", IJCV 60, section 7.1.
    Beis and Lowe (1997), "Shape indexing using approximate nearest-neighbour search", CVPR.

n_a and n_b descriptors, d numbers (or bytes of packed bits) each, m pairs.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from paragone._core.random import RandomState
from paragone.neighbors._checks import read_count, read_points, read_power
from paragone.neighbors._choice import METHODS, Chooser
from paragone.neighbors._hamming import hamming_query

__all__ = ["Matches", "match"]

_POWERS = {"euclidean": 2.0, "manhattan": 1.0, "chebyshev": np.inf}


class Matches(tuple):
    """The pair (pairs, distances) that `match` returns, and how it was found.

    Attributes:
        pairs: (m, 2) int64: row of A, row of B; ascending in A.
        distances: (m,) float64; numbers of bits for Hamming.
        method: "brute", "tree" or "forest".
        explanation: What was predicted for each method.
    """

    method: str
    explanation: str

    def __new__(
        cls, pairs: np.ndarray, distances: np.ndarray, method: str, explanation: str
    ) -> Matches:
        self = super().__new__(cls, (pairs, distances))
        self.method, self.explanation = method, explanation
        return self

    @property
    def pairs(self) -> np.ndarray:
        return self[0]

    @property
    def distances(self) -> np.ndarray:
        return self[1]

    def __reduce__(self) -> Any:
        return Matches, (self[0], self[1], self.method, self.explanation)


def match(
    descriptors_a: Any,
    descriptors_b: Any,
    ratio: float | None = 0.8,
    cross_check: bool = True,
    method: str = "auto",
    *,
    metric: str = "euclidean",
    checks: int | None = None,
    max_distance: float | None = None,
    random_state: RandomState = 0,
    workers: int = -1,
) -> Matches:
    """Pairs the descriptors of A with those of B.

    Prefer it to OpenCV's matchers when OpenCV is not at hand otherwise, and for speed on floats
    and bytes: all tests are done here, exactly, without a Python loop over candidates.

    Args:
        descriptors_a: (n_a, d): bytes (SIFT), floats, or packed bits with `metric="hamming"`.
        descriptors_b: (n_b, d).
        ratio: Keep a pair only if it is nearer than `ratio` times the second nearest of B;
            None keeps all. Equal descriptors in B hide each other: both are second to the other.
            With one descriptor in B there is no second, the test cannot speak and passes.
        cross_check: Keep a pair only if each is the other's nearest (ties: lowest row); the
            pairs are then one to one. Without it a row of B may occur many times.
        method: "brute", "tree", "forest", or "auto": the quickest, by measurement.
        metric: "euclidean", "manhattan", "chebyshev", or "hamming" (uint8 rows of
            packed bits, or rows of bool).
        checks: Descriptors looked at for each one; allows approximate search. None: exact.
        max_distance: Largest distance of a pair.
        random_state: Seed of the forest.
        workers: Threads, -1 for all cores; the pairs do not depend on it.

    Returns:
        pairs (m, 2) and distances (m,), unpackable; `.method` says what searched.

    Raises:
        ValueError: Widths differ, NaN, an unknown metric, or Hamming on anything but uint8.

    Example:
        >>> pairs, distances = match([[0.0, 0.0], [5.0, 5.0]], [[5.0, 5.1], [0.1, 0.0]])
        >>> pairs.tolist()
        [[0, 1], [1, 0]]
    """
    if ratio is not None and not 0.0 < ratio <= 1.0:
        raise ValueError(f"ratio={ratio!r} must lie in (0, 1], or be None for no ratio test")
    if max_distance is not None and not max_distance >= 0:
        raise ValueError(f"max_distance={max_distance!r} must be at least 0, or None")
    if method not in METHODS:
        raise ValueError(f"method={method!r} is unknown; use one of {', '.join(METHODS)}")
    a = _read(descriptors_a, "descriptors_a", metric)
    b = _read(descriptors_b, "descriptors_b", metric)
    if a.shape[1] != b.shape[1] and a.size and b.size:
        raise ValueError(
            f"descriptors_a has {a.shape[1]} columns and descriptors_b {b.shape[1]}; "
            "give descriptors of one kind"
        )
    search = _Search(metric, method, checks, random_state, workers)
    if not len(a) or not len(b):
        return Matches(np.empty((0, 2), np.int64), np.empty(0), "brute", "nothing to search")
    distance, nearest = search(b, a, 1 if ratio is None else 2)
    keep = np.ones(len(a), bool)
    if ratio is not None:
        keep &= distance[:, 0] < ratio * distance[:, 1]
    if max_distance is not None:
        keep &= distance[:, 0] <= max_distance
    taken = search.taken
    rows, partners = np.flatnonzero(keep), nearest[keep, 0]
    if cross_check and len(rows):
        wanted, place = np.unique(partners, return_inverse=True)
        back = search(a, b[wanted], 1)[1][:, 0]
        mutual = back[place] == rows
        rows, partners = rows[mutual], partners[mutual]
    return Matches(np.stack([rows, partners], axis=1), distance[rows, 0], *taken)


def _read(descriptors: Any, name: str, metric: str) -> np.ndarray:
    """Checked descriptors (n, d); an empty list, or None as OpenCV has it, is no descriptor."""
    if descriptors is None:
        return np.empty((0, 1))
    array = np.asarray(descriptors)
    if array.dtype == np.bool_ and array.ndim == 2 and metric == "hamming":
        array = np.packbits(array, axis=1)
    return np.empty((0, 1)) if array.size == 0 and array.ndim <= 2 else read_points(array, name)


class _Search:
    """k nearest among some descriptors, under one metric; remembers what the last search took."""

    def __init__(
        self, metric: str, method: str, checks: int | None, random_state: RandomState, workers: int
    ) -> None:
        if metric not in (*_POWERS, "hamming"):
            raise ValueError(
                f"metric={metric!r} is unknown; use one of {', '.join((*_POWERS, 'hamming'))}"
            )
        if metric == "hamming" and method in ("tree", "forest"):
            raise ValueError(f'metric="hamming" is searched by brute force only, not {method!r}')
        if method == "forest" and checks is None:
            raise ValueError('method="forest" is approximate: give checks, 200 for a start')
        self.metric, self.method, self.workers = metric, method, workers
        self.checks = None if checks is None else read_count(checks, "checks")
        self.random_state = random_state
        self.taken = ("brute", "Hamming distances have no other method here")

    def __call__(self, points: np.ndarray, x: np.ndarray, k: int) -> Any:
        if self.metric == "hamming":
            if points.dtype != np.uint8 or x.dtype != np.uint8:
                raise ValueError('metric="hamming" takes bits: bool, or uint8 from numpy.packbits')
            return hamming_query(points, x, k, self.workers)
        chooser = Chooser(points, random_state=self.random_state, workers=self.workers)
        p = read_power(_POWERS[self.metric])
        found = chooser.query(x, k, p, self.checks, self.method, self.workers)
        self.taken = (chooser.method or "brute", chooser.explain())
        return found
