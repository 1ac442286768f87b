r"""UITars: an agent that sees screenshots and an instruction, and says what to do next.

An encoder turns the last screenshots into features, once a step; a small decoder reads the
instruction, all earlier actions as text and the features, writes a thought and an action, copies
what is to be typed from the instruction, and points at patches of the present screenshot. Only
the present action is learned,

$$ L = -\sum_{t \in \text{answer}} \log P(w_t \mid w_{<t}, o_{n-N+1}, \ldots, o_n)
       - \sum_{\text{points}} \log \sum_{p \in \text{box}} P(p) , $$

and beside it to read screens: where an element is, and what stands at a place, several questions a
screen for one encoding. What it proposes is a text of the dialect "ui-tars-1.5", points in pixels
of the image as it sees it, and always one that can be parsed: names and marks come from a grammar,
contents alone are free.

Cost: at preset "small" 1.7 M weights; a screen of 160 x 160 pixels is 400 fine and 100 coarse
features, a decision some milliseconds for the screen and one a token.

References:
    Qin et al. (2025), UI-TARS, arXiv:2501.12326, eq. 3, sections 4.2 to 4.4.
    Wu et al. (2025), GUI-Actor, arXiv:2506.03143, section 3.
    See, Liu and Manning (2017), arXiv:1704.04368, eq. 8-9.

Shapes: B samples, R rows, T tokens, P fine patches, M width.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from paragone.multimodal._model_files import read_json
from paragone.multimodal._ui_tars_config import UITarsConfig
from paragone.multimodal._ui_tars_encoders import Encoder
from paragone.multimodal._ui_tars_files import read_folder, write_folder
from paragone.multimodal._ui_tars_generate import propose_all
from paragone.multimodal._ui_tars_language import Language, Memory
from paragone.multimodal._ui_tars_reader import Reader, pointed, read_elements
from paragone.multimodal._ui_tars_samples import (
    Row,
    Rows,
    answer_of,
    collated,
    perception_rows,
    prompt_of,
    spelling,
    texts_of,
)
from paragone.multimodal._ui_tars_screens import Screens, model_size, right_patches
from paragone.multimodal._ui_tars_words import Words
from paragone.multimodal.agent.actions import Action
from paragone.multimodal.agent.contract import Context, Sample, Screen
from paragone.training.run_folder import seeded

if TYPE_CHECKING:
    from paragone.multimodal.agent.coordinates import Coordinates

__all__ = ["AgentLosses", "UITars", "UITarsConfig"]


@dataclasses.dataclass(frozen=True)
class AgentLosses:
    """Sums over a batch of samples; gradients flow through all of them.

    Attributes:
        action_tokens: Of the tokens of thoughts and actions, in nats.
        action_count: How many they are.
        points: Of the places of actions.
        point_count: How many they are.
        perception: Of questions about screens, tokens and places.
        perception_count: How many questions.
        samples: How many samples.
        right: How many places of actions had their best patch among the right ones.
        perception_weight: What multiplies the mean of `perception` in the total.
    """

    action_tokens: Tensor
    action_count: int
    points: Tensor
    point_count: int
    perception: Tensor
    perception_count: int
    samples: int
    right: int
    perception_weight: float = 1.0

    @property
    def total(self) -> Tensor:
        """What is differentiated, a sum over samples; divide by `samples` for the mean.

        Questions of a screen count together as `perception_weight` samples.
        """
        share = self.samples * self.perception_weight / max(1, self.perception_count)
        return self.action_tokens + self.points + share * self.perception


class UITars(nn.Module):
    """An agent to be trained from scratch on one machine; a `Policy`.

    Prefer it to a large published agent where tasks are one's own and no accelerator is at hand: it
    learns a web application from some thousand demonstrations in minutes, and decides in tens of
    milliseconds. Prefer the published layout (`agent.published.open_published`) for pages of any
    kind.

    Args:
        config: Sizes and vocabulary.
        generator: Source of the first weights (None: torch's own).
        device: Where the parameters are.
        dtype: Their type.

    Attributes:
        dialect: "ui-tars-1.5".
        words: The vocabulary.
        outer_weights: Beginnings of names of matrices that are no hidden ones, which Muon leaves
            to AdamW; embeddings need not be named.

    Example:
        >>> model = UITars.from_config("tiny")
        >>> screen = Screen(np.zeros((64, 64, 3), np.uint8))
        >>> model.propose(Context("Click.", (screen,))).startswith("Thought:")
        True
    """

    dialect = "ui-tars-1.5"
    outer_weights = ("encoder.stem.first.", "encoder.stem.moonvit.patch_embed.", "encoder.place.",
                     "language.place.", "language.gate.")  # fmt: skip

    def __init__(
        self,
        config: UITarsConfig,
        *,
        generator: torch.Generator | None = None,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.words = Words(config.words, config.characters)
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        with contextlib.ExitStack() as stack:
            if generator is not None:
                stack.enter_context(seeded(int(torch.randint(2**62, (), generator=generator))))
            self.encoder = Encoder(config, where)
            self.language = Language(config, len(self.words), where)
            self.pointer = nn.Linear(config.width, config.width, bias=False, **where)
            self.reader = Reader(config.width, len(self.words.characters), where)
            if self.pointer.weight.device.type != "meta":
                self._draw()

    @torch.no_grad()
    def _draw(self) -> None:
        """Unit variance through every matrix, and small steps of residual branches."""
        tokenizer = {id(p) for n, p in self.named_parameters() if n.startswith(_FIXED)}
        depth = max(1, self.config.encoder_layers + self.config.layers)
        for name, module in self.named_modules():
            weight = getattr(module, "weight", None)
            if weight is None or id(weight) in tokenizer:
                continue
            if isinstance(module, nn.Linear | nn.Conv2d):
                std = weight[0].numel() ** -0.5
                if name.endswith(("out", "told", "down", "wo", "fc1", "conv")):
                    std *= (2 * depth) ** -0.5
                nn.init.trunc_normal_(weight, std=std, a=-3 * std, b=3 * std)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Embedding):
                nn.init.normal_(weight, std=weight.shape[1] ** -0.5)

    @classmethod
    def from_config(
        cls,
        preset: str | Mapping[str, Any] | UITarsConfig = "small",
        *,
        encoder: str | None = None,
        words: Words | None = None,
        generator: torch.Generator | None = None,
        device: Any = None,
        dtype: torch.dtype | None = None,
        **changes: Any,
    ) -> UITars:
        """Builds one with random weights.

        Args:
            preset: "tiny" (for tests), "small" (1.7 M weights), "medium" (for an accelerator),
                fields of `UITarsConfig`, or one.
            encoder: "patches", "moonvit" or "vq" (None: the preset's, "patches").
            words: A vocabulary (None: characters alone, or the configuration's); `for_samples`
                learns one.
            generator: As in the class.
            device: As in the class.
            dtype: As in the class.
            changes: Fields that differ.

        Raises:
            ValueError: An unknown preset or field, or sizes that do not fit.
        """
        if encoder is not None:
            changes["encoder"] = encoder
        if words is not None:
            changes |= words.to_dict()
        config = UITarsConfig.of(preset, **changes)
        return cls(config, generator=generator, device=device, dtype=dtype)

    @classmethod
    def for_samples(
        cls,
        samples: Iterable[Sample],
        preset: str | Mapping[str, Any] = "small",
        *,
        vocabulary: int = 2000,
        **options: Any,
    ) -> UITars:
        """Builds one whose vocabulary is that of demonstrations.

        Args:
            samples: What it will learn from.
            preset: As in `from_config`.
            vocabulary: Most words.
            options: As in `from_config`.
        """
        words = Words.learn(texts_of(samples), vocabulary)
        return cls.from_config(preset, words=words, **options)

    @property
    def screenshots(self) -> int:
        """How many screenshots it wants to see."""
        return self.config.screenshots

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return self.pointer.weight.device

    def parts(self) -> dict[str, list[str]]:
        """Parts by name, each as beginnings of names of parameters."""
        return {
            "vision": ["encoder."], "language": ["language."], "pointer": ["pointer.", "reader."],
        }  # fmt: skip

    def freeze(self, *parts: str) -> None:
        """Takes parts out of training; the others are trained.

        Raises:
            ValueError: No such part.
        """
        known = self.parts()
        for part in parts:
            if part not in known:
                raise ValueError(f"part {part!r} is none of {', '.join(known)}")
        starts = tuple(start for part in parts for start in known[part])
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(not name.startswith((*starts, _FIXED)))

    def coordinates(self, screen: Screen) -> Coordinates:
        """From the points of its texts to pixels of this screenshot."""
        from paragone.multimodal.agent.coordinates import Coordinates

        size = model_size(screen, self.config)
        if size == screen.size:
            return Coordinates.of(screen, model="pixels")
        return Coordinates.of(screen, model="resized", resized=size)

    def see(self, contexts: Sequence[Context]) -> tuple[Memory, list[tuple[float, float]]]:
        """Encodes the screenshots of contexts.

        Returns:
            What the decoder looks at, and of each context the scale from pixels of its present
            screenshot to those of the model.

        Raises:
            ValueError: A context without a screenshot.
        """
        return Screens(contexts, self.config, self.device, self.dtype).memory(
            self.encoder, self.language
        )

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights."""
        return self.pointer.weight.dtype

    def losses(
        self,
        samples: Sequence[Sample],
        *,
        perception: int = 8,
        generator: torch.Generator | None = None,
        perception_weight: float = 1.0,
    ) -> AgentLosses:
        """Sums of losses; those of actions do not depend on what else is in the batch.

        Args:
            samples: At least one.
            perception: Questions about each sample's screen.
            generator: Of the questions and of the words that are spelled (None: torch's own).
            perception_weight: What questions of a screen count beside its action.

        Raises:
            ValueError: No sample, or one without a screenshot.
        """
        rng = np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))
        memory, scales = self.see([one.context for one in samples])
        share = self.config.spelled if self.training else 0.0
        rows = self._action_rows(samples, None, scales, [spelling(share, rng) for _ in samples])
        tokens, points, right = self._scored(rows, memory)
        empty = tokens.new_zeros(())
        asked, count = empty, 0
        if perception > 0:
            asked, count = self._perceived(samples, scales, memory, perception, share, rng)
        return AgentLosses(
            tokens.sum(), int(rows.learned.sum()), points.sum(), len(rows.boxes), asked, count,
            len(samples), int(right.sum()), perception_weight,
        )  # fmt: skip

    def _perceived(
        self, samples: Sequence[Sample], scales: Sequence[tuple[float, float]], memory: Memory,
        perception: int, share: float, rng: np.random.Generator,
    ) -> tuple[Tensor, int]:  # fmt: skip
        """Sum of the losses of questions about screens, and how many they are."""
        made = [
            perception_rows(one.elements, self.words, perception, rng, scale, share)
            for one, scale in zip(samples, scales, strict=True)
        ]
        plain = read_elements(samples, self.words, scales, self.device)
        asked, count = self.reader(plain, memory, self.language, self.config.patch, rng)
        most = max(map(len, made))
        if most:
            blank = Row([self.words.marks["find"]])
            flat = [r for own in made for r in (*own, *[blank] * (most - len(own)))]
            said, found, _ = self._scored(collated(flat, self.device), memory)
            asked = asked + said.sum() + found.sum()
        return asked, count + sum(map(len, made))

    def log_probability(
        self, samples: Sequence[Sample], actions: Sequence[Action] | None = None
    ) -> Tensor:
        """Log-probability of whole answers, thought, action and places, with a gradient.

        A place counts as the patches of the box it may be in, or as the patch that holds it.

        Args:
            samples: Their contexts, and what is wanted.
            actions: What is said in place of what is wanted, one a sample.

        Returns:
            (B,), in nats.
        """
        memory, scales = self.see([one.context for one in samples])
        rows = self._action_rows(samples, actions, scales, [None] * len(samples))
        tokens, points, _ = self._scored(rows, memory)
        total = -tokens.sum(1)
        return total.index_add(0, rows.asked[0], -points.to(total.dtype))

    def _action_rows(
        self, samples: Sequence[Sample], actions: Sequence[Action] | None,
        scales: Sequence[tuple[float, float]], spells: Sequence[Any],
    ) -> Rows:  # fmt: skip
        if actions is not None and len(actions) != len(samples):
            raise ValueError(f"{len(actions)} actions for {len(samples)} samples: one each")
        made = []
        for at, one in enumerate(samples):
            row = prompt_of(one.context, self.words, self.config.max_prompt, scales[at], spells[at])
            action = one.wanted.action if actions is None else actions[at]
            box = one.wanted.box if actions is None else None
            made.append(answer_of(
                row, action, self.words, self.config.max_answer, scales[at], box, spells[at]
            ))  # fmt: skip
        return collated(made, self.device)

    def _scored(self, rows: Rows, memory: Memory) -> tuple[Tensor, Tensor, Tensor]:
        """Losses of tokens (R, T - 1), of points (n,), and whether the best patch is right."""
        x = self.language.embedded(rows.tokens, rows.points, memory, self.config.patch)
        hidden, _ = self.language(x, memory)
        tokens = self._token_losses(rows, hidden)
        row, column = rows.asked
        if not len(row):
            return tokens, hidden.new_zeros(0), row.bool()
        screen = row // (len(rows.tokens) // len(memory.keys))
        logits = self.pointing(hidden[row, column], memory, screen)
        right = right_patches(rows.boxes, memory, screen, self.config.patch)
        logs = logits.log_softmax(-1)
        found = torch.logsumexp(logs.masked_fill(~right, -torch.inf), -1)
        best = right.gather(1, logits.argmax(-1, keepdim=True))[:, 0]
        return tokens, -found, best

    def pointing(self, asking: Tensor, memory: Memory, screen: Tensor) -> Tensor:
        """Logits (n, P) of patches for states (n, M) of rows of screens (n,), in rising order."""
        return pointed(self.pointer(asking), memory, screen)

    def _token_losses(self, rows: Rows, hidden: Tensor) -> Tensor:
        state, target = hidden[:, :-1], rows.tokens[:, 1:]
        learned = rows.learned[:, :-1]
        losses = state.new_zeros(target.shape, dtype=torch.float32)
        if not bool(learned.any()):
            return losses
        read = self.copyable(rows.tokens)[:, None, :-1]
        causal = torch.ones(
            state.shape[1], state.shape[1], dtype=torch.bool, device=state.device
        ).tril()
        taken = self.language.copied(state, state, read & causal)
        same = rows.tokens[:, None, :-1] == target[:, :, None]
        copied = (taken * same).sum(-1)[learned].float()
        at = state[learned]
        logs = self.language.written(at).float().log_softmax(-1)
        logs = logs.gather(1, target[learned][:, None])[:, 0]
        gate = self.language.gate(at)[:, 0].float()
        mixed = torch.logaddexp(
            functional.logsigmoid(gate) + logs,
            functional.logsigmoid(-gate) + copied.clamp(min=1e-9).log(),
        )
        return losses.masked_scatter(learned, -mixed)

    def copyable(self, tokens: Tensor) -> Tensor:
        """Which tokens (R, T) may be copied: text, and the first one of a row, which never is."""
        text = tokens >= self.words.text_tokens.start
        joins = (tokens == self.words.marks["join"]) | (tokens == self.words.marks["word"])
        first = torch.arange(tokens.shape[1], device=tokens.device) == 0
        return text | joins | first

    def propose(self, context: Context) -> str:
        """A thought and an action, the most likely at each token."""
        return self.propose_many([context])[0]

    def propose_many(
        self, contexts: Sequence[Context], *, temperature: float = 0.0, seed: int = 0
    ) -> list[str]:
        """Thoughts and actions as texts of the dialect, each of which can be parsed.

        Args:
            contexts: Any number.
            temperature: 0 takes the most likely token and patch; above, they are drawn.
            seed: What is drawn depends on it and on the context's place alone.

        Raises:
            ValueError: A temperature below 0, or a context without a screenshot.
        """
        if not temperature >= 0:
            raise ValueError(f"temperature={temperature}: at least 0 is expected")
        if not contexts:
            return []
        from paragone.multimodal.agent.actions import format_action

        said = propose_all(self, contexts, temperature, seed)
        return [format_action(one, self.dialect) for one in said]

    def save_pretrained(self, folder: str | os.PathLike[str]) -> Path:
        """Writes config.json (with the vocabulary) and model.safetensors."""
        return write_folder(self, folder)

    @classmethod
    def from_pretrained(
        cls, folder: str | os.PathLike[str], *, device: Any = None, dtype: torch.dtype | None = None
    ) -> Any:
        """Reads what `save_pretrained` wrote, or the published layout.

        Args:
            folder: With config.json and safetensors.
            device: Where to put it (None: the CPU).
            dtype: Type of the weights (None: that of the file).

        Returns:
            A `UITars`; of the published layout (Qwen2-VL), what `open_published` gives.

        Raises:
            ValueError: A file that is missing, or weights that do not fit.
        """
        path = Path(folder) / "config.json"
        raw = read_json(path, "the folder of a UITars")
        kind = raw.get("model_type")
        if kind in ("qwen2_vl", "qwen2_5_vl"):
            from paragone.multimodal.agent.published import open_published

            return open_published(folder, device=device, dtype=dtype)
        if kind != "ui_tars":
            raise ValueError(f"{path}: model_type={kind!r}; 'ui_tars' or 'qwen2_vl' is expected")
        model = cls(UITarsConfig.of(raw), device="meta")
        read_folder(model, Path(folder), device, dtype)
        return model.eval()


_FIXED = "encoder.stem.tokenizer."
"""The trained image tokenizer, which is never trained here."""
