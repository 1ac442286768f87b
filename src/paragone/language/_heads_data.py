r"""What draft heads learn from: the model's own words, and the streams behind them.

A draft is right if it is what the model itself would say. So heads are taught on text that the
model has drawn, not on text that others wrote,

$$ x_{1..p} \sim \text{texts}, \qquad x_{t+1} \sim p_\theta(\,\cdot \mid x_{\le t})^{1/\tau},
   \qquad h_t = \mathrm{norm}(\text{stream of } x_{\le t}) , $$

and a head at t reads $h_t$ to guess $x_{t+k}$. Chat models in particular say other things than
their training texts do.

Cost: drawing takes 2 N operations a token, streams as much again.

References:
    Cai et al. (2024), "Medusa", arXiv:2401.10774, section 2.3.2 (self-distillation).
    DeepSeek-AI (2024), arXiv:2412.19437, section 2.2 (streams that are read behind the norm).

Shapes: R rows, T tokens of the longest, M model width.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from paragone.language.corpus import read_texts
from paragone.language.engine import engine_of
from paragone.language.fitting import Progressed
from paragone.language.generate import sample_batch
from paragone.language.packing import IGNORED
from paragone.language.sampling import Sampling

__all__ = ["HeadBatch", "own_samples", "padded", "streams"]

_TOGETHER = 128
_TELL_EVERY = 2.0


@dataclasses.dataclass(frozen=True)
class HeadBatch:
    """Rows of tokens, and the streams that heads read.

    Attributes:
        tokens: (R, T) int64; zeros behind the end of a row.
        lengths: (R,) tokens of each row, as `Llama` and its blocks take them.
        hidden: (R, T, M) normalised streams; with a gradient where the model is trained, too.
        balance_loss: That of the model's experts where it is trained, else None.
    """

    tokens: Tensor
    lengths: Tensor
    hidden: Tensor
    balance_loss: Tensor | None = None

    def ahead(self, count: int) -> Tensor:
        """(R, T) the token `count` places ahead in the same row, -100 where there is none.

        The model's own head predicts `ahead(1)`; Medusa's k-th head, from 0, `ahead(k + 2)`.

        Example:
            >>> tokens, lengths = torch.tensor([[5, 6, 7]]), torch.tensor([3])
            >>> HeadBatch(tokens, lengths, torch.zeros(1, 3, 2)).ahead(2)
            tensor([[   7, -100, -100]])
        """
        return self.shifted(count, IGNORED)

    def shifted(self, count: int, nothing: int = 0) -> Tensor:
        """(R, T) the token `count` places ahead, and `nothing` where there is none."""
        found = torch.full_like(self.tokens, nothing)
        time = self.tokens.shape[1]
        if count < time:
            found[:, : time - count] = self.tokens[:, count:]
        place = torch.arange(time, device=self.tokens.device)
        return found.masked_fill_(place + count >= self.lengths[:, None], nothing)


def own_samples(
    model: Any,
    tokenizer: Any,
    texts: Any = None,
    tokens: int = 300_000,
    *,
    temperature: float = 1.0,
    prefix: tuple[int, int] = (4, 32),
    length: int | None = None,
    seed: int = 0,
    progress: Callable[[Progressed], None] | None = None,
) -> list[np.ndarray]:
    """The model's own continuations of beginnings of texts.

    Args:
        model: A `Llama`, or an `Engine` made of one.
        tokenizer: Its `Tokenizer`; None if `texts` are token ids, or None.
        texts: Whatever `read_texts` takes; a list of token ids; or None: the model begins by
            itself, behind the token of the beginning (BOS).
        tokens: How many to draw, about; beginnings come again where there are too few of them.
        temperature: Of the draws. 0 fits greedy decoding best, and then no beginning comes twice,
            so that there may be fewer tokens.
        prefix: Fewest and most tokens of a beginning; the number is drawn for each row.
        length: Most tokens of a row, its beginning included (None: 256, or the model's most).
        seed: Of the draws.
        progress: Told now and then.

    Returns:
        (T,) int64 tokens of each row, those of its beginning included.

    Raises:
        ValueError: A number out of range, no beginning, or temperature 0 with a single one.
    """
    engine = engine_of(model)
    longest = engine.config.max_position_embeddings
    length = min(256, longest) if length is None else length
    low, high = prefix
    if tokens < 1 or not 1 <= low <= high < length:
        raise ValueError(
            f"tokens={tokens}, prefix={prefix}, length={length}: at least 1 token, and "
            "1 <= fewest <= most < length are expected"
        )
    if length > longest:
        raise ValueError(f"length={length}: the model was made for {longest} tokens")
    if texts is None and temperature == 0:
        raise ValueError(
            "temperature=0 without texts: every row would be the same; give texts, or a temperature"
        )
    beginnings = _beginnings(engine.config, tokenizer, texts, prefix, length, seed)
    ends = set(engine.config.eos)
    if tokenizer is not None and tokenizer.eos_id is not None:
        ends.add(tokenizer.eos_id)
    found: list[np.ndarray] = []
    drawn, told = 0, time.monotonic()
    for round_, prompts in enumerate(_rounds(beginnings, repeat=temperature > 0)):
        missing = -(-(tokens - drawn) // max(length - high, 1))
        prompts = prompts[: max(1, missing)]
        own = Sampling(temperature=temperature, seed=_seed(seed, round_))
        samples = sample_batch(engine, prompts, own, length - low, sorted(ends))
        for prompt, ids in zip(prompts, samples.ids, strict=True):
            found.append(np.concatenate([np.asarray(prompt, np.int64), ids])[:length])
            drawn += len(found[-1]) - len(prompt)
        if progress is not None and time.monotonic() - told > _TELL_EVERY:
            told = time.monotonic()
            progress(Progressed("note", text=f"{drawn:,} of {tokens:,} own tokens drawn"))
        if drawn >= tokens:
            break
    return found


def _seed(seed: int, round_: int) -> int:
    """A seed whose neighbours are no other round's."""
    words = np.random.SeedSequence([seed, round_, 0x6F776E]).generate_state(1, np.uint64)
    return int(words[0] >> np.uint64(1))


def _rounds(beginnings: Iterator[list[int]], repeat: bool) -> Iterator[list[list[int]]]:
    """Lists of beginnings; with `repeat` from the start again when they have come to an end."""
    seen: list[list[int]] = []
    part: list[list[int]] = []
    for beginning in beginnings:
        seen.append(beginning)
        part.append(beginning)
        if len(part) == _TOGETHER:
            yield part
            part = []
    if not seen:
        raise ValueError(
            "there is no beginning to go on from: give texts that hold a token or more"
        )
    if part and not repeat:
        yield part
    at = len(seen) - len(part)
    while repeat:
        yield [seen[(at + i) % len(seen)] for i in range(_TOGETHER)]
        at += _TOGETHER


def _beginnings(
    config: Any, tokenizer: Any, texts: Any, prefix: tuple[int, int], length: int, seed: int
) -> Iterator[list[int]]:
    """First tokens of texts, and of every further stretch of `length` tokens of long ones."""
    if texts is None:
        bos = config.bos_token_id if tokenizer is None else tokenizer.bos_id
        if bos is None:
            raise ValueError("the model has no token of the beginning (BOS): give texts")
        yield [int(bos)]
        return
    generator = np.random.default_rng([seed, 0x626567])
    for ids in _encoded(tokenizer, texts):
        for first in range(0, len(ids), length):
            count = int(generator.integers(prefix[0], prefix[1] + 1))
            part = ids[first : first + count]
            if len(part) >= min(prefix[0], len(ids)):
                yield [int(token) for token in part]


def _encoded(tokenizer: Any, texts: Any) -> Iterator[Sequence[int]]:
    first = texts[0] if isinstance(texts, Sequence) and len(texts) else None
    if isinstance(first, Sequence | np.ndarray) and not isinstance(first, str):
        yield from (ids for ids in texts if len(ids))
        return
    if tokenizer is None:
        raise ValueError("texts are text: a tokenizer is needed")
    for text in read_texts(texts).texts:
        yield tokenizer.encode(text, bos=True)


def padded(rows: Sequence[np.ndarray], device: Any = None) -> tuple[Tensor, Tensor]:
    """Rows as (R, T) tokens with zeros behind their ends, and their (R,) lengths.

    Example:
        >>> padded([np.array([1, 2, 3]), np.array([4])])
        (tensor([[1, 2, 3],
                [4, 0, 0]]), tensor([3, 1]))
    """
    lengths = torch.tensor([len(row) for row in rows], dtype=torch.int64)
    tokens = torch.zeros(len(rows), int(lengths.max()) if len(rows) else 0, dtype=torch.int64)
    for at, row in enumerate(rows):
        tokens[at, : len(row)] = torch.from_numpy(np.asarray(row, np.int64))
    return tokens.to(device), lengths.to(device)


def streams(model: Any, rows: Sequence[np.ndarray]) -> HeadBatch:
    """The normalised streams of a frozen model over rows of tokens.

    Args:
        model: A `Llama`; it is read as in evaluation, and no gradient is kept.
        rows: (T,) tokens of each row.

    Returns:
        Tokens, lengths and streams, on the model's device; streams behind a row's end are of no
        use.
    """
    tokens, lengths = padded(rows, model.lm_head.weight.device)
    before = model.training
    model.eval()
    with torch.no_grad():
        # Rows of one length need no mask.
        same = bool((lengths == tokens.shape[1]).all())
        hidden = model(tokens, lengths=None if same else lengths, logits=False).hidden
    model.train(before)
    return HeadBatch(tokens, lengths, hidden)
