r"""Are the Triton kernels right on a real GPU, and how fast are they beside torch and the hardware?

    python benchmarks/gpu_kernels.py [--only attention decode ...] [--what check time] [--out FILE]
                                    [--match REGEX]

First every operation is compared with its float64 definition (`gpu_checks.py`). Then times: CUDA
events, medians, inputs rotated so that no call finds its own in the cache, beside the peer on the
same work; of forward passes the replay of a CUDA graph, and "by calls" what a single call takes
with what Python adds. "Share" is the time that the two ceilings leave (bytes over the measured
rate of a copy, operations over that of a large bf16 product), divided by the time taken.

Peers: `scaled_dot_product_attention` with its flash and cuDNN back ends, `varlen_attn` and
`flex_attention` where this torch has them, `AdamW(fused=True)`, the definitions in torch. The
package fla (linear attention in Triton) is no peer here: it was not installed.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import time
import traceback
import warnings
from collections.abc import Callable
from typing import Any

import torch
from gpu_checks import BF16, CHECKS, F32, Report, drawn, name_of
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from paragone.mixers import attention
from paragone.mixers.flash_attention import attention_packed
from paragone.mixers.ops.decode.call import decode_attention
from paragone.mixers.ops.linear.interface import linear_attention
from paragone.mixers.ops.scan import selective_scan
from paragone.vision.ops.carafe.call import carafe

GRIDS = (
    (32, 32), (28, 28), (24, 24), (22, 22), (20, 22), (20, 20), (16, 20), (16, 16), (14, 16),
    (12, 14), (10, 14), (8, 10), (8, 8), (4, 8), (4, 6), (2, 2),
)  # fmt: skip
"""Rows and columns of patches of sixteen images, those of `benchmarks/moonvit.py`."""


def timed(run: Callable[[int], Any], sets: int = 1, most: int = 30, graph: bool = False) -> float:
    """Median milliseconds of run(number of the input set); with `graph` of a graph's replay."""
    for n in range(max(3, sets)):
        run(n % sets)
    torch.cuda.synchronize()
    turns = 1
    if graph:
        turns, record = 2 * sets, torch.cuda.CUDAGraph()
        with torch.cuda.graph(record):
            for n in range(turns):
                run(n % sets)
        call: Callable[[int], Any] = lambda n: record.replay()  # noqa: E731
    else:
        call = run
    took: list[float] = []
    began = time.perf_counter()
    while len(took) < most and (len(took) < 7 or time.perf_counter() - began < 2):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call(len(took) % sets)
        end.record()
        end.synchronize()
        took.append(start.elapsed_time(end) / turns)
    return statistics.median(took)


def ceilings(report: Report) -> None:
    """Bytes a second of a large copy, read and written, and flops of a large bf16 product."""
    x, y = (torch.randn(2**28, device="cuda") for _ in range(2))
    report.all["ceilings"]["bytes_per_s"] = 2 * 4 * 2**28 / timed(lambda n: y.copy_(x)) * 1e3
    a, b = (drawn(8192, 8192, dtype=BF16) for _ in range(2))
    report.all["ceilings"]["flops"] = 2 * 8192**3 / timed(lambda n: a @ b) * 1e3
    print("ceilings", report.all["ceilings"], flush=True)


def figures(
    report: Report, mine: float, peers: dict[str, Callable[[], float]], flops: float, moved: float
) -> dict[str, Any]:
    """Our time, the peers' and the ratio peer / ours (above 1 we are faster), rates and share."""
    top = report.all["ceilings"]
    floor = max(flops / top["flops"], moved / top["bytes_per_s"]) * 1e3
    found: dict[str, Any] = {
        "ms": round(mine, 4), "share": round(floor / mine, 3),
        "tflops": round(flops / mine / 1e9, 1), "tb_per_s": round(moved / mine / 1e9, 3),
    }  # fmt: skip
    for name, peer in peers.items():
        try:
            took = peer()
            found[name] = {"ms": round(took, 4), "ratio": round(took / mine, 3)}
        except Exception as error:
            found[name] = {"failed": f"{type(error).__name__}: {error}"[:300]}
    return found


def by_sdpa(backend: SDPBackend) -> Callable[..., Tensor]:
    """Attention of torch with one of its back ends."""

    def run(q: Tensor, k: Tensor, v: Tensor, causal: bool = False, **more: Any) -> Tensor:
        with sdpa_kernel(backend):
            return functional.scaled_dot_product_attention(q, k, v, is_causal=causal, **more)

    return run


SDPA = {"flash": by_sdpa(SDPBackend.FLASH_ATTENTION), "cudnn": by_sdpa(SDPBackend.CUDNN_ATTENTION)}


def time_attention(report: Report) -> None:
    """Forward, and backward alone, beside SDPA; then a window."""
    for d in (64, 128):
        for steps in (2048, 8192):
            for causal in (False, True):
                case = f"(4, 16, {steps}, {d}){' causal' if causal else ''}"
                shape, share = (4, 16, steps, d), 0.5 if causal else 1.0
                forms = {"": functools.partial(attention, causal=causal, backend="triton")}
                forms |= {n: functools.partial(f, causal=causal) for n, f in SDPA.items()}
                _both_ways(report, case, shape, forms, share)
    try:
        from torch.nn.attention.flex_attention import create_block_mask, flex_attention

        block = create_block_mask(lambda b, h, i, j: (i >= j) & (i - j < 512), None, None, 16384,
                                  16384)  # fmt: skip
        flex: Any = functools.partial(torch.compile(flex_attention), block_mask=block)
    except Exception as error:
        print("no flex_attention:", error)
        flex = None
    forms = {"": functools.partial(attention, window=512, backend="triton")}
    forms |= {"flash, no window": functools.partial(SDPA["flash"], causal=True)}
    forms |= {"flex": flex} if flex else {}
    _both_ways(report, "(2, 16, 16384, 128) window 512", (2, 16, 16384, 128), forms, 512 / 16384)
    q = drawn(4, 16, 4096, 128, dtype=F32)
    peer = by_sdpa(SDPBackend.EFFICIENT_ATTENTION)
    for level in ("highest", "high"):
        torch.set_float32_matmul_precision(level)
        report.attempt("times", "attention", f"(4, 16, 4096, 128) causal float32 {level}",
                       lambda: figures(
                           report, timed(lambda n: attention(q, q, q, causal=True)),
                           {"efficient": lambda: timed(lambda n: peer(q, q, q, True))},
                           4 * 4 * 16 * 4096**2 * 128 / 2, 4 * 4 * q.numel()))  # fmt: skip
    torch.set_float32_matmul_precision("highest")


def _both_ways(
    report: Report, case: str, shape: tuple[int, ...], forms: dict[str, Any], share: float
) -> None:
    given = [[drawn(*shape, dtype=BF16, learns=True) for _ in range(3)] for _ in range(3)]
    pulls = [drawn(*shape, dtype=BF16) for _ in range(3)]
    flops = 4 * shape[0] * shape[1] * shape[2] ** 2 * shape[3] * share
    moved = 2 * given[0][0].numel()

    def forward(form: Any, graph: bool = True) -> float:
        with torch.no_grad():
            return timed(lambda n: form(*given[n]), 3, graph=graph)

    def backward(form: Any) -> float:
        outs = [form(*each) for each in given]
        return timed(lambda n: torch.autograd.grad(outs[n], given[n], pulls[n], retain_graph=True),
                     3)  # fmt: skip

    for way, measure, factor, tensors in (
        ("forward", forward, 1.0, 4), ("backward", backward, 2.5, 8),
        ("forward, by calls", functools.partial(forward, graph=False), 1.0, 4),
    ):  # fmt: skip
        peers = {n: functools.partial(measure, form) for n, form in forms.items() if n}
        report.attempt("times", "attention", f"{case} {way}",
                       lambda m=measure, p=peers, f=factor * flops, b=tensors * moved: figures(
                           report, m(forms[""]), p, f, b))  # fmt: skip


def time_decode(report: Report) -> None:
    """One query a row, 16384 keys, 32 heads that share 8; replayed as a graph, and by calls."""
    for rows in (1, 8, 32):
        sets = max(2, 16 // rows)
        q = drawn(rows, 32, 1, 128, dtype=BF16)
        kv = [[drawn(rows, 8, 16384, 128, dtype=BF16) for _ in range(2)] for _ in range(sets)]
        lengths = torch.full((rows,), 16384, device="cuda")
        moved = 2 * 2 * kv[0][0].numel()

        def ours(n: int) -> Any:
            return decode_attention(q, *kv[n], lengths, backend="triton")  # noqa: B023

        def peer(n: int) -> Any:
            return SDPA["flash"](q, *kv[n], enable_gqa=True)  # noqa: B023

        for graph in (True, False):
            case = f"{rows} rows, 16384 keys, heads 32/8 of 128{'' if graph else ', by calls'}"
            report.attempt("times", "decode", case, lambda g=graph, s=sets, m=moved, o=ours, p=peer:
                           figures(report, timed(o, s, graph=g),
                                   {"flash": lambda: timed(p, s, graph=g)}, 0, m))  # fmt: skip


def time_linear(report: Report) -> None:
    """(4, 16, 4096, 128) beside the same form in torch, both ways."""
    for gate in ("none", "head", "channel"):
        shape = (4, 16, 4096, 128)
        given = [[drawn(*shape, dtype=BF16, learns=True) for _ in range(3)] for _ in range(2)]
        more = {"none": None, "head": shape[:3], "channel": shape}[gate]
        fade = None if more is None else functional.logsigmoid(drawn(*more) + 4).detach()
        pull, moved = drawn(*shape, dtype=BF16), 2 * given[0][0].numel()
        flops = 4 * 16 * 4096 * (4 * 128 * 128 + 2 * 64 * 128)

        def forward(backend: str) -> float:
            with torch.no_grad():
                return timed(lambda n: linear_attention(*given[n], gate=fade, scale=0.1,  # noqa: B023
                                                        backend=backend), 2)  # fmt: skip

        def backward(backend: str) -> float:
            def run(n: int) -> Any:
                o, _ = linear_attention(*given[n], gate=fade, scale=0.1, backend=backend)  # noqa: B023
                return torch.autograd.grad(o, given[n], pull)  # noqa: B023

            return timed(run, 2)

        for way, measure, factor, tensors in (("forward", forward, 1, 4),
                                              ("both ways", backward, 3.5, 12)):  # fmt: skip
            report.attempt("times", "linear", f"{shape} gate {gate} {way}",
                           lambda m=measure, f=factor * flops, b=tensors * moved: figures(
                               report, m("triton"), {"torch chunked": lambda: m("torch")}, f,
                               b))  # fmt: skip


def time_scan(report: Report) -> None:
    """A Mamba layer's size against the bytes; a small one against the loop in torch."""
    for rows, steps, width, loop in ((8, 2048, 4096, False), (2, 256, 512, True)):
        x, dt, z = (drawn(rows, steps, width, dtype=BF16, learns=True) for _ in range(3))
        b, c = (drawn(rows, steps, 16, dtype=BF16, learns=True) for _ in range(2))
        a, d = -drawn(width, 16).exp(), drawn(width)
        moved = 2 * 4 * x.numel()

        def forward(backend: str) -> float:
            with torch.no_grad():
                return timed(lambda n: selective_scan(x, dt, a, b, c, d, z=z,  # noqa: B023
                                                      backend=backend))  # fmt: skip

        def both(backend: str) -> float:
            def run(n: int) -> Any:
                y, _ = selective_scan(x, dt, a, b, c, d, z=z, backend=backend)  # noqa: B023
                return torch.autograd.grad(y, (x, dt, b, c, z), z.detach())  # noqa: B023

            return timed(run)

        for way, measure, factor in (("forward", forward, 1), ("both ways", both, 3)):
            peers = {"torch loop": functools.partial(measure, "torch")} if loop else {}
            report.attempt("times", "scan", f"({rows}, {steps}, {width}), 16 states {way}",
                           lambda m=measure, p=peers, b=factor * moved: figures(
                               report, m("triton"), p, 0, b))  # fmt: skip


def time_adamw(report: Report) -> None:
    """All weights of a language model of 24 blocks of width 1024."""
    from paragone.training import AdamW

    sizes = [(32000, 1024)] + 24 * [(3072, 1024), (1024, 1024), (4096, 1024), (1024, 4096), (1024,)]
    for dtype, each in ((F32, 28), (BF16, 14)):

        def step(kind: Any, dtype: torch.dtype = dtype, **options: Any) -> float:
            params = [drawn(*size, dtype=dtype).requires_grad_() for size in sizes]
            for p in params:
                p.grad = torch.randn_like(p)
            optimizer = kind(params, lr=1e-3, **options)

            def steps(n: int) -> None:
                for _ in range(4):
                    optimizer.step()

            return timed(steps) / 4

        moved = each * sum(torch.Size(size).numel() for size in sizes)
        report.attempt("times", "adamw", f"{name_of(dtype)}, {moved // each / 1e6:.0f} M weights",
                       lambda s=step, m=moved: figures(
                           report, s(AdamW), {"fused": lambda: s(torch.optim.AdamW, fused=True),
                                              "foreach": lambda: s(torch.optim.AdamW)},
                           0, m))  # fmt: skip


def time_vision(report: Report) -> None:
    """CARAFE of a feature pyramid's level beside plain torch."""
    for dtype in (BF16, F32):
        x = drawn(4, 256, 64, 64, dtype=dtype, learns=True)
        kernels = drawn(4, 25, 128, 128, dtype=dtype, learns=True)
        pull, size = drawn(4, 256, 128, 128, dtype=dtype), x.element_size()

        def forward(backend: str) -> float:
            with torch.no_grad():
                return timed(lambda n: carafe(x, kernels, 2, backend=backend))  # noqa: B023

        def both(backend: str) -> float:
            return timed(lambda n: torch.autograd.grad(carafe(x, kernels, 2, backend=backend),  # noqa: B023
                                                       (x, kernels), pull))  # noqa: B023  # fmt: skip

        moved = size * (x.numel() + kernels.numel() + pull.numel())
        for way, measure, factor in (("forward", forward, 1), ("both ways", both, 3)):
            report.attempt("times", "carafe", f"{name_of(dtype)} (4, 256, 64, 64), 5 x 5 {way}",
                           lambda m=measure, f=factor, mv=moved: figures(
                               report, m("triton"), {"torch": lambda: m("torch")}, 0,
                               f * mv))  # fmt: skip


def padded(q: Tensor, k: Tensor, v: Tensor, lengths: Tensor) -> Tensor:
    """Packed rows laid into a batch of the longest, masked, through SDPA, and out again."""
    there = torch.arange(int(lengths.max()), device=q.device) < lengths[:, None]
    batch = []
    for x in (q, k, v):
        whole = x.new_zeros(*there.shape, *x.shape[1:])
        whole[there] = x
        batch.append(whole.transpose(1, 2))
    y = functional.scaled_dot_product_attention(*batch, attn_mask=there[:, None, None])
    return y.transpose(1, 2)[there]


def time_moonvit(report: Report) -> None:
    """Sixteen mixed images through attention alone, and through the whole published tower."""
    from paragone.multimodal import MoonViT, MoonViTConfig, moonvit

    lengths = torch.tensor([h * w for h, w in GRIDS], device="cuda")
    total, longest = int(lengths.sum()), int(lengths.max())
    places = functional.pad(lengths.cumsum(0), (1, 0)).int()
    flops = 4 * 16 * 72 * int((lengths**2).sum())

    def varlen(q: Tensor, k: Tensor, v: Tensor, _: Tensor) -> Tensor:
        from torch.nn.attention.varlen import varlen_attn

        return varlen_attn(q, k, v, places, places, longest, longest)

    q, k, v = (drawn(total, 16, 72, dtype=BF16) for _ in range(3))
    report.attempt("times", "moonvit", "attention alone, 16 heads of 72", lambda: figures(
        report, timed(lambda n: attention_packed(q, k, v, lengths)),
        {"padded": lambda: timed(lambda n: padded(q, k, v, lengths)),
         "varlen": lambda: timed(lambda n: varlen(q, k, v, lengths))},
        flops, 4 * 2 * q.numel()))  # fmt: skip
    model = MoonViT(MoonViTConfig(), device="cuda", dtype=BF16).eval()
    patches = drawn(total, 3, 14, 14, dtype=BF16)
    full = drawn(16 * 1024, 3, 14, 14, dtype=BF16)
    weights = sum(p.numel() for block in model.encoder.blocks for p in block.parameters())
    usual = moonvit.attention_packed

    def tower(form: Any, pixels: Tensor = patches, grids: Any = GRIDS) -> float:
        moonvit.attention_packed = form
        with torch.no_grad():
            took = timed(lambda n: model(pixels, grids), most=12)
        moonvit.attention_packed = usual
        return took

    def dense(q: Tensor, k: Tensor, v: Tensor, _: Tensor) -> Tensor:
        q, k, v = (x.unflatten(0, (16, -1)).transpose(1, 2) for x in (q, k, v))
        return functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(0, 1)

    report.attempt("times", "moonvit", f"27 layers of 1152, {total} patches", lambda: figures(
        report, tower(usual),
        {"attention padded": lambda: tower(padded), "attention varlen": lambda: tower(varlen),
         "all padded": lambda: tower(dense, full, 16 * [(32, 32)])},
        2 * total * weights + 27 * flops, 2 * weights))  # fmt: skip


TIMES = {
    "attention": time_attention, "decode": time_decode, "linear": time_linear, "scan": time_scan,
    "adamw": time_adamw, "vision": time_vision, "moonvit": time_moonvit,
}  # fmt: skip


def main() -> None:
    """Checks, then measures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", choices=[*TIMES], default=[*TIMES])
    parser.add_argument("--what", nargs="*", choices=["check", "time"], default=["check", "time"])
    parser.add_argument("--out", help="a file for the results as JSON")
    parser.add_argument("--match", default="", help="a regular expression: these cases alone")
    parser.add_argument("--seed", type=int, default=None, help="of the inputs (none: fresh ones)")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("this needs an NVIDIA GPU")
    warnings.filterwarnings("ignore", message=".*deterministic.*")
    if options.seed is None:
        torch.seed()
    else:
        torch.manual_seed(options.seed)
    report = Report(options.out, options.match)
    for name in options.only if "check" in options.what else ():
        if name in CHECKS:
            CHECKS[name](report)
    if "time" in options.what:
        ceilings(report)
        for name in options.only:
            try:
                TIMES[name](report)
            except Exception:
                traceback.print_exc()
            torch.cuda.empty_cache()
    wrong = [c for c in report.all["checks"] if "failed" in c or not c["right"]]
    print(f"{len(report.all['checks'])} checks, {len(wrong)} wrong", *(
        f"{c['op']}: {c['case']}" for c in wrong), sep="\n  ")  # fmt: skip


if __name__ == "__main__":
    main()
