"""The walk of `speculation` in NumPy: its definition, and what runs where Numba does not.

Shapes: as in `speculation`.
"""

from __future__ import annotations

import numpy as np

from paragone.language.sampling import Drawing, Sampling, log_probability, uniform

__all__ = ["SALT", "judged", "laid_out", "walk_rows"]

SALT = 0x6A09E667F3BCC908
"""Makes a key of its own for what is agreed to, so that no draw of a drafter's is used twice."""


def laid_out(
    counts: np.ndarray, rows: np.ndarray, history: np.ndarray, known: np.ndarray,
    nodes: np.ndarray, before: np.ndarray, starts: np.ndarray, past: np.ndarray,
    tokens: np.ndarray, parents: np.ndarray, positions: np.ndarray, share_of: np.ndarray,
    seen: np.ndarray,
) -> bool:  # fmt: skip
    """Puts roots and nodes in a row; returns whether any draft is no chain."""
    starts[0], starts[1:], past[:] = 0, np.cumsum(counts), known[rows] - 1
    roots = np.zeros(len(tokens), bool)
    roots[starts[:-1]] = True
    tokens[roots], tokens[~roots] = history[rows, past], nodes
    parents[roots], parents[~roots] = -1, before + 1
    share_of[:], seen[:], positions[roots] = -1, 0, past
    own = np.arange(len(tokens)) - np.repeat(starts[:-1], counts)
    for n in range(len(tokens)):
        if not roots[n]:
            at = n - own[n] + parents[n]
            positions[n], seen[n] = positions[at] + 1, seen[at]
        seen[n, own[n]] = 1
    return bool((parents != own - 1).any())


def judged(
    p: np.ndarray, q: np.ndarray, tokens: np.ndarray, sampling: Sampling, step: int
) -> tuple[int, int]:
    """Takes one of the children drawn from q, or a token of what they leave of p.

    Returns:
        The token, and which child it is, -1 if it is none.
    """
    r, q = p / p.sum(), np.array(q, np.float64) / np.sum(q)
    key = sampling.key ^ SALT
    number = step << 16
    for child, token in enumerate(tokens):
        if uniform(key, number) * q[token] < r[token]:
            return int(token), child
        number += 1
        r = np.maximum(r - q, 0)
        r = r / r.sum() if r.sum() > 0 else p / p.sum()
        q[token] = 0
        if q.sum() == 0:
            break
        q /= q.sum()
    edges = np.cumsum(r)
    at = np.searchsorted(edges, uniform(key, number | 0xFFFF) * edges[-1], side="right")
    return min(int(at), int(np.flatnonzero(r)[-1])), -1


def walk_rows(
    logits: np.ndarray, starts: np.ndarray, tokens: np.ndarray, parents: np.ndarray,
    share_of: np.ndarray, shares: np.ndarray, rows: np.ndarray, drawing: Drawing,
    known: np.ndarray, steps: np.ndarray, most: int, limits: np.ndarray, ends: np.ndarray,
    spare: np.ndarray, path: np.ndarray, log_probs: np.ndarray, told: np.ndarray,
) -> None:  # fmt: skip
    """Walks down the drafts of some rows; arguments as of the compiled one."""
    for i, row in enumerate(rows.tolist()):
        part = slice(starts[i], starts[i + 1])
        nodes, taken, found, tried = _walked(
            logits[part], tokens[part], parents[part], share_of[part], shares, drawing, row, most,
            limits, ends,
        )  # fmt: skip
        path[i, : len(nodes)], log_probs[i, : len(found)] = nodes, found
        told[i] = len(taken), len(nodes), tried
        drawing.history[row, known[row] : known[row] + len(taken)] = taken
        known[row] += len(taken)
        steps[row] += len(taken)


def _walked(
    scores: np.ndarray, tokens: np.ndarray, parents: np.ndarray, share_of: np.ndarray,
    shares: np.ndarray, drawing: Drawing, row: int, most: int, limits: np.ndarray,
    ends: np.ndarray,
) -> tuple[list[int], list[int], list[float], int]:  # fmt: skip
    """Walks down one draft: path, tokens, log-probs, and depths tried."""
    sampling, prompt = drawing.samplings[row], int(drawing.asked[row])
    hot = sampling.temperature > 0
    known = drawing.history[row, : drawing.known[row]].tolist()
    wished = []
    if hot and len(limits):
        wished = _typical(scores, tokens, parents, sampling, known, prompt, limits)
    path, found, log_probs, tried, at, step = [], [], [], 0, 0, int(drawing.steps[row])
    while True:
        children = np.flatnonzero(parents == at)
        share = share_of[at]
        if len(limits) and hot and len(path) < len(wished):
            token, child = int(tokens[wished[len(path)]]), wished[len(path)]
        elif share >= 0 and hot and not len(limits):
            p = sampling.probabilities(scores[at], known, prompt)
            token, which = judged(p, shares[share], tokens[children], sampling, step)
            child = int(children[which]) if which >= 0 else -1
        else:
            token = sampling.pick(scores[at], known, step, prompt)[0]
            same = children[tokens[children] == token]
            child = int(same[0]) if len(same) and not (hot and len(limits)) else -1
        known.append(token)
        found.append(token)
        log_probs.append(log_probability(scores[at], token, sampling.temperature))
        step, tried = step + 1, tried + (len(children) > 0)
        if child >= 0:
            path.append(child)
            at = child
        if child < 0 or step >= most or token in ends:
            break
    return [node - 1 for node in path], found, log_probs, tried


def _typical(
    scores: np.ndarray, tokens: np.ndarray, parents: np.ndarray, sampling: Sampling,
    known: list[int], prompt: int, limits: np.ndarray,
) -> list[int]:  # fmt: skip
    """The longest path over typical tokens, as numbers of nodes."""
    paths: dict[int, list[int]] = {0: []}
    for node in range(len(tokens)):
        children = np.flatnonzero(parents == node)
        if node not in paths or not len(children):
            continue
        before = known + tokens[paths[node]].tolist()
        p = sampling.probabilities(scores[node], before, prompt)
        some = p[p > 0]
        entropy = -(some * np.log(some)).sum()
        least = min(limits[0], limits[1] * np.exp(-entropy))
        for child in children:
            if p[tokens[child]] > least:
                paths[int(child)] = [*paths[node], int(child)]
    return max(paths.values(), key=len)
