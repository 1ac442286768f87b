"""Exact softmax attention: the definition, the teaching ladder, and kernels for CPU and GPU."""

from paragone.mixers.ops.attention.block_mask import BlockMask

__all__ = ["BlockMask"]
