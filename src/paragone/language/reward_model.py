r"""A reward from preferences: what a person would rather read, as one number.

Bradley and Terry's model says how often an answer of reward r beats another; its likelihood trains
a language model's trunk with one output in place of the head, read at the answer's last token:

$$ p(w \succ l) = \sigma(r_w - r_l), \qquad
   L = -\log \sigma(r_w - r_l - m) + c\,(r_w + r_l)^2 , $$

with m how much better the chosen answer is said to be (0 if nothing is said). The likelihood fixes
differences alone; c keeps the level near 0, and afterwards it is moved so that the mean over the
pairs is 0.

References:
    Bradley and Terry (1952), "Rank analysis of incomplete block designs", eq. 2.
    Stiennon et al. (2020), arXiv:2009.01325, section 3.4.
    Touvron et al. (2023), Llama 2, arXiv:2307.09288, eq. 2 (margin).
    Eisenstein et al. (2023), arXiv:2312.09244, section 2 (centre).

Shapes: n pairs, A answers, N tokens of a batch, M width.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from paragone.language._preference_forward import Group, Packed, hidden_states, pack_groups
from paragone.language._preference_pairs import (
    Aligned,
    Feed,
    Micro,
    encoded_pairs,
    group_of,
    template_of,
)
from paragone.language._preference_reference import parts_of
from paragone.language._train_ranks import Ranks
from paragone.language.fitting import Loop, Loss, Progressed, Recipe
from paragone.training.run_folder import Folder, write_whole

__all__ = ["RewardModel", "reward_model"]

_TOKENS = 8192
_JUDGED = 512


class RewardModel(nn.Module):
    """A decoder with one output, read at the last token of an answer.

    It is a function of prompts and answers, as `ppo` and `grpo` take. Prefer a reward that can be
    computed (a test that passes, a number that is right) wherever there is one: a learned reward
    is only good near the answers that it was trained on, and a policy will find where it is not.

    Args:
        model: The `Llama` whose decoder is copied.
        tokenizer: Its tokenizer, for texts; None for tokens alone.
        template: For prompts that are conversations.
        generator: Source of the output's first weights (None: they are zero).

    Attributes:
        model: The decoder.
        score: The output, (1, M).
        level: What is taken from every reward.
        run: What `reward_model` has measured, or None.

    Example:
        >>> from paragone.language import Llama, LlamaConfig
        >>> llama = Llama(LlamaConfig(8, 8, num_hidden_layers=1, num_attention_heads=1))
        >>> RewardModel(llama).group_rewards([Group([1], [[2, 3], [4]])])
        tensor([0., 0.])
    """

    level: Tensor
    run: Aligned | None = None

    def __init__(
        self, model: Any, tokenizer: Any = None, template: Any = None, *,
        generator: torch.Generator | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.config, self.tokenizer, self.template = model.config, tokenizer, template
        self.model = copy.deepcopy(model.model)
        like = self.model.norm.weight
        width = self.config.hidden_size
        self.score = nn.Linear(width, 1, bias=False, device=like.device, dtype=like.dtype)
        if generator is None:
            nn.init.zeros_(self.score.weight)
        else:
            draw = torch.randn(1, width, generator=generator) / (width + 1)
            self.score.weight.data.copy_(draw)
        self.register_buffer("level", like.new_zeros(()))

    def values(self, packed: Packed) -> Tensor:
        """Returns the (N,) outputs at all tokens.

        Args:
            packed: The batch.
        """
        return self.score(hidden_states(self, packed))[:, 0] - self.level

    def answer_rewards(self, groups: Sequence[Group]) -> tuple[Tensor, int]:
        """Returns the (A,) rewards with their gradient, and how many tokens were read.

        Args:
            groups: Prompts with answers.
        """
        packed = pack_groups(groups, whole=True, device=self.level.device)
        return self.values(packed).index_select(0, packed.last), len(packed.tokens)

    @torch.no_grad()
    def group_rewards(self, groups: Sequence[Group]) -> Tensor:
        """Returns the (A,) rewards of answers as tokens, the one that ends them included.

        Args:
            groups: Prompts with answers.
        """
        training = self.training
        self.eval()
        found = [self.answer_rewards(part)[0] for part in parts_of(groups, _TOKENS)]
        self.train(training)
        return torch.cat(found)

    def forward(self, prompts: Sequence[Any], answers: Sequence[str]) -> list[float]:
        """Returns the rewards of answers as texts, taken as ended.

        Args:
            prompts: Texts or conversations.
            answers: A text for each.

        Raises:
            ValueError: There is no tokenizer, or prompts and answers differ in number.
        """
        if self.tokenizer is None:
            raise ValueError("texts need a tokenizer: give one to RewardModel")
        if len(prompts) != len(answers):
            raise ValueError(f"{len(prompts)} prompts and {len(answers)} answers; one for each")
        if not prompts:
            return []
        rows = [self._row(p, a) for p, a in zip(prompts, answers, strict=True)]
        return self.group_rewards([Group(row, [[]]) for row in rows]).tolist()

    def _row(self, prompt: Any, answer: str) -> list[int]:
        if isinstance(prompt, str):
            ids = list(self.tokenizer.encode(prompt + answer, bos=True))
            return ids if self.tokenizer.eos_id is None else [*ids, self.tokenizer.eos_id]
        from paragone.language.rows import encode_row

        whole = [*prompt, {"role": "assistant", "content": answer}]
        row = encode_row(self.tokenizer, whole, template_of(self.tokenizer, self.template))
        assert row is not None
        last = max(at for at, target in enumerate(row.targets) if target)
        return row.ids[: last + 1]

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Writes a folder that transformers reads as LlamaForSequenceClassification.

        The level has no place there; it stands in the weights' note, which `load` reads.

        Args:
            folder: Made if it is not there.
        """
        from safetensors.torch import save

        from paragone.language._format_config import write_config
        from paragone.language._format_weights import in_layout

        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        state = {n: v for n, v in self.state_dict().items() if n != "level"}
        config = self.config
        if config.kv_lora_rank is None:
            state, config = in_layout(state, config, "half")
        dtype = str(self.level.dtype).removeprefix("torch.")
        text = {
            **write_config(config, dtype), "architectures": ["LlamaForSequenceClassification"],
            "id2label": {"0": "reward"}, "label2id": {"reward": 0},
        }  # fmt: skip
        state = {name: value.detach().cpu().contiguous() for name, value in state.items()}
        note = {"format": "pt", "reward_level": repr(float(self.level))}
        write_whole(path / "model.safetensors", save(state, note))
        write_whole(path / "config.json", json.dumps(text, indent=1).encode())
        if self.tokenizer is not None:
            self.tokenizer.save(path)

    @classmethod
    def load(
        cls, folder: str | os.PathLike[str], tokenizer: Any = None, template: Any = None
    ) -> RewardModel:
        """Reads what `save` wrote.

        Args:
            folder: With config.json and model.safetensors.
            tokenizer: For texts.
            template: For prompts that are conversations.

        Raises:
            ValueError: The files do not fit.
        """
        from safetensors import safe_open

        from paragone.language._format_hf import read_hf
        from paragone.language.llama import Llama

        path = Path(folder)
        config, tensors = read_hf(path)
        with safe_open(path / "model.safetensors", framework="pt") as file:
            level = float((file.metadata() or {}).get("reward_level", 0.0))
        found = cls(Llama(config), tokenizer, template)
        try:
            found.load_state_dict({**tensors, "level": torch.tensor(level)})
        except RuntimeError as error:
            raise ValueError(f"{path}: not a reward model's weights: {error}") from error
        return found.to(tensors["score.weight"].dtype).eval()


def reward_model(
    model: Any,
    tokenizer: Any,
    pairs: Any,
    *,
    margins: Sequence[float] | None = None,
    center: float = 0.01,
    epochs: float = 1.0,
    batch: int = 16,
    lr: float = 1e-4,
    warmup: float = 0.05,
    schedule: Literal["cosine", "linear", "constant", "wsd"] = "cosine",
    optimizer: str = "adamw",
    weight_decay: float = 0.0,
    clip_norm: float | None = 1.0,
    precision: Literal["fp32", "bf16", "fp16"] = "fp32",
    template: Any = None,
    max_length: int | None = None,
    evaluation: Any = None,
    evaluate_every: int | None = None,
    micro_tokens: int = _TOKENS,
    out: str | os.PathLike[str] | None = None,
    progress: Callable[[Progressed], None] | None = None,
    seed: int = 0,
) -> RewardModel:
    """Trains a reward on preferred and rejected answers; the second stage of RLHF.

    Prefer `dpo` where the preferences are all that will be used: it needs neither this stage nor
    the next. Prefer this where answers that the policy gives later are to be judged, or chosen
    among.

    Args:
        model: A `Llama`, best the one that was fine-tuned; its decoder is copied.
        tokenizer: Its `Tokenizer`.
        pairs: Whatever `read_pairs` takes, or `EncodedPair`s.
        margins: How much better each chosen answer is, in units of the reward.
        center: Weight of the square of a pair's summed rewards.
        epochs: Rounds through the pairs.
        batch: Pairs of a step.
        lr: Largest learning rate.
        warmup: Share of the run in which the rate rises.
        schedule: As in `fitting.Recipe`.
        optimizer: Any of `paragone.training`, in lower case.
        weight_decay: Decay of matrices.
        clip_norm: Largest norm of a step's gradients, or None.
        precision: "fp32", "bf16" or "fp16".
        template: A `ChatTemplate` or a name (None: the tokenizer's own, or "alpaca").
        max_length: Most tokens of a text (None: the model's).
        evaluation: Pairs to validate on.
        evaluate_every: Steps between validations (None: only at the end).
        micro_tokens: About how many tokens are forwarded at once.
        out: The run's folder; None: nothing is written.
        progress: Called with each event.
        seed: Of the first weights and the order.

    Returns:
        The reward; `.run` holds an `Aligned` with the history: step, loss, accuracy, margin,
        rewards_chosen, rewards_rejected, at validations validation_*; in the last line
        final_accuracy, on the first 512 pairs once more.

    Raises:
        ValueError: An argument out of range, or pairs that cannot be read.
    """
    longest = max_length or model.config.max_position_embeddings
    size = model.config.vocab_size
    encoded, notes = encoded_pairs(tokenizer, pairs, template, longest, size)
    if margins is not None and len(margins) != len(encoded):
        raise ValueError(
            f"{len(margins)} margins for {len(encoded)} pairs that can be used; give one for each"
        )
    groups = [group_of(pair) for pair in encoded]
    tested = []
    if evaluation is not None:
        held, more = encoded_pairs(tokenizer, evaluation, template, longest, size)
        tested, notes = [group_of(pair) for pair in held], [*notes, *more]
    ranks = Ranks()
    feed = Feed(groups, batch, epochs, seed, micro_tokens, ranks.rank, ranks.size)
    recipe = Recipe(
        feed.steps, lr, warmup, schedule, 0.1, optimizer, weight_decay, clip_norm, precision, seed,
        evaluate_every=evaluate_every,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    found = RewardModel(model, tokenizer, template, generator=generator)
    asked = torch.zeros(len(groups)) if margins is None else torch.tensor([*margins])

    def loss(micro: Micro) -> Loss:
        found.eval()
        rewards, tokens = found.answer_rewards([groups[at] for at in micro.indices])
        good, bad = rewards.view(-1, 2).unbind(1)
        gap = asked[micro.indices].to(good)
        total = (-logsigmoid(good - bad - gap) + center * (good + bad).square()).sum()
        return Loss(total, len(good), _metrics(good.detach(), bad.detach()), tokens)

    def evaluate() -> dict[str, float]:
        if not tested:
            return {}
        good, bad = found.group_rewards(tested).view(-1, 2).unbind(1)
        lines = {"loss": (-logsigmoid(good - bad).sum(), 0), **_metrics(good, bad)}
        return {f"validation_{k}": float(total) / len(good) for k, (total, _) in lines.items()}

    for line in notes:
        if progress is not None:
            progress(Progressed("note", text=line))
    folder = None if out is None else Folder(out)
    identity = {"method": "reward_model", "batch": batch, "pairs": len(groups), "center": center}
    loop = Loop(found, recipe, feed, loss, folder, progress, evaluate, identity=identity)
    history = loop.run()
    found.eval()
    judged = found.group_rewards(groups[:_JUDGED])
    found.level += judged.mean()
    good, bad = judged.view(-1, 2).unbind(1)
    history[-1]["final_accuracy"] = float((good > bad).double().mean())
    if folder is not None:
        found.save(folder.path)
    where = None if folder is None else folder.path
    run = Aligned(found, history, history[-1], notes, loop.seconds, where)
    object.__setattr__(found, "run", run)
    return found


def _metrics(good: Tensor, bad: Tensor) -> dict[str, tuple[Tensor, int]]:
    found = {
        "rewards_chosen": good, "rewards_rejected": bad, "margin": good - bad,
        "accuracy": (good > bad).to(good.dtype),
    }  # fmt: skip
    return {name: (values.sum(), len(values)) for name, values in found.items()}
