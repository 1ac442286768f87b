"""A step of tuning behind one call for the study `tuning_speed`: `(op, shape, weights, rows)`.

Operations: "sft" (all weights), "lora" (rank 8 on all linear maps) and "dpo", each from the same
weights on the same tokens, and each one step of the optimizer over all rows: forward, backward,
clipping, AdamW. What comes back is the loss of the step (of "dpo" the mean log-probabilities of
the preferred and of the rejected answers), which `truth` computes in float64: the work was equal.
Rows come as tokens; nobody tokenises on the clock.

Shapes: n rows, V vocabulary.
"""

from __future__ import annotations

import contextlib
import copy
import os
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

__all__ = ["Ours", "PeftOnOurs", "Trl", "inputs", "truth"]

_RATE = 1e-6
_RANK, _ALPHA = 8, 16
_LENGTH = 512


def inputs(op: str, vocabulary: int, rows: int, width: int = 288) -> tuple:
    """The operation, a shape of six layers (at width 288 that of 15M), its weights, and n rows.

    A row of "sft" and "lora" is a prompt of 40 to 120 tokens and an answer of 20 to 120; one of
    "dpo" a prompt of 96 tokens and two answers of 96.
    """
    rng = np.random.default_rng([vocabulary, rows])
    shape = {
        "vocab_size": vocabulary, "hidden_size": width, "intermediate_size": width * 8 // 3,
        "num_hidden_layers": 6, "num_attention_heads": 6, "num_key_value_heads": 6,
        "max_position_embeddings": 1024, "tie_word_embeddings": True,
    }  # fmt: skip
    weights = {name: weight.clone() for name, weight in _llama(shape).state_dict().items()}

    def tokens(count: int) -> list[int]:
        return [*rng.integers(3, vocabulary, count - 1).tolist(), 2]

    def prompt(count: int) -> list[int]:
        return rng.integers(3, vocabulary, count).tolist()

    if op == "dpo":
        drawn = [(prompt(96), tokens(96), tokens(96)) for _ in range(rows)]
    else:
        sizes = zip(rng.integers(40, 120, rows), rng.integers(20, 120, rows), strict=True)
        drawn = [(prompt(int(p)), tokens(int(a))) for p, a in sizes]
    return op, shape, weights, drawn


def _llama(shape: Mapping[str, Any]) -> Any:
    from paragone.language import Llama, LlamaConfig

    return Llama(LlamaConfig(**shape), generator=torch.Generator().manual_seed(0))


def _encoded(rows: Sequence[Any]) -> list[Any]:
    from paragone.language.rows import Encoded

    return [Encoded([*p, *a], [False] * len(p) + [True] * len(a)) for p, a in rows]


class _Calls:
    """Keeps the model and what trains it from the first call on."""

    def __init__(self) -> None:
        self.step: Any = None

    def __call__(self, op: str, shape: dict, weights: dict, rows: Sequence[Any]) -> Any:
        if self.step is None:
            self.step = self._made(op, shape, weights, rows)
        return self.step()

    def _made(self, op: str, shape: dict, weights: dict, rows: Sequence[Any]) -> Any:
        raise NotImplementedError


class Ours(_Calls):
    """What `finetune` and `dpo` run, from tokens on.

    Args:
        first: Whether "dpo" keeps the reference's scores on disk: later calls find them.
    """

    def __init__(self, first: bool = False) -> None:
        super().__init__()
        self.first = first

    def _made(self, op: str, shape: dict, weights: dict, rows: Sequence[Any]) -> Any:
        model = _llama(shape)
        model.load_state_dict(weights)
        if op == "dpo":
            reference = copy.deepcopy(model) if self.first else None
            cache = tempfile.mkdtemp() if self.first else None
            return lambda: _preferred(model, rows, reference, cache)
        self._adapted(model, op)
        return lambda: _taught(model, rows)

    def _adapted(self, model: Any, op: str) -> None:
        if op == "lora":
            from paragone.language.lora import add_lora

            add_lora(model, _RANK, _ALPHA)


class PeftOnOurs(Ours):
    """The same model, packing, loss and loop, with PEFT's layers in it: the layers alone."""

    def _adapted(self, model: Any, op: str) -> None:
        peft = _imported("peft")
        config = peft.LoraConfig(r=_RANK, lora_alpha=_ALPHA, target_modules=_names(model))
        model.requires_grad_(False)
        peft.inject_adapter_in_model(config, model)


def _names(model: Any) -> list[str]:
    return [
        name for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and not name.endswith("lm_head")
    ]  # fmt: skip


def _taught(model: Any, rows: Sequence[Any]) -> float:
    from paragone.language._tune_data import Stream
    from paragone.language.finetune import answer_loss
    from paragone.language.fitting import Loop, Recipe

    stream = Stream(_encoded(rows), len(rows), 1, _LENGTH, 0)
    recipe = Recipe(1, _RATE, schedule="constant")
    return Loop(model, recipe, stream, lambda row: answer_loss(model, row)).run()[-1]["loss"]


def _preferred(model: Any, rows: Sequence[Any], reference: Any, cache: Any) -> np.ndarray:
    from paragone.language.dpo import dpo
    from paragone.language.rows import EncodedPair

    pairs = [EncodedPair(p, a, b, [True] * len(a), [True] * len(b)) for p, a, b in rows]
    done = dpo(
        model, None, pairs, epochs=1, batch=len(rows), lr=_RATE, reference=reference, cache=cache,
        samples=0,
    )  # fmt: skip
    last = done.history[-1]
    return np.array([last["log_probs_chosen"], last["log_probs_rejected"]])


def _imported(name: str) -> Any:
    from paragone.lab.torchvision_cpu import prepare

    prepare()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    warnings.simplefilter("ignore")
    module = __import__(name)
    import transformers

    transformers.logging.set_verbosity_error()
    return module


class Trl(_Calls):
    """TRL's trainers on transformers' Llama, with PEFT for "lora".

    Args:
        packing: Whether "sft" and "lora" pack rows (best fit, documents apart); else they are
            padded, eight to a batch.
        first: Whether "dpo" scores the reference once before the first step, off the clock of
            later calls.
    """

    def __init__(self, packing: bool = True, first: bool = False) -> None:
        super().__init__()
        self.packing, self.first = packing, first

    def _made(self, op: str, shape: dict, weights: dict, rows: Sequence[Any]) -> Any:
        trl = _imported("trl")
        import transformers

        config = transformers.LlamaConfig(**shape, rms_norm_eps=1e-5)
        model = transformers.LlamaForCausalLM(config)
        model.load_state_dict(weights)
        options: dict[str, Any] = {
            "output_dir": tempfile.mkdtemp(), "num_train_epochs": 1, "learning_rate": _RATE,
            "lr_scheduler_type": "constant", "gradient_checkpointing": False, "bf16": False,
            "use_cpu": not torch.cuda.is_available(), "report_to": [], "disable_tqdm": True,
            "save_strategy": "no", "logging_steps": 1, "optim": "adamw_torch",
            "dataloader_pin_memory": False, "weight_decay": 0.0,
        }  # fmt: skip
        make = self._preferring if op == "dpo" else self._teaching
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            trainer = make(trl, model, options, op, rows, _words(shape["vocab_size"]))

        def step() -> Any:
            trainer.state.log_history.clear()
            with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
                trainer.train()
            line = trainer.state.log_history[0]
            if op == "dpo":
                return np.array([line["logps/chosen"], line["logps/rejected"]])
            return trainer.state.log_history[-1]["train_loss"]

        return step

    def _teaching(
        self, trl: Any, model: Any, options: dict, op: str, rows: Sequence[Any], words: Any
    ) -> Any:
        import datasets

        encoded = _encoded(rows)
        data = datasets.Dataset.from_dict({
            "input_ids": [row.ids for row in encoded],
            "completion_mask": [[int(t) for t in row.targets] for row in encoded],
        })  # fmt: skip
        batch = 1 if self.packing else 8
        args = trl.SFTConfig(
            **options, packing=self.packing, max_length=_LENGTH, completion_only_loss=True,
            per_device_train_batch_size=batch, gradient_accumulation_steps=len(rows),
            eos_token="</s>",
        )  # fmt: skip
        adapter = None
        if op == "lora":
            adapter = _imported("peft").LoraConfig(
                r=_RANK, lora_alpha=_ALPHA, target_modules="all-linear", task_type="CAUSAL_LM"
            )
        return trl.SFTTrainer(
            model=model, args=args, train_dataset=data, processing_class=words, peft_config=adapter
        )

    def _preferring(
        self, trl: Any, model: Any, options: dict, op: str, rows: Sequence[Any], words: Any
    ) -> Any:
        import datasets

        def text(ids: Sequence[int]) -> str:
            return " ".join(str(id) for id in ids if id != 2)

        # Answers begin with the blank that parts them from the prompt; the trainer adds the end.
        data = datasets.Dataset.from_dict({
            "prompt": [text(p) for p, _, _ in rows],
            "chosen": [f" {text(a)}" for _, a, _ in rows],
            "rejected": [f" {text(b)}" for _, _, b in rows],
        })  # fmt: skip
        args = trl.DPOConfig(
            **options, max_length=1024, per_device_train_batch_size=min(len(rows), 8),
            gradient_accumulation_steps=-(-len(rows) // 8), precompute_ref_log_probs=self.first,
        )  # fmt: skip
        other = None if self.first else copy.deepcopy(model)
        return trl.DPOTrainer(
            model=model, ref_model=other, args=args, train_dataset=data, processing_class=words
        )


def _words(size: int) -> Any:
    """A tokenizer of transformers whose words are the numbers of tokens."""
    import tokenizers
    import transformers

    words = {"<unk>": 0, "<s>": 1, "</s>": 2, **{str(i): i for i in range(3, size)}}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, "<unk>"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()  # pyright: ignore
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, unk_token="<unk>", bos_token="<s>", eos_token="</s>",
        pad_token="<unk>",
    )  # fmt: skip


def truth(op: str, shape: dict, weights: dict, rows: Sequence[Any]) -> Any:
    """The result in float64, each text by itself."""
    model = _llama(shape)
    model.load_state_dict(weights)
    model.double().eval()

    def scored(prompt: Sequence[int], answer: Sequence[int]) -> float:
        ids = torch.tensor([[*prompt, *answer]])
        with torch.no_grad():
            scores = model(ids).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        return float(scores.gather(1, torch.tensor(answer)[:, None]).sum())

    if op == "dpo":
        return np.array([np.mean([scored(p, row[at]) for p, *row in rows]) for at in (0, 1)])
    return -sum(scored(p, a) for p, a in rows) / sum(len(a) for _, a in rows)
