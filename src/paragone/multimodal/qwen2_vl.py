r"""Qwen2-VL and Qwen2.5-VL, the models that UI-TARS is trained from, by their published names.

A tower turns patches into features, four of which become one token of the decoder's width; they
stand where the text has placeholders. The decoder is a plain one but for its places: each token
has three, of time, row and column, each turning its section of a head's pairs,

$$ p(x_{t+1} \mid x_{\le t}, z) = \mathrm{softmax}(W h_t), \qquad
   h = \mathrm{decoder}\big([e(x); z],\ (t, r, c)\big) . $$

Two generations differ in the tower alone (layer norms, a quick GELU and attention over whole
pictures; RMS norms, SwiGLU and windows) and in how films count time. Pictures are read, not drawn.

Cost: that of the tower (`_qwen2_vl_vision`), and for T tokens 2 N T operations for N weights of
the decoder. A screenshot of 1280 x 720 pixels has 4,784 patches and takes 1,196 tokens. In bfloat16
the models of 2, 7 and 72 billion weights take 4.4, 16.6 and 147 GB.

References:
    Wang et al. (2024), Qwen2-VL, arXiv:2409.12191, section 2.1.
    Bai et al. (2025), Qwen2.5-VL, arXiv:2502.13923, section 2.1.
    Qin et al. (2025), UI-TARS, arXiv:2501.12326, section 5.1.

Shapes: B rows, T time, n pictures, L patches, C channels, p pixels of a patch's side, W width of
the decoder, V vocabulary.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from paragone.language.tokenizer import Tokenizer
from paragone.mixers.cache import KeyValueCache
from paragone.multimodal._kimi_rows import PlaceholderError, checked_places
from paragone.multimodal._qwen2_vl_config import PRESETS, Qwen2VLConfig, Qwen2VLVisionConfig
from paragone.multimodal._qwen2_vl_decoder import Qwen2VLDecoder, Qwen2VLState
from paragone.multimodal._qwen2_vl_files import read_config_of, read_weights, write_model
from paragone.multimodal._qwen2_vl_generate import follow
from paragone.multimodal._qwen2_vl_positions import checked_grids, places, sectioned
from paragone.multimodal._qwen2_vl_vision import Qwen2VLTower
from paragone.multimodal.qwen2_vl_image_processor import Qwen2VLImageProcessor

__all__ = [
    "PlaceholderError", "Qwen2VL", "Qwen2VLConfig", "Qwen2VLOutput", "Qwen2VLState",
    "Qwen2VLTower", "Qwen2VLVisionConfig",
]  # fmt: skip

Sizes = Tensor | Sequence[Sequence[int]]


@dataclasses.dataclass
class Qwen2VLOutput:
    """What a forward pass gives.

    Attributes:
        logits: (B, T, V) scores of the next token, or (B, 1, V) of each row's last one.
        hidden: (B, T, W) normalised stream that the head reads.
        state: What to go on from.
    """

    logits: Tensor
    hidden: Tensor
    state: Qwen2VLState


class Qwen2VL(nn.Module):
    """A vision-language model of the Qwen2-VL family; `from_pretrained` reads published weights.

    Prefer `KimiVL` or `paragone.multimodal.UITars` for a model that is trained here; this one is
    there to run UI-TARS and its kin as they were published. `agent.published.open_published` makes
    an agent of one.

    Args:
        config: Sizes and tokens.
        generator: Source of the first weights (None: torch's own).
        device: Device of the parameters; "meta" builds any size without memory.
        dtype: Type of the parameters.

    Attributes:
        processor: The `Qwen2VLImageProcessor` of its pictures.
        tokenizer: The `paragone.language.Tokenizer` of its texts, or None.

    Example:
        >>> model = Qwen2VL.from_config("ui-tars-1.5-7b", device="meta")
        >>> sum(p.numel() for p in model.parameters())
        8292166656
    """

    def __init__(
        self,
        config: Qwen2VLConfig,
        *,
        generator: torch.Generator | None = None,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        self.config = config
        vision, text = config.vision_config, config.text_config
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        self.visual = Qwen2VLTower(vision, **where)
        self.model = Qwen2VLDecoder(text, **where)
        self.lm_head = nn.Linear(text.hidden_size, text.vocab_size, bias=False, **where)
        self.processor = Qwen2VLImageProcessor(
            patch_size=vision.patch_size, merge_size=vision.merge,
            temporal_patch_size=vision.frames,
        )  # fmt: skip
        self.tokenizer: Any = None
        self.tie()
        self._draw(generator)

    def tie(self) -> None:
        """Makes the head the embedding, where the configuration says so."""
        if self.config.text_config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight

    def _draw(self, generator: torch.Generator | None) -> None:
        for module in self.modules():
            if not isinstance(module, nn.Linear | nn.Conv3d | nn.Embedding):
                continue
            if module.weight.is_meta:
                return
            nn.init.normal_(module.weight, std=0.02, generator=generator)
            if not isinstance(module, nn.Embedding) and module.bias is not None:
                nn.init.zeros_(module.bias)

    @classmethod
    def from_config(
        cls,
        config: str | Mapping[str, Any] | Qwen2VLConfig,
        *,
        generator: torch.Generator | None = None,
        device: Any = None,
        dtype: torch.dtype | None = None,
        **changes: Any,
    ) -> Qwen2VL:
        """Builds a model with new weights.

        Args:
            config: A name ("ui-tars-2b", "ui-tars-7b", "ui-tars-72b", "ui-tars-1.5-7b"), the
                content of a `config.json`, or a configuration.
            generator: Source of the first weights.
            device: Device of the parameters.
            dtype: Type of the parameters.
            changes: Fields of the configuration; mappings change some fields of a half.

        Raises:
            ValueError: A name or a field that is not known, or values that do not fit.
        """
        if isinstance(config, str):
            if config not in PRESETS:
                raise ValueError(f"config {config!r} is none of {', '.join(PRESETS)}")
            config = PRESETS[config]
        if not isinstance(config, Qwen2VLConfig):
            config = Qwen2VLConfig.from_dict(config)
        return cls(config.replace(**changes), generator=generator, device=device, dtype=dtype)

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.lm_head.weight.device

    def features(self, pixel_values: Tensor, grid_thw: Sizes) -> Tensor:
        """What pictures put into the place of their placeholders, (L / 4, W).

        Args:
            pixel_values: (L, C 2 p^2), as the processor gives them.
            grid_thw: (n, 3) frames, rows and columns of patches of each picture.

        Raises:
            ValueError: Shapes or numbers that do not fit.
        """
        return self.visual(pixel_values, grid_thw)

    def new_state(self, rows: int, capacity: int = 0) -> Qwen2VLState:
        """The state before the first token.

        Args:
            rows: B.
            capacity: Tokens to make room for at once (0: as rows grow).
        """
        layers = [KeyValueCache(capacity=capacity) for _ in self.model.layers]
        return Qwen2VLState(layers, torch.zeros(rows, dtype=torch.int64, device=self.device))

    def places(
        self,
        input_ids: Tensor,
        grid_thw: Sizes = (),
        *,
        lengths: Tensor | None = None,
        seconds: Sequence[float] | None = None,
        start: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The places of tokens in time, rows and columns.

        Args:
            input_ids: As in `forward`.
            grid_thw: As in `forward`.
            lengths: As in `forward`.
            seconds: As in `forward`.
            start: (B,) first place of each row (None: 0).

        Returns:
            (3, B, T), and (B,) the place of what follows.

        Raises:
            PlaceholderError: As in `forward`.
            ValueError: As in `forward`.
        """
        c = self.config
        merge = c.vision_config.merge
        grids = checked_grids(grid_thw, merge)
        films = input_ids == c.video_token_id
        there = (input_ids == c.image_token_id) | films
        if lengths is not None:
            there &= torch.arange(input_ids.shape[1], device=there.device) < lengths[:, None]
        counts = [t * h * w // merge**2 for t, h, w in grids]
        checked_places(there, counts)
        if seconds is not None and len(seconds) != len(grids):
            raise ValueError(
                f"{len(seconds)} numbers of seconds for {len(grids)} pictures; one each is expected"
            )
        steps = None
        if c.vision_config.windowed:
            first = torch.tensor([0, *counts]).cumsum(0)[:-1]
            film = films[there].cpu()[first].tolist() if grids else []
            taken = [1.0] * len(grids) if seconds is None else seconds
            ticks = c.vision_config.ticks
            steps = [ticks * x if one else 1.0 for one, x in zip(film, taken, strict=True)]
        return places(there, grids, merge, steps=steps, start=start, lengths=lengths)

    def forward(
        self,
        input_ids: Tensor,
        pixel_values: Tensor | None = None,
        grid_thw: Sizes = (),
        *,
        lengths: Tensor | None = None,
        seconds: Sequence[float] | None = None,
        state: Qwen2VLState | None = None,
        last: bool = False,
    ) -> Qwen2VLOutput:
        """Scores the next token after each prefix.

        Args:
            input_ids: (B, T) tokens; a placeholder for each merged token of a picture, pictures in
                the order of rows.
            pixel_values: (L, C 2 p^2) of all pictures (None: there are none).
            grid_thw: (n, 3) frames, rows and columns of patches of each picture.
            lengths: (B,) tokens of each row that count, what follows is padding (None: all).
            seconds: Seconds of film to a frame's step, of each picture (None: 1 each); films of
                Qwen2.5-VL alone take notice.
            state: What an earlier call returned, to go on from there.
            last: Whether only each row's last token is scored.

        Raises:
            PlaceholderError: Another number of placeholders than the pictures' merged tokens, or
                placeholders of a picture that do not stand side by side.
            ValueError: Shapes that do not fit.
        """
        seen = None if pixel_values is None else self.features(pixel_values, grid_thw)
        return self.read(
            input_ids, seen, grid_thw, lengths=lengths, seconds=seconds, state=state, last=last
        )

    def read(
        self,
        input_ids: Tensor,
        features: Tensor | None,
        grid_thw: Sizes = (),
        *,
        lengths: Tensor | None = None,
        seconds: Sequence[float] | None = None,
        state: Qwen2VLState | None = None,
        last: bool = False,
    ) -> Qwen2VLOutput:
        """As `forward`, of pictures whose features are known; they do not depend on the text.

        Args:
            input_ids: As in `forward`.
            features: (L / 4, W), as `features` gives them (None: there are no pictures).
            grid_thw: As in `forward`.
            lengths: As in `forward`.
            seconds: As in `forward`.
            state: As in `forward`.
            last: As in `forward`.

        Raises:
            PlaceholderError: As in `forward`.
            ValueError: As in `forward`.
        """
        state = self.new_state(len(input_ids)) if state is None else state
        at, following = self.places(
            input_ids, grid_thw, lengths=lengths, seconds=seconds, start=state.following
        )
        h = self.model.embed_tokens(input_ids)
        if features is not None and len(features):
            there = (input_ids == self.config.image_token_id) | (
                input_ids == self.config.video_token_id
            )
            if lengths is not None:
                there &= torch.arange(input_ids.shape[1], device=there.device) < lengths[:, None]
            h = h.masked_scatter(there[..., None], features.to(h.dtype))
        wide = torch.promote_types(h.dtype, torch.float32)
        table = sectioned(self.model.rotary, at, self.config.sections, wide)
        h, layers = self.model(h, table, state.layers, lengths)
        scored = h
        if last:
            rows = torch.arange(len(h), device=h.device)
            scored = h[:, -1:] if lengths is None else h[rows, lengths - 1][:, None]
        return Qwen2VLOutput(self.lm_head(scored), h, Qwen2VLState(layers, following))

    def generate(
        self,
        input_ids: Tensor,
        pixel_values: Tensor | None = None,
        grid_thw: Sizes = (),
        *,
        lengths: Tensor | None = None,
        max_new_tokens: int = 64,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
        stop: Sequence[int] | None = None,
    ) -> list[list[int]]:
        """Tokens that follow; markers of pictures are never among them.

        Args:
            input_ids: As in `forward`.
            pixel_values: As in `forward`.
            grid_thw: As in `forward`.
            lengths: As in `forward`.
            max_new_tokens: Most tokens of a row.
            temperature: 0 takes the most likely token.
            top_p: Share of probability that is drawn from.
            seed: Of all draws; what a row draws depends on it and on the row's number alone.
            stop: Tokens that end a row (None: those of the configuration).

        Returns:
            New tokens of each row, without the one that ended it.

        Raises:
            PlaceholderError: As in `forward`.
            ValueError: As in `forward`, or rows that would be longer than the model is made for.
        """
        longest = input_ids.shape[1] if lengths is None else int(lengths.max())
        most = self.config.text_config.max_position_embeddings
        if max_new_tokens < 1 or longest + max_new_tokens > most:
            raise ValueError(
                f"max_new_tokens={max_new_tokens} behind {longest} tokens; at least 1, and at most "
                f"max_position_embeddings={most} together"
            )
        training = self.training
        self.eval()
        try:
            with torch.no_grad():
                seen = None if pixel_values is None else self.features(pixel_values, grid_thw)
                out = self.read(
                    input_ids, seen, grid_thw, lengths=lengths, last=True,
                    state=self.new_state(len(input_ids), longest + max_new_tokens),
                )  # fmt: skip
                found, _ = follow(
                    self, out.logits[:, -1], out.state, most=max_new_tokens, top_p=top_p, seed=seed,
                    stop=self.config.text_config.eos if stop is None else stop,
                    temperature=temperature,
                )  # fmt: skip
        finally:
            self.train(training)
        return found

    def save_pretrained(
        self, folder: str | os.PathLike[str], *, shard_bytes: int = 5 << 30
    ) -> Path:
        """Writes the published layout: config, safetensors, processor, tokenizer.

        Args:
            folder: Made if it is not there.
            shard_bytes: Most bytes of one file of weights.
        """
        write_model(self, Path(folder), shard_bytes)
        return Path(folder)

    @classmethod
    def from_pretrained(
        cls, folder: str | os.PathLike[str], *, device: Any = None, dtype: torch.dtype | None = None
    ) -> Qwen2VL:
        """Reads a published folder, its processor and tokenizer, where it has them, included.

        Args:
            folder: Holds config.json and safetensors.
            device: Where to put the weights (None: the CPU).
            dtype: Their type (None: that of the file; those of the CPU are then mapped from disk).

        Raises:
            ValueError: A file that is missing, or weights that do not fit.
        """
        folder = Path(folder)
        model = cls(read_config_of(folder), device="meta")
        read_weights(model, folder, device, dtype)
        if (folder / "preprocessor_config.json").is_file():
            model.processor = Qwen2VLImageProcessor.from_pretrained(folder)
        if any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model")):
            model.tokenizer = Tokenizer.load(folder)
        return model.eval()
