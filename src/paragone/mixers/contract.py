r"""One contract for every sequence mixer: a whole sequence, a resumed one, or one token at a time.

A mixer maps $x_{1..T}$ to $y_{1..T}$ of the same width. A causal one is also a machine with a
state: what it returns after a prefix lets it go on as if it had seen the whole,

$$ y_{1..T},\, s_T = f(x_{1..T};\, s_0), \qquad
   (y_{T+1..T+R},\, s_{T+R}) = f(x_{T+1..T+R};\, s_T), \qquad
   (y_t,\, s_t) = \mathrm{step}(x_t;\, s_{t-1}) , $$

and all three ways agree to rounding. Rows of unequal length come padded or packed; either way
no token sees another row, and what stands in the padding, NaN included, changes nothing.

References:
    Katharopoulos et al. (2020), arXiv:2006.16236, section 3.4 (a causal mixer as a recurrence).

Shapes: B rows, T time, M model width, N packed rows.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Mixer", "packed_index"]


def packed_index(lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Where each token of packed rows stands in the padded batch: its row and its place there.

    Args:
        lengths: (N,) tokens of each row, zero allowed.

    Returns:
        Two (sum of lengths,) tensors.

    Example:
        >>> packed_index(torch.tensor([2, 0, 1]))
        (tensor([0, 0, 2]), tensor([0, 1, 0]))
    """
    rows = torch.repeat_interleave(torch.arange(len(lengths), device=lengths.device), lengths)
    starts = torch.cumsum(lengths, 0) - lengths
    return rows, torch.arange(len(rows), device=lengths.device) - starts[rows]


class Mixer(nn.Module):
    """A sequence mixer; subclasses write `_mix` (and `step`, where a quick one exists).

    Attributes:
        width: Model width M.
        causal: Whether outputs depend on the past alone. If not, there is no state and no step.
    """

    width: int
    causal: bool = True

    def forward(
        self,
        x: Tensor,
        *,
        state: Any = None,
        positions: Tensor | None = None,
        lengths: Tensor | None = None,
    ) -> tuple[Tensor, Any]:
        """Mixes a batch of rows.

        Args:
            x: (B, T, M).
            state: What an earlier call returned, to go on from there; None at the start.
            positions: (T,) or (B, T) integer places of the tokens, for mixers that know places
                (None: counted on from the state). Others take no notice.
            lengths: (B,) tokens of each row that count; what follows them is padding and comes
                back as zero. Or, with B = 1, the (N,) lengths of N >= 2 packed rows that make up
                T together; the state is then that of N rows. Zero is allowed.

        Returns:
            (B, T, M) of the dtype of x, and the state after each row's last token (None if the
            mixer is not causal).

        Raises:
            ValueError: A shape, a length or a state that does not fit.
        """
        lengths = self._checked(x, state, positions, lengths)
        if positions is not None and positions.ndim == 1:
            positions = positions.expand(x.shape[0], -1)
        if lengths is not None and len(lengths) != x.shape[0]:
            return self._packed(x, state, positions, lengths)
        if lengths is None:
            return self._mix(x, state, positions, None)
        beyond = torch.arange(x.shape[1], device=x.device) >= lengths[:, None]
        y, state = self._mix(x.masked_fill(beyond[..., None], 0), state, positions, lengths)
        return y.masked_fill(beyond[..., None], 0), state

    def step(self, x_t: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Goes on by one token.

        Args:
            x_t: (B, M).
            state: What `forward` or `step` returned, or None at the start.

        Returns:
            (B, M) and the new state; the one given stays valid.

        Raises:
            ValueError: The mixer is not causal, or x_t has another shape.
        """
        self._needs_causal()
        if x_t.ndim != 2 or x_t.shape[1] != self.width:
            raise ValueError(
                f"{type(self).__name__}: x_t has shape {tuple(x_t.shape)}; (B, {self.width}) is "
                "expected"
            )
        y, state = self._mix(x_t[:, None], state, None, None)
        return y[:, 0], state

    def _mix(
        self, x: Tensor, state: Any, positions: Tensor | None, lengths: Tensor | None
    ) -> tuple[Tensor, Any]:
        """`forward` on checked input: positions (B, T) or None, padding in x already zero."""
        raise NotImplementedError

    def _needs_causal(self) -> None:
        if not self.causal:
            raise ValueError(
                f"{type(self).__name__} looks at the whole sequence at once (causal=False): it "
                "has no state and no step; choose a causal mixer to decode"
            )

    def _packed(
        self, x: Tensor, state: Any, positions: Tensor | None, lengths: Tensor
    ) -> tuple[Tensor, Any]:
        rows, places = packed_index(lengths)
        shape = (len(lengths), int(lengths.max()), x.shape[-1])
        padded = x.new_zeros(shape).index_put((rows, places), x[0])
        if positions is not None:
            positions = positions.new_zeros(shape[:2]).index_put((rows, places), positions[0])
        y, state = self._mix(padded, state, positions, lengths)
        return y[rows, places][None], state

    def _checked(
        self, x: Tensor, state: Any, positions: Tensor | None, lengths: Tensor | None
    ) -> Tensor | None:
        name = type(self).__name__
        if x.ndim != 3 or x.shape[-1] != self.width:
            raise ValueError(
                f"{name}: x has shape {tuple(x.shape)}; (B, T, {self.width}) is expected"
            )
        if not x.is_floating_point():
            raise ValueError(f"{name}: x is {x.dtype}; a floating-point tensor is expected")
        if state is not None:
            self._needs_causal()
        if positions is not None and tuple(positions.shape) not in (
            tuple(x.shape[1:2]), tuple(x.shape[:2]),
        ):  # fmt: skip
            raise ValueError(
                f"{name}: positions has shape {tuple(positions.shape)}; ({x.shape[1]},) or "
                f"{tuple(x.shape[:2])} is expected"
            )
        return None if lengths is None else self._checked_lengths(x, lengths)

    def _checked_lengths(self, x: Tensor, lengths: Tensor) -> Tensor:
        name, (rows, time) = type(self).__name__, x.shape[:2]
        lengths = torch.as_tensor(lengths, device=x.device)
        if lengths.ndim != 1 or lengths.is_floating_point() or lengths.dtype == torch.bool:
            raise ValueError(
                f"{name}: lengths is {lengths.dtype} of shape {tuple(lengths.shape)}; integers "
                f"of shape ({rows},) are expected"
            )
        lengths = lengths.to(torch.int64)
        if len(lengths) and int(lengths.min()) < 0:
            raise ValueError(f"{name}: lengths has {int(lengths.min())}; no row is shorter than 0")
        if len(lengths) == rows:
            if rows and int(lengths.max()) > time:
                raise ValueError(
                    f"{name}: lengths has {int(lengths.max())}, but x has T = {time} tokens a row"
                )
        elif rows != 1 or int(lengths.sum()) != time:
            raise ValueError(
                f"{name}: {len(lengths)} lengths with sum {int(lengths.sum())} for x of shape "
                f"{tuple(x.shape)}; give one for each row, or pack the rows into one (B = 1) of "
                "as many tokens as the lengths' sum"
            )
        return lengths
