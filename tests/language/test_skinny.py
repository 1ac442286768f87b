"""`skinny_linear`: the reference, the same bits in every company, and what is refused."""

import numpy as np
import pytest
import torch

from paragone.kernels.choice import explain
from paragone.language.ops.skinny.call import SkinnyWeights, skinny_linear
from paragone.language.ops.skinny.layout import block_of, side_by_side
from paragone.language.ops.skinny.reference import narrowed, skinny_reference

SIZES = ((1, 1), (31, 64), (64, 63), (65, 65), (97, 130))


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", ["float32", "int8"])
@pytest.mark.parametrize(("outputs", "inputs"), SIZES)
def test_gives_the_product_in_float64(outputs, inputs, kind):
    weight, bias = drawn(outputs, inputs), drawn(outputs, seed=1)
    packed = SkinnyWeights.pack(weight, bias, weights=kind)
    levels, scale = narrowed(weight) if kind == "int8" else (weight, None)
    assert packed.backend == "numba"
    for count in (0, 1, 2, 3, 5, 7, 8, 9, 11, 13, 16, 30):
        x = drawn(count, inputs, seed=count)
        wide = None if scale is None else scale.double()
        true = skinny_reference(x.double(), levels.double(), wide, bias.double())
        torch.testing.assert_close(skinny_linear(x, packed).double(), true, atol=1e-4, rtol=1e-5)


def test_a_row_has_the_same_bits_in_every_company_and_with_any_team():
    packed = SkinnyWeights.pack(drawn(1000, 1100))
    x = drawn(23, 1100, seed=1)
    alone = torch.cat([skinny_linear(row[None], packed) for row in x])
    for count in (2, 3, 8, 9, 10, 12, 16, 23):
        assert torch.equal(skinny_linear(x[:count], packed), alone[:count])
    assert torch.equal(skinny_linear(x, packed, threads=3), skinny_linear(x, packed, threads=1))


def test_all_back_ends_agree_and_take_numpy_views_and_other_types():
    weight, bias = drawn(40, 33), drawn(40, seed=2)
    x = drawn(5, 66, seed=3)[:, ::2]
    for kind in ("float32", "int8"):
        ours, plain = (
            SkinnyWeights.pack(weight, bias, weights=kind, backend=name)
            for name in ("numba", "torch")
        )
        torch.testing.assert_close(skinny_linear(x, ours), skinny_linear(x, plain))
        assert isinstance(skinny_linear(x.numpy(), ours), np.ndarray)
        assert np.array_equal(skinny_linear(x.numpy(), ours), skinny_linear(x, ours).numpy())
        assert isinstance(skinny_linear(x.numpy(), plain), np.ndarray)
    row = x[:1].expand(4, -1)
    assert torch.equal(skinny_linear(row, ours)[3], skinny_linear(x[:1], ours)[0])
    half = SkinnyWeights.pack(weight.bfloat16(), backend="torch")
    assert skinny_linear(x.bfloat16(), half).dtype == torch.bfloat16
    assert SkinnyWeights.pack(weight.double().numpy()).weight.dtype == np.float32
    assert "numba: yes" in explain("skinny_linear", device="cpu")
    assert "torch: yes, and would be taken" in explain("skinny_linear", device="cuda")


def test_eight_bits_keep_scales_of_rows_and_rows_of_zeros():
    weight = drawn(7, 20) * torch.tensor([1, 1e-6, 0, 1e6, 1, 1, 1])[:, None]
    levels, scale = narrowed(weight)
    assert (weight - levels * scale[:, None]).abs().div(scale[:, None]).max() <= 0.5 + 1e-4
    assert levels.abs().amax(1).tolist() == [127, 127, 0, 127, 127, 127, 127]


def test_a_weight_that_is_missing_or_moved_would_be_seen():
    weight, x = drawn(65, 37), drawn(9, 37, seed=4)
    true = x @ weight.T
    for row, column in ((0, 0), (31, 36), (32, 5), (64, 36)):
        bad = weight.clone()
        bad[row, column] = 0
        off = skinny_linear(x, SkinnyWeights.pack(bad)) - true
        assert off[:, row].abs().max() > 1e-3
        off[:, row] = 0
        assert off.abs().max() < 1e-4


def test_infinite_weights_stay_where_they_are():
    weight = drawn(33, 5)
    weight[32, 4] = float("inf")
    found = skinny_linear(torch.ones(3, 5), SkinnyWeights.pack(weight))
    assert bool(found[:, 32].isinf().all())
    assert bool(found[:, :32].isfinite().all())


def test_layout_puts_rows_side_by_side():
    x = np.arange(5 * 6, dtype=np.float32).reshape(5, 6)
    found = side_by_side(x, 2)
    assert found.shape == (3, 8, 2)
    assert np.array_equal(found[:, :6].swapaxes(1, 2).reshape(6, 6)[:5], x)
    assert not found[:, 6:].any()
    assert not found[2, :, 1].any()
    assert all(block_of(n, far) >= min(n, 4) for n in range(1, 30) for far in (True, False))


def test_what_does_not_fit_is_refused():
    packed = SkinnyWeights.pack(drawn(4, 3))
    with pytest.raises(ValueError, match=r"\(n, 3\) fits"):
        skinny_linear(drawn(2, 4), packed)
    with pytest.raises(ValueError, match=r"\(n, 3\) fits"):
        skinny_linear(drawn(3), packed)
    with pytest.raises(ValueError, match="float32 on the CPU"):
        skinny_linear(drawn(2, 3).double(), packed)
    with pytest.raises(ValueError, match="float32 on the CPU"):
        skinny_linear(torch.empty(2, 3, device="meta"), packed)
    with pytest.raises(ValueError, match="gradients"):
        skinny_linear(drawn(2, 3).requires_grad_(), packed)
    with pytest.raises(ValueError, match=r"\(R, K\)"):
        SkinnyWeights.pack(drawn(4, 3), drawn(3))
    with pytest.raises(ValueError, match="int4"):
        SkinnyWeights.pack(drawn(4, 3), weights="int4")
    with pytest.raises(ValueError, match="fits"):
        skinny_linear(drawn(2, 3).double(), SkinnyWeights.pack(drawn(4, 3), backend="torch"))
    with pytest.raises(ValueError, match="serves the CPU"):
        SkinnyWeights.pack(torch.empty(4, 3, device="meta"), backend="numba")
