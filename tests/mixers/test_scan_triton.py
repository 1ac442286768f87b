"""The selective scan in Triton, run by its interpreter, against the loop in float64."""

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed: pip install triton")

from paragone.kernels import choice
from paragone.mixers.ops.scan import scan_triton as op
from paragone.mixers.ops.scan import selective_scan
from paragone.mixers.ops.scan.reference import selective_scan as by_loop

pytestmark = pytest.mark.usefixtures("interpreter")


def drawn(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def inputs(rows=1, time=11, width=5, count=3, full=True):
    x, dt, z = (drawn(n, rows, time, width) for n in (1, 2, 3))
    A, B, C = (
        -drawn(4, width, count).exp(),
        drawn(5, rows, time, count),
        drawn(6, rows, time, count),
    )
    if not full:
        return [x, dt, A, B, C, None, None, None, None]
    return [x, dt, A, B, C, drawn(7, width), z, drawn(8, width), drawn(9, rows, width, count)]


def with_gradients(form, given, lengths=None, softplus=True):
    leaves = [x if x is None else x.clone().requires_grad_() for x in given]
    y, state = form(*leaves, lengths, softplus)
    pull = (y * drawn(10, *y.shape)).sum() + (state * drawn(11, *state.shape)).sum()
    grads = torch.autograd.grad(pull, [x for x in leaves if x is not None])
    return [y.detach(), state.detach(), *grads]


def agree(mine, theirs, tolerance=3e-6):
    for ours, right in zip(mine, theirs, strict=True):
        size = max([1.0, *right.abs().flatten().tolist()])
        torch.testing.assert_close(ours.double(), right.double(), rtol=0, atol=tolerance * size)


CASES = {
    "plain": ({"full": False}, None, False),
    "all": ({}, None, True),
    "lengths": ({"rows": 2, "time": 9}, torch.tensor([6, 0]), True),
    "one": ({"time": 1, "width": 1, "count": 1}, None, True),
}


@pytest.mark.parametrize("name", CASES)
def test_outputs_state_and_all_gradients(name):
    sizes, lengths, softplus = CASES[name]
    given = inputs(**sizes)
    if not softplus:
        given[1] = given[1].abs()
    wide = [x if x is None else x.double() for x in given]
    agree(with_gradients(op.selective_scan, given, lengths, softplus),
          with_gradients(by_loop, wide, lengths, softplus))  # fmt: skip


def test_tiny_and_huge_steps_are_exact():
    given = inputs()
    given[1] = torch.linspace(-40, 60, 55).reshape(1, 11, 5)
    given[7] = torch.zeros(5)
    wide = [x.double() for x in given]
    mine, theirs = (with_gradients(form, each) for form, each in
                    ((op.selective_scan, given), (by_loop, wide)))  # fmt: skip
    agree(mine, theirs)
    small = theirs[3].abs() > 0
    assert ((mine[3] - theirs[3])[small] / theirs[3][small]).abs().max() < 1e-2


def test_prefix_and_resume_are_the_whole_and_padding_may_be_nan():
    x, dt, A, B, C, D, z, bias, state = inputs(time=19)
    whole = op.selective_scan(x, dt, A, B, C, D, z, bias, state, None, True)
    head, tail = (
        [v[:, part] for v in (x, dt, B, C, z)] for part in (slice(0, 10), slice(10, None))
    )
    first, middle = op.selective_scan(
        head[0], head[1], A, head[2], head[3], D, head[4], bias, state, None, True
    )
    second, last = op.selective_scan(
        tail[0], tail[1], A, tail[2], tail[3], D, tail[4], bias, middle, None, True
    )
    agree((torch.cat([first, second], 1), last), whole)
    for v in (x, dt, B, C, z):
        v[:, 10:] = torch.nan
    padded = op.selective_scan(x, dt, A, B, C, D, z, bias, state, torch.tensor([10]), True)
    agree((padded[0][:, :10], padded[1]), (first, middle))
    assert not padded[0][:, 10:].any()


def test_strides_half_precision_and_nothing_at_all():
    x, dt, A, B, C, D, z, bias, state = inputs()
    wide = torch.cat([x, dt, z], -1)
    parts = wide.split(5, dim=-1)
    joined = torch.cat([B, C], -1).split(3, dim=-1)
    plain = op.selective_scan(x, dt, A, B, C, D, z, bias, state, None, True)
    sliced = op.selective_scan(parts[0], parts[1], A, *joined, D, parts[2], bias, state, None, True)
    assert all(torch.equal(a, b) for a, b in zip(plain, sliced, strict=True))
    half = op.selective_scan(x.half(), dt.half(), A, B.half(), C.half(), D, z.half(), bias, state,
                             None, True)  # fmt: skip
    assert half[0].dtype == torch.float16
    agree(half, plain, 3e-3)
    none = op.selective_scan(x[:, :0], dt[:, :0], A, B[:, :0], C[:, :0], D, z[:, :0], bias, state,
                             None, True)  # fmt: skip
    assert none[0].shape == (1, 0, 5)
    assert torch.equal(none[1], state)


def test_the_operation_is_sound():
    given = [x.requires_grad_() for x in inputs(time=2, width=2, count=1)]
    torch.library.opcheck(op._scan, (*given, None, True, True))


def test_an_error_that_is_planted_is_seen(monkeypatch):
    whole = op._meta

    def planted(*given, **named):
        rows, meta = whole(*given, **named)
        return rows, {**meta, "BIAS": False}

    monkeypatch.setattr(op, "_meta", planted)
    with pytest.raises(AssertionError):
        test_outputs_state_and_all_gradients("all")


def test_what_no_kernel_takes_is_named():
    given = [x.bfloat16() for x in inputs(time=2)]
    with pytest.raises(ValueError, match="bfloat16 arithmetic is wrong"):
        op.selective_scan(*given, None, True)


def test_it_is_a_back_end_of_the_scan():
    x, dt, A, B, C, D, z, bias, state = inputs(time=4)
    given = {"z": z, "dt_bias": bias, "state": state}
    mine, theirs = (selective_scan(x, dt, A, B, C, D, **given, backend=name)
                    for name in ("triton", "torch"))  # fmt: skip
    agree(mine, theirs)
    assert choice.choose("selective_scan", device="cpu", dtype=torch.float32) == "numba"
