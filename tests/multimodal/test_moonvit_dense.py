"""Linear maps with their ends: kernels against float64, gradients, threads, who is served."""

import pytest
import torch

from paragone.kernels.backends import why_not
from paragone.multimodal.ops.dense import feed, linear, projected, reference

pytestmark = pytest.mark.skipif(why_not("numba") is not None, reason="no Numba")
SIZES = [(8, 8, 5, 1), (13, 24, 48, 2), (65, 40, 97, 5), (203, 16, 64, 2)]
FORMS = {"linear": linear, "shortcut": linear, "feed": feed, "projected": projected}


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def parts(form, rows, width, inner, heads):
    """Leaves that get gradients, and what stands behind them."""
    shapes = {
        "linear": [(rows, width), (inner, width), (inner,)],
        "shortcut": [(rows, width), (inner, width), (inner,), (rows, inner)],
        "feed": [(rows, width), (inner, width), (inner,), (width, inner), (width,), (rows, width)],
        "projected": [(rows, width), (3 * width, width), (3 * width,)],
    }[form]
    leaves = [drawn(*shape, seed=seed) for seed, shape in enumerate(shapes)]
    if form != "projected":
        return leaves, ()
    angles = 9 * drawn(rows, width // heads // 2, seed=7)
    return leaves, (angles.cos(), angles.sin(), heads)


def both(form, leaves, rest, dtype, backend):
    leaves = [x.detach().to(dtype).requires_grad_() for x in leaves]
    rest = [x.to(dtype) if isinstance(x, torch.Tensor) else x for x in rest]
    y = FORMS[form](*leaves, *rest, backend=backend)
    (y * drawn(*y.shape, seed=9).to(dtype)).sum().backward()
    return [y.detach(), *(x.grad for x in leaves)]


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("form", FORMS)
def test_kernels_are_the_equations_in_float64(form, sizes):
    leaves, rest = parts(form, *sizes)
    found = both(form, leaves, rest, torch.float32, "numba")
    wanted = both(form, leaves, rest, torch.float64, "torch")
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=0, atol=2e-6 * float(b.abs().max()))
    with torch.no_grad():
        alone = FORMS[form](*leaves, *rest, backend="numba")
    torch.testing.assert_close(alone, found[0], rtol=0, atol=0)
    wrong = both(form, [leaves[0] * (1 + 1e-5), *leaves[1:]], rest, torch.float64, "torch")[0]
    assert (wrong - wanted[0]).abs().max() > 2e-6 * wanted[0].abs().max(), "a planted error is seen"


def test_gelu_is_the_tanh_form_from_end_to_end():
    h = torch.cat([torch.linspace(-40, 40, 4001), torch.tensor([0.0, -0.0, 1e-30])])
    x, one = h.repeat(2, 4).view(-1, 1), torch.ones(1, 1)
    y = feed(x, one, torch.zeros(1), one, torch.zeros(1), torch.zeros_like(x), backend="numba")
    wide = torch.nn.functional.gelu(x.double(), approximate="tanh")
    torch.testing.assert_close(y.double(), wide, rtol=2e-5, atol=2e-6)
    erf = torch.nn.functional.gelu(x.double())
    assert (y.double() - erf).abs().max() > 1e-4, "the exact form is another"


def test_definitions_have_their_own_gradients():
    for form in FORMS:
        leaves, rest = parts(form, 3, 8, 4, 2)
        leaves = [x.double().requires_grad_() for x in leaves]
        rest = [x.double() if isinstance(x, torch.Tensor) else x for x in rest]
        form = {"shortcut": "linear"}.get(form, form)
        assert torch.autograd.gradcheck(getattr(reference, form), (*leaves, *rest))


def test_heads_are_turned_as_complex_numbers():
    leaves, (cos, sin, heads) = parts("projected", 9, 16, 0, 2)
    qkv = projected(*leaves, cos, sin, heads, backend="numba")
    plain = torch.nn.functional.linear(*leaves).view(9, 3, 2, 4, 2)
    turned = (
        torch.view_as_complex(plain[:, :2].contiguous()) * torch.complex(cos, sin)[:, None, None]
    )
    torch.testing.assert_close(qkv[:, :2], torch.view_as_real(turned).flatten(-2))
    torch.testing.assert_close(qkv[:, 2], plain[:, 2].flatten(-2))


def test_results_hang_neither_on_threads_nor_on_strides_nor_on_other_rows():
    leaves, rest = parts("feed", 1500, 320, 700, 4)
    threads = torch.get_num_threads()
    found = []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            found.append(both("feed", leaves, rest, torch.float32, "auto")[:2])
    finally:
        torch.set_num_threads(threads)
    wide = torch.zeros(1500, 640)
    wide[:, ::2] = leaves[0]
    strided = [wide[:, ::2], leaves[1].t().contiguous().t(), *leaves[2:]]
    found.append(both("feed", strided, rest, torch.float32, "auto")[:2])
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0)
    some = slice(700, 1300)
    with torch.no_grad():
        alone = feed(leaves[0][some], *leaves[1:5], leaves[5][some])
    torch.testing.assert_close(alone, found[0][0][some], rtol=0, atol=0)


def test_only_wanted_gradients_are_made():
    leaves, _ = parts("feed", 300, 16, 24, 1)
    leaves[1].requires_grad_()
    feed(*leaves, backend="numba").sum().backward()
    assert leaves[1].grad is not None
    assert all(x.grad is None for at, x in enumerate(leaves) if at != 1)


def test_who_is_served_and_who_is_not():
    leaves, _ = parts("linear", 300, 16, 24, 1)
    few = [leaves[0][:7], *leaves[1:]]
    torch.testing.assert_close(linear(*few), reference.linear(*few), rtol=0, atol=0)
    for given, words in (
        (few, "8 rows"), ([x.double() for x in leaves], "float64"),
        ([x.to("meta") for x in leaves], "meta"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=words):
            linear(*given, backend="numba")
    with pytest.raises(ValueError, match="numba, torch"):
        linear(*leaves, backend="magic")
    assert linear(leaves[0][:0], *leaves[1:]).shape == (0, 24)
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(*leaves).dtype == torch.bfloat16
    compiled = torch.compile(linear, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(*leaves), linear(*leaves))
