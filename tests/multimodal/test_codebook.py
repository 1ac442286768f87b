"""Nearest codes: the definition against plain loops, both back ends against the definition."""

import numpy as np
import pytest
import torch

from paragone.kernels import choice
from paragone.multimodal import _warm_codebook
from paragone.multimodal.ops.codebook import reference
from paragone.multimodal.ops.codebook.call import nearest_code

BACKENDS = ("numba", "torch")


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def looped(z, codes):
    """By hand, in Python's numbers."""
    found = []
    for row in z.double().tolist():
        distances = [
            sum((a - b) ** 2 for a, b in zip(row, code, strict=True))
            for code in codes.double().tolist()
        ]
        found.append(distances.index(min(distances)))
    return torch.tensor(found, dtype=torch.int64)


def test_the_definition_is_the_papers():
    z, codes = drawn(20, 3), drawn(9, 3, seed=1)
    assert torch.equal(reference.nearest_code(z, codes), looped(z, codes))


SIZES = [(0, 5, 3), (1, 1, 1), (5, 64, 2), (63, 65, 17), (97, 131, 16), (200, 500, 5)]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("count", "many", "width"), SIZES)
def test_odd_sizes(backend, count, many, width):
    z, codes = drawn(count, width), drawn(many, width, seed=1)
    found = nearest_code(z, codes, backend=backend)
    assert found.dtype == torch.int64
    assert torch.equal(found, reference.nearest_code(z, codes))


@pytest.mark.parametrize("backend", BACKENDS)
def test_other_memory_and_other_types(backend):
    wide = drawn(31, 12)
    for z in (wide[:, ::2], wide.T[:6].T, wide[:1, :6].expand(31, 6), wide[:, :6].half()):
        codes = drawn(6, 40, seed=1).T
        expected = reference.nearest_code(z, codes)
        assert torch.equal(nearest_code(z, codes, backend=backend), expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_ties_go_to_the_lowest(backend):
    codes = drawn(70, 4).repeat(3, 1)
    codes = codes[torch.from_numpy(np.random.default_rng(0).permutation(210))]
    found = nearest_code(codes, codes, backend=backend)
    first = [next(i for i, one in enumerate(codes) if torch.equal(one, code)) for code in codes]
    assert found.tolist() == first


@pytest.mark.parametrize("backend", BACKENDS)
def test_codes_far_from_the_origin_are_told_apart(backend):
    # One float of 32 bits apart; the expanded square in float32, as peers have it, sees noise.
    codes = (1e4 + drawn(150, 8) * 2e-2).contiguous()
    z = codes[torch.arange(149, -1, -1)]
    found = nearest_code(z, codes, backend=backend)
    assert torch.equal(found, reference.nearest_code(z, codes))
    expanded = z.square().sum(1, True) + codes.square().sum(1) - 2 * z @ codes.T
    assert (expanded.argmin(1) != found).float().mean() > 0.5


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_vector_does_not_depend_on_the_others(backend):
    z, codes = drawn(130, 24), drawn(97, 24, seed=1)
    whole = nearest_code(z, codes, backend=backend)
    parts = [nearest_code(part, codes, backend=backend) for part in z.split([1, 6, 7, 96, 20])]
    assert torch.equal(torch.cat(parts), whole)


def test_threads_do_not_matter():
    z, codes = drawn(500, 64), drawn(128, 64, seed=1)
    before = torch.get_num_threads()
    found = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        found.append(nearest_code(z, codes, backend="numba"))
    torch.set_num_threads(before)
    assert torch.equal(*found)


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_is_no_number_is_nearest_to_nothing(backend):
    z, codes = drawn(5, 3), drawn(6, 3, seed=1)
    codes[0, 1], codes[4, 2], z[3, 0] = torch.nan, torch.inf, torch.nan
    usable = torch.tensor([1, 2, 3, 5])
    expected = usable[reference.nearest_code(z, codes[usable])]
    expected[3] = 0
    assert torch.equal(nearest_code(z, codes, backend=backend), expected)
    assert torch.equal(reference.nearest_code(z, codes), expected)
    z[1] = torch.inf
    assert nearest_code(z, codes, backend=backend)[1] == 0
    nothing = torch.full((3, 3), torch.nan)
    assert nearest_code(z, nothing, backend=backend).tolist() == [0] * 5


def test_float64_is_left_to_the_definition():
    z, codes = drawn(9, 3).double(), drawn(7, 3, seed=1).double()
    assert torch.equal(nearest_code(z, codes), looped(z, codes))
    with pytest.raises(ValueError, match="works in float32"):
        nearest_code(z, codes, backend="numba")


def test_lower_precision_of_products_is_reckoned_with():
    z, codes = drawn(200, 16), drawn(64, 16, seed=1)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    found = nearest_code(z, codes, backend="torch")
    torch.set_float32_matmul_precision(before)
    assert torch.equal(found, reference.nearest_code(z, codes))


def test_what_does_not_fit_is_refused():
    z = drawn(4, 3)
    for codes in (drawn(2, 4), drawn(0, 3), drawn(2, 3, 1)):
        with pytest.raises(ValueError, match=r"\(n, D\) and \(K, D\)"):
            nearest_code(z, codes)
    with pytest.raises(ValueError, match="floats are expected"):
        nearest_code(z, torch.ones(2, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match="both must be on one device"):
        nearest_code(z, drawn(2, 3).to("meta"))
    with pytest.raises(ValueError, match="none of auto, numba, torch"):
        nearest_code(z, z, backend="fast")


def test_choice_and_warm_calls():
    assert choice.backends("nearest_code") == ["numba", "torch"]
    for call in _warm_codebook.CALLS:
        call()
