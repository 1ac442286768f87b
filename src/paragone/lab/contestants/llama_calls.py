"""Decoding behind one call for the study `llama_speed`: `(folder, weights, count, tokens)`.

The checkpoint lies in the folder in the forms that the contestants read: `hf` for paragone and
transformers, `gguf` and `gguf-q8_0` for llama.cpp, all written from the same weights. A call
reads a prompt of five tokens and makes `count` more, always the most likely one, and none ends it:
what is timed is the prompt, the steps and the choice of tokens. `truth` is a forward pass at each
token in float64. With 8 bits texts may differ: there a call gives only how many tokens it made.

Shapes: V vocabulary.
"""

from __future__ import annotations

import os
import struct
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from paragone._core.lazy import resolve
from paragone._core.private import private_folder
from paragone.kernels.atomics import fetch_add
from paragone.kernels.jit import njit
from paragone.kernels.simd import WIDTH, load, total, zero

__all__ = ["Hugging", "LlamaCpp", "Ours", "Reading", "checkpoint", "truth"]

PROMPT = (1, 403, 407, 261, 378)
SHAPES: dict[str, dict[str, Any]] = {
    "260k": {"vocab_size": 512, "hidden_size": 64, "num_hidden_layers": 5,
             "num_attention_heads": 8, "num_key_value_heads": 4, "intermediate_size": 172},
    "15m": {"vocab_size": 32000, "hidden_size": 288, "num_hidden_layers": 6,
            "num_attention_heads": 6, "intermediate_size": 768},
    "110m": {"vocab_size": 32000, "hidden_size": 768, "num_hidden_layers": 12,
             "num_attention_heads": 12, "intermediate_size": 2048},
}  # fmt: skip
"""Those of llama2.c; the head is the embedding, contexts are of 512 tokens."""
_UNIT = 1 << 20


def checkpoint(
    shape: str, weights: str, count: int, path: str = "", cache: str = ""
) -> tuple[str, str, int]:
    """Writes a checkpoint in all forms, unless it is there.

    Args:
        shape: A key of `SHAPES`, or "given".
        weights: "float32" or "int8", passed on.
        count: Tokens of a call, passed on.
        path: Weights to take (a checkpoint of any form) in place of random ones.
        cache: Folder for what can be made again ("": the system's temporary one).
    """
    name = f"{shape}-{'given' if path else 'random'}"
    root = Path(cache or tempfile.gettempdir()) / f"paragone-llama-{os.getuid()}"
    home = private_folder(root) / name
    if not (home / "whole").exists():
        home.mkdir(parents=True, exist_ok=True)
        model = _read(path) if path else _random(shape)
        tokenizer = resolve("paragone.language.tokenizer:Tokenizer").load(
            _pieces(home, model.config.vocab_size)
        )
        write = resolve("paragone.language.checkpoints:save")
        for form in ("hf", "gguf", "gguf-q8_0"):
            write(model, tokenizer, home / form, format=form)
        (home / "whole").touch()
    return str(home), weights, count


def _read(path: str) -> Any:
    return resolve("paragone.language.checkpoints:load")(path)[0]


def _random(shape: str) -> Any:
    """Random weights whose most likely token is so by a clear margin."""
    torch, llama = resolve("torch"), resolve("paragone.language.llama:Llama")
    config = resolve("paragone.language.config:LlamaConfig")(
        **SHAPES[shape], max_position_embeddings=512, tie_word_embeddings=True
    )
    generator = torch.Generator().manual_seed(0)
    model = llama(config, generator=generator).requires_grad_(False)
    model.model.embed_tokens.weight.normal_(std=1.0, generator=generator)
    return model


def _pieces(home: Path, vocabulary: int) -> Path:
    """llama2.c's form of a tokenizer: three special tokens, 256 bytes, and numbered words."""
    pieces = ["<unk>", "\n<s>\n", "\n</s>\n", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += [f" w{number}" for number in range(vocabulary - len(pieces))]
    words = [piece.encode() for piece in pieces[:vocabulary]]
    path = home / "words.bin"
    path.write_bytes(
        struct.pack("<i", max(map(len, words)))
        + b"".join(struct.pack("<fi", -float(i), len(w)) + w for i, w in enumerate(words))
    )
    return path


def _told(weights: str, tokens: Any) -> np.ndarray:
    return np.asarray(tokens, np.float64) if weights == "float32" else np.array([len(tokens)])


class Ours:
    """paragone's engine."""

    def __init__(self) -> None:
        self.engine: Any = None

    def __call__(self, folder: str, weights: str, count: int) -> np.ndarray:
        if self.engine is None:
            model = _read(f"{folder}/hf")
            model.config = model.config.replace(eos_token_id=None)
            self.engine = resolve("paragone.language.engine:Engine").make(model, weights=weights)
        generate = resolve("paragone.language.generate:generate")
        return _told(weights, generate(self.engine, None, PROMPT, max_new_tokens=count).tokens)


class Hugging:
    """transformers' generate, with its cache, as it is by default."""

    def __init__(self) -> None:
        resolve("paragone.lab.torchvision_cpu:prepare")()
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        self.model: Any = None

    def __call__(self, folder: str, weights: str, count: int) -> np.ndarray:
        torch = resolve("torch")
        if self.model is None:
            made = resolve("transformers:AutoModelForCausalLM")
            self.model = made.from_pretrained(f"{folder}/hf", dtype=torch.float32).eval()
            self.model.generation_config.eos_token_id = None
            self.model.generation_config.pad_token_id = 0
        ids = torch.tensor([PROMPT])
        with torch.inference_mode():
            found = self.model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, do_sample=False
            )
        return _told(weights, found[0, len(PROMPT) :].numpy())


class LlamaCpp:
    """llama.cpp through xllamacpp, on the same weights as float32 or q8_0."""

    def __init__(self) -> None:
        self.server: Any = None
        self.told: Any = None
        self.called = False

    def __call__(self, folder: str, weights: str, count: int) -> np.ndarray:
        if self.server is None:
            params = resolve("xllamacpp:CommonParams")()
            form = "gguf" if weights == "float32" else "gguf-q8_0"
            params.model.path = str(next(Path(folder, form).glob("*.gguf")))
            params.n_ctx, params.n_parallel, params.warmup = 512, 1, False
            threads = resolve("torch").get_num_threads()
            params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
            params.verbosity = 0
            self.server = resolve("xllamacpp:Server")(params)
            self.told = self._call(count, n_probs=1)
        found = self._call(count) if self.called else self.told
        self.called = True
        if weights != "float32":
            return np.array([int(found["usage"]["completion_tokens"])])
        return _told(weights, [one["id"] for one in self.told["choices"][0]["logprobs"]["content"]])

    def _call(self, count: int, **more: Any) -> dict[str, Any]:
        """One completion; token ids come with the log-probabilities, which the first call asks."""
        found = self.server.handle_completions({
            "prompt": list(PROMPT), "n_predict": count, "temperature": 0.0, "ignore_eos": True,
            "cache_prompt": False, **more,
        })  # fmt: skip
        if "usage" not in found:
            raise RuntimeError(f"llama.cpp: {found}")
        return found


@njit(nogil=True, error_model="numpy")
def _read_units(counter, units, numbers, sums):
    unit = fetch_add(counter, 0, 1)
    while unit < units:
        first, end = unit * _UNIT, min((unit + 1) * _UNIT, len(numbers))
        a, b, c, d = zero(), zero(), zero(), zero()
        for at in range(first, end - 4 * WIDTH + 1, 4 * WIDTH):
            a = a + load(numbers, at)
            b = b + load(numbers, at + WIDTH)
            c = c + load(numbers, at + 2 * WIDTH)
            d = d + load(numbers, at + 3 * WIDTH)
        sums[unit] = total((a + b) + (c + d))
        unit = fetch_add(counter, 0, 1)


class Reading:
    """The floor: all weights are read once for each token, and nothing else is done.

    What it gives back are paragone's tokens, made before the clock runs.
    """

    def __init__(self) -> None:
        self.told: Any = None

    def __call__(self, folder: str, weights: str, count: int) -> np.ndarray:
        if self.told is None:
            ours = Ours()
            self.told = ours(folder, weights, count)
            panels = ours.engine.packed.panels
            self.numbers = panels[: len(panels) // 4 * 4].view(np.float32)
        units = -(-len(self.numbers) // _UNIT)
        sums = np.zeros(units, np.float32)
        share = resolve("paragone.kernels.teams:share")
        threads = resolve("torch").get_num_threads()
        for _ in range(count):
            share(_read_units, units, self.numbers, sums, threads=threads)
        return self.told


def truth(folder: str, weights: str, count: int) -> np.ndarray:
    """The most likely tokens, by the model itself in float64."""
    if weights != "float32":
        return np.array([count])
    torch = resolve("torch")
    model = _read(f"{folder}/hf").double().eval()
    ids, state, found = torch.tensor([PROMPT]), None, []
    with torch.inference_mode():
        for _ in range(count):
            out = model(ids, state=state, logits="last")
            ids, state = out.logits[:, -1].argmax(-1, keepdim=True), out.state
            found.append(int(ids))
    return _told(weights, found)
