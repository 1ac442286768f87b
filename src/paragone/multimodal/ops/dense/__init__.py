"""Linear maps of many rows with what stands behind them: bias, GELU, shortcut, turned heads."""

from paragone.multimodal.ops.dense.call import feed, linear, projected

__all__ = ["feed", "linear", "projected"]
