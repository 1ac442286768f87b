"""Which attention: exact kernel, heads, mask, cache? Length by heads by mask on this device."""

from __future__ import annotations

from paragone._core.errors import UsageError
from paragone.lab.contestants import attention
from paragone.lab.spec import Contestant, Measure, Picture, Request, Study, Workload
from paragone.lab.studies import _attention_findings as findings

__all__ = ["STUDY"]

MEASURES = (
    Measure(name="forward_s", title="forward or step", better="lower", role="time", margin=0.05,
            unit="s", primary=True, note="Median wall time of a forward pass; of a decoder, of one "
            "step with a full cache."),
    Measure(name="backward_s", title="backward", better="lower", role="time", margin=0.05,
            unit="s", shown=True, note="The backward pass alone."),
    Measure(name="error", title="error", better="lower", role="count", margin=1e-6,
            relative=False, primary=True, shown=True, note="Distance to attention in float64, as a "
            "share of its size; of a decoder, of the step to the whole."),
    Measure(name="grad_error", title="error of gradients", better="lower", role="count",
            margin=1e-6, relative=False, note="The same of the gradients of q, k and v."),
    Measure(name="forward_extra", title="extra RAM", better="lower", role="memory", margin=0.05,
            unit="B", primary=True, note="Peak memory of the calls beyond what was resident "
            "before the first; compiled code that it loads counts."),
    Measure(name="train_extra", title="extra RAM, backward", better="lower", role="memory",
            margin=0.05, unit="B", note="The same of forward and backward passes."),
    Measure(name="bandwidth", title="bytes / s", better="higher", role="count",
            margin=0.05, note="Bytes of weights and of the layout's cache, over the time of a "
            "step."),
    Measure(name="cache_bytes", title="cache, B a token", better="lower", role="memory",
            margin=0.01, unit="B", shown=True, note="What one token adds to the state."),
    Measure(name="formula_bytes", title="by the formula", better="lower", role="count",
            margin=0.01, note="Bytes a token by the layout's formula."),
    Measure(name="first_call_s", title="first call", better="lower", role="time", margin=0.05,
            unit="s", note="Loads, compiles."),
)  # fmt: skip

_KERNEL = ("forward_s", "backward_s", "error", "grad_error", "forward_extra", "train_extra",
           "first_call_s")  # fmt: skip
_DECODE = ("forward_s", "error", "bandwidth", "cache_bytes", "formula_bytes", "forward_extra")

LENGTHS, QUICK_LENGTHS = (256, 1024, 4096, 16384), (256, 1024, 2048)
SHAPES = ((8, 64), (4, 128))
"""Heads and their width."""

MASKS = {"none": "everything", "causal": "causal", "window": "window of 256",
         "random": "random blocks"}  # fmt: skip
WINDOW = 256
DEEP = 4096
"""Longest length of masks other than causal, whose rivals take a matrix of T by T."""

LAYOUTS = {"mha": "MHA", "gqa": "GQA, 4 groups", "mqa": "MQA", "mla": "MLA, 512 + 64"}
CACHES, QUICK_CACHES = (1024, 4096, 16384), (1024, 2048)
WIDTH, HEADS, GROUPS = 1024, 16, 4


def workloads(request: Request) -> list[Workload]:
    """Kernels by length, heads and mask; then caches by layout and length."""
    if request.target is not None:
        raise UsageError("--target: attention has none; leave it out")
    lengths = QUICK_LENGTHS if request.quick else LENGTHS
    made = []
    for heads, depth in SHAPES[: 1 if request.quick else 2]:
        for mask in MASKS:
            made += [
                _kernel(request, length, heads, depth, mask) for length in lengths
                if (mask in ("none", "causal") and depth == 64) or length <= DEEP
                if not request.quick or mask == "causal" or length == 1024
            ]  # fmt: skip
    caches = QUICK_CACHES if request.quick else CACHES
    for layout in LAYOUTS:
        # The latent is expanded by rivals: at the longest cache that takes minutes.
        longest = caches[-1] if layout != "mla" else DEEP
        chosen = [t for t in caches if not request.quick or t == caches[-1] or layout == "gqa"]
        made += [_cache(request, layout, t) for t in chosen if t <= longest]
    return made


def _kernel(request: Request, length: int, heads: int, depth: int, mask: str) -> Workload:
    return Workload(
        id=f"{mask}-t{length}-d{depth}",
        title=f"{MASKS[mask].capitalize()}, {length:,} tokens, {heads} heads of {depth}",
        load="paragone.lab.tasks.attention:inputs",
        params={"length": length, "heads": heads, "depth": depth, "mask": mask},
        facts={"part": "kernel", "mask": mask, "window": WINDOW, "length": length, "heads": heads,
               "depth": depth, "quick": request.quick,
               "ladder": mask == "causal" and length == LENGTHS[0] and depth == 64},
        axis={f"length, {MASKS[mask]}, {heads} x {depth}": length}, measures=_KERNEL,
    )  # fmt: skip


def _cache(request: Request, layout: str, length: int) -> Workload:
    return Workload(
        id=f"{layout}-t{length}", title=f"Decoding: {LAYOUTS[layout]}, cache of {length:,}",
        load="paragone.lab.tasks.attention:stream", params={"length": length, "width": WIDTH},
        facts={"part": "decode", "layout": layout, "length": length, "width": WIDTH,
               "heads": HEADS, "groups": GROUPS, "quick": request.quick, "mask": "",
               "ladder": False},
        axis={f"cache, {LAYOUTS[layout]}": length}, measures=_DECODE,
    )  # fmt: skip


def contestants(request: Request) -> list[Contestant]:
    """Ours, torch's, the ladder, by the book."""
    return attention.contestants()


_DRAW = "paragone.lab.studies._attention_pictures:"

STUDY = Study(
    id="attention",
    family="mixers",
    question="Which attention: exact kernel, heads, mask, cache?",
    task="paragone.lab.tasks.attention:run",
    measures=MEASURES,
    workloads=workloads,
    contestants=contestants,
    reference="flash_attention",
    speed={"flash_attention": "attention_speed", "latent_attention": "attention_speed"},
    claims=findings.CLAIMS,
    findings=findings.findings,
    pictures=(
        Picture(id="lengths", title="Time of a forward pass by length and mask",
                draw=_DRAW + "lengths"),
        Picture(id="caches", title="What a token costs in the cache", draw=_DRAW + "caches"),
    ),
    preload=("numpy", "numba", "torch", "torch._dynamo", "paragone.lab.tasks.attention"),
    blocks=(2, 4),
    quick_blocks=(1, 1),
)  # fmt: skip
