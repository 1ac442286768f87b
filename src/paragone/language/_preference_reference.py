r"""Log-probabilities of a reference that stays: scored once, kept on disk by content.

Every preference loss reads $\log \pi_0(y|x)$ of each answer, and neither $\pi_0$ nor the answers
change: half of the forward passes of a run, and the second model in memory, are not needed. A
number is kept under the hash of what it follows from, so that no change of weights, tokenizer,
template or data can bring back a wrong one:

$$ \text{file} = h(\text{config}, \text{weights}), \qquad
   \text{key} = h(\text{prompt's tokens}, \text{answer's tokens}, \text{which are scored}) . $$

References:
    Rafailov et al. (2023), arXiv:2305.18290, eq. 7 (what the reference is for).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from paragone.language._preference_forward import (
    Group,
    hidden_states,
    pack_groups,
    token_scores,
)
from paragone.training.run_folder import write_whole

__all__ = [
    "Kept", "answer_key", "checked_reference", "group_scores", "parts_of", "token_scores_of",
    "weights_hash",
]  # fmt: skip

_TOKENS = 4096


def weights_hash(model: nn.Module) -> str:
    """Returns a hash of configuration, names, shapes, types and values.

    Args:
        model: A `Llama`.
    """
    found = hashlib.blake2b(repr(getattr(model, "config", None)).encode(), digest_size=16)
    for name, value in sorted(model.state_dict().items()):
        found.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        found.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def answer_key(prompt: Sequence[int], answer: Sequence[int], scored: Sequence[bool] | None) -> str:
    """Returns the hash under which an answer's log-probability is kept.

    Args:
        prompt: Tokens.
        answer: Tokens.
        scored: Which of the answer's tokens count (None: all).
    """
    marks = np.ones(len(answer), np.int64) if scored is None else np.asarray(scored, np.int64)
    sizes = np.array([len(prompt), len(answer)], np.int64)
    parts = (sizes, np.asarray(prompt, np.int64), np.asarray(answer, np.int64), marks)
    return hashlib.blake2b(b"".join(p.tobytes() for p in parts), digest_size=16).hexdigest()


def checked_reference(model: nn.Module, reference: nn.Module) -> None:
    """Raises if the reference is, or shares weights with, what will be trained.

    Args:
        model: What is trained.
        reference: What stays.

    Raises:
        ValueError: They are one object, or share a tensor.
    """
    trained = {p.data_ptr() for p in model.parameters() if p.requires_grad and p.numel()}
    shared = [n for n, p in reference.named_parameters() if p.data_ptr() in trained]
    if reference is model or shared:
        raise ValueError(
            "the reference is the model that is trained"
            + (f" (it shares {shared[0]})" if reference is not model else "")
            + ": it would move with it and every log-ratio would stay 0; leave reference=None for "
            "the start of the run, or give copy.deepcopy(model)"
        )


class Kept:
    """Numbers by key, in memory and, if there is a folder, on disk.

    Args:
        name: Hash of the weights.
        folder: "auto" for the user's cache, a folder, or None for memory alone.

    Attributes:
        found: How many answers were known.
        scored: How many were not.
    """

    def __init__(
        self, name: str, folder: str | os.PathLike[str] | Literal["auto"] | None = "auto"
    ) -> None:
        if folder == "auto":
            home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
            folder = home / "paragone" / "reference"
        self.path = None if folder is None else Path(folder) / f"{name}.npz"
        self.numbers: dict[str, float] = {}
        self.found = self.scored = 0
        if self.path is not None and self.path.exists():
            self._read(self.path)

    def _read(self, path: Path) -> None:
        try:
            with np.load(path, allow_pickle=False) as file:
                keys, values = file["keys"].tolist(), file["values"].tolist()
        except (OSError, ValueError, KeyError) as error:
            raise ValueError(
                f"{path}: expected kept log-probabilities, could not read it; delete the file"
            ) from error
        self.numbers = dict(zip(keys, values, strict=True))

    def of(self, groups: Sequence[Group], score: Callable[[Iterable[Group]], list[float]]) -> list:
        """Returns the numbers of all answers, group after group; the unknown ones are scored.

        Args:
            groups: Prompts with answers.
            score: Groups to log-probabilities of their answers, in order.
        """
        keys = [
            [
                answer_key(g.prompt, a, None if g.scored is None else g.scored[at])
                for at, a in enumerate(g.answers)
            ]
            for g in groups
        ]
        new = [at for at, row in enumerate(keys) if any(key not in self.numbers for key in row)]
        self.scored += sum(len(keys[at]) for at in new)
        self.found += sum(map(len, keys)) - sum(len(keys[at]) for at in new)
        if new:
            values = score([groups[at] for at in new])
            flat = [key for at in new for key in keys[at]]
            self.numbers.update(zip(flat, values, strict=True))
            self._write()
        return [[self.numbers[key] for key in row] for row in keys]

    def _write(self) -> None:
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        buffer = BytesIO()
        keys = np.array(list(self.numbers), dtype="U32")
        np.savez(buffer, keys=keys, values=np.array(list(self.numbers.values()), np.float64))
        write_whole(self.path, buffer.getvalue())


@torch.no_grad()
def token_scores_of(
    model: Any, groups: Iterable[Group], temperature: float = 1.0, tokens: int = _TOKENS
) -> list[Tensor]:
    """Returns the log-probabilities of the scored tokens, a tensor for each answer.

    Args:
        model: A `Llama`; dropout is off meanwhile.
        groups: Prompts with answers.
        temperature: What logits are divided by.
        tokens: About how many tokens are forwarded at once.
    """
    training = model.training
    model.eval()
    device = model.lm_head.weight.device
    found: list[Tensor] = []
    for few in parts_of(groups, tokens):
        packed = pack_groups(few, device=device)
        scores = token_scores(model, packed, hidden_states(model, packed), temperature)
        found += scores.split(packed.counts.tolist())
    model.train(training)
    return found


def group_scores(model: Any, groups: Iterable[Group], tokens: int = _TOKENS) -> list[float]:
    """Returns the summed log-probabilities of all answers, group after group.

    Args:
        model: A `Llama`; dropout is off meanwhile.
        groups: Prompts with answers.
        tokens: About how many tokens are forwarded at once.
    """
    scores = token_scores_of(model, groups, tokens=tokens)
    return torch.stack([one.double().sum() for one in scores]).tolist() if scores else []


def parts_of(groups: Iterable[Group], tokens: int) -> Iterator[list[Group]]:
    """Yields runs of groups of about so many tokens.

    Args:
        groups: Prompts with answers.
        tokens: Most tokens of a run, unless one group has more.
    """
    part: list[Group] = []
    count = 0
    for group in groups:
        size = len(group.prompt) + sum(map(len, group.answers))
        if part and count + size > tokens:
            yield part
            part, count = [], 0
        part.append(group)
        count += size
    if part:
        yield part
