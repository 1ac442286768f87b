r"""Stochastic depth: a residual branch is left out for some images of a batch.

$$ y = x + \frac{b}{1 - p} f(x), \quad b \sim \text{Bernoulli}(1 - p) \text{ for each image} . $$

Cost: one factor for each image. Its step in the lineage: with it EfficientNet trains networks of
fifty blocks and more; the rate grows with depth, $p_i = p \, i / n$ for block $i$ of $n$.

References:
    Huang et al. (2016), "Deep networks with stochastic depth", arXiv:1603.09382, eq. 2 and 4.
"""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["StochasticDepth"]


class StochasticDepth(nn.Module):
    """Multiplies a residual branch (B, …) by 0 or 1 / (1 - rate), drawn for each image.

    Args:
        rate: Probability p that an image's branch is left out, in training.

    Raises:
        ValueError: A rate outside [0, 1).
    """

    def __init__(self, rate: float = 0.0) -> None:
        super().__init__()
        if not 0 <= rate < 1:
            raise ValueError(f"drop_path={rate} is no rate: use 0 up to (not including) 1")
        self.rate = rate

    def forward(self, branch: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return branch
        keep = 1 - self.rate
        drawn = branch.new_empty(branch.shape[0], *[1] * (branch.dim() - 1)).bernoulli_(keep)
        return branch * drawn.div_(keep)

    def extra_repr(self) -> str:
        return f"rate={self.rate:.4g}"
