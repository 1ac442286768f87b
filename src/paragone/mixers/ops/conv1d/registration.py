"""x"""

from paragone.mixers.ops.conv1d.reference import causal_conv1d

__all__ = ["causal_conv1d"]
