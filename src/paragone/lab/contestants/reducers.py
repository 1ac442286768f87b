"""The contestants of the study `collectives` as they are called: open, a tensor, reduce, close.

Every rank of a run calls them in the same order, with a gloo group as the default one.
"""

from __future__ import annotations

from typing import Any

from paragone._core.lazy import resolve

__all__ = ["Gloo", "Ours", "Shared"]


class Gloo:
    """The all-reduce of `torch.distributed` on gloo."""

    def open(self) -> None:
        """The default group is gloo's already."""

    def tensor(self, count: int) -> Any:
        import torch

        return torch.empty(count)

    def reduce(self, tensor: Any) -> None:
        import torch.distributed as dist

        dist.all_reduce(tensor)

    def close(self) -> None:
        """Nothing is held."""


class Ours(Gloo):
    """An algorithm of `paragone.training.collectives` over gloo's `isend` and `irecv`.

    Args:
        algorithm: One of `collectives.ALGORITHMS` or "auto".
        target: The function.
        options: Its other arguments.
    """

    def __init__(self, algorithm: str, target: str, **options: Any) -> None:
        self.call, self.algorithm, self.options = resolve(target), algorithm, options

    def reduce(self, tensor: Any) -> None:
        self.call(tensor, self.algorithm, check=False, **self.options)


class Shared(Gloo):
    """The process group in shared memory, on tensors that lie in it or are copied.

    Args:
        target: `"paragone.training.shared_group"`.
        inside: Whether the tensor lies in shared memory.
    """

    def __init__(self, target: str, inside: bool = True) -> None:
        self.module, self.inside, self.group = resolve(target), inside, None

    def open(self) -> None:
        self.group = self.module.new_group()

    def tensor(self, count: int) -> Any:
        if self.inside:
            return self.module.shared_empty(count, group=self.group)
        return super().tensor(count)

    def reduce(self, tensor: Any) -> None:
        assert self.group is not None
        self.group.all_reduce(tensor)

    def close(self) -> None:
        assert self.group is not None
        self.group.shutdown()
