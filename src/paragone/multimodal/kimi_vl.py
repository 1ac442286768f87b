r"""Kimi-VL: an encoder of pictures at their own size before a language model of experts.

MoonViT turns the patches of all pictures into features. Two by two of them are put side by side
and brought to the width of the language model by a small network; its outputs stand where the
text has placeholders, and a DeepSeek-V3-like decoder (latent attention, experts chosen by a
sigmoid and a bias) goes on as if they were words:

$$ z_j = W_2\, \mathrm{gelu}\big(W_1 [\mathrm{LN}(v_{j1}); \dots; \mathrm{LN}(v_{j4})] + b_1\big)
   + b_2, \qquad p(x_{t+1} \mid x_{\le t}, z) = \mathrm{softmax}(W h_t) . $$

The norm is that of each patch, before four become one; the gelu is the exact one. Pictures are
read, not drawn: only text is learned.

The angles of the decoder's attention have the base $\theta$. To read texts c times as long,
$\theta \leftarrow c\,\theta$, as the published model went from 8 K at 50,000 to 128 K at 800,000:
fast pairs, which tell near words apart, hardly change, slow ones turn about 1/c as fast, so that
far places look as those known from training do. That is safe where the slow pairs made less than
a turn in the texts of training; where they made more, some training has to follow.

Cost: O(L M^2) for L patches, and a quarter of L tokens in the decoder, of whose experts each
token passes K.

References:
    Kimi Team (2025), Kimi-VL technical report, arXiv:2504.07491, sections 2.1-2.3.
    Liu et al. (2025), Moonlight, arXiv:2502.16982, section 3 (decoder; Muon on matrices).
    DeepSeek-AI (2024), DeepSeek-V3, arXiv:2412.19437, eq. 1-16.
    Shi et al. (2016), arXiv:1609.05158, section 2.2 (pixels shuffled into channels).

Shapes: B rows, T time, n pictures, L patches, p pixels of a patch's side, C channels, M width of
the encoder, W that of the decoder, V vocabulary.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from paragone.language.llama import Llama, LlamaOutput
from paragone.language.losses import token_loss
from paragone.language.moe import MixtureOfExperts
from paragone.language.tokenizer import Tokenizer
from paragone.multimodal._kimi_config import MARKERS, PRESETS, KimiVLConfig
from paragone.multimodal._kimi_files import published, read_config_of, read_weights, write_weights
from paragone.multimodal._kimi_generate import continued
from paragone.multimodal._kimi_rows import PlaceholderError, checked_places, rows_of
from paragone.multimodal.contract import Losses, VisionLanguage
from paragone.multimodal.documents import Document, Part, as_documents
from paragone.multimodal.kimi_image_processor import KimiImageProcessor
from paragone.multimodal.moonvit import MoonViT

__all__ = ["KimiVL", "KimiVLConfig", "PlaceholderError", "Projector"]


class Projector(nn.Module):
    """Merged features to the decoder's width: a norm of each patch, two layers, exact gelu.

    Args:
        width: Width M of a patch's features.
        merged: Patches that become one token.
        out: Width W of the decoder.
        device: Device of the parameters.
        dtype: Type of the parameters.
    """

    def __init__(self, width: int, merged: int, out: int, *, device: Any = None, dtype: Any = None):
        super().__init__()
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        self.pre_norm = nn.LayerNorm(width, 1e-5, **where)
        self.linear_1 = nn.Linear(merged * width, merged * width, **where)
        self.linear_2 = nn.Linear(merged * width, out, **where)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 4, M) to (N, W)."""
        return self.linear_2(functional.gelu(self.linear_1(self.pre_norm(x).flatten(1))))


class KimiVL(VisionLanguage):
    """A vision-language model that reads pictures of any size.

    Prefer it to `Chameleon` and `LosslessTransformer` where pictures are only to be read: no
    picture is resized to a square, four patches cost the decoder one token, and the encoder can be
    trained, frozen or taken over by itself. Prefer the others where pictures are to be drawn.

    Args:
        config: Sizes and tokens.
        generator: Source of the first weights (None: torch's own).
        device: Device of the parameters; "meta" builds any size without memory.
        dtype: Type of the parameters.

    Attributes:
        processor: The `KimiImageProcessor` of its pictures.
        tokenizer: The `paragone.language.Tokenizer` of its texts, or None.

    Example:
        >>> model = KimiVL.from_config("digits")
        >>> page = Document(([[0.0] * 8] * 8, "a zero"), (False, True))
        >>> model.losses([page]).text_count
        7
    """

    arch = "kimi"
    draws = False
    outer_weights = ("vision_tower.patch_embed.", "language_model.lm_head.")

    def __init__(
        self,
        config: KimiVLConfig,
        *,
        generator: torch.Generator | None = None,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        self.config = config
        vision, where = config.vision_config, {"device": device, "dtype": dtype}
        kernel = vision.merge_kernel_size
        self.vision_tower = MoonViT(vision, **where)
        self.multi_modal_projector = Projector(
            vision.hidden_size, kernel[0] * kernel[1], config.text_config.hidden_size, **where
        )
        self.language_model = Llama(config.text_config, generator=generator, **where)
        self.processor = KimiImageProcessor(
            patch_size=vision.patch_size, merge_kernel_size=kernel,
            in_token_limit=config.in_token_limit, num_channels=vision.num_channels,
        )  # fmt: skip
        self.tokenizer: Any = None
        self._draw(generator)

    def _draw(self, generator: torch.Generator | None) -> None:
        for part in (self.vision_tower, self.multi_modal_projector):
            for module in part.modules():
                if isinstance(module, nn.Linear | nn.Conv2d) and not module.weight.is_meta:
                    fan = module.weight[0].numel()
                    nn.init.normal_(module.weight, std=fan**-0.5, generator=generator)
                    if module.bias is not None:
                        nn.init.zeros_(module.bias)
        table = self.vision_tower.patch_embed.pos_emb.weight
        if not table.is_meta:
            nn.init.normal_(table, std=0.1, generator=generator)
        # A deviation of 0.02 suits 2048 inputs; with 64 a picture would hardly reach the head.
        for weight in self.language_model.model.layers.parameters():
            if weight.ndim > 1 and not weight.is_meta:
                with torch.no_grad():
                    weight.mul_(50 * weight.shape[-1] ** -0.5)

    @classmethod
    def from_config(
        cls,
        config: str | Mapping[str, Any] | KimiVLConfig,
        *,
        tokenizer: Tokenizer | None = None,
        generator: torch.Generator | None = None,
        device: Any = None,
        dtype: torch.dtype | None = None,
        **changes: Any,
    ) -> KimiVL:
        """Builds a model with new weights.

        Args:
            config: A name ("kimi-vl-a3b", "kimi-vl-a3b-thinking-2506", and, to be trained here,
                "digits" and "tiny"), the content of a `config.json`, or a configuration.
            tokenizer: Of its texts: words that stand for pictures are added to it, and the
                vocabulary is made as large (None: for the small ones one of bytes).
            generator: Source of the first weights.
            device: Device of the parameters.
            dtype: Type of the parameters.
            changes: Fields of the configuration; mappings change some fields of a half.

        Raises:
            ValueError: A name or a field that is not known, or values that do not fit.

        Example:
            >>> KimiVL.from_config("kimi-vl-a3b", device="meta").config.text_config.vocab_size
            163840
        """
        found, small = _config_of(config)
        if tokenizer is None and small and not _resized(changes):
            tokenizer = Tokenizer.train([], 256 + 2)
        if tokenizer is not None:
            found = _fitted(found, tokenizer)
        model = cls(found.replace(**changes), generator=generator, device=device, dtype=dtype)
        model.tokenizer = tokenizer
        return model

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.language_model.lm_head.weight.device

    def features(self, patches: Tensor, grid_hws: Tensor | Sequence[Sequence[int]]) -> Tensor:
        """What pictures put into the place of their placeholders.

        Args:
            patches: (L, C, p, p), as the processor gives them.
            grid_hws: (n, 2) rows and columns of patches of each picture.

        Returns:
            (L / 4, W).
        """
        seen = self.vision_tower(patches, grid_hws)
        return self.multi_modal_projector(self.vision_tower.merged(seen, grid_hws))

    def read(
        self,
        input_ids: Tensor,
        patches: Tensor | None = None,
        grid_hws: Tensor | Sequence[Sequence[int]] | None = None,
        *,
        lengths: Tensor | None = None,
        positions: Tensor | None = None,
        state: list[Any] | None = None,
    ) -> tuple[Tensor, list[Any]]:
        """The decoder's stream, what the head reads, and the state to go on from.

        Arguments, errors: as in `forward`.

        Returns:
            (B, T, W), and one state a layer.
        """
        h = self.language_model.model.embed_tokens(input_ids)
        there = input_ids == self.config.media_placeholder_token_id
        if lengths is not None:
            there &= torch.arange(input_ids.shape[1], device=there.device) < lengths[:, None]
        if patches is None or grid_hws is None:
            checked_places(there, [])
        else:
            seen = self.features(patches, grid_hws)
            merged = self.processor.merge_kernel_size[0] * self.processor.merge_kernel_size[1]
            checked_places(there, [int(a) * int(b) // merged for a, b in _pairs(grid_hws)])
            h = h.masked_scatter(there[..., None], seen.to(h.dtype))
        return self.language_model.model(h, state, positions, lengths)

    def forward(
        self,
        input_ids: Tensor,
        patches: Tensor | None = None,
        grid_hws: Tensor | Sequence[Sequence[int]] | None = None,
        *,
        lengths: Tensor | None = None,
        positions: Tensor | None = None,
        state: list[Any] | None = None,
    ) -> LlamaOutput:
        """Scores the next token after each prefix.

        Args:
            input_ids: (B, T) tokens; a placeholder for each merged token of a picture, pictures in
                the order of rows.
            patches: (L, C, p, p) of all pictures (None: there are none).
            grid_hws: (n, 2) rows and columns of patches of each picture.
            lengths: (B,) tokens of each row that count (None: all).
            positions: (T,) or (B, T) places (None: counted).
            state: What an earlier call returned.

        Raises:
            PlaceholderError: Another number of placeholders than the pictures' merged tokens, or
                placeholders of a picture that do not stand side by side.
            ValueError: Shapes that do not fit.
        """
        h, states = self.read(
            input_ids, patches, grid_hws, lengths=lengths, positions=positions, state=state
        )
        return LlamaOutput(self.language_model.lm_head(h), h, states, self._balance())

    def _balance(self) -> Tensor | None:
        weight = self.config.text_config.router_aux_loss_coef
        found = [part.balance_loss for part in self._mixtures() if part.balance_loss is not None]
        return weight * torch.stack(found).mean() if found and self.training else None

    def _mixtures(self) -> list[MixtureOfExperts]:
        return [part for part in self.modules() if isinstance(part, MixtureOfExperts)]

    def losses(self, documents: Sequence[Document]) -> Losses:
        rows = rows_of(documents, self.config, self.processor, self.tokenizer, self.device)
        h, _ = self.read(rows.input_ids, rows.patches, rows.grid_hws, lengths=rows.lengths)
        text, _ = token_loss(h, self.language_model.lm_head.weight, rows.labels)
        balance = self._balance()
        return Losses(
            text, rows.learned, text.new_zeros(()), 0,
            others={} if balance is None else {"balance": balance * rows.learned},
        )  # fmt: skip

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
        if pictures not in ("none", "free") or guidance is not None or size is not None:
            raise ValueError(
                f"pictures={pictures!r}, guidance={guidance}, size={size}: KimiVL reads pictures "
                "and does not draw; Chameleon and LosslessTransformer do"
            )
        if max_new_tokens < 1:
            raise ValueError(f"max_new_tokens={max_new_tokens}: at least 1")
        documents = as_documents(prompts)
        if not documents:
            return []
        training = self.training
        self.eval()
        try:
            found = continued(
                self, documents, max_new_tokens=max_new_tokens, temperature=temperature,
                top_p=top_p, seed=seed,
            )  # fmt: skip
        finally:
            self.train(training)
        return [Document((self.tokenizer.decode(ids),)) for ids in found]

    def parts(self) -> dict[str, list[str]]:
        return {
            "vision": ["vision_tower."],
            "projector": ["multi_modal_projector."],
            "head": ["language_model.lm_head."],
            "language": ["language_model.model."],
        }

    def freeze(self, *parts: str, frozen: bool = True) -> None:
        """Takes parts out of training, or puts them back: no gradient is computed for them.

        Args:
            parts: Names of `parts()`.
            frozen: False puts them back.

        Raises:
            ValueError: No such part.
        """
        known = self.parts()
        for part in parts:
            if part not in known:
                raise ValueError(f"part {part!r} is none of {', '.join(known)}")
            for name, weight in self.named_parameters():
                if name.startswith(tuple(known[part])):
                    weight.requires_grad_(not frozen)

    def after_step(self) -> dict[str, float]:
        """Moves the biases of routers that are trained; returns the busiest expert's load.

        Returns:
            "expert_load": the largest load of an expert over the mean, of all layers; nothing
            where nothing was routed since the last call.
        """
        found = [
            part.rebalance(self.config.balance_rate if part.gate.weight.requires_grad else 0.0)
            for part in self._mixtures()
        ]
        loads = [one for one in found if one is not None]
        return {"expert_load": max(loads)} if loads else {}

    def expert_loads(self) -> Tensor | None:
        """Tokens that each expert was sent since the last step, (layers, E); None if none was."""
        found = [part.load for part in self._mixtures() if part.load is not None]
        return torch.stack(found) if found else None

    def lengthened(self, factor: float) -> KimiVL:
        """This model for texts so many times as long; it has the same weights, not copies of them.

        Args:
            factor: c, what base of the angles and longest text are multiplied by.

        Raises:
            ValueError: A factor below 1.
        """
        if not factor >= 1:
            raise ValueError(f"factor={factor}: at least 1")
        text = self.config.text_config
        config = self.config.replace(text_config={
            "rope_theta": text.rope_theta * factor,
            "max_position_embeddings": int(text.max_position_embeddings * factor),
        })  # fmt: skip
        model = KimiVL(config, device="meta")
        model.load_state_dict(self.state_dict(keep_vars=True), assign=True)
        model.tokenizer, model.processor = self.tokenizer, self.processor
        return model.train(self.training)

    def published(self) -> dict[str, Tensor]:
        """The weights under the names of published files, one matrix an expert; not copies."""
        return published(self)

    def save_pretrained(
        self, folder: str | os.PathLike[str], *, shard_bytes: int = 5 << 30
    ) -> Path:
        """Writes the published layout: config, safetensors, processor, tokenizer.

        Args:
            folder: Made if it is not there.
            shard_bytes: Most bytes of one file of weights.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        dtype = str(self.language_model.lm_head.weight.dtype).removeprefix("torch.")
        text = json.dumps(self.config.to_dict(dtype), indent=2, sort_keys=True) + "\n"
        (folder / "config.json").write_text(text, encoding="utf-8")
        self.processor.save_pretrained(folder)
        if self.tokenizer is not None:
            self.tokenizer.save(folder)
        write_weights(self, folder, shard_bytes)
        return folder

    @classmethod
    def from_pretrained(
        cls, folder: str | os.PathLike[str], *, device: Any = None, dtype: torch.dtype | None = None
    ) -> KimiVL:
        folder = Path(folder)
        config, processor = read_config_of(folder), None
        if (folder / "preprocessor_config.json").is_file():
            processor = KimiImageProcessor.from_pretrained(folder)
            config = config.replace(in_token_limit=processor.in_token_limit)
        model = cls(config, device="meta")
        read_weights(model, folder, device, dtype)
        model.processor = processor or model.processor
        if any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model")):
            model.tokenizer = Tokenizer.load(folder)
        return model.eval()


def _pairs(grid_hws: Tensor | Sequence[Sequence[int]]) -> Sequence[Sequence[int]]:
    return grid_hws.tolist() if isinstance(grid_hws, Tensor) else grid_hws


def _config_of(config: str | Mapping[str, Any] | KimiVLConfig) -> tuple[KimiVLConfig, bool]:
    """The configuration, and whether it is a small one by name."""
    if isinstance(config, KimiVLConfig):
        return config, False
    if not isinstance(config, str):
        return KimiVLConfig.from_dict(config), False
    if config not in PRESETS:
        raise ValueError(f"config {config!r} is none of {', '.join(PRESETS)}")
    return KimiVLConfig.from_dict(PRESETS[config]), not config.startswith("kimi")


def _resized(changes: Mapping[str, Any]) -> bool:
    text = changes.get("text_config")
    return isinstance(text, Mapping) and "vocab_size" in text


def _fitted(config: KimiVLConfig, tokenizer: Tokenizer) -> KimiVLConfig:
    """Vocabulary and special tokens of a tokenizer, to which the markers are added."""
    words = {
        name: word for name, word in MARKERS.items()
        if config.media_content_token_id is not None or name != "media_content_token_id"
    }  # fmt: skip
    tokenizer.add_tokens(list(words.values()))
    eos = tokenizer.eos_id
    pad = tokenizer.pad_id if tokenizer.pad_id is not None else eos
    ids = {name: tokenizer.id_of(word) for name, word in words.items()}
    text = {"vocab_size": len(tokenizer), "bos_token_id": tokenizer.bos_id, "eos_token_id": eos}
    return config.replace(text_config=text, pad_token_id=pad or 0, **ids)
