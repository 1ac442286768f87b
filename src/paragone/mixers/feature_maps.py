r"""Feature maps: what stands for the exponential of softmax in linear attention.

Attention weighs value s by $w(q_t, k_s)$. If $w = \phi(q)^\top \phi(k)$ with features of fixed
width, sums over the past can be kept. Each map here is a module that turns queries and keys of a
whole sequence into features; some carry something on from one part to the next.

$$ \text{elu1: } \phi(x) = \mathrm{elu}(x) + 1, \qquad
   \text{taylor1: } w = 1 + \hat q^\top \hat k, \qquad
   \text{taylor2: } w = 1 + x + \tfrac{x^2}{2},\ x = \tfrac{q^\top k}{\sqrt d} . $$

"double_softmax" takes softmax of q over its channels and of k over time, channel by channel. For
a causal model the latter is a softmax over the keys so far; with $\ell_t = \log \sum_{s \le t}
e^{k_s}$ that is the recurrence $S_t = e^{\ell_{t-1} - \ell_t} S_{t-1} + e^{k_t - \ell_t}
v_t^\top$, a gated one in which no exponent is positive however large the keys are.

References:
    Katharopoulos et al. (2020), arXiv:2006.16236, eq. 7 (elu + 1).
    Shen et al. (2018), arXiv:1812.01243, section 3 (double softmax).
    Li et al. (2020), arXiv:2007.14902, eq. 6-8 (first order, unit length).
    Arora et al. (2024), arXiv:2402.18668, section 4 (second order, 1 + d + d^2 features).

Shapes: B rows, H heads, T time, D key width, F features.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["FEATURE_MAPS", "FeatureMap", "feature_map_for"]


class FeatureMap(nn.Module):
    """One function for queries and keys alike: the base class, and what wraps your own function.

    Attributes:
        signed: Whether features may be negative, so that they cannot be normalised.
        bulky: Whether there are so many features that only a block of time may hold them at once.
        own_norm: Whether weights sum to one already.
        relative: Whether features have a factor that only a normaliser takes out.

    Example:
        >>> FeatureMap(torch.relu).features(torch.tensor([-1.0, 2.0]))
        tensor([0., 2.])
    """

    signed = False
    bulky = False
    own_norm = False
    relative = False

    def __init__(self, function: Callable[[Tensor], Tensor], name: str = ""):
        super().__init__()
        self.function, self.name = function, name

    def width(self, keys: int) -> int:
        """Number of features F of `keys` channels; -1: not known before one is seen."""
        return keys if self.name else -1

    def offset(self, keys: int) -> int:
        """How many numbers a head carries on beside the memory."""
        return 0

    def features(self, x: Tensor) -> Tensor:
        """(B, H, T, D) to (B, H, T, F), for a query or a key that stands alone."""
        return self.function(x)

    def forward(
        self, q: Tensor, k: Tensor, offset: Tensor | None, beyond: Tensor | None, causal: bool
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """Features of a sequence.

        Args:
            q: Queries (B, H, T, D).
            k: Keys (B, H, T, D).
            offset: What the last call returned there, or None at the start.
            beyond: (B, 1, T, 1) true in the padding, or None.
            causal: Whether a key's features may depend on earlier keys alone.

        Returns:
            Features of q and of k, a gate for `linear_attention` or None, and what to carry on.
        """
        return self.features(q), self.features(k), None, offset


class _Taylor1(FeatureMap):
    # A query a little shorter than 1 keeps each weight above what rounding could make negative.
    _LENGTH = 1 - 1e-5

    def __init__(self):
        super().__init__(lambda x: functional.pad(functional.normalize(x, dim=-1), (1, 0), value=1))

    def width(self, keys: int) -> int:
        return 1 + keys

    def forward(self, q, k, offset, beyond, causal):
        q_F, k_F = self.features(q), self.features(k)
        return torch.cat([q_F[..., :1], self._LENGTH * q_F[..., 1:]], -1), k_F, None, offset


class _Taylor2(FeatureMap):
    bulky = True

    def __init__(self):
        super().__init__(_second_order)

    def width(self, keys: int) -> int:
        return 1 + keys + keys * keys


def _second_order(x: Tensor) -> Tensor:
    x = x * x.shape[-1] ** -0.25
    squares = (x[..., :, None] * x[..., None, :]).flatten(-2) * 2**-0.5
    return torch.cat([torch.ones_like(x[..., :1]), x, squares], -1)


class _Exponential(FeatureMap):
    r"""exp(x) without overflow: a query's maximum cancels, and so does the running one of keys."""

    relative = True

    def __init__(self):
        super().__init__(lambda x: x.exp(), "exp")

    def offset(self, keys: int) -> int:
        return 1

    def forward(self, q, k, offset, beyond, causal):
        k = k if beyond is None else k.masked_fill(beyond, _LOWEST)
        highest = k.detach().amax(-1)
        # With the least feature of a query above 0 the sum of weights never vanishes.
        q = (q - q.detach().amax(-1, keepdim=True)).clamp_min(_LEAST).exp()
        if not causal:
            return q, (k - highest.amax(-1)[..., None, None]).exp(), None, offset
        before, after = _running(highest[..., None], offset, torch.cummax)
        return q, (k - after).exp(), (before - after).clamp_min(_FORGOTTEN)[..., 0], after[:, :, -1]


class _DoubleSoftmax(FeatureMap):
    own_norm = True

    def __init__(self):
        super().__init__(lambda x: x.softmax(-1), "double_softmax")

    def offset(self, keys: int) -> int:
        return keys

    def forward(self, q, k, offset, beyond, causal):
        k = k if beyond is None else k.masked_fill(beyond, _LOWEST)
        if not causal:
            return q.softmax(-1), k.softmax(2), None, offset
        before, after = _running(k, offset, torch.logcumsumexp)
        gate = (before - after).clamp_min(_FORGOTTEN)
        return q.softmax(-1), (k - after).exp(), gate, after[:, :, -1]


_LOWEST = -1e30
_FORGOTTEN = -87.0
_LEAST = -30.0


def _running(x: Tensor, offset: Tensor | None, cumulated: Callable[..., Any]) -> Any:
    """Cumulated values over time from `offset` on, one token before and at each token."""
    if offset is None:
        offset = x.new_full((*x.shape[:2], x.shape[-1]), _LOWEST)
    found = cumulated(torch.cat([offset[:, :, None].to(x.dtype), x], 2), 2)
    found = found if isinstance(found, Tensor) else found[0]
    return found[:, :, :-1], found[:, :, 1:]


class _Identity(FeatureMap):
    signed = True


FEATURE_MAPS: dict[str, Callable[[], FeatureMap]] = {
    "elu1": lambda: FeatureMap(lambda x: functional.elu(x) + 1, "elu1"),
    "relu": lambda: FeatureMap(torch.relu, "relu"),
    "exp": _Exponential,
    "double_softmax": _DoubleSoftmax,
    "taylor1": _Taylor1,
    "taylor2": _Taylor2,
    "identity": lambda: _Identity(lambda x: x, "identity"),
}
"""Name to the maker of a map."""


def feature_map_for(which: str | Callable[[Tensor], Tensor]) -> FeatureMap:
    """Returns the map of a name, or wraps a function or module of yours.

    Raises:
        ValueError: Unknown name.

    Example:
        >>> feature_map_for("taylor2").width(16)
        273
    """
    if isinstance(which, FeatureMap):
        return which
    if callable(which):
        return FeatureMap(which)
    if which not in FEATURE_MAPS:
        raise ValueError(
            f"feature_map={which!r} is none of {', '.join(FEATURE_MAPS)}, nor a function"
        )
    return FEATURE_MAPS[which]()
