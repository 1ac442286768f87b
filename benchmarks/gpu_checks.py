r"""Compares the Triton kernels with their float64 definitions on a GPU; see `gpu_kernels.py`.

The error is ||found - exact|| / ||exact||, the largest over outputs and gradients, on fresh random
input; memory is filled with NaN before it is written, so that what a kernel forgets shows. Sizes
are odd on purpose: no tile is ever full at the end.
"""

from __future__ import annotations

import functools
import json
import re
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor
from torch.nn import functional

from paragone.mixers import attention
from paragone.mixers.flash_attention import attention_packed
from paragone.mixers.ops.attention.block_mask import BlockMask
from paragone.mixers.ops.decode.call import decode_attention
from paragone.mixers.ops.linear.interface import linear_attention
from paragone.mixers.ops.scan import selective_scan
from paragone.training.ops.adamw_triton import adamw_step
from paragone.vision import ps_roi_align
from paragone.vision.ops.carafe.call import carafe

BF16, F16, F32 = torch.bfloat16, torch.float16, torch.float32
ALLOWED = {F32: 2e-5, F16: 3e-3, BF16: 1.5e-2}
"""Error by norm that a check may have: float32 is made of three TensorFloat-32 products."""


class Report:
    """Results as they come: printed, and written to a file that is whole at any time."""

    def __init__(self, path: str | None, match: str = ""):
        self.path, self.match = path, re.compile(match)
        self.all: dict[str, Any] = {"about": about(), "ceilings": {}, "checks": [], "times": []}

    def attempt(self, kind: str, op: str, case: str, run: Callable[[], dict[str, Any]]) -> None:
        """Adds what `run` returns, or what it raised; one failure does not end the others."""
        if not self.match.search(case):
            return
        start = time.perf_counter()
        try:
            found = run()
        except Exception as error:
            last = traceback.format_exc().strip().splitlines()
            found = {"failed": f"{type(error).__name__}: {error}"[:600], "trace": last[-12:]}
        found["took_s"] = round(time.perf_counter() - start, 2)
        self.all[kind].append({"op": op, "case": case, **found})
        self.write()
        shown = {k: v for k, v in found.items() if k != "trace"}
        print(f"{kind[:5]} {op:12} {case:44}", json.dumps(shown), flush=True)

    def write(self) -> None:
        """Puts all of it into the file."""
        if self.path:
            Path(self.path).write_text(json.dumps(self.all, indent=1) + "\n")


def about() -> dict[str, str]:
    """Where and with what these figures were made."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    return {
        "device": torch.cuda.get_device_name(), "torch": torch.__version__,
        "triton": triton.__version__, "cuda": str(torch.version.cuda),
        "date": time.strftime("%Y-%m-%d"), "commit": commit.stdout.strip() or "unknown",
        "command": " ".join(["python", *sys.argv]),
    }  # fmt: skip


def drawn(*shape: int, dtype: torch.dtype = F32, learns: bool = False) -> Tensor:
    """Standard normal numbers."""
    return torch.randn(shape, device="cuda").to(dtype).requires_grad_(learns)


def wide(x: Any) -> Any:
    """A leaf of float64 with the same numbers; pairs and others as they are."""
    if not isinstance(x, Tensor) or not x.is_floating_point():
        return x
    return x.detach().double().requires_grad_(x.requires_grad)


def error(found: Tensor, exact: Tensor) -> float:
    """||found - exact|| / ||exact||; infinite where NaN or infinities do not agree."""
    found, exact = found.detach().double(), exact.detach().double()
    assert found.shape == exact.shape, (found.shape, exact.shape)
    far = exact.isinf()
    if not torch.equal(found.isinf(), far) or found.isnan().any():
        return float("inf")
    found, exact = found.masked_fill(far, 0), exact.masked_fill(far, 0)
    return float((found - exact).norm() / exact.norm().clamp_min(1e-300))


def compared(
    form: Callable[..., Any], mine: dict[str, Any], theirs: dict[str, Any], allowed: float,
    **given: Any,
) -> dict[str, Any]:  # fmt: skip
    """Errors of `form`'s outputs and gradients with options `mine` against float64 and `theirs`."""
    exact_given = {name: wide(x) for name, x in given.items()}
    results = []
    for inputs, options in ((given, mine), (exact_given, theirs)):
        torch.use_deterministic_algorithms(options is mine, warn_only=True)  # fills fresh memory
        outputs = form(**inputs, **options)
        outputs = list(outputs) if isinstance(outputs, tuple) else [outputs]
        leaves = {n: x for n, x in inputs.items() if isinstance(x, Tensor) and x.requires_grad}
        if leaves and not results:
            pulls = [torch.randn_like(o, dtype=torch.float64) for o in outputs]
        named = {f"output {n}": o for n, o in enumerate(outputs)}
        if leaves:
            whole = sum((o.double().nan_to_num(neginf=0.0) * pull).sum()
                        for o, pull in zip(outputs, pulls, strict=True))  # fmt: skip
            grads = torch.autograd.grad(whole, list(leaves.values()))
            named |= {f"d{name}": g for name, g in zip(leaves, grads, strict=True)}
        results.append(named)
        torch.use_deterministic_algorithms(False)
    errors = {name: error(results[0][name], results[1][name]) for name in results[0]}
    worst = max(errors, key=lambda name: errors[name])
    found: dict[str, Any] = {"error": errors[worst], "of": worst, "right": errors[worst] <= allowed}
    if not found["right"]:
        found["all"] = errors
    return found


def check_attention(report: Report) -> None:
    """Every flag, every width, every type; odd lengths, so that the last tile is never full."""
    for dtype in (BF16, F16, F32):
        for d in (64, 128, 256, 72, 512):
            for causal in (False, True):
                report.attempt("checks", "attention", f"{name_of(dtype)} d {d} causal {causal}",
                               functools.partial(_attention, dtype, d, causal=causal))  # fmt: skip
    heads = torch.full((4,), 0.5, device="cuda").cumprod(0)
    mask = torch.rand(1, 1, 317, 389, device="cuda") > 0.5
    i, j = (torch.arange(n, device="cuda") // 64 for n in (317, 389))
    blocks = BlockMask.from_mask(mask & ((i[:, None] + j) % 2 > 0))
    lengths = tuple(torch.tensor(n, device="cuda") for n in ([300, 0, 317], [389, 17, 64]))
    cases: dict[str, dict[str, Any]] = {
        "window 100": {"window": 100}, "window both sides": {"window": (60, 33)},
        "causal top left": {"causal": True, "alignment": "top-left"},
        "softcap": {"softcap": 2.0, "causal": True}, "alibi": {"alibi": heads.requires_grad_()},
        "bias": {"bias": drawn(1, 4, 317, 389, learns=True), "causal": True},
        "bias of rows": {"bias": drawn(3, 1, 317, 389, learns=True)},
        "bias of keys": {"bias": drawn(3, 1, 1, 389, learns=True)},
        "bias of queries": {"bias": drawn(317, 1, learns=True)},
        "mask": {"mask": mask}, "mask by blocks": {"mask": blocks},
        "dropout": {"dropout": 0.25, "seed": 2**40 + 9, "causal": True},
        "lengths": {"lengths": lengths, "causal": True},
        "all at once": {"softcap": 3.0, "alibi": heads, "window": 150, "dropout": 0.1, "seed": 5,
                        "bias": drawn(1, 4, 317, 389, learns=True), "lengths": lengths},
    }  # fmt: skip
    for name, options in cases.items():
        for dtype in (BF16, F32):
            given = {n: x.detach().to(dtype).requires_grad_() if n == "bias" else x
                     for n, x in options.items()}  # fmt: skip
            report.attempt("checks", "attention", f"{name_of(dtype)} {name}",
                           functools.partial(_attention, dtype, 64, **given))  # fmt: skip
    for queries, keys in ((1, 1), (63, 65), (64, 64), (127, 129), (1, 1000), (1000, 3)):
        report.attempt("checks", "attention", f"float32 {queries} x {keys}", functools.partial(
            _attention, F32, 40, queries=queries, keys=keys, causal=True))  # fmt: skip
    for dtype in (BF16, F32):
        report.attempt("checks", "attention", f"{name_of(dtype)} packed",
                       functools.partial(_packed, dtype))  # fmt: skip


def name_of(dtype: torch.dtype) -> str:
    """float32, without what stands before it."""
    return str(dtype)[6:]


def _attention(
    dtype: torch.dtype, d: int, queries: int = 317, keys: int = 389, **options: Any
) -> dict[str, Any]:
    given = {"q": drawn(3, 4, queries, d, dtype=dtype, learns=True),
             "k": drawn(3, 2, keys, d, dtype=dtype, learns=True),
             "v": drawn(3, 2, keys, d, dtype=dtype, learns=True)}  # fmt: skip
    given |= {n: options.pop(n) for n in ("bias", "alibi") if n in options}
    options["return_lse"] = True
    return compared(attention, {**options, "backend": "triton"}, {**options, "backend": "torch"},
                    ALLOWED[dtype], **given)  # fmt: skip


def _packed(dtype: torch.dtype) -> dict[str, Any]:
    lengths = torch.tensor([131, 0, 300, 1, 64], device="cuda")
    given = {name: drawn(496, heads, 72, dtype=dtype, learns=True)
             for name, heads in (("q", 4), ("k", 2), ("v", 2))}  # fmt: skip
    options = {"lengths_q": lengths, "window": (200, 50), "return_lse": True}
    return compared(attention_packed, {**options, "backend": "triton"},
                    {**options, "backend": "torch"}, ALLOWED[dtype], **given)  # fmt: skip


def check_decode(report: Report) -> None:
    """Grouped heads, several queries, windows, pages, MLA's latent, and rows without keys."""
    cases: dict[str, dict[str, Any]] = {
        "": {}, "3 queries": {"time": 3}, "window 500": {"window": 500},
        "softcap": {"softcap": 2.0},
        "sinks": {"sinks": drawn(32)}, "d 64, 32/32 heads": {"d": 64, "groups": 32},
        "pages": {"page": 48}, "latent 576/512": {"d": 576, "groups": 1, "values": 512},
    }  # fmt: skip
    for name, options in cases.items():
        for dtype in (BF16, F32):
            report.attempt("checks", "decode", f"{name_of(dtype)} {name}",
                           functools.partial(_decode, dtype, **options))  # fmt: skip


def _decode(
    dtype: torch.dtype, time: int = 1, d: int = 128, groups: int = 8, page: int = 0,
    values: int | None = None, **options: Any,
) -> dict[str, Any]:  # fmt: skip
    q, most = drawn(4, 32, time, d, dtype=dtype), 1920
    k, v = (drawn(4, groups, most, d, dtype=dtype) for _ in range(2))
    if values:
        v = k[..., :values]
    options["lengths"] = torch.tensor([0, 7, 1111, 1920], device="cuda")
    if page:
        order = torch.randperm(4 * most // page, device="cuda").view(4, -1)
        options["table"] = order
        k, v = (torch.empty_like(x.transpose(1, 2).reshape(-1, page, groups, d)).index_copy_(
            0, order.flatten(), x.transpose(1, 2).reshape(-1, page, groups, d)).transpose(1, 2)
            for x in (k, v))  # fmt: skip
    options["return_lse"] = True
    return compared(decode_attention, {**options, "backend": "triton"},
                    {**options, "backend": "torch"}, ALLOWED[dtype], q=q, k=k, v=v)  # fmt: skip


def check_linear(report: Report) -> None:
    """No gate, a gate a head, a gate a channel; with a normaliser; against the recurrence."""
    for dtype in (BF16, F16, F32):
        for gate in ("none", "head", "channel"):
            for d, e in ((64, 64), (128, 128), (40, 200), (256, 256)):
                report.attempt("checks", "linear", f"{name_of(dtype)} gate {gate} {d} x {e}",
                               functools.partial(_linear, dtype, gate, d, e))  # fmt: skip
        run = functools.partial(_linear, dtype, "head", 64, 64, normalize=True)
        report.attempt("checks", "linear", f"{name_of(dtype)} normalised", run)


def _linear(
    dtype: torch.dtype, gate: str, d: int, e: int, normalize: bool = False
) -> dict[str, Any]:
    rows, heads, steps = 2, 3, 203
    q, k = (drawn(rows, heads, steps, d, dtype=dtype, learns=True) for _ in range(2))
    given = {"q": q, "k": k, "v": drawn(rows, heads, steps, e, dtype=dtype, learns=True)}
    shape = {"none": (), "head": (rows, heads, steps), "channel": (rows, heads, steps, d)}[gate]
    if shape:
        given["gate"] = functional.logsigmoid(drawn(*shape) + 2).detach().requires_grad_()
    options = {"scale": d**-0.5}
    if normalize:
        options = {"normalize": True, "feature_map": "elu1"}

    def run(**inputs: Any) -> tuple[Tensor, ...]:
        o, state = linear_attention(**inputs)
        return o, state.memory

    return compared(run, {**options, "backend": "triton"},
                    {**options, "backend": "torch", "form": "recurrent"}, ALLOWED[dtype],
                    **given)  # fmt: skip


def check_scan(report: Report) -> None:
    """With skip, gate, bias, state and lengths, and with none of them."""
    for dtype in (BF16, F16, F32):
        for rows, steps, width, count, full in (
            (2, 131, 97, 16, True), (1, 1, 1, 1, True), (3, 64, 64, 5, False), (2, 17, 33, 64, True)
        ):  # fmt: skip
            case = f"{name_of(dtype)} {rows} x {steps} x {width}, {count} states"
            run = functools.partial(_scan, dtype, rows, steps, width, count, full)
            report.attempt("checks", "scan", case, run)


def _scan(
    dtype: torch.dtype, rows: int, steps: int, width: int, count: int, full: bool
) -> dict[str, Any]:
    x, dt, z = (drawn(rows, steps, width, dtype=dtype, learns=True) for _ in range(3))
    b, c = (drawn(rows, steps, count, dtype=dtype, learns=True) for _ in range(2))
    given = {"x": x, "dt": dt, "A": (-drawn(width, count).exp()).requires_grad_(), "B": b, "C": c}
    options: dict[str, Any] = {}
    if full:
        given |= {"D": drawn(width, learns=True), "z": z, "dt_bias": drawn(width, learns=True),
                  "state": drawn(rows, width, count, learns=True)}  # fmt: skip
        options["lengths"] = torch.tensor([steps] + [steps // 2] * (rows - 1), device="cuda")
    return compared(selective_scan, {**options, "backend": "triton"},
                    {**options, "backend": "torch"}, ALLOWED[dtype], **given)  # fmt: skip


def check_adamw(report: Report) -> None:
    """Five steps beside torch's in float64; rounding at random must be unbiased."""
    for decay in ("torch", "l2"):
        report.attempt(
            "checks", "adamw", f"float32 decay {decay}", functools.partial(_adamw, decay)
        )
    report.attempt("checks", "adamw", "bfloat16 at random", _at_random)


def _adamw(decay: str) -> dict[str, Any]:
    sizes = [(), (1,), (63,), (1025,), (130, 79), (3, 1, 5), (0,), (4099,)]
    params = [drawn(*size) for size in sizes]
    before = [p.double() for p in params]
    theirs = [p.clone().requires_grad_() for p in before]
    kind = torch.optim.AdamW if decay == "torch" else torch.optim.Adam
    peer = kind(theirs, lr=0.01, weight_decay=0.1, foreach=False)
    means, squares = ([torch.zeros_like(p) for p in params] for _ in range(2))
    steps = [torch.zeros((), device="cuda") for _ in params]
    for _ in range(5):
        grads = [drawn(*size) for size in sizes]
        for p, g in zip(theirs, grads, strict=True):
            p.grad = g.double()
        peer.step()
        adamw_step(params, [4 * g for g in grads], means, squares, steps, lr=0.01,
                   weight_decay=0.1, decay=decay, grad_scale=4.0)  # type: ignore[arg-type]  # fmt: skip
    errors = [error(p.double() - b, t.detach() - b)
              for p, t, b in zip(params, theirs, before, strict=True) if p.numel()]  # fmt: skip
    return {"error": max(errors), "right": max(errors) < 2e-5}


def _at_random() -> dict[str, Any]:
    start = drawn(1_000_003).bfloat16()
    change = []
    for seed in range(8):
        p, m, v = start.clone(), torch.zeros_like(start), torch.zeros_like(start)
        adamw_step([p], [torch.ones_like(p)], [m], [v], [torch.zeros((), device="cuda")], lr=1e-3,
                   stochastic=True, seed=seed)  # fmt: skip
        change.append((p.double() - start.double()).mean())
    bias = float(torch.stack(change).mean() / -1e-3 - 1)
    return {"error": abs(bias), "right": abs(bias) < 0.02}


def check_vision(report: Report) -> None:
    """CARAFE with groups and odd sides; regions by mean and maximum."""
    for dtype in (BF16, F16, F32):
        for groups, scale, side in ((1, 2, 5), (2, 3, 3)):
            report.attempt("checks", "carafe", f"{name_of(dtype)} {groups} x {scale} x {side}",
                           functools.partial(_carafe, dtype, groups, scale, side))  # fmt: skip
        for pool in ("mean", "max"):
            for ratio in (0, 2):
                report.attempt("checks", "ps_roi_align", f"{name_of(dtype)} {pool} ratio {ratio}",
                               functools.partial(_regions, dtype, pool, ratio))  # fmt: skip


def _carafe(dtype: torch.dtype, groups: int, scale: int, side: int) -> dict[str, Any]:
    x = drawn(2, 34, 13, 17, dtype=dtype, learns=True)
    kernels = drawn(2, groups * side**2, 13 * scale, 17 * scale, dtype=dtype, learns=True)
    options = {"scale": scale, "groups": groups}
    return compared(carafe, {**options, "backend": "triton"}, {**options, "backend": "torch"},
                    ALLOWED[dtype], x=x, kernels=kernels)  # fmt: skip


def _regions(dtype: torch.dtype, pool: str, ratio: int) -> dict[str, Any]:
    corners = torch.rand(37, 2, 2, device="cuda") * 300 - 20
    image = torch.randint(0, 2, (37, 1), device="cuda").float()
    rois = torch.cat([image, corners.amin(1), corners.amax(1)], 1)
    options = {"output_size": (5, 3), "spatial_scale": 1 / 16, "sampling_ratio": ratio,
               "pool": pool, "rois": rois}  # fmt: skip
    maps = drawn(2, 45, 18, 17, dtype=dtype, learns=True)
    return compared(ps_roi_align, {**options, "backend": "triton"}, {**options, "backend": "torch"},
                    ALLOWED[dtype], input=maps)  # fmt: skip


CHECKS = {
    "attention": check_attention, "decode": check_decode, "linear": check_linear,
    "scan": check_scan, "adamw": check_adamw, "vision": check_vision,
}  # fmt: skip
