"""CARAFE: the definition against loops, compiled code against the definition, gradients of both."""

import itertools

import pytest
import torch

from paragone.kernels import choice
from paragone.vision import CARAFE
from paragone.vision.ops.carafe import reference
from paragone.vision.ops.carafe.call import carafe, pack, unpack
from paragone.vision.ops.carafe.registration import carafe as compiled


def drawn(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def looped(x, kernels, scale, groups):
    """Equation 5 of the paper, number by number."""
    batch, channels, height, width = x.shape
    side = round((kernels.shape[1] // groups) ** 0.5)
    y = x.new_zeros(batch, channels, height * scale, width * scale)
    for b, c, p, q in itertools.product(*map(range, y.shape)):
        g, total = c // (channels // groups), 0.0
        for u, v in itertools.product(range(side), range(side)):
            row, column = p // scale + u - side // 2, q // scale + v - side // 2
            if 0 <= row < height and 0 <= column < width:
                tap = g * side * side + u * side + v
                total += kernels[b, tap, p, q] * x[b, c, row, column]
        y[b, c, p, q] = total
    return y


@pytest.mark.parametrize(("groups", "scale", "side"), [(1, 2, 3), (2, 3, 3), (1, 1, 5), (4, 2, 1)])
def test_the_definition_is_the_papers(groups, scale, side):
    x = drawn(2, 4, 3, 2, dtype=torch.float64)
    kernels = drawn(2, groups * side * side, 3 * scale, 2 * scale, seed=1, dtype=torch.float64)
    found = reference.carafe(x, kernels, scale, groups)
    torch.testing.assert_close(found, looped(x, kernels, scale, groups), rtol=1e-12, atol=1e-12)
    turned = kernels.unflatten(1, (groups, side, side)).transpose(2, 3).flatten(1, 3)
    if side > 1:
        assert (reference.carafe(x, turned, scale, groups) - found).abs().max() > 0.1


def test_gradients_of_the_definition():
    x = drawn(1, 4, 2, 3, dtype=torch.float64).requires_grad_()
    kernels = drawn(1, 18, 4, 6, seed=1, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: carafe(a, b, 2, groups=2), (x, kernels))


def all_of(x, kernels, scale, groups, pull, backend):
    x, kernels = x.detach().requires_grad_(), kernels.detach().requires_grad_()
    y = carafe(x, kernels, scale, groups=groups, backend=backend)
    return [y.detach(), *torch.autograd.grad(y, (x, kernels), pull)]


def forms(x):
    """The same numbers in other places of memory."""
    yield x
    yield x.to(memory_format=torch.channels_last)
    yield torch.stack([x, -x], -1)[..., 0]
    yield torch.cat([x, -x], 1)[:, : x.shape[1]]
    yield torch.cat([x, -x], 1).to(memory_format=torch.channels_last)[:, : x.shape[1]]


CASES = ((32, 1, 2, 5, 5, 4), (33, 1, 2, 3, 1, 7), (6, 2, 3, 5, 4, 3), (1, 1, 2, 5, 2, 2),
         (63, 1, 1, 3, 3, 3), (65, 5, 2, 1, 2, 3), (4, 4, 2, 7, 2, 3))  # fmt: skip


@pytest.mark.parametrize(("channels", "groups", "scale", "side", "height", "width"), CASES)
def test_compiled_code_computes_the_definition(channels, groups, scale, side, height, width):
    x = drawn(2, channels, height, width)
    kernels = drawn(2, groups * side * side, height * scale, width * scale, seed=1)
    pull = drawn(2, channels, height * scale, width * scale, seed=2)
    exact = all_of(*(v.double() for v in (x, kernels)), scale, groups, pull.double(), "torch")
    for a, b, c in zip(forms(x), forms(kernels), forms(pull), strict=True):
        found = all_of(a, b, scale, groups, c, "numba")
        for one, other in zip(found, exact, strict=True):
            torch.testing.assert_close(one.double(), other, rtol=1e-5, atol=3e-5)


def test_expanded_maps_and_kernels():
    x, kernels = drawn(1, 5, 1, 1).expand(2, 5, 3, 4), drawn(1, 9, 1, 1).expand(2, 9, 6, 8)
    pull = torch.ones(1).expand(2, 5, 6, 8)
    found = all_of(x, kernels, 2, 1, pull, "numba")
    expected = all_of(x, kernels, 2, 1, pull, "torch")
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_the_result_is_channels_last():
    kernels = torch.rand(1, 9, 6, 8)
    plain = carafe(torch.rand(1, 5, 3, 4), kernels, 2)
    last = carafe(torch.rand(1, 5, 3, 4).to(memory_format=torch.channels_last), kernels, 2)
    assert plain.is_contiguous(memory_format=torch.channels_last)
    assert last.is_contiguous(memory_format=torch.channels_last)


def test_threads_do_not_change_a_bit():
    x, kernels, pull = drawn(2, 80, 16, 15), drawn(2, 25, 32, 30, seed=1), drawn(2, 80, 32, 30)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(all_of(x, kernels, 2, 1, pull, "numba"))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(map(torch.equal, found[0], other))


def test_nothing_in_nothing_out():
    for shape in ((0, 4, 3, 3), (1, 4, 0, 3)):
        x = torch.zeros(shape, requires_grad=True)
        kernels = torch.zeros(shape[0], 9, 2 * shape[2], 2 * shape[3], requires_grad=True)
        y = carafe(x, kernels, 2, backend="numba")
        assert y.shape == (shape[0], 4, 2 * shape[2], 2 * shape[3])
        y.sum().backward()
        assert x.grad.shape == shape


def test_a_kernel_off_by_one_tap_is_noticed():
    x, kernels = drawn(1, 8, 4, 4), drawn(1, 9, 8, 8, seed=1)
    right = carafe(x, kernels, 2, backend="numba")
    wrong = compiled(x, pack(kernels, 2, 1).roll(1, -1))
    exact = reference.carafe(x.double(), kernels.double(), 2, 1)
    assert (right - exact).abs().max() < 1e-5
    assert (wrong - exact).abs().max() > 1e-1


def test_packing_and_unpacking():
    kernels = drawn(2, 18, 6, 9)
    packed = pack(kernels, 3, 2)
    assert packed.shape == (2, 2, 3, 2, 9, 9)
    assert packed[1, 1, 2, 1, 5, 7] == kernels[1, 9 + 7, 3 + 1, 6 + 2]
    assert torch.equal(unpack(packed), kernels)


def test_torch_knows_the_operation():
    x = drawn(2, 3, 3, 2).requires_grad_()
    packed = pack(drawn(2, 9, 6, 4), 2, 1).contiguous().requires_grad_()
    torch.library.opcheck(compiled, (x, packed))
    last = x.detach().to(memory_format=torch.channels_last).requires_grad_()
    torch.library.opcheck(compiled, (last, packed))


@pytest.mark.parametrize("groups", [1, 2])
def test_the_module_is_its_definition(groups):
    module, x = CARAFE(6, 3, kernel=3, groups=groups), drawn(2, 6, 4, 5)
    with torch.no_grad():
        module.content_encoder.weight.mul_(300)
        kernels = module.kernels(x)
        logits = module.content_encoder(module.channel_compressor(x))
        shuffled = torch.nn.functional.pixel_shuffle(logits, 3)
        expected = shuffled.view(2, groups, 9, 12, 15).softmax(2).flatten(1, 2)
        torch.testing.assert_close(kernels, expected)
        assert expected.std() > 0.05
        torch.testing.assert_close(module(x), reference.carafe(x, expected, 3, groups))
        alone = torch.cat([module(x[:1]), module(x[1:])])
        torch.testing.assert_close(alone, module(x))
        half = module.double()(x.double())
        torch.testing.assert_close(half.float(), module.float()(x))


def test_constant_maps_stay_constant_inside_and_fade_at_the_edge():
    module, ones = CARAFE(4, 2), torch.ones(1, 4, 9, 9)
    with torch.no_grad():
        assert module(ones)[0, 0, 0, 0].item() == pytest.approx(9 / 25, rel=0.1)
        module.content_encoder.weight.mul_(300)
        y = module(3 * ones)
    torch.testing.assert_close(y[..., 4:-4, 4:-4], torch.full((1, 4, 10, 10), 3.0))


def test_back_ends_and_refusals():
    told = choice.explain("carafe", device="cpu", dtype=torch.float64, named="auto")
    assert "numba: no, works in float32" in told
    assert "torch: yes, and would be taken" in told
    x, kernels = torch.zeros(1, 4, 3, 3), torch.zeros(1, 9, 6, 6)
    for given, words in (
        ((x[0], kernels), "four axes"), ((x, kernels[:, :8]), "no odd square"),
        ((x, kernels[..., :5]), r"\(1, 9, 6, 6\) is needed"), ((x, kernels, 1.5), "whole number"),
        ((x, kernels.double()), "both must agree"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=words):
            carafe(*given)
    with pytest.raises(ValueError, match="must divide"):
        carafe(x, kernels, groups=3)
    with pytest.raises(ValueError, match="works in float32"):
        carafe(x.double(), kernels.double(), backend="numba")
    for given, words in (((4, 1.5), "whole"), ((4, 2), "odd"), ((4, 2), "divide")):
        more = {"odd": {"kernel": 4}, "divide": {"groups": 3}}.get(words, {})
        with pytest.raises(ValueError, match=words):
            CARAFE(*given, **more)
    with pytest.raises(ValueError, match=r"\(B, 4, H, W\)"):
        CARAFE(4)(torch.zeros(1, 3, 2, 2))
