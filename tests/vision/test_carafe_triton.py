"""CARAFE's Triton kernels, run by the interpreter, against the definition in float64."""

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed: pip install triton")

from paragone.kernels import launch
from paragone.vision.ops.carafe import carafe_triton as op
from paragone.vision.ops.carafe.call import carafe, pack


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(autouse=True)
def _small_tiles(monkeypatch):
    """Tiles that none of the shapes fill, so that every mask is needed."""
    if not launch.interpreting(op._forward):
        pytest.skip("the kernels are compiled here: set TRITON_INTERPRET=1 before the import")
    monkeypatch.setattr(op, "_TILES", {launch.INTERPRETER: [launch.Tile(16, 2)]})


@pytest.mark.parametrize(
    ("channels", "groups", "scale", "side", "height", "width"),
    [(5, 1, 2, 3, 2, 2), (2, 2, 3, 3, 1, 2)],
)
def test_the_kernels_compute_the_definition(channels, groups, scale, side, height, width):
    x = drawn(2, channels, height, width).requires_grad_()
    kernels = drawn(2, groups * side**2, height * scale, width * scale, seed=1).requires_grad_()
    pull = drawn(2, channels, height * scale, width * scale, seed=2)
    y = carafe(x, kernels, scale, groups=groups, backend="triton")
    found = [y, *torch.autograd.grad(y, (x, kernels), pull)]
    x, kernels = (v.detach().double().requires_grad_() for v in (x, kernels))
    y = carafe(x, kernels, scale, groups=groups, backend="torch")
    exact = [y, *torch.autograd.grad(y, (x, kernels), pull.double())]
    for one, other in zip(found, exact, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-5, atol=1e-5)


def test_half_precision_and_emptiness():
    x, kernels = drawn(1, 4, 2, 2).half(), drawn(1, 9, 4, 4, seed=1).half()
    found = carafe(x, kernels, 2, backend="triton")
    assert found.dtype == torch.float16
    exact = carafe(x.double(), kernels.double(), 2)
    torch.testing.assert_close(found.double(), exact, rtol=2e-3, atol=2e-3)
    empty = torch.zeros(0, 4, 2, 2, requires_grad=True)
    carafe(empty, torch.zeros(0, 9, 4, 4), 2, backend="triton").sum().backward()
    assert empty.grad.shape == (0, 4, 2, 2)


def test_torch_knows_the_operation():
    packed = pack(drawn(1, 9, 4, 4), 2, 1).contiguous().requires_grad_()
    x = drawn(1, 2, 2, 2).requires_grad_()
    asked = ("test_schema", "test_faketensor", "test_autograd_registration")
    torch.library.opcheck(op.carafe, (x, packed), test_utils=asked)
