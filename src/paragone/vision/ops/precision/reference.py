"""Average precision in plain Python: the definition that the kernels are held against."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["curve", "match", "overlap"]


def overlap(d: Any, g: Any, crowd: bool = False, offset: float = 0.0) -> float:
    """Intersection over union of two boxes (left, top, width, height); a crowd's over d's area."""
    wide = min(d[0] + d[2], g[0] + g[2]) - max(d[0], g[0]) + offset
    high = min(d[1] + d[3], g[1] + g[3]) - max(d[1], g[1]) + offset
    if wide <= 0 or high <= 0:
        return 0.0
    own, other = ((b[2] + offset) * (b[3] + offset) for b in (d, g))
    return wide * high / (own if crowd else own + other - wide * high)


def match(
    found: list[Any], true: list[Any], crowd: list[bool], aside: list[bool], threshold: float,
    *, voc: bool = False, strict: bool = False, offset: float = 0.0,
) -> list[tuple[bool, bool]]:  # fmt: skip
    """Takes the boxes of one image and class, best score first: (takes an object, is set aside).

    Args:
        found: Boxes of the detections.
        true: Boxes of the objects.
        crowd: Which of them are crowds.
        aside: Which of them do not count (crowds among them).
        threshold: Of overlap.
        voc: Whether a detection looks at its best object alone.
        strict: Whether the overlap must exceed the threshold.
        offset: Added to widths and heights.
    """
    order = sorted(range(len(true)), key=lambda g: aside[g])
    free, told = [True] * len(true), []
    for d in found:
        values = [overlap(d, g, c and not voc, offset) for g, c in zip(true, crowd, strict=True)]
        if voc:
            best = int(np.argmax(values)) if values else -1
            enough = best >= 0 and (
                values[best] > threshold if strict else values[best] >= threshold
            )
            takes = enough and (aside[best] or free[best])
        else:
            best, reached = -1, min(threshold, 1 - 1e-10)
            for g in order:
                if best >= 0 and not aside[best] and aside[g]:
                    break
                if (free[g] or crowd[g]) and values[g] >= reached:
                    best, reached = g, values[g]
            takes = best >= 0
        if takes:
            free[best] = free[best] and voc and aside[best]
        told.append((takes, takes and aside[best]))
    return told


def curve(
    hits: list[bool], scores: list[float], positives: int, recalls: Any, epsilon: float = 0.0
) -> tuple[np.ndarray, np.ndarray, float, float]:
    """Envelope and score at the recalls, the last recall, and the exact area under the envelope.

    Args:
        hits: Whether each detection that counts is right, best score first over all images.
        scores: Theirs.
        positives: Objects that count.
        recalls: Where to read.
        epsilon: Added to the number of detections.
    """
    right = np.cumsum(hits)
    recall = right / positives
    precision = right / (np.arange(1, len(hits) + 1) + epsilon)
    envelope = [precision[i:].max() for i in range(len(hits))]
    at = [next((i for i, r in enumerate(recall) if r >= t), None) for t in recalls]
    read = np.array([0.0 if i is None else envelope[i] for i in at])
    told = np.array([0.0 if i is None else scores[i] for i in at])
    steps = np.diff(recall, prepend=0.0)
    return read, told, float(recall[-1]) if len(recall) else 0.0, float(np.dot(steps, envelope))
