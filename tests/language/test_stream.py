"""Norm and gate between the products: kernels against float64, gradients, who is served."""

import pytest
import torch

from paragone.kernels.backends import why_not
from paragone.language.ops.stream import gated, reference, rms_norm

pytestmark = pytest.mark.skipif(why_not("numba") is not None, reason="no Numba")
SIZES = [(0, 5), (3, 0), (1, 1), (2, 63), (4, 5, 64), (67, 65), (17, 300)]


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def both(form, parts, dtype, **options):
    leaves = [x.to(dtype).clone().requires_grad_() for x in parts]
    y = form(*leaves, **options)
    (y * drawn(*y.shape, seed=9).to(dtype)).sum().backward()
    return [y.detach(), *(x.grad for x in leaves)]


def norm(x, weight, **options):
    return rms_norm(x, weight, 1e-3, **options)


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_kernels_are_the_equations_in_float64(sizes):
    x, other, weight = 3 * drawn(*sizes), drawn(*sizes, seed=1), drawn(sizes[-1], seed=2)
    for form, plain, parts in (
        (norm, lambda a, g: reference.rms_norm(a, g, 1e-3), (x, weight)),
        (gated, reference.gated, (x, other)),
    ):
        if sizes[-1] == 0 and form is norm:
            continue
        found = both(form, parts, torch.float32, backend="numba")
        wanted = both(plain, parts, torch.float64)
        for a, b in zip(found, wanted, strict=True):
            scale = float(b.abs().max()) if b.numel() else 0.0
            torch.testing.assert_close(a.double(), b, rtol=0, atol=3e-6 * (scale + 1e-3))
        if x.numel() > 1:
            wrong = plain(parts[0].double() + 1e-3, parts[1].double())
            assert (wrong - wanted[0]).abs().max() > 3e-6, "a planted error is seen"


def test_results_hang_neither_on_threads_nor_on_strides():
    x, weight = drawn(900, 2 * 320), drawn(320, seed=1)
    threads = torch.get_num_threads()
    found = []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            found.append(
                both(norm, (x[:, :320], weight), torch.float32)
                + both(gated, (x[:, ::2], x[:, 1::2]), torch.float32)
            )
    finally:
        torch.set_num_threads(threads)
    for a, b in zip(*found, strict=True):
        assert torch.equal(a, b)
    spread = both(norm, (weight.expand(5, 320), weight), torch.float32)
    torch.testing.assert_close(spread[0][4], reference.rms_norm(weight, weight, 1e-3))


def test_not_a_number_stays_in_its_row_and_large_numbers_pass():
    x, weight = drawn(3, 40), torch.ones(40)
    x[1, 7] = torch.nan
    y = norm(x, weight)
    assert y[1].isnan().all()
    assert y[[0, 2]].isfinite().all()
    a = torch.tensor([[-200.0, -50.0, 0.0, 50.0, 200.0, torch.nan]])
    y = gated(a, torch.ones_like(a))
    torch.testing.assert_close(y, reference.gated(a, torch.ones_like(a)), equal_nan=True)


def test_others_are_served_by_torch():
    x, weight = drawn(4, 8), drawn(8, seed=1)
    assert norm(x.bfloat16(), weight.bfloat16()).dtype == torch.bfloat16
    assert gated(x.to("meta"), x.to("meta")).is_meta
    jacobian = torch.func.jacrev(lambda a: gated(a, a))(x[0])
    assert jacobian.shape == (8, 8)
    double = (x.double().requires_grad_(), weight.double().requires_grad_())
    assert torch.autograd.gradcheck(norm, double)
    with pytest.raises(ValueError, match="works in float32"):
        gated(x.double(), x.double(), backend="numba")
    with pytest.raises(ValueError, match="none of auto"):
        norm(x, weight, backend="cuda")
