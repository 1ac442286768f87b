"""The contestants of `decoding`: what guesses tokens ahead, and how other libraries decode.

Ours are functions of a `Stage` that give what `generate(speculate=…)` takes. A stranger's is the
same: `def mine(stage): return load_drafter("heads/", stage.model)`, by `--with mine.py:mine`.

Heads are trained on the model's own continuations within the budget of the study, by the defaults
of their `train`; nothing is tuned. The small draft model is trained on texts that the model wrote.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from paragone._core.lazy import resolve
from paragone.lab.spec import Contestant
from paragone.lab.tasks.decoding import Stage

__all__ = [
    "Hugging", "LlamaCpp", "autoregressive", "contestants", "draft_model", "look_up", "medusa",
    "plain", "several_tokens", "small_model",
]  # fmt: skip

HEADS = 4
_TRAINING = 0.7
"""Share of the budget that is for training; the rest draws what is learned."""


def plain(stage: Stage) -> None:
    """Decodes token by token."""


def look_up(stage: Stage) -> str:
    """Takes what followed the same words before."""
    stage.plan = (8, 8, 1)
    return "prompt-lookup"


def _fit(stage: Stage, path: str, name: str, drawn: str = "samples", **options: Any) -> Any:
    """Heads of a class by its `train` and `load`; `drawn` is how it calls its samples' number."""
    kind = resolve(path)

    def make() -> Any:
        return kind.train(
            stage.model, stage.tokenizer, stage.texts, seconds=_TRAINING * stage.clock,
            seed=stage.seed, **{drawn: _affordable(stage)}, **options,
        )  # fmt: skip

    return stage.trained(name, make, lambda folder: kind.load(folder, stage.model))


def medusa(stage: Stage, nodes: int = 16) -> Any:
    """Heads that guess from one stream."""
    stage.plan = (nodes, HEADS, 8)
    return _fit(stage, "paragone.language:Medusa", "medusa", heads=HEADS)


def autoregressive(stage: Stage) -> Any:
    """A head that goes on from its own streams."""
    stage.plan = (4, 4, 1)
    return _fit(stage, "paragone.language:Eagle", "eagle")


def several_tokens(stage: Stage, kind: str) -> Any:
    """Modules for the token after next.

    Args:
        stage: What to train on.
        kind: "sequential" (one module, used again for each depth) or "parallel".
    """
    stage.plan = (4, 4, 1)
    depth = 1 if kind == "sequential" else HEADS
    return _fit(stage, "paragone.language:MultiTokenPrediction", f"mtp-{kind}", "tokens",
                kind=kind, depth=depth)  # fmt: skip


class _Small:
    """A trained model that saves itself, as heads do."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model, self.tokenizer = model, tokenizer

    def save(self, folder: str) -> None:
        resolve("paragone.language.checkpoints:save")(self.model, self.tokenizer, folder)


def small_model(stage: Stage) -> Any:
    """A model of half the width and a fifth of the layers, trained on texts of the large one."""
    config = stage.model.config
    heads = max(1, config.num_attention_heads // 2)
    wide = max(heads * 8, config.hidden_size // 2 // (2 * heads) * 2 * heads)
    sizes = {
        "hidden_size": wide, "num_hidden_layers": max(1, config.num_hidden_layers // 5),
        "num_attention_heads": heads, "num_key_value_heads": heads,
        "intermediate_size": max(16, 2 * wide), "vocab_size": config.vocab_size,
        "max_position_embeddings": config.max_position_embeddings,
        "bos_token_id": config.bos_token_id, "eos_token_id": config.eos_token_id,
        "tie_word_embeddings": True,
    }  # fmt: skip

    def make() -> _Small:
        rows = resolve("paragone.language._heads_data:own_samples")(
            stage.model, stage.tokenizer, stage.texts, tokens=_affordable(stage), seed=stage.seed
        )
        texts = [stage.tokenizer.decode(row.tolist()) for row in rows]
        done = resolve("paragone.language.train:train")(
            texts, None, model=resolve("paragone.language.config:LlamaConfig")(**sizes),
            tokenizer=stage.tokenizer, length=128, batch=8, seconds=_TRAINING * stage.clock, lr=6e-3,
            compile=False, precision="fp32", validation=0.02, threads=stage.threads,
            seed=stage.seed,
        )  # fmt: skip
        return _Small(done.model, stage.tokenizer)

    def read(folder: str) -> Any:
        return resolve("paragone.language.checkpoints:load")(folder)[0].eval()

    return stage.trained("draft", make, read)


def _affordable(stage: Stage) -> int:
    """Tokens that the model writes in a quarter of the budget, by what a few take."""
    samples = resolve("paragone.language._heads_data:own_samples")
    for count in (200, 4000):
        began = time.process_time()
        rows = samples(stage.model, stage.tokenizer, stage.texts, tokens=count, seed=1)
    speed = sum(map(len, rows)) / max(time.process_time() - began, 1e-6)
    return int(min(max(speed * stage.budget / 4, 4000), 300_000))


def draft_model(stage: Stage) -> Any:
    """A smaller model guesses."""
    return small_model(stage)


class Hugging:
    """transformers' generate: plain, with prompt look-up, or with a draft model.

    Args:
        stage: What to decode with.
        aid: "", "lookup" or "draft".
    """

    def __init__(self, stage: Stage, aid: str = "") -> None:
        resolve("paragone.lab.torchvision_cpu:prepare")()
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        self.model = self._read(stage.problem.form("hf"), stage.model)
        self.more: dict[str, Any] = {}
        if aid == "lookup":
            self.more["prompt_lookup_num_tokens"] = 8
        elif aid == "draft":
            small = small_model(stage)
            path = stage.problem.form("hf", small, "draft-" + _stamp(stage))
            self.more["assistant_model"] = self._read(path, stage.model)

    @staticmethod
    def _read(path: str, like: Any) -> Any:
        torch = resolve("torch")
        made = resolve("transformers:AutoModelForCausalLM")
        model = made.from_pretrained(path, dtype=torch.float32).eval()
        model.generation_config.pad_token_id = 0
        model.generation_config.eos_token_id = list(like.config.eos) or None
        return model.to(like.model.embed_tokens.weight.device)

    def __call__(self, prompt: Sequence[int], count: int) -> list[int]:
        torch = resolve("torch")
        ids = torch.tensor([list(prompt)], device=self.model.device)
        with torch.inference_mode():
            found = self.model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, do_sample=False,
                **self.more,
            )  # fmt: skip
        ends = self.model.generation_config.eos_token_id or []
        made = found[0, len(prompt) :].tolist()
        return made[:-1] if made and made[-1] in ends else made


class LlamaCpp:
    """llama.cpp's server in this process: plain, with n-grams, or with a draft model.

    Args:
        stage: What to decode with.
        aid: "", "lookup" or "draft".
    """

    def __init__(self, stage: Stage, aid: str = "") -> None:
        llama = resolve("xllamacpp")
        params = llama.CommonParams()
        params.model.path = stage.problem.form("gguf")
        kinds = llama.common_speculative_type
        if aid == "lookup":
            params.speculative.types = [kinds.COMMON_SPECULATIVE_TYPE_NGRAM_SIMPLE]
        elif aid == "draft":
            small = small_model(stage)
            draft = params.speculative.draft
            draft.mparams.path = stage.problem.form("gguf", small, "draft-" + _stamp(stage))
            draft.n_max, draft.cpuparams.n_threads = 4, stage.threads
            draft.cpuparams_batch.n_threads = stage.threads
            params.speculative.types = [kinds.COMMON_SPECULATIVE_TYPE_DRAFT_SIMPLE]
        params.n_ctx = stage.model.config.max_position_embeddings
        params.n_parallel, params.warmup = 1, True
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = stage.threads
        params.verbosity = 0
        self.server = llama.Server(params)
        self.ends = set(stage.model.config.eos)
        # Token ids come with log-probabilities alone, which cost time: asked once, off the clock.
        count = stage.problem.length
        self.told = {(tuple(p), count): self._ids(p, count) for p in stage.problem.prompts}

    def __call__(self, prompt: Sequence[int], count: int) -> list[int]:
        self._call(prompt, count)
        return self.told[tuple(prompt), count]

    def _ids(self, prompt: Sequence[int], count: int) -> list[int]:
        found = self._call(prompt, count, n_probs=1)
        made = [int(one["id"]) for one in found["choices"][0]["logprobs"]["content"]]
        return made[:-1] if made and made[-1] in self.ends else made

    def _call(self, prompt: Sequence[int], count: int, **more: Any) -> dict[str, Any]:
        found = self.server.handle_completions({
            "prompt": list(prompt), "n_predict": count, "temperature": 0.0, "cache_prompt": False,
            **more,
        })  # fmt: skip
        if "choices" not in found:
            raise RuntimeError(f"llama.cpp: {found}")
        return found


def _stamp(stage: Stage) -> str:
    return Path(stage.problem.home).name[-4:] + f"-{stage.budget:g}"


_HERE = "paragone.lab.contestants.decoding:"


def _ours(id: str, title: str, make: str, note: str = "", method: str = "", **params: Any) -> Any:
    return Contestant(id=id, title=title, make=_HERE + make, params=params, method=method,
                      note=note, needs={"crew": ["quick", "all"]})  # fmt: skip


def _rival(id: str, title: str, make: str, note: str, crew: Sequence[str], **params: Any) -> Any:
    hugging = make == "Hugging"
    name = "transformers" if hugging else "xllamacpp"
    return Contestant(
        id=id, title=title, make=_HERE + make, params=params, origin="rival", distribution=name,
        install=f"pip install {name}", note=note, needs={"crew": list(crew), "way": ["greedy"]},
    )  # fmt: skip


def contestants() -> list[Contestant]:
    """Plain decoding, our drafters, and two libraries with what they have of it."""
    both = ("quick", "all")
    return [
        _ours("plain", "plain decoding", "plain", "token by token", method="llama"),
        _ours("prompt_lookup", "prompt look-up", "look_up", "nothing is trained"),
        _ours("draft_model", "draft model", "draft_model", "half the width, a fifth of the layers"),
        _ours("medusa", "Medusa", "medusa", "four heads; fixed plan: 16 nodes", method="medusa"),
        _ours("eagle", "EAGLE", "autoregressive", "one block over streams and tokens"),
        _ours("mtp", "MTP, sequential", "several_tokens", "one module, used four times",
              method="multi_token_prediction", kind="sequential"),
        _ours("mtp_parallel", "MTP, parallel", "several_tokens", "four heads on the trunk",
              method="multi_token_prediction", kind="parallel"),
        _rival("transformers", "transformers {version}", "Hugging", "plain", both),
        _rival("transformers_lookup", "transformers {version}, look-up", "Hugging",
               "prompt_lookup_num_tokens=8", ("all",), aid="lookup"),
        _rival("transformers_draft", "transformers {version}, assisted", "Hugging",
               "the same draft model", both, aid="draft"),
        _rival("llama_cpp", "llama.cpp (xllamacpp {version})", "LlamaCpp",
               "plain, its server in the same process", ("all",)),
        _rival("llama_cpp_lookup", "llama.cpp, n-grams", "LlamaCpp", "ngram-simple", ("all",),
               aid="lookup"),
        _rival("llama_cpp_draft", "llama.cpp, draft model", "LlamaCpp", "the same draft model",
               ("all",), aid="draft"),
    ]  # fmt: skip
