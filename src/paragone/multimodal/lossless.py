r"""Lossless pictures in a language model: raw patches in, raw patches out, no codebook between.

One Transformer reads texts and pictures as they are. A text token is predicted from the tokens
before it, and a picture is denoised where it stands: n rows of noise that see the text and each
other become n patches,

$$ \mathcal{L} = -\sum_i \log p(x_i \mid x_{<i})
   + \lambda \sum_{\text{patches}} \mathbb{E}_{t, \epsilon} \tfrac1P
     \lVert v - v_\theta(x_t, t \mid \text{before}) \rVert^2 . $$

A patch comes in by one linear map. Attention is causal over text and bidirectional within one
picture (`_lossless_rows` has the rule); places are points of the plane (`positions`), so that a
text alone is what it is in a plain language model, bit for bit. Noisy copies are seen by nobody
else; a picture that is finished is read again clean, at t = 0, before the text goes on. How a
picture comes out is a matter of its head: "flow" denoises all patches at once, the heads of
`patch_heads` go patch by patch.

Cost: 6 N operations a row in training for N weights; a picture of n patches has n rows as it is
read and n more for each noisy copy.

References:
    Su (2024), kexue.fm/archives/9984, 10197 (lossless input, its heads) and 10352 (places).
    Zhou et al. (2024), Transfusion, arXiv:2408.11039, section 3 (one Transformer, two losses).
    Bavishi et al. (2023), "Fuyu-8B" (raw patches by one linear map).

Shapes: B lines, T rows, M model width, V vocabulary, n patches, P numbers of a patch.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from paragone._core.lazy import resolve
from paragone.language.llama import Llama
from paragone.language.losses import token_loss
from paragone.multimodal._lossless_config import LosslessConfig, config_of
from paragone.multimodal._lossless_files import filled, read_model, write_model
from paragone.multimodal._lossless_flow import FlowHead
from paragone.multimodal._lossless_generate import Asked, continued
from paragone.multimodal._lossless_layout import Batch, Line, Scribe, batched
from paragone.multimodal._lossless_rows import PictureHead
from paragone.multimodal._lossless_trunk import Memory, through
from paragone.multimodal.contract import Losses, VisionLanguage
from paragone.multimodal.documents import Document, Part, as_documents, picture
from paragone.multimodal.patches import to_numbers
from paragone.training.run_folder import seeded

__all__ = ["MARKERS", "LosslessConfig", "LosslessTransformer", "make_head"]

MARKERS = ("<|image|>", "<|/image|>")
"""Tokens before and behind a picture, as `from_config(…, tokenizer=…)` adds them."""


def make_head(config: LosslessConfig, *, device: Any = None, dtype: Any = None) -> PictureHead:
    """The head that a configuration names: the trunk's own "flow", or one of `patch_heads`.

    Args:
        config: Its `head` and `head_options` count.
        device: Where the weights are.
        dtype: Their type.

    Raises:
        ValueError: A head of no such name, or options that it does not take.
    """
    width, options = config.text_config.hidden_size, dict(config.head_options)
    where = {"device": device, "dtype": dtype}
    if config.head != "flow":
        heads = resolve("paragone.multimodal.patch_heads:HEADS")
        if config.head not in heads:
            raise ValueError(f"head={config.head!r} is none of flow, {', '.join(heads)}")
        make = resolve("paragone.multimodal.patch_heads:make_head")
        return make(config.head, width, config.numbers, options, **where)
    try:
        return FlowHead(width, config.numbers, **options, **where)
    except TypeError as error:
        raise ValueError(f"head='flow' does not take {options} ({error})") from error


class LosslessTransformer(VisionLanguage):
    """A language model that reads and draws raw patches.

    Prefer it to `Chameleon` where pictures hold small detail (a codebook loses it) and to
    `KimiVL` where pictures are drawn as well as read; prefer `Chameleon` where one loss for
    everything counts more.

    Args:
        config: Sizes and switches.
        generator: Source of the first weights (None: torch's own).
        device: Device of the parameters.
        dtype: Type of the parameters.

    Attributes:
        language: The `Llama` within; its weights may come from any published one.
        patch_embed: The linear map of patches.
        head: What pictures come out of.
        outer_weights: Beginnings of names of what stands between numbers and the stream, which
            Muon leaves to AdamW.

    Example:
        >>> model = LosslessTransformer.from_config("digits", head_options={"copies": 2})
        >>> sum(x.numel() for x in model.parameters())
        915216
    """

    arch = "lossless"
    draws = True
    outer_weights = ("patch_embed.", "language.lm_head.", "head.linear.", "head.input_proj.")

    def __init__(
        self,
        config: LosslessConfig,
        *,
        generator: torch.Generator | None = None,
        device: Any = None,
        dtype: Any = None,
    ):
        super().__init__()
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        self.config, self.tokenizer = config, None
        self.language = Llama(config.text_config, generator=generator, **where)
        self.patch_embed = nn.Linear(config.numbers, config.text_config.hidden_size, **where)
        if not self.patch_embed.weight.is_meta:
            nn.init.normal_(self.patch_embed.weight, std=0.02, generator=generator)
            nn.init.zeros_(self.patch_embed.bias)
        drawn: Any = contextlib.nullcontext()
        if generator is not None:
            drawn = seeded(int(torch.randint(2**62, (), generator=generator)))
        with drawn:
            self.head = make_head(config, **where)

    @classmethod
    def from_config(
        cls,
        config: str | LosslessConfig | dict[str, Any],
        *,
        tokenizer: Any = None,
        generator: torch.Generator | None = None,
        device: Any = None,
        dtype: torch.dtype | None = None,
        **changes: Any,
    ) -> LosslessTransformer:
        """A new model.

        Args:
            config: "digits", "tiny", "celeba-64", a mapping, or a configuration.
            tokenizer: A `Tokenizer`: the markers are added to it, and the vocabulary and special
                tokens follow it (None: as the configuration has them).
            generator: Source of the first weights (None: torch's own).
            device: Device of the parameters, "meta" for shapes alone.
            dtype: Type of the parameters.
            **changes: Fields of `LosslessConfig` or of its `text_config`.

        Raises:
            ValueError: An unknown name, or values that do not fit.
        """
        found = config_of(config, changes)
        if tokenizer is not None:
            found = _fitted(found, tokenizer)
        model = cls(found, generator=generator, device=device, dtype=dtype)
        model.tokenizer = tokenizer
        return model

    def parts(self) -> dict[str, list[str]]:
        """Parts by name: "vision", "language", "head"."""
        return {"vision": ["patch_embed."], "language": ["language."], "head": ["head."]}

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.patch_embed.weight.device

    def forward(
        self,
        batch: Batch,
        memory: Memory | None = None,
        lines: Sequence[int] | None = None,
        keep: bool = False,
    ) -> Tensor:
        """(B, T, M) normalised stream of a batch that `lay` made, which heads read.

        Args:
            batch: What is to be read.
            memory: What was read before (None: nothing).
            lines: Lines of the memory that the batch goes on from (None: all).
            keep: Whether the memory takes the batch.
        """
        h = self.language.model.embed_tokens(batch.ids)
        if len(batch.dest):
            rows = self.patch_embed(self.head.shown(batch.inputs).to(h.dtype))
            if batch.marker is not None:
                token = self.language.model.embed_tokens.weight[self.config.boi_token_id]
                rows = torch.where(batch.marker[:, None], token, rows)
            rows = self.head.embedded(rows, batch.time, batch.masked)
            h = h.flatten(0, 1).index_copy(0, batch.dest, rows.to(h.dtype)).view_as(h)
        return through(self.language, h, batch, memory, lines, keep)

    def written(
        self, document: Document, generator: torch.Generator | None = None, train: bool = False
    ) -> Scribe:
        """A document as rows, up to where it goes on, or with its end and what it learns.

        Args:
            document: Texts and pictures.
            generator: Of what heads draw.
            train: Whether it is to be learned, as its flags say, and ends.
        """
        config, ids = self.config, self.config.text_config
        scribe = Scribe(config.positions)
        scribe.text([self._token("bos_token_id")])
        for number, part in enumerate(document.parts):
            learned = train and document.learns(number)
            if isinstance(part, str):
                if self.tokenizer is None:
                    raise ValueError("the model has no tokenizer: set `model.tokenizer` first")
                scribe.text(self.tokenizer.encode(part, bos=False, specials=False), learned)
                continue
            patches, grid = self.patches(part)
            scribe.text([self._token("boi_token_id")], learned)
            scribe.picture(self.head.rows(patches, grid, learned, generator), grid)
            scribe.text([self._token("eoi_token_id")])
        if train and ids.eos:
            scribe.text([ids.eos[0]], document.learns(len(document.parts) - 1))
        return scribe

    def _token(self, name: str) -> int:
        found = getattr(self.config, name, None)
        found = getattr(self.config.text_config, name, None) if found is None else found
        if found is None:
            raise ValueError(
                f"the configuration has no {name}: make the model by from_config(…, tokenizer=…)"
            )
        return int(found)

    def patches(self, pixels: np.ndarray) -> tuple[Tensor, tuple[int, int]]:
        """(n, P) numbers of a picture's patches, and its rows and columns of patches.

        Raises:
            ValueError: More patches than `max_patches`.
        """
        size = self.config.patch_size
        pixels = picture(pixels, self.config.channels)
        grid = (-(-pixels.shape[0] // size), -(-pixels.shape[1] // size))
        if grid[0] * grid[1] > self.config.max_patches:
            raise ValueError(
                f"a picture of {pixels.shape[0]} x {pixels.shape[1]} pixels has "
                f"{grid[0] * grid[1]} patches, max_patches={self.config.max_patches}: make it "
                "smaller, or the model with larger patches"
            )
        return to_numbers(pixels, size), grid

    def lay(
        self, documents: Sequence[Document], seeds: Sequence[int] | None = None, pack: bool = True
    ) -> tuple[Batch, list[torch.Generator]]:
        """Documents as `losses` reads them, and the generator of each.

        Args:
            documents: At least one.
            seeds: One a document (None: drawn from torch's generator).
            pack: Whether documents may share a line.
        """
        if not documents:
            raise ValueError("no documents: at least one is expected")
        if seeds is None:
            seeds = torch.randint(2**62, (len(documents),)).tolist()
        if len(seeds) != len(documents):
            raise ValueError(f"{len(seeds)} seeds for {len(documents)} documents; one each")
        generators = [torch.Generator().manual_seed(int(seed)) for seed in seeds]
        lines: list[Line] = [
            self.written(one, generator, train=True).take()
            for one, generator in zip(documents, generators, strict=True)
        ]
        return batched(lines, self.config.numbers, self.device, pack), generators

    def losses(
        self, documents: Sequence[Document], seeds: Sequence[int] | None = None, pack: bool = True
    ) -> Losses:
        """Sums of losses of documents, which do not see each other.

        Args:
            documents: At least one.
            seeds: Of times and noise of each document (None: from torch's generator), so that a
                document has the same loss alone and among others.
            pack: Whether documents may share a line of the batch; no loss depends on it.

        Raises:
            ValueError: No documents, or one that does not fit.
        """
        batch, generators = self.lay(documents, seeds, pack)
        hidden = self(batch)
        text, _ = token_loss(hidden, self.language.lm_head.weight, batch.labels)
        image, count = hidden.new_zeros((), dtype=torch.float32), 0
        if len(batch.reads):
            owners = [generators[owner] for owner in batch.owners]
            states = hidden.flatten(0, 1)[batch.reads]
            found = self.head.rows_loss(states, batch.rows, owners)
            parts = found.split([len(one.reads) for one in batch.rows])
            image = torch.stack([
                part.sum() / one.repeats for part, one in zip(parts, batch.rows, strict=True)
            ]).sum()  # fmt: skip
            count = sum(round(len(one.reads) / one.repeats) for one in batch.rows)
        return Losses(text, batch.learned, image, count, self.config.image_weight)

    @torch.no_grad()
    def generate(
        self,
        prompts: Sequence[Sequence[Part]],
        *,
        pictures: Literal["none", "one", "free"] = "none",
        max_new_tokens: int = 64,
        temperature: float = 0.0,
        top_p: float = 1.0,
        guidance: float | None = None,
        size: tuple[int, int] | None = None,
        seed: int = 0,
    ) -> list[Document]:
        """Continues prompts; see `VisionLanguage.generate`.

        A temperature above 0 is that of new pictures, too: of their noise or codes.
        """
        if pictures not in ("none", "one", "free"):
            raise ValueError(f"pictures={pictures!r} is none of 'none', 'one', 'free'")
        if max_new_tokens < 1:
            raise ValueError(f"max_new_tokens={max_new_tokens}: at least 1")
        if self.tokenizer is None:
            raise ValueError("the model has no tokenizer: set `model.tokenizer` first")
        rows, columns = size or self.config.image_size
        patches = -(-rows // self.config.patch_size) * -(-columns // self.config.patch_size)
        if min(rows, columns) < 1 or patches > self.config.max_patches:
            raise ValueError(
                f"size={rows} x {columns}: at least 1 x 1 pixels and at most "
                f"max_patches={self.config.max_patches} patches are expected"
            )
        if not prompts:
            return []
        asked = Asked(
            pictures, max_new_tokens, temperature, top_p,
            self.config.guidance if guidance is None else guidance, (rows, columns), seed,
        )  # fmt: skip
        trained = self.training
        self.eval()
        try:
            return continued(self, as_documents(prompts), asked)
        finally:
            self.train(trained)

    def save_pretrained(self, folder: str | os.PathLike[str]) -> Path:
        """Writes config.json, model.safetensors and the tokenizer."""
        return write_model(self, Path(folder))

    @classmethod
    def from_pretrained(
        cls, folder: str | os.PathLike[str], *, device: Any = None, dtype: torch.dtype | None = None
    ) -> LosslessTransformer:
        """Reads what `save_pretrained` wrote.

        Raises:
            ValueError: A file that is missing, or weights that do not fit.
        """
        config, tensors, tokenizer = read_model(Path(folder))
        model = cls(config, device="meta")
        return filled(model, tensors, tokenizer, Path(folder), device, dtype)


def _fitted(config: LosslessConfig, tokenizer: Any) -> LosslessConfig:
    tokenizer.add_tokens(MARKERS)
    begin, end = (tokenizer.id_of(word) for word in MARKERS)
    if tokenizer.bos_id is None or tokenizer.eos_id is None:
        raise ValueError("the tokenizer has no token for begin or end; Tokenizer.train gives both")
    return config.replace(
        boi_token_id=begin, eoi_token_id=end,
        text_config={
            "vocab_size": len(tokenizer), "bos_token_id": tokenizer.bos_id,
            "eos_token_id": tokenizer.eos_id, "pad_token_id": tokenizer.pad_id,
        },
    )  # fmt: skip
