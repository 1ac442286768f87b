"""Splits that every contestant shares: repeated K-fold, dealt class by class, or one hold-out.

Split `s` of a study is fold `s % K` of repeat `s // K`. All folds of a repeat come from one
shuffle, so that within a repeat each row is tested once. Classes are dealt like cards, the next
class going on where the last one stopped: folds differ by at most one row of each class, and
by at most one row in all.
"""

from __future__ import annotations

import numpy as np

__all__ = ["FOLDS", "LARGE", "plan", "split"]

FOLDS = 5
LARGE = 100_000
"""From this many rows on one hold-out of a fifth is sure enough, and folds are not repeated."""


def plan(rows: int, repeats: int = 6) -> tuple[int, float]:
    """Returns the number of splits and n_test / n_train for a table of so many rows."""
    return (1 if rows >= LARGE else FOLDS * repeats), 1.0 / (FOLDS - 1)


def split(
    target: np.ndarray, number: int, *, stratified: bool, seed: int, folds: int = FOLDS
) -> tuple[np.ndarray, np.ndarray]:
    """Returns row numbers (train, test), both ascending.

    Args:
        target: Class codes, or numbers; only its length matters unless `stratified`.
        number: Which split: fold `number % folds` of repeat `number // folds`.
        stratified: Whether classes are dealt evenly.
        seed: Seed of the study; the same for all contestants.
        folds: K.
    """
    repeat, fold = divmod(number, folds)
    shuffled = np.random.default_rng([seed, repeat]).permutation(len(target))
    if stratified:
        shuffled = shuffled[np.argsort(target[shuffled], kind="stable")]
    place = np.empty(len(target), np.int64)
    place[shuffled] = np.arange(len(target)) % folds
    return np.flatnonzero(place != fold), np.flatnonzero(place == fold)
