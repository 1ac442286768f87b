"""Kernels of the work that pools and loaders are measured with; they release Python's lock."""

from __future__ import annotations

from paragone.kernels.jit import njit

__all__ = ["crop", "spin"]


@njit(nogil=True, error_model="numpy")
def spin(steps, seed):
    """A chain of integer steps that no compiler can shorten."""
    state = seed
    for _ in range(steps):
        state = (state * 6364136223846793005 + 1442695040888963407) ^ (state >> 17)
    return state & 0xFFFFFFFF


@njit(nogil=True, error_model="numpy")
def crop(images, indices, corners, flips, mean, scale, out):
    """Windows of images (n, h, w, 3) at (row, column), flipped, normalised, as (b, 3, s, s)."""
    size = out.shape[2]
    for b in range(len(indices)):
        image, top, left, flip = images[indices[b]], corners[b, 0], corners[b, 1], flips[b]
        for i in range(size):
            for j in range(size):
                column = left + (size - 1 - j if flip else j)
                for c in range(3):
                    out[b, c, i, j] = (image[top + i, column, c] - mean[c]) * scale[c]
