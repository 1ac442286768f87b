r"""What a run keeps beside its folder: averaged weights.

The average of the weights along the way generalises better than their last value, and is what is
validated and saved. Early on it forgets faster, so that it does not hold the first weights:

$$ \bar\theta_t = d_t \bar\theta_{t-1} + (1 - d_t)\, \theta_t, \qquad
   d_t = \min\Bigl(d, \frac{1 + t}{10 + t}\Bigr). $$

Running means and variances of batch norms are averaged alike.

References:
    Polyak and Juditsky (1992), "Acceleration of stochastic approximation by averaging".
    Tan and Le (2019), arXiv:1905.11946, section 5.2 (averaged weights with averaged norms).
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

__all__ = ["Average"]


class Average:
    """A network whose weights are the average of another's.

    Args:
        network: The one that is trained.
        decay: $d$, which the share of the past tends to.
    """

    def __init__(self, network: nn.Module, decay: float = 0.999) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self.decay, self.steps = decay, 0

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Takes the weights after a step in."""
        self.steps += 1
        share = 1 - min(self.decay, (1 + self.steps) / (10 + self.steps))
        mine: list[Tensor] = []
        new: list[Tensor] = []
        pairs = zip(self.network.state_dict().values(), network.state_dict().values(), strict=True)
        for average, value in pairs:
            if average.is_floating_point():
                mine.append(average)
                new.append(value.detach())
            else:
                average.copy_(value)
        torch._foreach_lerp_(mine, new, share)  # pyright: ignore[reportPrivateImportUsage]
