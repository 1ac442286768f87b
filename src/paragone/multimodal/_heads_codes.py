r"""Patches as codes of a codebook: the discrete rival of continuous heads.

$$ k(x) = \arg\min_k \lVert x - c_k \rVert^2 , \qquad
   L = -\log \operatorname{softmax}(W h)_{k(x)} $$

The codebook is found by k-means: by `fit` before training, or by a running mean of the patches
that training sees, where codes that nobody uses are moved onto patches far from all codes. The
Transformer is shown the codes, too: what they leave out is lost to reading as well as to drawing.

References:
    van den Oord et al. (2017), arXiv:1711.00937, appendix A.1 (the running mean).
    Lloyd (1982), "Least squares quantization in PCM".

Shapes: N patches, M width of states, P numbers of a patch, K codes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from paragone.multimodal._heads_draws import Generators, uniforms
from paragone.multimodal.patch_heads import PatchHead

__all__ = ["CodeHead", "kmeans"]


class CodeHead(PatchHead):
    """A softmax over the codes of patches.

    Prefer it to `DiffusionHead` where drawing must be fast and small detail does not matter.

    Args:
        width: Width M of the states.
        size: Numbers P of a patch.
        codes: Codes K.
        decay: Of the running means of codes.
        **common: Further arguments of `PatchHead`.

    Raises:
        ValueError: Numbers out of range.
    """

    codebook: Tensor
    sums: Tensor
    counts: Tensor
    fitted: Tensor

    def __init__(
        self,
        width: int,
        size: int,
        *,
        codes: int = 256,
        decay: float = 0.99,
        **common: Any,
    ) -> None:
        super().__init__(width, size, **common)
        device, dtype = common.get("device"), common.get("dtype")
        wide = torch.promote_types(dtype or torch.get_default_dtype(), torch.float32)
        if codes < 2 or not 0 < decay < 1:
            raise ValueError(f"codes={codes}, decay={decay}; 2 and more, 0 to 1 are expected")
        self.codes, self.decay = codes, decay
        self.linear = nn.Linear(width, codes, device=device, dtype=dtype)
        for name in ("codebook", "sums", "counts"):
            shape = (codes,) if name == "counts" else (codes, size)
            self.register_buffer(name, torch.zeros(shape, device=device, dtype=wide))
        # 0: no codebook yet, 1: a running mean, 2: fitted and fixed.
        self.register_buffer("fitted", torch.zeros((), dtype=torch.long, device=device))

    def nearest(self, patches: Tensor) -> Tensor:
        """(N, P) patches to the (N,) numbers of their codes; of equal ones the lowest."""
        return nearest(patches, self.codebook)

    def shown(self, patches: Tensor) -> Tensor:
        """Patches (..., P) as their codes; a picture of training also teaches the codebook."""
        flat = patches.detach().reshape(-1, self.size)
        if self.training and torch.is_grad_enabled() and int(self.fitted) < 2:
            self._learn(flat)
        elif not int(self.fitted):
            return patches
        return self.codebook[self.nearest(flat)].view(patches.shape).to(patches.dtype)

    @torch.no_grad()
    def fit(self, patches: Tensor, *, rounds: int = 25, seed: int = 0) -> float:
        """Fits the codebook and fixes it; returns the mean squared error a number.

        Args:
            patches: (N, P), at least as many as codes that differ.
            rounds: Most rounds of k-means.
            seed: Of the start.

        Raises:
            ValueError: Another shape.
        """
        if patches.ndim != 2 or patches.shape[1] != self.size or not len(patches):
            raise ValueError(f"patches: {tuple(patches.shape)}; (N, {self.size}) is expected")
        found = kmeans(patches.to(self.codebook), self.codes, rounds, seed)
        self._start(found, 2)
        return float((patches.to(found) - found[nearest(patches.to(found), found)]).square().mean())

    def _start(self, codebook: Tensor, state: int) -> None:
        self.codebook.copy_(codebook)
        self.sums.copy_(codebook)
        self.counts.fill_(1)
        self.fitted.fill_(state)

    @torch.no_grad()
    def _learn(self, patches: Tensor) -> None:
        patches = patches.to(self.codebook)
        if not int(self.fitted):
            self._start(kmeans(patches, self.codes, 5, 0), 1)
        at = self.nearest(patches)
        ones = torch.zeros_like(self.counts).index_add_(0, at, torch.ones_like(patches[:, 0]))
        sums = torch.zeros_like(self.sums).index_add_(0, at, patches)
        # A step of so many patches moves a mean by its share: the same for all sizes of batches.
        keep = self.decay ** max(len(patches) / self.codes, 1e-3)
        self.counts.mul_(keep).add_(ones, alpha=1 - keep)
        self.sums.mul_(keep).add_(sums, alpha=1 - keep)
        used = self.counts > 1e-3
        self.codebook[used] = self.sums[used] / self.counts[used, None]
        idle = (~used).nonzero()[:, 0]
        if len(idle) and len(patches):
            far = (patches - self.codebook[at]).square().sum(1).argsort(descending=True)
            idle = idle[: len(far)]
            self.codebook[idle] = patches[far[: len(idle)]]
            self.sums[idle], self.counts[idle] = self.codebook[idle], 1.0

    def loss(self, states: Tensor, patches: Tensor, generator: Generators = None) -> Tensor:
        """(N,) nats of the patches' codes."""
        self.checked(states, patches)
        if not int(self.fitted):
            raise ValueError(
                "no codebook yet: call `fit`, or show it patches in training (`shown`)"
            )
        logits = self.linear(states).float()
        return nn.functional.cross_entropy(logits, self.nearest(patches), reduction="none")

    @torch.no_grad()
    def sample(
        self,
        states: Tensor,
        generator: Generators = None,
        *,
        temperature: float = 1.0,
        steps: int | None = None,
        guidance: float = 1.0,
        unguided: Tensor | None = None,
    ) -> Tensor:
        """(N, P) codes; a temperature of 0 takes the likeliest."""
        self.checked(states)
        logits = self.linear(states).float()
        if unguided is not None:
            without = self.linear(unguided).float()
            logits = without + guidance * (logits - without)
        if temperature > 0:
            shares = (logits / temperature).double().softmax(1).cumsum(1)
            u = uniforms((len(states), 1), generator, device=states.device, dtype=torch.float64)
            at = (shares < u * shares[:, -1:]).sum(1)
        else:
            at = logits.argmax(1)
        return self.codebook[at].to(states.dtype)


def nearest(patches: Tensor, codebook: Tensor) -> Tensor:
    """(N,) numbers of the nearest of (K, P) codes, in single precision or better."""
    x, codes = patches.to(codebook).float(), codebook.float()
    scores = codes.square().sum(1) - 2 * x @ codes.T
    return scores.argmin(1)


@torch.no_grad()
def kmeans(patches: Tensor, codes: int, rounds: int, seed: int) -> Tensor:
    """(K, P) means of (N, P) patches; where there are fewer patches than codes, some repeat.

    Starts from patches drawn with a chance in proportion to the squared distance from those drawn
    before, several at a time; codes without patches move onto the patches worst served.
    """
    generator = torch.Generator().manual_seed(seed)
    means = patches[_spread(patches, codes, generator)].clone()
    for _ in range(rounds):
        at = nearest(patches, means)
        counts = torch.bincount(at, minlength=codes).to(means.dtype)
        sums = torch.zeros_like(means).index_add_(0, at, patches)
        after = torch.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], means)
        idle = (counts == 0).nonzero()[:, 0]
        if len(idle):
            far = (patches - after[at]).square().sum(1).argsort(descending=True)[: len(idle)]
            after[idle[: len(far)]] = patches[far]
        if torch.equal(after, means):
            break
        means = after
    return means


def _spread(patches: Tensor, codes: int, generator: torch.Generator) -> Tensor:
    count = len(patches)
    chosen = torch.randint(count, (1,), generator=generator).to(patches.device)
    gap = (patches - patches[chosen]).square().sum(1)
    while len(chosen) < codes:
        new = min(max(len(chosen), 1), codes - len(chosen))
        weights = gap.double().cpu().clamp(min=0) + 1e-12
        drawn = torch.multinomial(weights, new, replacement=new > count, generator=generator)
        drawn = drawn.to(patches.device)
        chosen = torch.cat([chosen, drawn])
        near = nearest(patches, patches[drawn])
        gap = torch.minimum(gap, (patches - patches[drawn][near]).square().sum(1))
    return chosen
