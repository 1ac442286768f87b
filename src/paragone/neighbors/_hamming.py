"""Hamming distance of packed bits: exclusive or, and the processor's count of ones.

Codes are padded with zero bytes to whole 64-bit words and transposed, so that one word of the
query meets many points in a row.

n points, m queries, w words, k neighbours.
"""

from __future__ import annotations

import numpy as np

from paragone.kernels.intrinsics import count_ones
from paragone.kernels.jit import njit
from paragone.neighbors._nearest_so_far import offer, sort_heap
from paragone.neighbors._parallel import in_runs
from paragone.neighbors._threads import num_workers

__all__ = ["hamming_query"]

_TILE = 512


@njit(nogil=True, error_model="numpy")
def _nearest_codes(words, queries, distance, index):
    n = words.shape[1]
    total = np.empty(_TILE, np.uint64)
    for q in range(queries.shape[0]):
        best, name = distance[q], index[q]
        for begin in range(0, n, _TILE):
            width = min(_TILE, n - begin)
            total[:] = np.uint64(0)
            for w in range(words.shape[0]):
                word = queries[q, w]
                row = words[w, begin : begin + width]
                for i in range(np.uint64(width)):
                    total[i] += count_ones(row[i] ^ word)
            limit = np.uint64(min(best[0], 1.8e19))
            for i in range(width):
                if total[i] < limit:
                    offer(best, name, np.float64(total[i]), begin + i)
                    limit = np.uint64(min(best[0], 1.8e19))
        sort_heap(best, name)


def _words(codes: np.ndarray) -> np.ndarray:
    padded = np.zeros((len(codes), -(-codes.shape[1] // 8) * 8), np.uint8)
    padded[:, : codes.shape[1]] = codes
    return padded.view(np.uint64)


def hamming_query(
    codes: np.ndarray, x: np.ndarray, k: int, workers: int | None = -1
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the k codes nearest to each query: bits that differ (m, k), and indices (m, k).

    Args:
        codes: Packed bits (n, bytes) uint8.
        x: Queries (m, bytes) uint8.
        k: Neighbours; beyond n, distance inf and index n. Ties go to the lowest index.
        workers: Threads, -1 for all cores.
    """
    n = len(codes)
    distance, index = np.full((len(x), k), np.inf), np.full((len(x), k), n, np.int64)
    if not n or not len(x):
        return distance, index
    words, queries = np.ascontiguousarray(_words(codes).T), _words(x)

    def run(start: int, stop: int) -> None:
        _nearest_codes(words, queries[start:stop], distance[start:stop], index[start:stop])

    threads = num_workers(workers)
    in_runs(run, len(x), threads, min(256, -(-len(x) // threads)))
    return distance, index
