"""Estimators of a run's memory behind one call: `(problem, seed) -> bytes`.

A problem says what runs: a small model by name ("measured"), a model shared by ranks
("sharded"), or a published run as options of a plan ("published"). Libraries are imported when
they are called, in the run's own process.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from paragone._core.lazy import resolve

__all__ = ["deepspeed", "ours", "ours_by_config", "score", "sixteen", "textbook", "tracker"]

Problem = Mapping[str, Any]
_SHARDED = {"model_type": "llama", "hidden_size": 128, "num_attention_heads": 4,
            "num_key_value_heads": 2, "num_hidden_layers": 2, "intermediate_size": 320,
            "vocab_size": 1024}  # fmt: skip


def _case(problem: Problem) -> Any:
    build = resolve("paragone.lab.training_steps:build")
    return build(problem["name"], scale=problem.get("scale", 1))


def _count(problem: Problem) -> tuple[int, int]:
    """Parameters, and the ranks that share them."""
    if problem["kind"] == "measured":
        return sum(p.numel() for p in _case(problem)[0].parameters()), 1
    plan = resolve("paragone.training.memory:plan")
    if problem["kind"] == "sharded":
        return plan(_SHARDED).parameters, problem["ranks"]
    options = problem["options"]
    return plan(options["model"]).parameters, options["gpus"]


def ours(problem: Problem, seed: int, *, target: str) -> int:
    """Paragone's planner: traced for a module, counted for a name or a config."""
    plan = resolve(target)
    if problem["kind"] == "measured":
        model, given, loss = _case(problem)
        return plan(model, inputs=given, loss=loss).allocated
    if problem["kind"] == "sharded":
        return plan(_SHARDED, precision="fp32", gpus=problem["ranks"], zero=3).total
    return plan(**problem["options"]).reserved


def ours_by_config(problem: Problem, seed: int, *, target: str) -> int:
    """Paragone's planner given numbers of a config alone, also for the small models."""
    if problem["kind"] != "measured":
        return ours(problem, seed, target=target)
    gpt = {"model_type": "gpt2", "n_embd": 64, "n_head": 4, "n_layer": 2, "vocab_size": 512,
           "n_positions": 64}  # fmt: skip
    llama = {"model_type": "llama", "hidden_size": 64, "num_attention_heads": 4,
             "num_key_value_heads": 2, "num_hidden_layers": 4, "intermediate_size": 176,
             "vocab_size": 1000}  # fmt: skip
    model = {"gpt": gpt, "llama": llama}[problem["name"]]
    batch = 4 * problem.get("scale", 1)
    return resolve(target)(model, precision="fp32", batch=batch, sequence=64).allocated


def sixteen(problem: Problem, seed: int) -> int:
    """Sixteen bytes a parameter, shared by all ranks."""
    count, ranks = _count(problem)
    return 16 * count // ranks


def textbook(problem: Problem, seed: int) -> int:
    """Sixteen bytes a parameter and Korthikanti's activations, 34 (or 2) s b h a layer."""
    options, size = problem["options"], sixteen(problem, seed)
    shape = resolve("paragone.training._model_shapes:named")(options["model"])
    full = options.get("checkpointing") == "full"
    tokens = options["batch"] * options["sequence"] // options.get("context_parallel", 1)
    each = tokens * shape.hidden * (2 if full else 34) // options.get("tensor_parallel", 1)
    return size + shape.layers * each


def deepspeed(problem: Problem, seed: int) -> int:
    """DeepSpeed's estimate of ZeRO-3's states (its documentation, "Memory Requirements").

    18 bytes a parameter, shared by all ranks, and four for each of the largest layer.
    """
    count, ranks = _count(problem)
    if problem["kind"] == "measured":
        layers = _case(problem)[0].modules()
        largest = max(sum(p.numel() for p in m.parameters(recurse=False)) for m in layers)
    else:
        model = _SHARDED if problem["kind"] == "sharded" else problem["options"]["model"]
        shape = resolve("paragone.training._model_shapes:describe")(model)
        largest = max(weight.elements for weight in shape.weights())
    return 4 * largest + 18 * count // ranks


def tracker(problem: Problem, seed: int) -> int:
    """MemTracker of torch: two steps of the whole model on fake tensors."""
    torch = resolve("torch")
    make = resolve("torch.distributed._tools.mem_tracker:MemTracker")
    with resolve("torch._subclasses.fake_tensor:FakeTensorMode")():
        model, given, loss = _case(problem)
        optimizer = torch.optim.AdamW(model.parameters(), foreach=True)
        seen = make()
        seen.track_external(model, optimizer)
        with seen:
            for step in range(2):
                loss(model(given)).backward()
                optimizer.step()
                optimizer.zero_grad()
                if step == 0:
                    seen.reset_mod_stats()
        found = seen.get_tracker_snapshot("peak")
    return sum(int(parts["Total"]) for parts in found.values())


def score(problem: Problem, answer: int) -> dict[str, float]:
    """How far an estimate is from the truth."""
    truth = problem["truth"]
    found = {"error": abs(answer / truth - 1.0), "signed": answer / truth - 1.0,
             "estimate": float(answer), "truth": float(truth)}  # fmt: skip
    if problem["kind"] == "sharded":
        found["bytes_each"] = truth / problem["parameters"]
        found["sent_each"] = problem["sent"] / problem["parameters"]
    return found
