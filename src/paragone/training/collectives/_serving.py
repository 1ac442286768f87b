"""One round of a simulation: every message waits for its ways and holds them (`simulation`)."""

from __future__ import annotations

from typing import Any

from paragone.kernels.jit import njit

__all__ = ["one_round"]


@njit(nogil=True, error_model="numpy")
def one_round(
    ready: Any, out: Any, into: Any, card_out: Any, card_in: Any,
    order: Any, source: Any, target: Any, nbytes: Any, per_node: Any, times: Any, adds: Any,
) -> None:  # fmt: skip
    alpha, beta, local_alpha = times[0], times[1], times[2]
    local_beta, nic, gamma = times[3], times[4], times[5]
    for r in range(len(ready)):
        out[r] = ready[r]
        into[r] = ready[r]
    for m in order:
        r, q = source[m], target[m]
        a, b = r // per_node, q // per_node
        start = max(out[r], into[q])
        if a == b and per_node > 1:
            end = start + local_alpha + nbytes * local_beta
        else:
            start = max(start, card_out[a], card_in[b])
            card_out[a] = start + nbytes * nic
            card_in[b] = start + nbytes * nic
            end = start + alpha + nbytes * max(beta, nic)
        out[r] = end
        into[q] = end + nbytes * gamma if adds else end
    for r in range(len(ready)):
        ready[r] = max(out[r], into[r])
