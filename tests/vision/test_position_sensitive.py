"""PS-RoIAlign: against loops in plain Python, between back ends, and against torchvision."""

import importlib.util
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from paragone.kernels import choice
from paragone.kernels.launch import interpreting
from paragone.vision import ps_roi_align
from paragone.vision.ops.ps_roi_align.operator import ps_roi_align_op

BACKENDS = ["numba", "torch", pytest.param("triton", marks=pytest.mark.skipif(
    not interpreting(), reason="Triton's interpreter is off"))]  # fmt: skip


def regions(count, images=2, width=240.0, height=320.0, seed=0):
    g = torch.Generator().manual_seed(seed)
    x, y = (torch.rand(count, 2, generator=g) * n * 1.3 - n * 0.15 for n in (width, height))
    image = torch.randint(0, images, (count,), generator=g).float()
    parts = [image, x.amin(1), y.amin(1), x.amax(1), y.amax(1)]
    return torch.stack(parts, 1)


def maps(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def by_loops(x, rois, rows, columns, scale, ratio, pool, shift):
    """The definition, one sample after the other."""
    _, channels, height, width = x.shape
    out = torch.zeros(len(rois), channels // (rows * columns), rows, columns, dtype=x.dtype)
    for n, (image, *box) in enumerate(rois.tolist()):
        left, top, right, bottom = (v * scale - shift for v in box)
        high, wide = (bottom - top) / rows, (right - left) / columns
        many_y = ratio or max(math.ceil(high), 0)
        many_x = ratio or max(math.ceil(wide), 0)
        for c in range(out.shape[1]):
            for i in range(rows):
                for j in range(columns):
                    plane = x[int(image), (c * rows + i) * columns + j]
                    seen = []
                    for a in range(many_y):
                        for b in range(many_x):
                            y = top + i * high + (a + 0.5) * high / many_y
                            z = left + j * wide + (b + 0.5) * wide / many_x
                            if y < -1 or y > height or z < -1 or z > width:
                                seen.append(0.0)
                                continue
                            y, z = max(y, 0.0), max(z, 0.0)
                            y0, z0 = min(int(y), height - 1), min(int(z), width - 1)
                            y1, z1 = min(y0 + 1, height - 1), min(z0 + 1, width - 1)
                            v, h = min(y - y0, 1.0), min(z - z0, 1.0)
                            upper = (1 - h) * plane[y0, z0] + h * plane[y0, z1]
                            lower = (1 - h) * plane[y1, z0] + h * plane[y1, z1]
                            seen.append(float((1 - v) * upper + v * lower))
                    if seen:
                        out[n, c, i, j] = sum(seen) / len(seen) if pool == "mean" else max(seen)
    return out


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("pool", ["mean", "max"])
def test_is_its_definition(backend, pool):
    x = maps(2, 2 * 6, 7, 5)
    rois = torch.cat([regions(5, width=80, height=112), torch.tensor([
        [1.0, 30, 30, 30, 60],  # no width
        [0, 50, 50, 40, 30],  # turned around
        [0, -900, -900, -800, -800],  # outside
        [1, 0, 0, 80, 112],
    ])])  # fmt: skip
    for ratio, aligned in ((0, True), (2, False)):
        found = ps_roi_align(x, rois, (2, 3), 1 / 16, ratio, backend=backend, pool=pool,
                             aligned=aligned)  # fmt: skip
        wanted = by_loops(x, rois, 2, 3, 1 / 16, ratio, pool, 0.5 * aligned)
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
        assert found.isfinite().all()
        if backend == "torch":  # a planted bug: channels dealt out by bin first
            turned = x.unflatten(1, (2, 6)).transpose(1, 2).flatten(1, 2)
            other = ps_roi_align(turned, rois, (2, 3), 1 / 16, ratio, aligned=aligned)
            assert not torch.allclose(other, wanted)


@pytest.mark.parametrize("backend", ["numba", BACKENDS[2]])
@pytest.mark.parametrize("pool", ["mean", "max"])
def test_gradient_is_that_of_the_reference(backend, pool):
    rois = regions(9 if backend == "numba" else 3, seed=3)
    for last in (False, True):
        x = maps(2, 2 * 49, 20, 15)
        if last:
            x = x.contiguous(memory_format=torch.channels_last)
        slopes, weights = [], None
        for name in (backend, "torch"):
            leaf = x.clone().requires_grad_()
            out = ps_roi_align(leaf, rois, 7, 1 / 16, backend=name, pool=pool)
            weights = torch.linspace(-1, 1, out.numel()).view_as(out)
            (out * weights).sum().backward()
            slopes.append(leaf.grad)
        torch.testing.assert_close(slopes[0], slopes[1], rtol=1e-4, atol=1e-5)


def test_gradcheck_of_the_reference():
    x, rois = (
        maps(2, 8, 4, 5, dtype=torch.float64).requires_grad_(),
        regions(3, width=70, height=60),
    )
    for pool in ("mean", "max"):
        for ratio in (0, 2):
            torch.autograd.gradcheck(
                lambda x, p=pool, r=ratio: ps_roi_align(x, rois.double(), 2, 1 / 16, r, pool=p),
                x,
                fast_mode=True,
            )


@pytest.mark.peers
def test_equals_torchvision():
    from paragone.lab.torchvision_cpu import import_torchvision, why_no_operators

    if why_no_operators():
        pytest.skip(why_no_operators())
    import_torchvision()
    from torchvision.ops import ps_roi_align as theirs

    x, rois = maps(2, 245, 20, 15), regions(41, seed=5)
    for ratio in (0, 1, 2, 3):
        found = []
        for function in (ps_roi_align, theirs):
            leaf = x.clone().requires_grad_()
            out = function(leaf, rois, 7, 1 / 16, ratio or -1 if function is theirs else ratio)
            (out * torch.linspace(-1, 1, out.numel()).view_as(out)).sum().backward()
            found.append((out.detach(), leaf.grad))
        torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-5)
    nothing = torch.tensor([[0.0, 40, 40, 40, 40]])
    assert theirs(x, nothing, 7, 1 / 16).isnan().all()
    assert (ps_roi_align(x, nothing, 7, 1 / 16) == 0).all()


@pytest.mark.parametrize("pool", ["mean", "max"])
def test_threads_and_memory_change_nothing(pool):
    x, rois = maps(3, 49, 13, 11), regions(67, images=3)
    before, found = torch.get_num_threads(), []
    wide = torch.zeros(3, 49, 13, 22)
    wide[..., ::2] = x
    forms = (x, x.contiguous(memory_format=torch.channels_last), wide[..., ::2])
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            for form in forms:
                leaf = form.detach().requires_grad_()
                out = ps_roi_align(leaf, rois, 7, 1 / 16, pool=pool)
                (slope,) = torch.autograd.grad(out.square().sum(), leaf)
                found.append((out.detach(), slope.contiguous()))
    finally:
        torch.set_num_threads(before)
    for out, slope in found[1:]:
        assert torch.equal(out, found[0][0])
        assert torch.equal(slope, found[0][1])
    flat = maps(1, 49, 1, 1).expand(1, 49, 6, 6)
    spread = ps_roi_align(flat, regions(3, images=1, width=96, height=96), 7, 1 / 16, pool=pool)
    same = ps_roi_align(
        flat.contiguous(), regions(3, images=1, width=96, height=96), 7, 1 / 16, pool=pool
    )
    assert torch.equal(spread, same)


def test_regions_are_judged_alone():
    x, rois = maps(2, 49, 9, 9), regions(8, width=144, height=144)
    whole = ps_roi_align(x, rois, 7, 1 / 16)
    for row in (0, 7):
        assert torch.equal(ps_roi_align(x, rois[row : row + 1], 7, 1 / 16), whole[row : row + 1])


def test_operator_keeps_torchs_rules():
    for largest in (False, True):
        x = maps(2, 18, 5, 6).requires_grad_()
        inputs = (x, regions(4, width=90, height=80), 3, 3, 1 / 16, 2, largest, 0.5, False)
        asked = ("test_schema", "test_autograd_registration", "test_faketensor")
        more = () if largest else ("test_aot_dispatch_dynamic",)
        torch.library.opcheck(ps_roi_align_op, inputs, test_utils=asked + more)


def test_nothing_in_nothing_out():
    for backend in ("numba", "torch"):
        x = maps(1, 49, 4, 4).requires_grad_()
        out = ps_roi_align(x, torch.zeros(0, 5), 7, 1 / 16, backend=backend)
        assert out.shape == (0, 1, 7, 7)
        out.sum().backward()
    none = torch.zeros(0, 49, 4, 4)
    assert ps_roi_align(none, torch.zeros(0, 5), 7).shape == (0, 1, 7, 7)


def test_which_back_end_serves_and_what_is_refused():
    facts = {"device": torch.device("cpu"), "named": "auto"}
    assert choice.choose("ps_roi_align", dtype=torch.float32, **facts) == "numba"
    assert choice.choose("ps_roi_align", dtype=torch.float64, **facts) == "torch"
    x, rois = maps(1, 49, 4, 4), torch.tensor([[0.0, 0, 0, 32, 32]])
    assert ps_roi_align(x.double(), rois, 7).dtype == torch.float64
    for problem, arguments, options in (
        ("multiple of 49", (maps(1, 50, 4, 4), rois, 7), {}),
        ("image is none of 0 to 0", (x, rois + 1, 7), {}),
        ("not finite", (x, rois * math.nan, 7), {}),
        (r"\(N, 5\)", (x, rois[:, 1:], 7), {}),
        ("none of mean, max", (x, rois, 7), {"pool": "sum"}),
        ("at least one bin", (x, rois, 0), {}),
        ("float32", (x.double(), rois, 7), {"backend": "numba"}),
    ):
        with pytest.raises(ValueError, match=problem):
            ps_roi_align(*arguments, **options)


CODE = """
import torch
from paragone.kernels.ahead import compiled
from paragone.vision.ops.ps_roi_align import ps_roi_align_triton as op

x, rois = torch.zeros(1, 49, 4, 4, dtype=torch.bfloat16), torch.zeros(2, 5)
out, back = x.new_empty(2, 1, 7, 7), torch.zeros(1, 49, 4, 4)
for best in (torch.zeros(0, dtype=torch.int32), torch.zeros(2, 1, 7, 7, dtype=torch.int32)):
    with compiled(90) as kernels:
        op.forward(x, rois, out, best, 0.1, 0, 0.5)
        op.backward(out, rois, best, back, 0.1, 0, 0.5)
    for kernel in kernels:
        print(kernel.name, kernel.spilled, kernel.fits)
"""


def test_kernels_compile_for_a_gpu():
    triton = importlib.util.find_spec("triton")
    if triton is None:
        pytest.skip("triton is not installed: pip install triton")
    if not (Path(str(triton.origin)).parent / "backends/nvidia/bin/ptxas").exists():
        pytest.skip("this triton has no assembler for NVIDIA GPUs")
    kept = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    run = subprocess.run([sys.executable, "-c", CODE], env=kept, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == ["_walk", "0", "True"] * 4
