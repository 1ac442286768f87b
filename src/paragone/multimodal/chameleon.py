r"""Chameleon: text and pictures as one stream of tokens, read and written by one Transformer.

A learned codebook turns a picture into n words of the same vocabulary that text has, and one loss
covers reading, drawing and mixing:

$$ x = (\langle s\rangle, t_1, \dots, \text{begin}, c_1, \dots, c_n, \text{end}, \dots), \qquad
   L = -\sum_t \log p(x_t \mid x_{<t}) + \zeta \sum_t \log^2 Z_t . $$

Two modalities in one softmax drift apart and overflow; layer norms of queries and keys, norms
behind the layers (34B), dropout (7B) and the squared log Z hold them. A grammar of tokens makes
broken pictures impossible (`grammar`), and drawing is guided away from what the model would draw
unasked.

Names and shapes of parameters are the published ones, so that weights load as they are.

Cost: 6 N operations a token in training, 2 N in decoding, for N weights; a picture of 512 px is
1,024 tokens.

References:
    Chameleon Team (2024), arXiv:2405.09818, sections 2.1-2.4, table 1.
    Gafni et al. (2022), Make-A-Scene, arXiv:2203.13131 (tokens of pictures and their guidance).

Shapes: B rows, T time, M model width, V vocabulary, n codes of a picture.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from paragone._core.lazy import resolve
from paragone.language.llama import LlamaOutput
from paragone.language.tokenizer import Tokenizer
from paragone.multimodal import _chameleon_words as names
from paragone.multimodal._chameleon_blocks import ChameleonTrunk, HeadNorm
from paragone.multimodal._chameleon_config import ChameleonConfig
from paragone.multimodal._chameleon_decode import Choice, continue_rows
from paragone.multimodal._chameleon_documents import (
    CodeMemory,
    row_losses,
    rows_of,
    strayed,
    text_tokens,
)
from paragone.multimodal._chameleon_prompts import as_prompts, thinned
from paragone.multimodal.chameleon_image_processor import ChameleonImageProcessor
from paragone.multimodal.contract import Losses, VisionLanguage
from paragone.multimodal.documents import Document, Part, picture
from paragone.multimodal.grammar import Grammar, Pictures
from paragone.multimodal.image_tokenizer import ImageTokenizer

__all__ = ["Chameleon", "ChameleonConfig"]

_SMALL = ("digits", "tiny")


class Chameleon(VisionLanguage):
    """One Transformer over text and codes of pictures.

    Prefer it where one model is to read, draw and mix; prefer `LosslessTransformer` where detail
    below a cell of the codebook matters, `KimiVL` where nothing is to be drawn.

    Args:
        config: Sizes, switches and words.
        image_tokenizer: What turns pictures into codes (None: a new one of `vq_config`). It is
            not trained here.
        generator: Source of the first weights (None: torch's own).
        device: Device of the parameters.
        dtype: Type of the parameters.

    Attributes:
        config: Sizes, switches and words.
        tokenizer: For texts; set it, or take `from_config`.

    Example:
        >>> model = Chameleon.from_config("digits")
        >>> page = Document(("a square", [[0.0] * 8] * 8))
        >>> model.losses([page]).image_count, model.draw(["a square"])[0].shape
        (16, (8, 8, 1))
    """

    arch = "chameleon"
    draws = True

    def __init__(
        self,
        config: ChameleonConfig,
        *,
        image_tokenizer: ImageTokenizer | None = None,
        generator: torch.Generator | None = None,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        if image_tokenizer is None:
            image_tokenizer = ImageTokenizer(config.vq_config, generator=generator, **where)
        else:
            config = config.replace(vq_config=image_tokenizer.config)
            image_tokenizer = image_tokenizer.to(**where)
        self.config, self.tokenizer = config, None
        self.words = names.CodeTable(
            config.vocabulary_map, config.vq_config.num_embeddings, config.vocab_size
        )
        self._codes, self._memory, self._grammar = self.words.codes, None, None
        self.model = ChameleonTrunk(config, image_tokenizer, **where)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False, **where)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight
        self.freeze_pictures()
        self.reset_parameters(generator)

    @classmethod
    def from_config(
        cls,
        config: str | Mapping[str, Any] | ChameleonConfig,
        *,
        tokenizer: Tokenizer | None = None,
        image_tokenizer: ImageTokenizer | None = None,
        generator: torch.Generator | None = None,
        device: Any = None,
        dtype: torch.dtype | None = None,
        **changes: Any,
    ) -> Chameleon:
        """A new model.

        Args:
            config: "digits", "tiny", "chameleon-7b", "chameleon-34b", the fields of a
                `config.json`, or a config.
            tokenizer: Of texts; the words of codes are added to a copy of it (None: bytes for the
                small ones, none for the others).
            image_tokenizer: A trained one (None: a new one).
            generator: As in the class.
            device: As in the class; "meta" builds without memory.
            dtype: As in the class.
            changes: Fields that differ.

        Raises:
            ValueError: An unknown name, or sizes that do not fit.

        Example:
            >>> model = Chameleon.from_config("chameleon-7b", device="meta")
            >>> model.lm_head.weight.shape
            torch.Size([65536, 4096])
        """
        made = ChameleonConfig.make(config, **changes)
        if image_tokenizer is not None:
            made = made.replace(vq_config=image_tokenizer.config)
        if tokenizer is None and config in _SMALL and "vocabulary_map" not in changes:
            tokenizer = Tokenizer.train([], 258)
        if tokenizer is not None:
            tokenizer, words = _with_words(tokenizer, made.vq_config.num_embeddings)
            made = made.replace(vocabulary_map=words, vocab_size=tokenizer.vocab_size)
        model = cls(
            made, image_tokenizer=image_tokenizer, generator=generator, device=device, dtype=dtype
        )
        model.tokenizer = tokenizer
        return model

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draws matrices of standard deviation 0.02, those that write to the stream by depth less.

        Codes whose vectors are near each other begin near each other, in embedding and head: half
        of their variance is a projection of the codebook. The image tokenizer stays as it is.
        """
        scale = (2 * self.config.num_hidden_layers) ** -0.5
        for name, module in self.named_modules():
            if name.startswith("model.vqmodel"):
                continue
            if isinstance(module, nn.Linear | nn.Embedding) and not module.weight.is_meta:
                std = 0.02 * (scale if name.endswith(("o_proj", "down_proj")) else 1.0)
                nn.init.normal_(module.weight, std=std, generator=generator)
                if isinstance(module, nn.Linear) and module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, HeadNorm) and not module.weight.is_meta:
                module.reset_parameters()
        if not self.lm_head.weight.is_meta:
            tables = [self.model.embed_tokens.weight, self.lm_head.weight]
            for table in tables[: 1 if self.config.tie_word_embeddings else 2]:
                self._draw_codes(table, generator)

    @torch.no_grad()
    def _draw_codes(self, table: Tensor, generator: torch.Generator | None) -> None:
        book = self.image_tokenizer.quantize.embedding.weight.detach().float()
        book = (book - book.mean(0)) / book.std().clamp(min=1e-12)
        across = torch.empty(book.shape[1], table.shape[1], device=book.device)
        across.normal_(std=book.shape[1] ** -0.5, generator=generator)
        drawn = table[self.words.ids] + 0.02 * (book @ across).to(table.dtype)
        table[self.words.ids] = drawn * 0.5**0.5

    @property
    def image_tokenizer(self) -> ImageTokenizer:
        """What turns pictures into codes and back; one of the same sizes may take its place."""
        return self.model.vqmodel  # pyright: ignore[reportReturnType]

    @image_tokenizer.setter
    def image_tokenizer(self, other: ImageTokenizer) -> None:
        old, new = self.config.vq_config, other.config
        if (new.num_embeddings, new.grid) != (old.num_embeddings, old.grid):
            raise ValueError(
                f"the image tokenizer has {new.num_embeddings} codes and {new.grid} x {new.grid} "
                f"cells; {old.num_embeddings} and {old.grid} x {old.grid} are expected: build the "
                "model with from_config(…, image_tokenizer=)"
            )
        self.config = self.config.replace(vq_config=new)
        self.model.vqmodel = other.to(self.lm_head.weight.device)
        self.freeze_pictures()

    def __setattr__(self, name: str, value: Any) -> None:
        # torch would make it a part of that name, and never ask the property.
        if name == "image_tokenizer":
            return object.__setattr__(self, name, value)
        return super().__setattr__(name, value)

    def freeze_pictures(self) -> None:
        """Stops gradients and dropout of the image tokenizer."""
        self.model.vqmodel.requires_grad_(False).eval()
        self._memory = None

    def train(self, mode: bool = True) -> Chameleon:
        """Training mode for all but the image tokenizer."""
        super().train(mode)
        self.model.vqmodel.eval()
        return self

    @property
    def codes(self) -> Tensor:
        """(V,) code of each token, -1 for tokens of text, where the weights are."""
        if self._codes.device != self.lm_head.weight.device:
            self._codes = self._codes.to(self.lm_head.weight.device)
        return self._codes

    def hidden(
        self,
        input_ids: Tensor,
        state: list[Any] | None = None,
        *,
        positions: Tensor | None = None,
        lengths: Tensor | None = None,
    ) -> tuple[Tensor, list[Any]]:
        """The normalised stream that the head reads, (B, T, M), and what to go on from.

        Args:
            input_ids: (B, T) tokens.
            state: What an earlier call returned.
            positions: (T,) or (B, T) places (None: counted).
            lengths: (B,) tokens of each row that count, or with B = 1 the (N,) lengths of packed
                documents, which do not see each other.
        """
        h = self.model.embed_tokens(input_ids)
        h, states = self.model(h, state, positions, lengths)
        return self.model.norm(h), states

    def forward(
        self,
        input_ids: Tensor,
        *,
        state: list[Any] | None = None,
        positions: Tensor | None = None,
        lengths: Tensor | None = None,
    ) -> LlamaOutput:
        """Scores the next token after each prefix, codes of pictures included.

        Args:
            input_ids: (B, T) tokens.
            state: As in `hidden`.
            positions: As in `hidden`.
            lengths: As in `hidden`.

        Raises:
            ValueError: Another shape or type, or a token out of the vocabulary.
        """
        if input_ids.ndim != 2 or input_ids.is_floating_point():
            raise ValueError(
                f"input_ids is {input_ids.dtype} of shape {tuple(input_ids.shape)}; integers of "
                "shape (B, T) are expected"
            )
        hidden, state = self.hidden(input_ids, state, positions=positions, lengths=lengths)
        return LlamaOutput(self.lm_head(hidden), hidden, state)

    def codes_of(self, pictures: Sequence[Any]) -> list[list[int]]:
        """Codes of pictures of any size, row by row; equal pictures are encoded once.

        Args:
            pictures: What `documents.picture` takes.
        """
        vq = self.image_tokenizer
        if self._memory is None:
            self._memory = CodeMemory(vq.encode, list(vq.parameters()))
        side, channels = vq.config.resolution, vq.config.in_channels
        squared = ChameleonImageProcessor(side, channels).squared
        fits = (side, side, channels)
        made = [picture(one) for one in pictures]
        return self._memory.of([one if one.shape == fits else squared(one) for one in made])

    def losses(self, documents: Sequence[Document]) -> Losses:
        """Sums of losses over documents, which do not see each other.

        Args:
            documents: At least one.

        Returns:
            Text with the markers, codes of pictures, and of both the z-loss.

        Raises:
            ValueError: No document, no tokenizer, or a document that is too long.
        """
        if not documents:
            raise ValueError("there is no document; at least one is expected")
        if self.training and self.config.text_dropout:
            documents = thinned(documents, self.config.text_dropout)
        rows = rows_of(self, documents)
        if self.training and self.config.code_noise:
            rows = strayed(self, rows, self.config.code_noise)
        longest, most = max(len(row.ids) for row in rows), self.config.max_position_embeddings
        if longest > most:
            raise ValueError(
                f"a document has {longest} tokens; max_position_embeddings={most} is the limit"
            )
        sums = row_losses(self, rows)
        (text, text_z, text_count), (image, image_z, image_count) = sums["text"], sums["image"]
        weight = self.config.z_loss
        others = {"z_text": weight * text_z, "z_image": weight * image_z} if weight else {}
        return Losses(text, text_count, image, image_count, self.config.image_weight, others)

    def grammar(self) -> Grammar:
        """What may follow in this model's documents."""
        config, found = self.config, self._grammar
        device = self.lm_head.weight.device
        if found is None or found.table.device != device or found.length != config.picture_tokens:
            marks = [token for word, token in config.vocabulary_map.items()
                     if names.is_marker(word) and token < config.vocab_size]  # fmt: skip
            text = text_tokens(self.tokenizer, self.words, config.vocab_size, marks)
            found = self._grammar = Grammar(
                config.vocab_size, text=text, image=self.words.ids, begin=config.begin_image,
                end=config.end_image, stops=config.stops, length=config.picture_tokens,
                device=device,
            )  # fmt: skip
        return found

    def generate(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        prompts: str | Sequence[Sequence[Part]],
        images: Sequence[Any] | None = None,
        *,
        pictures: Pictures | None = None,
        max_new_tokens: int = 64,
        temperature: float = 0.0,
        top_p: float = 1.0,
        guidance: float | None = None,
        image_guidance: float | None = None,
        repetition_penalty: float = 1.0,
        size: tuple[int, int] | None = None,
        seed: int = 0,
    ) -> Any:
        """Continues prompts with texts and pictures.

        Args:
            prompts: Texts and pictures in order, of each document; or one text.
            images: With one text: pictures for its `<image>`, in order; without such places they
                stand before it.
            pictures: "none", "one" or "free" (None: "free" for one text, "none" for prompts).
            max_new_tokens: Most new tokens, those of pictures included unless `pictures="one"`.
            temperature: What logits are divided by; 0 takes the most likely. The published
                setting is 0.7.
            top_p: Share of the probability to choose from; the published one is 0.9.
            guidance: Strength of the text in drawing (None: `config.text_guidance`).
            image_guidance: Strength of the prompt's pictures (None: `config.image_guidance`).
            repetition_penalty: What logits of text that was there are divided by; published 1.2.
            size: Rows and columns of pixels; only those of the image tokenizer.
            seed: What is drawn depends on it and on the prompt's place alone.

        Returns:
            One document a prompt, of what is new; for one text, that document.

        Raises:
            ValueError: Values out of range, or a picture that does not fit or cannot be drawn.
        """
        single = isinstance(prompts, str)
        if not single and images is not None:
            raise ValueError("images go with one text; prompts hold their own pictures")
        mode = pictures or ("free" if single else "none")
        vq = self.config.vq_config
        if size is not None and tuple(size) != (vq.resolution, vq.resolution):
            raise ValueError(
                f"size={tuple(size)}: this model draws {vq.resolution} x {vq.resolution} pixels"
            )
        if max_new_tokens < 0:
            raise ValueError(f"max_new_tokens={max_new_tokens}: a number from 0 on is expected")
        if mode != "none" and not vq.decoder:
            raise ValueError(
                "the image tokenizer has no decoder and cannot draw: give one that has, "
                "model.image_tokenizer = ImageTokenizer.from_pretrained(…)"
            )
        choice = Choice(
            temperature, top_p, self.config.text_guidance if guidance is None else guidance,
            self.config.image_guidance if image_guidance is None else image_guidance,
            repetition_penalty, seed,
        )  # fmt: skip
        wanted = [as_prompts(prompts, images)] if isinstance(prompts, str) else prompts
        if not len(wanted):
            return []
        found = self._continued(wanted, mode, max_new_tokens, choice)
        return found[0] if single else found

    def _continued(
        self, prompts: Sequence[Sequence[Part]], mode: Pictures, most: int, choice: Choice
    ) -> list[Document]:
        ids = [row.ids for row in rows_of(self, prompts, ended=False)]
        limit, grammar = self.config.max_position_embeddings, self.grammar()
        wanted = grammar.room if mode == "one" else most
        if (longest := max(map(len, ids))) >= limit:
            raise ValueError(
                f"a prompt has {longest} tokens; max_position_embeddings={limit} is the limit"
            )
        left = [min(wanted, limit - len(row)) for row in ids]
        training = self.training
        self.eval()
        try:
            made = continue_rows(self, grammar, ids, mode, left, choice)
        finally:
            self.train(training)
        return self._documents(made, grammar)

    def _documents(self, rows: Sequence[Sequence[int]], grammar: Grammar) -> list[Document]:
        parted = [grammar.parts(row) for row in rows]
        drawn = [part for row in parted for kind, part in row if kind == "image"]
        pixels: Any = iter(())
        if drawn:
            side = self.config.vq_config.grid
            codes = self.words.codes_of(torch.tensor(drawn)).view(-1, side, side)
            pixels = iter(self.image_tokenizer.decode(codes))
        found = []
        for row in parted:
            parts: list[Part] = [
                next(pixels) if kind == "image" else self.tokenizer.decode(part)
                for kind, part in row
            ]
            found.append(Document(tuple(parts) or ("",)))
        return found

    def parts(self) -> dict[str, list[str]]:
        """Parts by name, each as beginnings of names of parameters."""
        return {
            "vision": ["model.vqmodel."], "embeddings": ["model.embed_tokens."],
            "language": ["model.layers.", "model.norm."], "head": ["lm_head."],
        }  # fmt: skip

    def watched(self, documents: Sequence[Document]) -> dict[str, float]:
        """Sizes that grow before training diverges; see `_chameleon_watch`.

        Args:
            documents: A few.
        """
        watch = resolve("paragone.multimodal._chameleon_watch:watched")
        return watch(self, documents)

    def save_pretrained(self, folder: str | os.PathLike[str]) -> Path:
        """Writes config.json, model.safetensors and the tokenizer, in the published layout."""
        return resolve("paragone.multimodal._chameleon_files:save")(self, Path(folder))

    @classmethod
    def from_pretrained(
        cls,
        folder: str | os.PathLike[str],
        *,
        image_tokenizer: ImageTokenizer | None = None,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> Chameleon:
        """Reads what `save_pretrained` wrote, or a published folder.

        Args:
            folder: With config.json, safetensors and tokenizer.json.
            image_tokenizer: Takes the place of the one in the folder, which in published ones has
                no decoder.
            device: Where to put it (None: the CPU).
            dtype: Type of the weights (None: that of the file).

        Raises:
            ValueError: A file that is missing, or weights that do not fit, all in one message.
        """
        load = resolve("paragone.multimodal._chameleon_files:load")
        return load(cls, Path(folder), image_tokenizer, device, dtype)


def _with_words(tokenizer: Tokenizer, codes: int) -> tuple[Tokenizer, dict[str, int]]:
    """A copy with the words of codes and the markers, and where they are."""
    tokenizer = copy.deepcopy(tokenizer)
    if tokenizer.bos_id is None or tokenizer.eos_id is None:
        raise ValueError("the tokenizer has no token for the beginning or the end of a text")
    markers = [names.BEGIN_IMAGE, names.END_IMAGE, names.END_TURN, names.IMAGE]
    added = [*map(names.code_word, range(codes)), *markers]
    tokenizer.add_tokens(added)
    words = {names.BOS: tokenizer.bos_id, names.EOS: tokenizer.eos_id}
    words |= {word: id for word in added if (id := tokenizer.id_of(word)) is not None}
    return tokenizer, words
