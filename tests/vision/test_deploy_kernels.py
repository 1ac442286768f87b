"""What a network that only answers runs between oneDNN's convolutions, beside its definition."""

import pytest
import torch
from torch.nn import functional

from paragone.vision.layers import activate
from paragone.vision.ops.answer.layers import Activate, Interleave, Pointwise, SqueezeExcite
from paragone.vision.ops.norm_act._cpu import FORMS

LAST = torch.channels_last


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def close(found, expected):
    limit = 1e-5 * float(expected.abs().max())
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=limit)


@pytest.mark.parametrize(
    ("batch", "inputs", "outputs", "height", "width"),
    [(1, 1, 1, 1, 1), (2, 7, 17, 3, 1), (1, 65, 63, 7, 7), (3, 24, 145, 5, 4), (1, 300, 33, 9, 31)],
)
def test_a_convolution_of_one_pixel(batch, inputs, outputs, height, width):
    x = numbers(batch, inputs, height, width).contiguous(memory_format=LAST)
    weight, bias = numbers(outputs, inputs, seed=1), numbers(outputs, seed=2)
    more = numbers(batch, outputs, height, width, seed=3)
    exact = functional.conv2d(x.double(), weight[:, :, None, None].double(), bias.double())
    for activation in FORMS:
        close(Pointwise(weight, bias, activation)(x), activate(exact, activation))
    close(Pointwise(weight, bias, "silu")(x, more), activate(exact + more, "silu"))
    close(Pointwise(weight, None, "none")(x.contiguous()), exact - bias[:, None, None])
    assert not torch.allclose(Pointwise(weight, bias.roll(1) + 1, "none")(x).double(), exact)


def test_half_a_map_is_read_where_it_lies():
    x = numbers(2, 20, 5, 3).contiguous(memory_format=LAST)
    weight = numbers(6, 10, seed=1)
    layer = Pointwise(weight, None, "none")
    for half in x.chunk(2, 1):
        close(layer(half), functional.conv2d(half.double(), weight[:, :, None, None].double()))
    spread = numbers(1, 10, 1, 1).expand(2, 10, 5, 3)
    close(layer(spread), functional.conv2d(spread.double(), weight[:, :, None, None].double()))


@pytest.mark.parametrize("gate", ["sigmoid", "hard_sigmoid"])
def test_squeeze_and_excitation(gate):
    x = numbers(3, 33, 5, 7).contiguous(memory_format=LAST)
    first, second = (numbers(6, 33, seed=1), numbers(6, seed=2)), (numbers(33, 6, seed=3), None)
    mean = x.double().mean((2, 3))
    small = functional.relu(functional.linear(mean, first[0].double(), first[1].double()))
    scale = activate(functional.linear(small, second[0].double()), gate)
    expected = x.double() * scale[:, :, None, None]
    close(SqueezeExcite(first, second, ("relu", gate))(x), expected)


def test_activations_in_place_and_channels_in_turn():
    for activation in FORMS:
        x = numbers(2, 3, 7, 5)
        expected = activate(x.double(), activation)
        close(Activate(activation)(x), expected)
        close(x, expected)
    a, b = numbers(2, 5, 4, 34)[..., :17], numbers(2, 5, 4, 17, seed=1)
    assert torch.equal(Interleave()(a, b), torch.stack((a, b), -1).flatten(3))


def test_threads_change_nothing():
    x = numbers(2, 96, 33, 31).contiguous(memory_format=LAST)
    layer, before = Pointwise(numbers(80, 96, seed=1), None, "silu"), torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = layer(x)
        torch.set_num_threads(3)
        assert torch.equal(layer(x), alone)
    finally:
        torch.set_num_threads(before)
