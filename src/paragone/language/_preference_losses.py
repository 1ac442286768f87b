r"""Losses of preference learning on the log-probabilities of two answers, one line of maths each.

With the log-ratios to the reference, $\ell_w = \log \pi(y_w|x) - \log \pi_0(y_w|x)$ of the chosen
and $\ell_l$ of the rejected answer, summed over the answer's tokens, and $h = \beta(\ell_w -
\ell_l)$, the loss of the paper and its kin with doubtful labels (share $\epsilon$ flipped) are

$$ L = -(1 - \epsilon) \log \sigma(h) - \epsilon \log \sigma(-h) \;\text{(cDPO)}, \qquad
   L = \frac{-(1 - \epsilon) \log \sigma(h) + \epsilon \log \sigma(-h)}{1 - 2 \epsilon}
   \;\text{(robust)} . $$

The second is unbiased, and therefore may be negative. The others stand beside their functions.
`ipo` regresses the difference on $1/2\beta$; per token of each answer as its authors report
("token"), or on the sums as the paper writes it ("sum").

References:
    Rafailov et al. (2023), arXiv:2305.18290, eq. 7 (sigmoid); Mitchell (2023), cDPO, eq. 3.
    Azar et al. (2023), arXiv:2310.12036, eq. 17 (ipo).
    Zhao et al. (2023), arXiv:2305.10425 (hinge).
    Chowdhury et al. (2024), arXiv:2403.00409, eq. 12 (robust).
    Ji et al. (2024), arXiv:2402.00856, eq. 16 (exo); Chen et al. (2024), arXiv:2402.05369 (nca).
    Jung et al. (2024), arXiv:2404.04656 (bco); Wu et al. (2024), arXiv:2405.00675, eq. 4.7 (sppo).
    Melnyk et al. (2024), arXiv:2406.05882 (aot); D'Oosterlinck et al. (2024), arXiv:2408.06266,
    eq. 7-8 (apo); Lu et al. (2024), arXiv:2406.08414, eq. 5 (discopop).
    Ethayarajh et al. (2024), arXiv:2402.01306, eq. 7-8 (kto).
    Hong et al. (2024), arXiv:2403.07691 (orpo); Meng et al. (2024), arXiv:2405.14734, eq. 6
    (simpo); Xu et al. (2024), arXiv:2401.08417, eq. 3 (cpo).
    Wang et al. (2023), arXiv:2309.16240, table 1 (other divergences).

Shapes: n pairs.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

__all__ = [
    "ALIASES", "LOSSES", "NEEDS_NO_REFERENCE", "Divergence", "Options", "Scores", "checked_losses",
    "pair_losses", "rewards",
]  # fmt: skip

Divergence = Literal["reverse_kl", "forward_kl", "js", "alpha"]


@dataclasses.dataclass(frozen=True)
class Scores:
    """What the losses read.

    Attributes:
        chosen: (n,) log-probabilities of the chosen answers, summed over their tokens.
        rejected: (n,) those of the rejected answers.
        reference_chosen: (n,) the reference's, without gradient.
        reference_rejected: (n,) the reference's, without gradient.
        chosen_tokens: (n,) tokens of the chosen answers.
        rejected_tokens: (n,) tokens of the rejected answers.
        per_token: Share of a pair in the mean over all chosen tokens of the step, over the pair's
            own mean: n_step / tokens_step (None: of these pairs alone).
        kl: KTO's point of reference $z_0$, a number without gradient (None: 0).
    """

    chosen: Tensor
    rejected: Tensor
    reference_chosen: Tensor
    reference_rejected: Tensor
    chosen_tokens: Tensor
    rejected_tokens: Tensor
    per_token: Tensor | float | None = None
    kl: Tensor | float | None = None

    @property
    def chosen_ratios(self) -> Tensor:
        """(n,) log-ratios to the reference."""
        return self.chosen - self.reference_chosen

    @property
    def rejected_ratios(self) -> Tensor:
        """(n,) log-ratios to the reference."""
        return self.rejected - self.reference_rejected


@dataclasses.dataclass(frozen=True)
class Options:
    """Constants of the losses; see `paragone.language.dpo`."""

    beta: float = 0.1
    label_smoothing: float = 0.0
    ipo: Literal["token", "sum"] = "token"
    divergence: Divergence = "reverse_kl"
    alpha: float = 0.5
    gamma: float = 1.0
    tau: float = 0.05
    nll: float = 1.0
    desirable: float = 1.0
    undesirable: float = 1.0


def _diverged(ratios: Tensor, o: Options) -> Tensor:
    """f'(u) of the divergence at u = exp(ratio), up to what cancels in the difference."""
    if o.divergence == "forward_kl":
        return 1 - torch.exp(-ratios)
    if o.divergence == "js":
        return math.log(2) + logsigmoid(ratios)
    if o.divergence == "alpha" and abs(o.alpha - 1) > 1e-6:
        return torch.expm1(((o.alpha - 1) * ratios).clamp(max=80.0)) / (o.alpha - 1)
    return ratios


def _delta(s: Scores, o: Options) -> Tensor:
    return _diverged(s.chosen_ratios, o) - _diverged(s.rejected_ratios, o)


def _per_token_delta(s: Scores, o: Options) -> Tensor:
    return _diverged(s.chosen_ratios, o) / s.chosen_tokens.clamp(min=1) - _diverged(
        s.rejected_ratios, o
    ) / s.rejected_tokens.clamp(min=1)


def _smoothed(h: Tensor, o: Options) -> Tensor:
    return -(1 - o.label_smoothing) * logsigmoid(h) - o.label_smoothing * logsigmoid(-h)


def _sigmoid(s: Scores, o: Options) -> Tensor:
    return _smoothed(o.beta * _delta(s, o), o)


def _sigmoid_norm(s: Scores, o: Options) -> Tensor:
    return _smoothed(o.beta * _per_token_delta(s, o), o)


def _hinge(s: Scores, o: Options) -> Tensor:
    return torch.relu(1 - o.beta * _delta(s, o))


def _ipo(s: Scores, o: Options) -> Tensor:
    delta = _per_token_delta(s, o) if o.ipo == "token" else _delta(s, o)
    return (delta - 1 / (2 * o.beta)) ** 2


def _robust(s: Scores, o: Options) -> Tensor:
    h, e = o.beta * _delta(s, o), o.label_smoothing
    return (-(1 - e) * logsigmoid(h) + e * logsigmoid(-h)) / (1 - 2 * e)


def _exo(s: Scores, o: Options) -> Tensor:
    h, e = o.beta * _delta(s, o), o.label_smoothing or 1e-3
    return torch.sigmoid(h) * (logsigmoid(h) - math.log1p(-e)) + torch.sigmoid(-h) * (
        logsigmoid(-h) - math.log(e)
    )


def _nca(s: Scores, o: Options) -> Tensor:
    w, l_ = o.beta * s.chosen_ratios, o.beta * s.rejected_ratios
    return -logsigmoid(w) - 0.5 * logsigmoid(-w) - 0.5 * logsigmoid(-l_)


def _bco(s: Scores, o: Options) -> Tensor:
    return -logsigmoid(o.beta * s.chosen_ratios) - logsigmoid(-o.beta * s.rejected_ratios)


def _sppo(s: Scores, o: Options) -> Tensor:
    half = 0.5 / o.beta
    return (s.chosen_ratios - half) ** 2 + (s.rejected_ratios + half) ** 2


def _aot(s: Scores, o: Options) -> Tensor:
    # Quantiles of the two distributions of margins are compared, not the pairs themselves.
    policy = (s.chosen - s.rejected).sort().values
    return _smoothed(
        o.beta * (policy - (s.reference_chosen - s.reference_rejected).sort().values), o
    )


def _aot_unpaired(s: Scores, o: Options) -> Tensor:
    return _smoothed(o.beta * (s.chosen_ratios.sort().values - s.rejected_ratios.sort().values), o)


def _apo_zero(s: Scores, o: Options) -> Tensor:
    return torch.sigmoid(-o.beta * s.chosen_ratios) + torch.sigmoid(o.beta * s.rejected_ratios)


def _apo_down(s: Scores, o: Options) -> Tensor:
    h = o.beta * (s.chosen_ratios - s.rejected_ratios)
    return torch.sigmoid(o.beta * s.chosen_ratios) + torch.sigmoid(-h)


def _discopop(s: Scores, o: Options) -> Tensor:
    h = o.beta * _delta(s, o)
    share = torch.sigmoid(h / o.tau)
    return -logsigmoid(h) * (1 - share) + torch.exp(-h) * share


def _kto(s: Scores, o: Options) -> Tensor:
    z = 0.0 if s.kl is None else s.kl
    good = torch.sigmoid(-o.beta * (s.chosen_ratios - z))
    bad = torch.sigmoid(-o.beta * (z - s.rejected_ratios))
    return 0.5 * (o.desirable * good + o.undesirable * bad)


def _sft(s: Scores, o: Options) -> Tensor:
    share = (
        len(s.chosen) / s.chosen_tokens.sum().clamp(min=1) if s.per_token is None else s.per_token
    )
    return -s.chosen * share


def _orpo(s: Scores, o: Options) -> Tensor:
    w, l_ = s.chosen / s.chosen_tokens.clamp(min=1), s.rejected / s.rejected_tokens.clamp(min=1)
    odds = (w - l_) - (_log1mexp(w) - _log1mexp(l_))
    return o.nll * _sft(s, o) - o.beta * logsigmoid(odds)


def _simpo(s: Scores, o: Options) -> Tensor:
    w, l_ = s.chosen / s.chosen_tokens.clamp(min=1), s.rejected / s.rejected_tokens.clamp(min=1)
    return _smoothed(o.beta * (w - l_) - o.gamma, o)


def _cpo(s: Scores, o: Options) -> Tensor:
    return _smoothed(o.beta * (s.chosen - s.rejected), o) + o.nll * _sft(s, o)


def _log1mexp(x: Tensor) -> Tensor:
    """log(1 - exp(x)) for x < 0, exact on both sides of -log 2."""
    x = x.clamp(max=-1e-6)
    near = torch.log(-torch.expm1(x.clamp(min=-math.log(2))))
    return torch.where(x > -math.log(2), near, torch.log1p(-torch.exp(x)))


LOSSES: dict[str, Callable[[Scores, Options], Tensor]] = {
    "sigmoid": _sigmoid, "ipo": _ipo, "hinge": _hinge, "kto": _kto, "robust": _robust,
    "exo": _exo, "nca": _nca, "bco": _bco, "sppo": _sppo, "aot": _aot,
    "aot_unpaired": _aot_unpaired, "apo_zero": _apo_zero, "apo_down": _apo_down,
    "discopop": _discopop, "sigmoid_norm": _sigmoid_norm, "sft": _sft, "orpo": _orpo,
    "simpo": _simpo, "cpo": _cpo,
}  # fmt: skip
"""Name to the loss: (n,) of scores and constants."""

ALIASES = {
    "exo_pair": "exo", "nca_pair": "nca", "bco_pair": "bco", "sppo_hard": "sppo", "dpo": "sigmoid",
    "cdpo": "sigmoid",
}  # fmt: skip
"""Names that other libraries use."""

NEEDS_NO_REFERENCE = {"sft", "orpo", "simpo", "cpo"}

_SMOOTHED = {
    "sigmoid", "sigmoid_norm", "robust", "exo", "aot", "aot_unpaired", "simpo", "cpo",
}  # fmt: skip
_DIVERGED = {"sigmoid", "sigmoid_norm", "hinge", "ipo", "exo", "robust", "discopop"}


def checked_losses(loss: str | Mapping[str, float], o: Options) -> dict[str, float]:
    """Returns names and weights of the losses that are added.

    Args:
        loss: A name, or names with weights.
        o: Constants.

    Raises:
        ValueError: An unknown name, or a constant that a loss does not take.
    """
    given = {loss: 1.0} if isinstance(loss, str) else dict(loss)
    weights = {ALIASES.get(name, name): float(weight) for name, weight in given.items()}
    unknown = [name for name in weights if name not in LOSSES]
    if unknown or not weights:
        raise ValueError(f"loss={loss!r} is none of {', '.join(LOSSES)}")
    if not o.beta > 0:
        raise ValueError(f"beta={o.beta}: above 0; 0.1 is usual, 2 with simpo")
    if not 0 <= o.label_smoothing < 0.5:
        raise ValueError(
            f"label_smoothing={o.label_smoothing}: the share of labels that are wrong, from 0 to "
            "below 0.5"
        )
    if o.label_smoothing and not _SMOOTHED & weights.keys():
        raise ValueError(
            f"label_smoothing={o.label_smoothing} has no meaning for {', '.join(weights)}; it has "
            f"for {', '.join(sorted(_SMOOTHED))}"
        )
    if o.divergence not in ("reverse_kl", "forward_kl", "js", "alpha"):
        raise ValueError(
            f"divergence={o.divergence!r} is none of reverse_kl, forward_kl, js, alpha"
        )
    if o.divergence != "reverse_kl" and not weights.keys() <= _DIVERGED:
        raise ValueError(
            f"divergence={o.divergence!r} is known for {', '.join(sorted(_DIVERGED))}, not for "
            f"{', '.join(weights.keys() - _DIVERGED)}"
        )
    if o.ipo not in ("token", "sum"):
        raise ValueError(f"ipo={o.ipo!r}: 'token' (means of log-ratios) or 'sum'")
    return weights


def pair_losses(weights: Mapping[str, float], s: Scores, o: Options) -> Tensor:
    """Returns the (n,) weighted losses.

    Args:
        weights: What `checked_losses` returned.
        s: Scores.
        o: Constants.
    """
    return torch.stack([weight * LOSSES[name](s, o) for name, weight in weights.items()]).sum(0)


def rewards(weights: Mapping[str, float], s: Scores, o: Options) -> tuple[Tensor, Tensor]:
    r"""Returns the (n,) implicit rewards of both answers, without gradient.

    $\beta \ell$, or what takes its place where there is no reference.

    Args:
        weights: What `checked_losses` returned.
        s: Scores.
        o: Constants.
    """
    chosen, rejected = s.chosen_ratios.detach(), s.rejected_ratios.detach()
    if weights.keys() <= {"simpo", "orpo"}:
        chosen = chosen / s.chosen_tokens.clamp(min=1)
        rejected = rejected / s.rejected_tokens.clamp(min=1)
    return o.beta * chosen, o.beta * rejected
