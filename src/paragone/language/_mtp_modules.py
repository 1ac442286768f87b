r"""Modules that predict further tokens: one behind the other (DeepSeek-V3), or side by side (Meta).

A module of the first kind reads what the one before it left, and the token that came of it; a head
of the second kind reads the trunk's stream alone:

$$ h^k_t = \mathrm{block}_k\big(C_k\,[\mathrm{norm}(E x_{t+k});\ \mathrm{norm}(h^{k-1}_t)]\big) ,
   \qquad g^k_t = \mathrm{block}_k(z_t) , \qquad p(x_{t+k+1}) = \mathrm{softmax}(W\,
   \mathrm{norm}(\cdot)) . $$

Streams are handed on behind the norm, as the model's own are. Parameters have the published names
within `model.layers.{L+k}`, so that files are read as they are.

References:
    DeepSeek-AI (2024), DeepSeek-V3, arXiv:2412.19437, eq. 21-23; the order of the halves of C is
    that of the published weights.
    Gloeckle et al. (2024), arXiv:2404.19737, section 2.

Shapes: B rows, T time, M model width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from paragone.language.config import LlamaConfig
from paragone.language.llama import Block, RMSNorm

__all__ = ["AheadModules", "ParallelHead", "SequentialModule", "drawn", "shifted"]


class _SharedHead(nn.Module):
    """The norm before the head, and the head where it is another one than the model's."""

    def __init__(self, norm: RMSNorm) -> None:
        super().__init__()
        self.norm = norm
        self.head: nn.Linear | None = None


class SequentialModule(Block):
    """A module of DeepSeek-V3: a block that reads a stream and the token that came of it.

    Args:
        config: That of the model.
        layer: Its number, L + k.
        device: Device of the parameters.
        dtype: Type of the parameters.
    """

    def __init__(self, config: LlamaConfig, layer: int, *, device: Any = None, dtype: Any = None):
        super().__init__(config, layer, device=device, dtype=dtype)
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        width, eps = config.hidden_size, config.rms_norm_eps
        self.embed_tokens: nn.Embedding | None = None
        self.enorm, self.hnorm = RMSNorm(width, eps, **where), RMSNorm(width, eps, **where)
        self.eh_proj = nn.Linear(2 * width, width, bias=False, **where)
        self.shared_head = _SharedHead(RMSNorm(width, eps, **where))

    def merged(self, embeddings: Tensor, streams: Tensor) -> Tensor:
        """What the block reads, of (…, M) embeddings and (…, M) streams."""
        return self.eh_proj(torch.cat([self.enorm(embeddings), self.hnorm(streams)], -1))

    def ahead(self, embeddings: Tensor, streams: Tensor, lengths: Tensor | None) -> Tensor:
        """(B, T, M) stream behind the norm."""
        h, _ = self(self.merged(embeddings, streams), None, None, lengths)
        return self.shared_head.norm(h)


class ParallelHead(Block):
    """A head of Meta's: a block on the trunk's stream; the norm is the model's, or its own.

    Args:
        config: That of the model.
        layer: Its number.
        own_norm: Whether it has a norm of its own.
        device: Device of the parameters.
        dtype: Type of the parameters.
    """

    def __init__(
        self, config: LlamaConfig, layer: int, *, own_norm: bool = False, device: Any = None,
        dtype: Any = None,
    ):  # fmt: skip
        super().__init__(config, layer, device=device, dtype=dtype)
        norm = RMSNorm(config.hidden_size, config.rms_norm_eps, device=device, dtype=dtype)
        self.shared_head = _SharedHead(norm) if own_norm else None

    def ahead(self, streams: Tensor, norm: nn.Module, lengths: Tensor | None) -> Tensor:
        """(B, T, M) stream behind the norm; `norm` is the model's."""
        h, _ = self(streams, None, None, lengths)
        return norm(h) if self.shared_head is None else self.shared_head.norm(h)


class AheadModules(nn.Module):
    """Modules, the nearest first.

    Args:
        layers: The modules.
    """

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)


def drawn(module: Block, scale: float, generator: torch.Generator | None) -> None:
    """First weights of a module, as `Llama` draws them."""
    for name, part in module.named_modules():
        draw: Any = getattr(part, "reset_parameters", None)
        if type(part).__name__ == "MixtureOfExperts":
            draw(generator, scale)
        if not isinstance(part, nn.Linear) or part.weight.is_meta:
            continue
        std = 0.02 * (scale if name.endswith(("o_proj", "down_proj")) else 1.0)
        nn.init.normal_(part.weight, std=std, generator=generator)
        if part.bias is not None:
            nn.init.zeros_(part.bias)


def shifted(x: Tensor, count: int, lengths: Tensor | None, nothing: int) -> Tensor:
    """What stands `count` places ahead in the same text, `nothing` where there is none.

    Args:
        x: (B, T) tokens or labels.
        count: How far.
        lengths: As `Llama` takes them: None, (B,), or with B = 1 those of packed documents.
        nothing: What stands behind the end.

    Example:
        >>> shifted(torch.tensor([[5, 6, 7, 8]]), 1, torch.tensor([3, 1]), 0)
        tensor([[6, 7, 0, 0]])
    """
    time = x.shape[1]
    place = torch.arange(time, device=x.device)
    if lengths is None:
        end = torch.full((1, time), time, device=x.device)
    elif len(lengths) == x.shape[0]:
        end = lengths.view(-1, 1).to(x.device).expand(-1, time)
    else:
        ends = lengths.to(x.device).cumsum(0)
        number = torch.bucketize(place, ends, right=True).clamp(max=len(ends) - 1)
        end = ends[number][None]
    found = torch.roll(x, -count, 1)
    return found.masked_fill(place + count >= end, nothing)
