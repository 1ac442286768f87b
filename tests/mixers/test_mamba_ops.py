"""Selective scan, causal convolution and state space duality against their definitions."""

import pytest
import torch

from paragone.kernels.choice import explain
from paragone.mixers.ops.conv1d import causal_conv1d
from paragone.mixers.ops.scan import selective_scan
from paragone.mixers.ops.ssd import reference as ssd_reference
from paragone.mixers.ops.ssd import ssd


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def scan_input(rows, time, width, count, full=True):
    both = normal(rows, time, 2 * width)
    given = {
        "x": both[..., :width], "dt": normal(rows, time, width, seed=1) - 1,
        "A": -normal(width, count, seed=2).exp(), "B": normal(rows, time, count, seed=3),
        "C": normal(rows, time, count, seed=4),
    }  # fmt: skip
    if full:
        given |= {
            "D": normal(width, seed=5), "z": both[..., width:], "dt_bias": normal(width, seed=6),
            "state": normal(rows, width, count, seed=7),
        }  # fmt: skip
    return given


def ssd_input(rows, time, heads, size, groups, count):
    return {
        "x": normal(rows, time, heads + 1, size)[:, :, 1:], "A": -normal(heads, seed=1).exp(),
        "dt": normal(rows, time, heads, seed=2).abs(), "B": normal(rows, time, groups, count),
        "C": normal(rows, time, groups, count, seed=3), "D": normal(heads, seed=4),
        "state": normal(rows, heads, count, size, seed=5),
    }  # fmt: skip


def conv_input(rows, time, width, taps):
    return {
        "x": normal(rows, time, width + 3)[..., 3:], "weight": normal(width, taps, seed=1),
        "bias": normal(width, seed=2), "state": normal(rows, taps - 1, width, seed=3),
    }  # fmt: skip


def outcome(op, given, dtype, **options):
    """Outputs of an operation, and the gradient of every input."""
    given = {k: v.detach().to(dtype, copy=True).requires_grad_() for k, v in given.items()}
    y, last = op(**given, **options)
    weight = torch.linspace(-1, 1, y.numel(), dtype=dtype).view_as(y)
    state_weight = torch.linspace(-1, 2, last.numel(), dtype=dtype).view_as(last)
    ((y * weight).sum() + (last * state_weight).sum()).backward()
    return {"y": y, "last": last, **{
        key: torch.zeros_like(value) if value.grad is None else value.grad
        for key, value in given.items()
    }}  # fmt: skip


def same(found, wanted, tolerance=2e-5):
    for key, one in found.items():
        two = wanted[key].double()
        size = two.abs().max().clamp(min=1e-6) if two.numel() else 1
        assert one.shape == two.shape, key
        assert not one.numel() or (one.double() - two).abs().max() / size < tolerance, key


@pytest.mark.parametrize(
    ("rows", "time", "width", "count", "full"),
    [(2, 71, 37, 5, True), (3, 33, 130, 16, False), (2, 1, 16, 16, True), (2, 64, 1, 1, True),
     (1, 0, 8, 4, True), (0, 5, 8, 4, False)],
)  # fmt: skip
def test_scan_and_its_gradients_are_those_of_float64(rows, time, width, count, full):
    given = scan_input(rows, time, width, count, full)
    lengths = torch.tensor([time, 0, time // 2][:rows]) if full else None
    found = outcome(selective_scan, given, torch.float32, lengths=lengths, backend="numba")
    same(found, outcome(selective_scan, given, torch.float64, lengths=lengths))


@pytest.mark.parametrize(
    ("rows", "time", "heads", "size", "groups", "count", "chunk"),
    [(2, 71, 4, 37, 2, 5, 16), (1, 65, 2, 64, 1, 66, 64), (3, 1, 1, 8, 1, 3, 64),
     (1, 100, 2, 8, 1, 8, 128), (2, 0, 2, 4, 1, 3, 64)],
)  # fmt: skip
def test_ssd_and_its_gradients_are_those_of_the_loop(rows, time, heads, size, groups, count, chunk):
    given = ssd_input(rows, time, heads, size, groups, count)
    lengths = torch.tensor([time, 0, time // 2][:rows]) if rows > 1 else None
    wanted = outcome(ssd, given, torch.float64, lengths=lengths, form="scan")
    found = outcome(ssd, given, torch.float32, lengths=lengths, chunk=chunk, backend="numba")
    same(found, wanted, 1e-4)
    same(outcome(ssd, given, torch.float64, lengths=lengths, chunk=chunk), wanted, 1e-9)


@pytest.mark.parametrize(
    ("time", "width", "taps"), [(63, 37, 4), (2, 130, 4), (9, 16, 1), (0, 4, 3)]
)
@pytest.mark.parametrize("silu", [True, False])
def test_convolution_and_its_gradients_are_those_of_torch(time, width, taps, silu):
    given = conv_input(2, time, width, taps)
    wanted = outcome(causal_conv1d, given, torch.float64, silu=silu)
    same(outcome(causal_conv1d, given, torch.float32, silu=silu, backend="numba"), wanted)
    if time:
        whole = torch.cat([given["state"], given["x"]], 1).double().mT
        weight, bias = given["weight"].double()[:, None], given["bias"].double()
        peer = torch.nn.functional.conv1d(whole, weight, bias, groups=width).mT
        same({"y": wanted["y"]}, {"y": torch.nn.functional.silu(peer) if silu else peer}, 1e-12)


def test_gradcheck_of_the_definitions():
    given = {k: v.double().requires_grad_() for k, v in scan_input(2, 5, 3, 2).items()}
    lengths = torch.tensor([5, 2])
    names = list(given)
    check = torch.autograd.gradcheck
    assert check(lambda *v: selective_scan(**dict(zip(names, v, strict=True)), lengths=lengths),
                 tuple(given.values()), fast_mode=True)  # fmt: skip
    other = {k: v.double().requires_grad_() for k, v in ssd_input(1, 7, 2, 3, 1, 2).items()}
    keys = list(other)
    for form in ("scan", "chunked"):
        assert check(lambda *v, f=form: ssd(**dict(zip(keys, v, strict=True)), chunk=3, form=f),
                     tuple(other.values()), fast_mode=True)  # fmt: skip


def test_closed_forms():
    one = torch.ones(1, 50, 3)
    kept = selective_scan(one, one, torch.zeros(3, 2), one[..., :2], one[..., :2], softplus=False)
    torch.testing.assert_close(kept[0][0, :, 0], 2 * torch.arange(1.0, 51))
    halves = torch.full((3, 1), -0.6931471805599453)
    faded, last = selective_scan(one, one, halves, one[..., :1], one[..., :1], softplus=False)
    torch.testing.assert_close(faded[0, :, 1], 2 - 0.5 ** torch.arange(50.0))
    torch.testing.assert_close(last, faded[:, -1, :, None])


@pytest.mark.parametrize("steps", [0.0, 300.0])
def test_extreme_steps_and_decays(steps):
    given = scan_input(1, 130, 17, 4)
    given["dt"] = given["dt"] * 0 + steps - 30 * (steps == 0)
    given["A"] = given["A"] * 100
    found = outcome(selective_scan, given, torch.float32, backend="numba")
    assert all(value.isfinite().all() for value in found.values())
    same(found, outcome(selective_scan, given, torch.float64))
    other = ssd_input(1, 70, 2, 8, 1, 4) | {"A": torch.tensor([-1e4, -1e-9])}
    found = outcome(ssd, other, torch.float32, backend="numba")
    assert all(value.isfinite().all() for value in found.values())
    wanted = outcome(ssd, other, torch.float64, form="scan")
    same({k: found[k] for k in ("y", "last", "x", "B", "C")}, wanted, 1e-4)


def test_nan_in_the_padding_reaches_nothing():
    lengths = torch.tensor([9, 0, 33])
    beyond = (torch.arange(33) >= lengths[:, None])[..., None]
    clean = scan_input(3, 33, 20, 4)
    dirty = {k: v.masked_fill(beyond, torch.nan) if k in ("x", "dt", "B", "C", "z") else v
             for k, v in clean.items()}  # fmt: skip
    wanted = outcome(selective_scan, clean, torch.float32, lengths=lengths)
    for backend in ("numba", "torch"):
        found = outcome(selective_scan, dirty, torch.float32, lengths=lengths, backend=backend)
        same(found, wanted)


@pytest.mark.parametrize("threads", [2, 3])
def test_results_do_not_depend_on_the_number_of_threads(threads, monkeypatch):
    monkeypatch.setattr("paragone.mixers.ops._mamba_views._WORTH", 0)
    jobs = (
        (selective_scan, scan_input(2, 40, 300, 3)), (ssd, ssd_input(2, 40, 4, 8, 2, 4)),
        (causal_conv1d, conv_input(2, 40, 300, 4)),
    )  # fmt: skip
    for op, given in jobs:
        runs = []
        for count in (1, threads):
            monkeypatch.setattr(torch, "get_num_threads", lambda count=count: count)
            runs.append(outcome(op, given, torch.float32))
        assert all(torch.equal(runs[0][key], runs[1][key]) for key in runs[0])


def test_outputs_are_bitwise_blind_to_the_future():
    for op, given, at in (
        (selective_scan, scan_input(1, 70, 20, 4), 41), (ssd, ssd_input(1, 70, 2, 8, 1, 4), 41),
        (causal_conv1d, conv_input(1, 70, 20, 4), 41),
    ):  # fmt: skip
        before, _ = op(**given)
        later = given | {"x": given["x"].clone().index_fill_(1, torch.arange(at, 70), 1e9)}
        assert torch.equal(op(**later)[0][:, :at], before[:, :at])


def test_going_on_is_the_whole_and_gradients_flow_through_the_state():
    whole = scan_input(2, 60, 20, 4)
    along = ("x", "dt", "B", "C", "z")

    def pieces(**given):
        first = selective_scan(**{k: v[:, :23] if k in along else v for k, v in given.items()})
        rest = {k: v[:, 23:] if k in along else v for k, v in given.items()}
        last = selective_scan(**{**rest, "state": first[1]})
        return torch.cat([first[0], last[0]], 1), last[1]

    same(outcome(pieces, whole, torch.float32), outcome(selective_scan, whole, torch.float32))


def test_expanded_transposed_and_half_precision_input():
    given = scan_input(1, 20, 24, 4)
    wide = {k: v.expand(3, *v.shape[1:]) if v.ndim == 3 else v for k, v in given.items()}
    turned = {k: v.mT.contiguous().mT if v.ndim == 3 else v for k, v in given.items()}
    y, _ = selective_scan(**given)
    torch.testing.assert_close(selective_scan(**wide)[0], y.expand(3, -1, -1), rtol=0, atol=0)
    torch.testing.assert_close(selective_scan(**turned)[0], y, rtol=0, atol=0)
    for dtype, ulp in ((torch.bfloat16, 2**-8), (torch.float16, 2**-11)):
        narrow = {k: v.to(dtype) for k, v in given.items()}
        found, state = selective_scan(**narrow)
        assert (found.dtype, state.dtype) == (dtype, torch.float32)
        wanted, _ = selective_scan(**{k: v.double() for k, v in narrow.items()})
        assert (found - wanted).abs().max() <= ulp * wanted.abs().max()


def test_the_way_back_keeps_no_tensor_of_all_states():
    given = scan_input(1, 256, 16, 16)
    given = {k: v.clone().requires_grad_() for k, v in given.items()}
    sizes = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda v: sizes.append(v.numel()) or v, lambda v: v
    ):
        selective_scan(**given, backend="numba")
    assert max(sizes) <= 256 * 16


def test_torch_accepts_the_operations():
    check = torch.library.opcheck
    v = {k: t.clone().requires_grad_() for k, t in scan_input(1, 5, 3, 2).items()}
    order = ("x", "dt", "A", "B", "C", "D", "z", "dt_bias", "state")
    lengths = torch.tensor([4])
    check(torch.ops.paragone.selective_scan, (*(v[k] for k in order), lengths, True, True))
    c = {k: t.clone().requires_grad_() for k, t in conv_input(1, 5, 3, 4).items()}
    check(torch.ops.paragone.causal_conv1d, (*c.values(), True))
    s = {k: t.clone().requires_grad_() for k, t in ssd_input(1, 8, 2, 3, 1, 2).items()}
    scores = normal(1, 2, 1, 4, 4).requires_grad_()
    given = (s["x"], s["dt"], s["A"], scores, s["B"], s["C"], s["state"], 4, True)
    check(torch.ops.paragone.ssd, given)


def test_a_planted_bug_is_caught(monkeypatch):
    given = scan_input(1, 9, 4, 2)
    right = outcome(selective_scan, given, torch.float32)

    def too_fast(A, **others):
        return selective_scan(A=1.01 * A, **others)

    wrong = outcome(too_fast, given, torch.float64)
    with pytest.raises(AssertionError):
        same(right, wrong)
    x = ssd_input(1, 9, 1, 4, 1, 2)
    shifted = ssd_reference.ssd_chunked(
        x["x"], x["dt"].roll(1, 1), x["A"], x["B"], x["C"], x["state"], 4
    )
    with pytest.raises(AssertionError):
        same({"y": shifted[0]}, {"y": ssd(**{**x, "D": None})[0]})


def test_bad_input_is_named():
    given = scan_input(2, 5, 4, 3)
    with pytest.raises(ValueError, match=r"z has shape \(2, 5, 3\); \(2, 5, 4\)"):
        selective_scan(**{**given, "z": given["z"][..., :3]})
    with pytest.raises(ValueError, match=r"x \(5, 4\) and A"):
        selective_scan(**{**given, "x": given["x"][0]})
    with pytest.raises(ValueError, match=r"works in float32, and the tensors are torch\.float64"):
        selective_scan(**{k: v.double() for k, v in given.items()}, backend="numba")
    with pytest.raises(ValueError, match="'fast' is none of auto"):
        selective_scan(**given, backend="fast")
    with pytest.raises(ValueError, match=r"weight \(3, 4\)"):
        causal_conv1d(normal(2, 5, 4), normal(3, 4))
    with pytest.raises(ValueError, match=r"state \(2, 2, 4\); \(2, 3, 4\)"):
        causal_conv1d(normal(2, 5, 4), normal(4, 4), state=normal(2, 2, 4))
    other = ssd_input(1, 5, 4, 3, 2, 2)
    with pytest.raises(ValueError, match="3 groups do not divide 4 heads"):
        ssd(**{**other, "B": normal(1, 5, 3, 2), "C": normal(1, 5, 3, 2)})
    with pytest.raises(ValueError, match="chunk=0"):
        ssd(**other, chunk=0)
    with pytest.raises(ValueError, match="form='fft'"):
        ssd(**other, form="fft")
    with pytest.raises(ValueError, match=r"dt has shape"):
        ssd(**{**other, "dt": other["dt"][..., :1]})


def test_the_choice_is_explained():
    text = explain("selective_scan", device="cpu", dtype=torch.float64)
    assert "numba: no, works in float32" in text
    assert "torch: yes, and would be taken" in text
