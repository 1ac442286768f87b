"""Pairs of coordinates turned by angles: a kernel for plain float32 tensors on the CPU."""

from paragone.mixers.ops.rotary.interface import turned, usable

__all__ = ["turned", "usable"]
