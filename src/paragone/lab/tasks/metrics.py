r"""Metrics of supervised runs: the same few lines for every contestant.

With $p_{ik}$ the probability given to class $k$ and $y_i$ the true class or number:

$$ \text{log loss} = -\tfrac1n \sum_i \log p_{i y_i}, \quad
   \text{Brier} = \tfrac1n \sum_i \sum_k (p_{ik} - [y_i = k])^2, \quad
   \text{RMSE} = \sqrt{\tfrac1n \sum_i (y_i - \hat y_i)^2} . $$

Probabilities are normalised and clipped to [1e-6, 1]: an error made with full certainty costs
13.8 nats rather than infinity, the same for a library that computes in float32 or in float64.
The area under the ROC curve is the Mann-Whitney statistic with ties counted half (Hanley and
McNeil 1982); with more than two classes it is the mean of the one-against-rest areas.
"""

from __future__ import annotations

import numpy as np

__all__ = ["CLIP", "area_under_curve", "classification", "probabilities", "regression"]

CLIP = 1e-6


def probabilities(given: np.ndarray, columns: np.ndarray, num_classes: int) -> np.ndarray:
    """Returns clean probabilities (n, K).

    Args:
        given: What `predict_proba` returned: (n, k) or, for two classes, (n,).
        columns: Class code of each given column; classes unseen in training are absent.
        num_classes: K.
    """
    given = np.asarray(given, np.float64)
    if given.ndim == 1:
        given = np.column_stack([1.0 - given, given])
    if given.shape[1] != len(columns):
        raise ValueError(
            f"predict_proba gave {given.shape[1]} columns for {len(columns)} classes of `classes_`"
        )
    if not np.isfinite(given).all():
        raise ValueError("predict_proba gave NaN or infinite probabilities")
    full = np.zeros((len(given), num_classes))
    full[:, columns] = np.maximum(given, 0.0)
    total = full.sum(axis=1, keepdims=True)
    return np.divide(full, total, out=np.full_like(full, 1.0 / num_classes), where=total > 0)


def area_under_curve(score: np.ndarray, positive: np.ndarray) -> float:
    """Area under the ROC curve; NaN when one class is absent.

    Example:
        >>> area_under_curve(np.array([0.1, 0.4, 0.35, 0.8]), np.array([0, 0, 1, 1], bool))
        0.75
    """
    count = int(positive.sum())
    rest = len(positive) - count
    if not count or not rest:
        return float("nan")
    _, place, ties = np.unique(score, return_inverse=True, return_counts=True)
    rank = np.cumsum(ties) - (ties - 1) / 2
    return float((rank[place][positive].sum() - count * (count + 1) / 2) / (count * rest))


def classification(chances: np.ndarray, codes: np.ndarray) -> tuple[dict[str, float], np.ndarray]:
    """Returns the metrics and the log loss of each example."""
    rows = np.arange(len(codes))
    losses = -np.log(np.maximum(chances[rows, codes], CLIP))
    hits = chances.argmax(axis=1) == codes
    brier = (chances**2).sum(axis=1) - 2 * chances[rows, codes] + 1
    classes = [1] if chances.shape[1] == 2 else range(chances.shape[1])
    areas = np.array([area_under_curve(chances[:, k], codes == k) for k in classes])
    values = {
        "log_loss": float(losses.mean()),
        "accuracy": float(hits.mean()),
        "brier": float(brier.mean()),
    }
    if np.isfinite(areas).any():
        values["auc"] = float(np.nanmean(areas))
    return values, losses


def regression(guesses: np.ndarray, truth: np.ndarray) -> tuple[dict[str, float], np.ndarray]:
    """Returns the metrics and the squared error of each example."""
    guesses = np.asarray(guesses, np.float64)
    if guesses.shape != truth.shape:
        raise ValueError(f"predict gave shape {guesses.shape}, expected {truth.shape}")
    if not np.isfinite(guesses).all():
        raise ValueError("predict gave NaN or infinite values")
    errors = guesses - truth
    squares = errors**2
    spread = ((truth - truth.mean()) ** 2).sum()
    values = {
        "rmse": float(np.sqrt(squares.mean())),
        "mae": float(np.abs(errors).mean()),
    }
    if spread > 0:
        values["r2"] = float(1.0 - squares.sum() / spread)
    return values, squares
