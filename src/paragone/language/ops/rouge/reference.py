r"""Longest common subsequences by their definition; what the kernels are tested against.

$$ C_{i,j} = \begin{cases} C_{i-1,j-1} + 1 & x_i = y_j \\
   \max(C_{i-1,j}, C_{i,j-1}) & \text{else} \end{cases} $$

Cost: O(m n).

References:
    Lin (2004), ROUGE: a package for automatic evaluation of summaries, section 3.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["common_words", "f_measure"]


def common_words(x: Sequence[object], y: Sequence[object]) -> int:
    """Length of the longest common subsequence."""
    row = [0] * (len(y) + 1)
    for one in x:
        corner = 0
        for j, other in enumerate(y, 1):
            above = row[j]
            row[j] = corner + 1 if one == other else max(above, row[j - 1])
            corner = above
    return row[-1]


def f_measure(common: int, m: int, n: int) -> float:
    """Harmonic mean of the shares of m and n words that are common, rounded as by `rouge_score`."""
    if not common:
        return 0.0
    precision, recall = common / n, common / m
    return 2 * precision * recall / (precision + recall)
