r"""Mixture of experts: a feed-forward of which each token uses a few parts.

A router scores the E experts in float32; K of them are chosen, by score and a bias that knows how
busy each is, and their outputs are mixed by the scores alone:

$$ s_e = \sigma(r_e^\top x) \ \text{or}\ \mathrm{softmax}_e(r_e^\top x), \qquad
   C = \mathrm{top}_K(s_e + b_e), \qquad
   y = \lambda \sum_{e \in C} \frac{s_e}{\sum_{c \in C} s_c} \mathrm{FFN}_e(x)
     + \mathrm{FFN}_{\text{shared}}(x) . $$

With groups, only the experts of the best groups are looked at; a group's score is the sum of its
two best $s_e + b_e$. Two ways keep experts equally busy. Without a loss: after each step

$$ b_e \leftarrow b_e + u\, \mathrm{sign}(\bar c - c_e), $$

with $c_e$ the tokens that chose e, a rule that no gradient disturbs. With one: the loss
$E \sum_e f_e P_e$ of shares chosen and mean scores, 1 where all are alike. Padding is sent to no
expert and counts in neither.

Cost: K / E of the arithmetic of a dense feed-forward of as many weights.

References:
    Shazeer et al. (2017), arXiv:1701.06538, eq. 1; Fedus et al. (2022), arXiv:2101.03961, eq. 4-6.
    Jiang et al. (2024), Mixtral, arXiv:2401.04088, section 2.1.
    Wang et al. (2024), arXiv:2408.15664, algorithm 1 (balance without a loss).
    DeepSeek-AI (2024), DeepSeek-V3, arXiv:2412.19437, eq. 12-16.

Shapes: B rows, T time, N = B T tokens, M model width, E experts, K chosen, F hidden units.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from paragone.language._moe_feed import FeedForward
from paragone.language.config import LlamaConfig
from paragone.language.ops.experts import routed_experts

__all__ = ["Experts", "MixtureOfExperts", "Router", "balance_experts"]


class Router(nn.Module):
    """Chooses experts; `weight` is trained, `e_score_correction_bias` is set by balance alone.

    Args:
        config: Sizes and switches.
        device: Device of the parameters.
        dtype: Type of the weight; scores are float32 whatever it is.
    """

    e_score_correction_bias: Tensor

    def __init__(self, config: LlamaConfig, *, device: Any = None, dtype: Any = None):
        super().__init__()
        self.config = config
        experts = config.n_routed_experts
        self.weight = nn.Parameter(
            torch.empty(experts, config.hidden_size, device=device, dtype=dtype)
        )
        bias = torch.zeros(experts, device=device, dtype=torch.float32)
        self.register_buffer("e_score_correction_bias", bias)

    def _apply(self, fn: Any, recurse: bool = True) -> Router:
        """The bias keeps its type: in bfloat16 its steps would be lost."""
        super()._apply(fn, recurse)
        self.e_score_correction_bias = self.e_score_correction_bias.float()
        return self

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(N, M) to scores (N, E), chosen experts (N, K) and their weights (N, K), float32."""
        config = self.config
        with torch.autocast(x.device.type, enabled=False):
            logits = functional.linear(_wide(x), _wide(self.weight))
        sigmoid = config.scoring_func == "sigmoid"
        scores = logits.sigmoid() if sigmoid else logits.softmax(-1)
        choice = scores.detach() + self.e_score_correction_bias
        if config.n_group > 1:
            groups = choice.unflatten(-1, (config.n_group, -1))
            best = groups.topk(min(2, groups.shape[-1]), -1).values.sum(-1)
            kept = torch.zeros_like(best, dtype=torch.bool)
            kept.scatter_(1, best.topk(config.topk_group, -1).indices, True)
            choice = groups.masked_fill(~kept[..., None], -torch.inf).flatten(1)
        chosen = choice.topk(config.num_experts_per_tok, -1).indices
        weights = scores.gather(1, chosen)
        if config.norm_topk_prob:
            weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
        return scores, chosen, weights * config.routed_scaling_factor


class Experts(nn.Module):
    """The weights of all experts, stacked: gate_up_proj (E, 2 F, M), down_proj (E, M, F).

    Args:
        config: Sizes and switches.
        device: Device of the parameters.
        dtype: Type of the parameters.
    """

    def __init__(self, config: LlamaConfig, *, device: Any = None, dtype: Any = None):
        super().__init__()
        count, width, inner = config.n_routed_experts, config.hidden_size, config.expert_inner
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        self.gate_up_proj = nn.Parameter(torch.empty(count, 2 * inner, width, **where))
        self.down_proj = nn.Parameter(torch.empty(count, width, inner, **where))

    def forward(self, x: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        """(N, M), (N, K) and (N, K) to (N, M)."""
        parts = (x, self.gate_up_proj, self.down_proj)
        kind = x.device.type
        if torch.is_autocast_enabled(kind):
            parts = tuple(part.to(torch.get_autocast_dtype(kind)) for part in parts)
        x, gate_up, down = parts
        return routed_experts(x, chosen, weights.to(x.dtype), gate_up, down)


class MixtureOfExperts(nn.Module):
    """A router, the experts it chooses from, and shared ones that every token passes.

    Prefer it to a dense feed-forward when weights are cheap and arithmetic is not: at equal time
    a step it holds E / K times the weights. Prefer the dense one when memory is what decides, as
    in decoding one text on a CPU.

    Args:
        config: `n_routed_experts`, `num_experts_per_tok`, `moe_intermediate_size`,
            `n_shared_experts`, `scoring_func`, `n_group` and their kin are read.
        device: Device of the parameters.
        dtype: Type of the parameters.

    Attributes:
        load: (E,) tokens that chose each expert in training since the last `rebalance`, or None.
        balance_loss: The loss that evens out loads, of the last call; None unless training with
            `router_aux_loss_coef` above 0.

    Raises:
        ValueError: Sizes that do not fit.

    Example:
        >>> config = LlamaConfig(hidden_size=32, num_attention_heads=4, n_routed_experts=8)
        >>> MixtureOfExperts(config)(torch.randn(2, 5, 32)).shape
        torch.Size([2, 5, 32])
    """

    def __init__(self, config: LlamaConfig, *, device: Any = None, dtype: Any = None):
        super().__init__()
        if config.n_routed_experts < 1:
            raise ValueError(f"n_routed_experts={config.n_routed_experts}: at least 1")
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        self.config = config
        self.gate = Router(config, **where)
        self.experts = Experts(config, **where)
        self.shared_experts = None
        if config.n_shared_experts:
            inner = config.expert_inner * config.n_shared_experts
            self.shared_experts = FeedForward(config.hidden_size, inner, **where)
        self.load: Tensor | None = None
        self.balance_loss: Tensor | None = None
        self.reset_parameters()

    def reset_parameters(
        self, generator: torch.Generator | None = None, scale: float = 1.0
    ) -> None:
        """Draws matrices of standard deviation 0.02; those that write to the stream, `scale` of it.

        Args:
            generator: Source of the weights (None: torch's own).
            scale: Factor of the last matrix of each expert.
        """
        drawn = ((self.gate.weight, 1.0), (self.experts.gate_up_proj, 1.0),
                 (self.experts.down_proj, scale))  # fmt: skip
        for weight, factor in drawn:
            if not weight.is_meta:
                nn.init.normal_(weight, std=0.02 * factor, generator=generator)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Sends each token to its experts.

        Args:
            x: (B, T, M).
            lengths: (B,) tokens of each row that count (None: all). What follows them is sent to
                no routed expert.

        Returns:
            (B, T, M).
        """
        flat = x.flatten(0, -2)
        scores, chosen, weights = self.gate(flat)
        there = _there(x, lengths)
        if there is not None:
            chosen = chosen.masked_fill(~there[:, None], self.config.n_routed_experts)
        if self.training:
            self._note(scores, chosen, there)
        y = self.experts(flat, chosen, weights).view_as(x)
        return y if self.shared_experts is None else y + self.shared_experts(x)

    @torch.no_grad()
    def rebalance(self, rate: float = 1e-3) -> float | None:
        """Moves the bias of busy experts down and that of idle ones up; forgets the loads.

        Under `torch.distributed` loads are summed over the ranks first.

        Args:
            rate: u, how far a bias moves.

        Returns:
            Largest load over the mean, 1 where all are equally busy; None if nothing was seen.
        """
        load, self.load = self.load, None
        if load is None:
            return None
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(load)
        counts = load.double()
        mean = counts.mean()
        bias = self.gate.e_score_correction_bias
        bias += rate * torch.sign(mean - counts).to(bias)
        return float(counts.max() / mean) if mean > 0 else None

    def _note(self, scores: Tensor, chosen: Tensor, there: Tensor | None) -> None:
        experts = self.config.n_routed_experts
        with torch.no_grad():
            count = torch.bincount(chosen.flatten(), minlength=experts)[:experts]
            self.load = count if self.load is None else self.load.to(count.device) + count
        self.balance_loss = None
        if self.config.router_aux_loss_coef > 0:
            shares = scores / scores.sum(-1, keepdim=True)
            if there is not None:
                shares = shares * there[:, None]
            tokens = count.sum().clamp(min=1) / self.config.num_experts_per_tok
            each = count / (tokens * self.config.num_experts_per_tok)
            self.balance_loss = experts * (each * (shares.sum(0) / tokens)).sum()


def balance_experts(model: nn.Module, rate: float = 1e-3) -> float | None:
    """Rebalances every mixture of a model; to be called after each step of the optimizer.

    Args:
        model: Any module.
        rate: How far a bias moves.

    Returns:
        The largest load over the mean of any layer; None where there are no experts.
    """
    found = [part.rebalance(rate) for part in model.modules() if isinstance(part, MixtureOfExperts)]
    return max((one for one in found if one is not None), default=None)


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _there(x: Tensor, lengths: Tensor | None) -> Tensor | None:
    """(N,) whether a token is no padding; None where none is."""
    if lengths is None or x.ndim != 3 or len(lengths) != x.shape[0]:
        return None
    return (torch.arange(x.shape[1], device=x.device) < lengths[:, None]).flatten()
