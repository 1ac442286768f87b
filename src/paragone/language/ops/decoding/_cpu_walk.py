r"""The walk down trees of drafts in compiled code, its draws included; `speculation` defines it.

The scores of a root and its nodes are rows of one matrix, those of a sequence one behind the
other. A walk takes down the history, the numbers of tokens and of draws of its sequence, just as
plain decoding would.

Shapes: A sequences of this step, R of all, N rows of scores, V vocabulary, Q distributions that
children were drawn from, D tokens of the longest walk.
"""

from __future__ import annotations

import numpy as np

from paragone.kernels.jit import njit
from paragone.language._speculate_reference import SALT
from paragone.language.ops.decoding._cpu_draw import draw, uniform

__all__ = ["laid_out", "walk_rows"]

_inlined = {"nogil": True, "error_model": "numpy", "no_cpython_wrapper": True}


@njit(nogil=True, error_model="numpy")
def laid_out(counts, rows, history, known, nodes, before, starts, past, tokens, parents, positions,
             share_of, seen):  # fmt: skip
    """Puts roots and nodes in a row; returns whether any draft is no chain.

    `nodes` and `before` are tokens and parents of all drafts. Fills `starts` (A + 1,) and `past`
    (A,), and of N tokens: their numbers in `parents` are within a sequence, whose root is number
    0 and has parent -1; `positions` are places of the texts, `seen` (N, C) is for the engine.
    """
    trees, n, read = False, 0, 0
    for i in range(len(rows)):
        first = n
        starts[i], past[i] = n, known[rows[i]] - 1
        for own in range(counts[i]):
            share_of[n] = -1
            for c in range(seen.shape[1]):
                seen[n, c] = 0
            seen[n, own] = 1
            if own == 0:
                tokens[n], parents[n], positions[n] = history[rows[i], past[i]], -1, past[i]
            else:
                parent = before[read] + 1
                tokens[n], parents[n] = nodes[read], parent
                positions[n] = positions[first + parent] + 1
                trees = trees or parent != own - 1
                for c in range(own):
                    seen[n, c] = seen[first + parent, c]
                read += 1
            n += 1
    starts[len(rows)] = n
    return trees


@njit(**_inlined)
def _child(tokens, parents, first, count, at, token):
    """The child of a node that has a token; -1 for none, -2 if it has no children."""
    found = -2
    for j in range(at + 1, count):
        if parents[first + j] == at:
            if tokens[first + j] == token:
                return j
            found = -1
    return found


@njit(**_inlined)
def _judged(p, count, q, tokens, parents, first, nodes, at, key, step, r, left):
    """Takes one of the drawn children, or a token of what they leave; returns token and child.

    p are weights of the model's distribution, q those that the children were drawn by.
    """
    sum_, mass, found = 0.0, 0.0, -2
    for c in range(count):
        r[c], left[c] = p[c], q[c]
        sum_ += r[c]
        mass += left[c]
    own, number = key ^ np.int64(SALT), step << 16
    for j in range(at + 1, nodes):
        if parents[first + j] != at:
            continue
        found, token = -1, tokens[first + j]
        if uniform(own, number) * left[token] * sum_ < r[token] * mass:
            return token, j
        number += 1
        rest, still = 0.0, 0.0
        for c in range(count):
            r[c] = max(r[c] / sum_ - left[c] / mass, 0.0)
            rest += r[c]
        if rest == 0:
            # Rounding alone has refused: p and q are the same.
            for c in range(count):
                r[c] = p[c]
                rest += r[c]
        left[token] = 0.0
        for c in range(count):
            still += left[c]
        sum_, mass = rest, still
        if mass == 0:
            break
    target, held, token = uniform(own, number | 0xFFFF) * sum_, 0.0, 0
    for c in range(count):
        if r[c] > 0:
            token = c
            held += r[c]
            if held > target:
                break
    return token, found


@njit(**_inlined)
def _typical(logits, first, nodes, width, tokens, parents, history, known, step, limits, reals,
             wholes, bias_ids, bias, room, ids, marks, best):  # fmt: skip
    """Finds the longest walk over typical tokens; leaves its nodes in `best`, returns how many."""
    good, depth = np.zeros(nodes, np.uint8), np.zeros(nodes, np.int64)
    good[0] = 1
    deepest = 0
    for at in range(nodes):
        if good[at] == 0:
            continue
        if depth[at] > depth[deepest]:
            deepest = at
        if _child(tokens, parents, first, nodes, at, -1) == -2:
            continue
        node = at
        for d in range(depth[at] - 1, -1, -1):
            history[known + d] = tokens[first + node]
            node = parents[first + node]
        draw(logits, (first + at) * width, width, history, known + depth[at], step + depth[at],
             reals, wholes, bias_ids, bias, room, ids, marks)  # fmt: skip
        p, sum_, entropy = room[width : 2 * width], 0.0, 0.0
        for c in range(width):
            sum_ += np.float64(p[c])
        for c in range(width):
            if p[c] > 0:
                share = np.float64(p[c]) / sum_
                entropy -= share * np.log(share)
        least = min(limits[0], limits[1] * np.exp(-entropy)) * sum_
        for j in range(at + 1, nodes):
            if parents[first + j] == at and p[tokens[first + j]] > least:
                good[j], depth[j] = 1, depth[at] + 1
    node, count = deepest, depth[deepest]
    for d in range(count - 1, -1, -1):
        best[d] = node - 1
        node = parents[first + node]
    return count


@njit(nogil=True, error_model="numpy")
def walk_rows(logits, starts, tokens, parents, share_of, shares, rows, history, known, steps, most,
              limits, ends, reals, wholes, bias_at, bias_ids, bias, room, ids, marks, spare, path,
              log_probs, told):  # fmt: skip
    """Walks for each sequence i, rows `starts[i]` to `starts[i + 1]` of the logits.

    `tokens` and `parents` (N,) are those of `laid_out`; `share_of` (N,) tells which of the (Q, V)
    shares a node's children were drawn from, -1: they were chosen. `limits` has the two numbers
    of typical acceptance, or is empty. Takes at most `most` draws of a sequence altogether, and
    ends at one of `ends`. Leaves in `path` (A, D) the nodes, in `told` (A, 3) how many tokens
    were taken, how many nodes, and at how many depths there was something to agree to.
    """
    flat, width = logits.reshape(-1), logits.shape[1]
    for i in range(len(rows)):
        row, first, nodes = rows[i], starts[i], starts[i + 1] - starts[i]
        own, some = history[row], slice(bias_at[row], bias_at[row + 1])
        drawn_by, typical, wanted = wholes[row], len(limits) > 0 and reals[row, 0] > 0, 0
        if typical:
            wanted = _typical(
                flat, first, nodes, width, tokens, parents, own, known[row], steps[row], limits,
                reals[row], drawn_by, bias_ids[some], bias[some], room, ids, marks, path[i],
            )  # fmt: skip
        at, count, agreed, tried, going = 0, 0, 0, 0, True
        while going:
            token, log_prob = draw(
                flat, (first + at) * width, width, own, known[row], steps[row], reals[row],
                drawn_by, bias_ids[some], bias[some], room, ids, marks,
            )  # fmt: skip
            share, other, child = share_of[first + at], token, -1
            if typical:
                child = _child(tokens, parents, first, nodes, at, -1)
                if count < wanted:
                    child = path[i, count] + 1
                    other = tokens[first + child]
            elif share >= 0 and reals[row, 0] > 0:
                other, child = _judged(
                    room[width : 2 * width], width, shares[share], tokens, parents, first, nodes,
                    at, drawn_by[1], steps[row], spare[0], spare[1],
                )  # fmt: skip
            else:
                child = _child(tokens, parents, first, nodes, at, token)
            if other != token:
                place = (first + at) * width
                log_prob += (np.float64(flat[place + other]) - np.float64(flat[place + token])) / (
                    reals[row, 0] if reals[row, 0] > 0 else 1.0
                )
            own[known[row]] = other
            log_probs[i, count] = log_prob
            known[row] += 1
            steps[row] += 1
            count += 1
            tried += child > -2
            going = child >= 0 and steps[row] < most
            if child >= 0:
                path[i, agreed] = child - 1
                agreed += 1
                at = child
            for end in ends:
                if other == end:
                    going = False
        told[i, 0], told[i, 1], told[i, 2] = count, agreed, tried
