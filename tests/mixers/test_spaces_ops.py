"""Operations of state spaces: kernels against definitions in float64, values and gradients."""

import math

import numpy as np
import pytest
import torch
from scipy.linalg import expm

from paragone.kernels import choice
from paragone.mixers.ops.spaces import _modes, chunked, reference
from paragone.mixers.ops.spaces import cauchy as cauchy_module
from paragone.mixers.ops.spaces import coupled as coupled_module
from paragone.mixers.ops.spaces import response as response_module
from paragone.mixers.ops.spaces import scan as scan_module
from paragone.mixers.ops.spaces import vandermonde as vandermonde_module
from paragone.mixers.ops.spaces.cauchy import cauchy
from paragone.mixers.ops.spaces.coupled import coupled
from paragone.mixers.ops.spaces.response import response
from paragone.mixers.ops.spaces.scan import scan
from paragone.mixers.ops.spaces.vandermonde import powers, vandermonde

SIZES = [(1, 1, 1), (2, 3, 63), (3, 5, 64), (1, 4, 65), (2, 18, 131)]
"""Rows, modes and times; channels are modes + 2."""


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def rates(*shape):
    """Modes that turn at any speed and some of which hardly decay."""
    decay = -torch.rand(*shape, generator=torch.Generator().manual_seed(3)) * 0.05 - 1e-4
    return torch.stack([decay, 2 * draw(*shape, seed=4)], dim=-2)


def with_gradients(function, arguments):
    arguments = [each.detach().clone().requires_grad_() for each in arguments]
    outputs = function(*arguments)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    total = sum((y * draw(*y.shape, seed=9).to(y.dtype)).sum() for y in outputs)
    return [*outputs, *torch.autograd.grad(total, arguments)]


def agree(function, definition, arguments):
    """Values in float32 are those of the definition in float64 to 1e-5, gradients to 2e-5."""
    found = with_gradients(function, arguments)
    wanted = with_gradients(definition, [each.double() for each in arguments])
    for at, (one, two) in enumerate(zip(found, wanted, strict=True)):
        assert one.dtype == torch.float32
        assert one.shape == two.shape
        if one.numel():
            tolerance = 1e-5 if at < len(found) - len(arguments) else 2e-5
            assert (one - two).abs().max() <= tolerance * two.abs().max().clamp(min=1e-3)


@pytest.mark.parametrize("backend", ["numba", "torch"])
@pytest.mark.parametrize(("rows", "modes", "time"), [*SIZES, (2, 7, 0), (1, 32, 2500)])
def test_vandermonde(backend, rows, modes, time):
    agree(
        lambda rate, weight: vandermonde(rate, weight, time, backend=backend),
        lambda rate, weight: reference.vandermonde(rate, weight, time),
        (rates(rows, modes), draw(rows, 2, modes)),
    )


@pytest.mark.parametrize("backend", ["numba", "torch"])
@pytest.mark.parametrize(("rows", "modes", "time"), [*SIZES, (2, 150, 300), (1, 3, 2000)])
def test_scan(backend, rows, modes, time):
    agree(
        lambda *given: scan(*given, backend=backend),
        reference.scan,
        (draw(rows, time, 2, modes), rates(modes), draw(rows, 2, modes, seed=1)),
    )


@pytest.mark.parametrize(("rows", "modes", "time"), [*SIZES, (1, 3, 1500)])
def test_response(rows, modes, time):
    width = modes + 2
    agree(
        response,
        reference.response,
        (draw(rows, time, width), rates(width, modes), draw(width, 2, modes, seed=1),
         draw(rows, width, 2, modes, seed=2)),
    )  # fmt: skip


def test_response_of_rows_of_unequal_length():
    lengths, given = torch.tensor([0, 1, 64, 100]), [rates(3, 5), draw(3, 2, 5, seed=1)]
    u, state = draw(4, 130, 3), draw(4, 3, 2, 5, seed=2)
    ours = with_gradients(lambda *a: response(*a, lengths), (u, *given, state))
    y, last, du, _, _, dstate = ours
    for row, length in enumerate(lengths):
        alone = (u[row : row + 1, :length], *given, state[row : row + 1])
        one, two = response(*alone)
        torch.testing.assert_close(y[row : row + 1, :length], one)
        torch.testing.assert_close(last[row : row + 1], two)
        assert not y[row, length:].any()
        assert not du[row, length:].any()
    assert torch.equal(dstate[0], draw(*last.shape, seed=9)[0])


def low_rank(width, modes, rank, seed=0):
    gain = torch.stack([-draw(width, modes).abs() - 0.01, draw(width, modes, seed=1)], dim=-2) * 0.3
    b, c = draw(2, width, 2, modes, seed=2)
    return (gain, b, *(draw(2, rank, width, 2, modes, seed=3) * 0.1), c)


@pytest.mark.parametrize("rank", [1, 2])
@pytest.mark.parametrize(("rows", "modes", "time"), SIZES)
def test_coupled(rank, rows, modes, time):
    width = modes + 2
    state = draw(rows, width, 2, modes, seed=5)
    agree(
        coupled,
        coupled_module.reference,
        (draw(rows, time, width, seed=4), *low_rank(width, modes, rank), state),
    )


def test_coupled_rows_of_unequal_length():
    lengths, given, u = torch.tensor([0, 32, 41]), low_rank(3, 5, 1), draw(3, 70, 3)
    state = draw(3, 3, 2, 5, seed=5)
    y, last, du, *_, dstate = with_gradients(lambda *a: coupled(*a, lengths), (u, *given, state))
    for row, length in enumerate(lengths):
        one, two = coupled(u[row : row + 1, :length], *given, state[row : row + 1])
        torch.testing.assert_close(y[row : row + 1, :length], one)
        torch.testing.assert_close(last[row : row + 1], two)
        assert not y[row, length:].any()
        assert not du[row, length:].any()
    assert torch.equal(dstate[0], draw(*last.shape, seed=9)[0])


def nodes(length):
    half = torch.arange(length, dtype=torch.float64) * (math.pi / 2 / max(length - 1, 1))
    return (2 * half.sin()).float(), half.cos().float()


@pytest.mark.parametrize("backend", ["numba", "torch"])
@pytest.mark.parametrize(
    ("sums", "modes", "length"), [(1, 1, 1), (4, 3, 33), (9, 17, 64), (2, 2, 600)]
)
def test_cauchy(backend, sums, modes, length):
    x, y = nodes(length)
    poles = rates(2, modes) - torch.tensor([0.01, 0.0])[:, None]
    agree(
        lambda v, p: cauchy(v, p, x, y, backend=backend),
        lambda v, p: reference.cauchy(v, p, x.double(), y.double()),
        (draw(sums, 2, 2, modes), poles),
    )


def test_definitions_against_matrix_exponentials():
    rate, weight = rates(1, 3).double(), draw(1, 2, 3, seed=1).double()
    z, w = (reference.single(each)[0].numpy() for each in (rate, weight))
    A = np.diag(z)
    wanted = [(w @ expm(A * lag)).sum().real for lag in range(9)]
    np.testing.assert_allclose(reference.vandermonde(rate, weight, 9)[0], wanted, atol=1e-12)
    impulse = torch.zeros(1, 9, 1, dtype=torch.float64)
    impulse[0, 0] = 1.0
    y, _ = reference.response(impulse, rate, weight, torch.zeros(1, 1, 2, 3, dtype=torch.float64))
    np.testing.assert_allclose(y[0, :, 0], wanted, atol=1e-12)


def test_gradients_of_the_definitions():
    rate, weight = (rates(2, 2) - 0.1).double(), draw(2, 2, 2).double()
    for function, given in (
        (lambda *a: reference.vandermonde(*a, 5), (rate, weight)),
        (reference.scan, (draw(1, 4, 2, 2).double(), rate[0], draw(1, 2, 2).double())),
        (coupled_module.reference,
         (draw(1, 3, 2).double(), *(each.double() for each in low_rank(2, 2, 2)),
          draw(1, 2, 2, 2).double())),
        (reference.response, (draw(1, 4, 2).double(), rate, weight, draw(1, 2, 2, 2).double())),
        (lambda v, p: reference.cauchy(v, p, *(n.double() for n in nodes(4))),
         (draw(2, 2, 2, 2).double(), rate)),
        (lambda *a: vandermonde(*a, 6), (rate, weight)),
        (scan, (draw(1, 4, 2, 2).double(), rate[0], draw(1, 2, 2).double())),
    ):  # fmt: skip
        given = [each.requires_grad_() for each in (each.detach().clone() for each in given)]
        assert torch.autograd.gradcheck(function, given)


def test_operators_are_registered_as_torch_expects():
    rate, weight = rates(2, 3).requires_grad_(), draw(2, 2, 3).requires_grad_()
    x, y = nodes(5)
    state = draw(1, 2, 2, 3).requires_grad_()
    for op, given in (
        (vandermonde_module._vandermonde, (rate, weight, 7)),
        (vandermonde_module._backward, (rates(2, 3), draw(2, 2, 3), draw(2, 7))),
        (scan_module._scan, (draw(2, 4, 2, 3), rates(3), draw(2, 2, 3))),
        (scan_module._backward, (rates(3), draw(2, 2, 3), *draw(2, 2, 4, 2, 3))),
        (response_module._response, (draw(1, 4, 2), rate, weight, state, torch.tensor([3]))),
        (response_module._backward, (draw(1, 4, 2), rates(2, 3), draw(2, 2, 3), draw(1, 2, 2, 3),
                                     torch.tensor([3]), draw(1, 4, 2), draw(1, 2, 2, 3))),
        (coupled_module._coupled,
         (draw(1, 4, 2), *low_rank(2, 3, 2), draw(1, 2, 2, 3), torch.tensor([3]))),
        (coupled_module._backward,
         (draw(1, 4, 2), *low_rank(2, 3, 2), draw(1, 2, 2, 3), torch.tensor([3]),
          draw(1, 4, 2), draw(1, 2, 2, 3))),
        (cauchy_module._cauchy, (*draw(2, 2, 3).abs(), *draw(2, 4, 2, 3), x, y)),
        (cauchy_module._backward,
         (*draw(2, 2, 3).abs(), *draw(2, 4, 2, 3), x, y, draw(4, 2, 2, 5))),
    ):  # fmt: skip
        torch.library.opcheck(op, given, test_utils=("test_schema", "test_faketensor"))
    torch.library.opcheck(
        response_module._response, (draw(1, 4, 2), rate, weight, state, torch.tensor([3]))
    )


def test_strides_do_not_matter():
    x, state = draw(2, 9, 2, 5).transpose(2, 3).contiguous().transpose(2, 3), draw(2, 2, 5)
    assert torch.equal(scan(x, rates(5), state), scan(x.contiguous(), rates(5), state))
    u, given = draw(2, 3, 9).transpose(1, 2), (rates(3, 4), draw(3, 2, 4), draw(2, 3, 2, 4))
    assert torch.equal(response(u, *given)[0], response(u.contiguous(), *given)[0])
    wide = draw(2, 1, 3).expand(2, 9, 3)
    assert torch.equal(response(wide, *given)[0], response(wide.contiguous(), *given)[0])


def test_results_do_not_depend_on_threads(monkeypatch):
    u, given = draw(2, 40, 40), (rates(40, 4), draw(40, 2, 4), draw(2, 40, 2, 4))
    x, pole, state = draw(2, 40, 2, 300), rates(300), draw(2, 2, 300)

    def run():
        return [
            *with_gradients(response, (u, *given)), *with_gradients(scan, (x, pole, state)),
            *with_gradients(lambda a, b: vandermonde(a, b, 50), given[:2]),
            *with_gradients(lambda v, p: cauchy(v, p, *nodes(20)), (draw(2, 40, 2, 4), given[0])),
            *with_gradients(coupled, (u, *low_rank(40, 4, 2), given[2])),
        ]  # fmt: skip

    alone = run()
    for module in (
        response_module, scan_module, vandermonde_module, cauchy_module, coupled_module,
    ):  # fmt: skip
        monkeypatch.setattr(module, "_threads", lambda work: 3)
    assert all(map(torch.equal, alone, run()))


def test_rounded_poles_do_not_drift(monkeypatch):
    """Fast modes that hardly decay, for 4000 steps: without the correction they are off."""
    rate = torch.tensor([[-1e-4, -2e-4], [2.9, 1.7]])
    given = (draw(1, 4000, 2, 2), rate, torch.zeros(1, 2, 2))
    wanted = reference.scan(*(each.double() for each in given))

    def error():
        return (scan(*given) - wanted).abs().max() / wanted.abs().max()

    assert error() < 1e-5
    gain_of = scan_module.gain_of
    monkeypatch.setattr(scan_module, "gain_of", lambda r: (gain_of(r)[0], 0 * gain_of(r)[1]))
    assert error() > 3e-5
    assert _modes.BLOCK == 64


def test_long_powers_keep_their_phase():
    rate = torch.tensor([[[-1e-4], [3.0]]])
    exact = np.exp(complex(-1e-4, np.float32(3.0)) * np.arange(20_000))
    found = vandermonde(rate, torch.tensor([[[1.0], [0.0]]]), 20_000)
    assert np.abs(found[0].numpy() - exact.real).max() < 2e-5
    assert np.abs(powers(rate, 0, 20_000)[0, 0].numpy() - exact).max() < 1e-5


def test_convolution_does_not_wrap_around():
    """Trap: an FFT of length L wraps the row's end into its start; twice the length does not."""
    u, kernel = torch.zeros(1, 10, 1), torch.ones(1, 10)
    u[0, 9] = 1.0
    y = chunked.convolve(u, kernel)
    torch.testing.assert_close(y[0, :, 0], u[0, :, 0], atol=1e-6, rtol=0)
    for time in (1, 2, 3, 5, 63, 64, 65, 97):
        assert chunked.fast_size(2 * time) >= 2 * time


def test_planted_error_is_seen(monkeypatch):
    """The conjugate in the pole's gradient is what one forgets."""
    turned = scan_module.turned
    monkeypatch.setattr(scan_module, "turned", lambda rate, grad: turned(-rate, grad))
    with pytest.raises(AssertionError):
        test_scan("numba", 2, 3, 63)


def test_errors_say_what_was_given():
    for call, words in (
        (lambda: vandermonde(draw(2, 2, 3), draw(2, 2, 4), 5), r"\(2, 2, 4\)"),
        (lambda: scan(draw(1, 2, 2, 3), draw(2, 3), draw(2, 2, 3)), r"\(B, 2, n\)"),
        (lambda: response(draw(1, 2, 3), draw(4, 2, 3), draw(4, 2, 3), draw(1, 4, 2, 3)), "u has"),
        (lambda: coupled(draw(1, 4, 2), *low_rank(2, 3, 3), draw(1, 2, 2, 3)), "R up to 2"),
        (lambda: cauchy(draw(2, 2, 3), draw(2, 2, 3), draw(4), draw(4)), r"\(R, H, 2, n\)"),
        (lambda: vandermonde(draw(1, 2, 3).double(), draw(1, 2, 3).double(), 4, backend="numba"),
         "float64"),
        (lambda: vandermonde(draw(1, 2, 1), draw(1, 2, 1), 3, backend="triton"), "none of auto"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=words):
            call()
    assert choice.backends("spaces_response") == ["numba", "torch"]
    assert "meta" in choice.explain("spaces_scan", device="meta", dtype=torch.float32)
