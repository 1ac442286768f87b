"""Batch norm with activation: its definition, its kernels, torch's layer as the peer."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from paragone.kernels import choice
from paragone.vision.layers import ACTIVATIONS, NormAct
from paragone.vision.ops.norm_act import _cpu
from paragone.vision.ops.norm_act.interface import norm_act
from paragone.vision.ops.norm_act.reference import norm_act_reference

LAST = torch.channels_last


def numbers(*shape, seed=0, scale=1.0, offset=0.0):
    generator = torch.Generator().manual_seed(seed)
    return offset + scale * torch.randn(*shape, generator=generator)


def pair(channels, activation="silu", **options):
    """The kernel's layer, and the same in float64 by the definition in torch."""
    ours = NormAct(channels, activation, backend="numba", **options)
    if ours.weight is not None:
        ours.weight.data = numbers(channels, seed=1).abs() + 0.5
        ours.bias.data = numbers(channels, seed=2)
    if ours.running_mean is not None:
        ours.running_mean.copy_(numbers(channels, seed=3))
        ours.running_var.copy_(numbers(channels, seed=4).abs() + 0.5)
    other = NormAct(channels, activation, backend="torch", **options).double()
    other.load_state_dict(ours.state_dict())
    return ours, other


def compare(ours, other, x, rtol=1e-5):
    """Outputs, every gradient and the running statistics of both layers for the same input."""
    x = x.contiguous(memory_format=LAST).requires_grad_()
    exact = x.detach().double().requires_grad_()
    y, z = ours(x), other(exact)
    dy = numbers(*y.shape, seed=9)
    wanted = [p for p in (ours.weight, ours.bias) if p is not None]
    exact_wanted = [p for p in (other.weight, other.bias) if p is not None]
    found = torch.autograd.grad(y, [x, *wanted], dy)
    expected = torch.autograd.grad(z, [exact, *exact_wanted], dy.double())
    buffers = zip(ours.buffers(), other.buffers(), strict=True)
    for a, b in [(y, z), *zip(found, expected, strict=True), *buffers]:
        limit = rtol * max(float(b.detach().abs().max()), 1e-3)
        torch.testing.assert_close(a.double(), b.double(), rtol=rtol, atol=limit)
    assert y.is_contiguous(memory_format=LAST)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("training", [True, False])
def test_kernel_is_the_definition(activation, training):
    ours, other = pair(17, activation)
    compare(ours.train(training), other.train(training), numbers(3, 17, 7, 5))


@pytest.mark.parametrize(
    ("batch", "channels", "height", "width"),
    [(1, 1, 3, 1), (2, 7, 5, 3), (3, 16, 1, 1), (1, 63, 13, 1), (2, 65, 3, 3), (5, 24, 37, 29)],
)
def test_odd_sizes(batch, channels, height, width):
    ours, other = pair(channels)
    compare(ours, other, numbers(batch, channels, height, width))


def test_reference_is_torchs_batch_norm_and_has_its_gradient():
    x, weight, bias = numbers(2, 3, 4, 2).double(), numbers(3).double(), numbers(3).double()
    for activation, function in ACTIVATIONS.items():
        y, _, _ = norm_act_reference(x, weight, bias, None, None, 1e-5, activation)
        expected = function(functional.batch_norm(x, None, None, weight, bias, True))
        torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)
    inputs = [t.requires_grad_() for t in (x, weight, bias)]
    assert torch.autograd.gradcheck(
        lambda *given: norm_act_reference(*given, None, None, 1e-5, "silu")[0], inputs
    )


def test_the_oracle_catches_a_biased_running_variance():
    ours, other = pair(5)
    x = numbers(2, 5, 2, 2).contiguous(memory_format=LAST)
    before = ours.running_var.clone()
    ours(x)
    other(x.double())
    var = x.var((0, 2, 3), unbiased=False)
    wrong = before + 0.1 * (var - before)
    assert torch.allclose(ours.running_var.double(), other.running_var, rtol=1e-6)
    assert not torch.allclose(wrong.double(), other.running_var, rtol=1e-3)


@pytest.mark.parametrize(
    "options",
    [{"momentum": None}, {"affine": False}, {"track_running_stats": False}, {"eps": 1e-3}],
    ids=str,
)
def test_options_of_batch_norm(options):
    ours, other = pair(6, **options)
    for seed in range(3):
        compare(ours, other, numbers(2, 6, 3, 5, seed=seed))
    compare(ours.eval(), other.eval(), numbers(2, 6, 3, 5))


def test_one_value_a_channel_cannot_be_normalised():
    x = torch.ones(1, 4, 1, 1)
    for backend in ("numba", "torch"):
        with pytest.raises(ValueError, match="more than 1 value per channel"):
            NormAct(4, backend=backend)(x)
        assert NormAct(4, backend=backend).eval()(x).shape == x.shape


def test_an_empty_batch_goes_to_torch():
    layer = NormAct(4)
    x = torch.empty(0, 4, 3, 3).contiguous(memory_format=LAST)
    assert layer.eval()(x).shape == (0, 4, 3, 3)
    assert "empty" in choice.explain("norm_act", x=x, weight=None, mean=None)


@pytest.mark.parametrize("order", ["nchw", "strided", "expanded", "float64"])
def test_what_the_kernel_cannot_read_goes_to_torch(order):
    x = numbers(2, 8, 40, 40)
    if order == "strided":
        x = numbers(2, 8, 40, 80).contiguous(memory_format=LAST)[..., ::2]
    elif order == "expanded":
        x = numbers(2, 1, 40, 40).expand(2, 8, 40, 40)
    elif order == "float64":
        x = x.contiguous(memory_format=LAST).double()
    layer = NormAct(8, "silu").to(x.dtype)
    expected = functional.silu(functional.batch_norm(x, None, None, training=True))
    torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match=r"channels-last|float32"):
        norm_act(x, backend="numba")


def test_a_large_offset_costs_no_digit():
    x = numbers(4, 9, 16, 16) + 1e4
    compare(*pair(9, "none"), x, rtol=2e-4)
    flat = torch.full((2, 4, 8, 8), 1e6).contiguous(memory_format=LAST)
    assert norm_act(flat, backend="numba", activation="none").abs().max() == 0


def test_sums_over_many_places_do_not_drift():
    x = (numbers(2, 3, 320, 320) + 3).contiguous(memory_format=LAST).requires_grad_()
    weight, bias = torch.ones(3, requires_grad=True), torch.zeros(3, requires_grad=True)
    y = norm_act(x, weight, bias, activation="none", backend="numba")
    dy = numbers(2, 3, 320, 320, seed=5) + 1
    found = torch.autograd.grad(y, [weight, bias], dy)
    exact = norm_act(x.double(), weight.double(), bias.double(), activation="none")
    expected = torch.autograd.grad(exact, [weight, bias], dy.double())
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=3e-6, atol=3e-2)


def test_nan_stays_nan():
    x = numbers(2, 16, 4, 4).contiguous(memory_format=LAST)
    x[0, 3, 1, 1] = float("nan")
    for activation in ACTIVATIONS:
        y = norm_act(x, activation=activation, backend="numba")
        assert y[:, 3].isnan().all()
        assert not y[:, 4].isnan().any()


def test_threads_change_nothing():
    x = numbers(4, 40, 33, 31).contiguous(memory_format=LAST).requires_grad_()
    results = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            layer = NormAct(40, "silu", backend="numba")
            y = layer(x)
            grads = torch.autograd.grad(y.square().sum(), [x, layer.weight, layer.bias])
            results.append([y, layer.running_var, *grads])
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_registered_operation_passes_torchs_own_check():
    x = numbers(2, 5, 3, 3).contiguous(memory_format=LAST).requires_grad_()
    weight = torch.ones(5, requires_grad=True)
    bias = torch.zeros(5, requires_grad=True)
    form = list(_cpu.FORMS).index("silu")
    mean, var = torch.zeros(5), torch.ones(5)
    torch.library.opcheck(_cpu.norm_act_cpu, (x, weight, bias, None, None, 1e-5, form))
    torch.library.opcheck(
        _cpu.norm_act_cpu, (x, weight, bias, mean, var, 1e-5, form),
        test_utils=("test_schema", "test_autograd_registration", "test_faketensor"),
    )  # fmt: skip


def test_the_registered_operation_serves_what_is_not_plain():
    class Marked(torch.Tensor):
        pass

    x = numbers(2, 5, 3, 3).contiguous(memory_format=LAST)
    plain, marked = NormAct(5, backend="numba"), NormAct(5, backend="numba")
    torch.testing.assert_close(marked(x.as_subclass(Marked)).as_subclass(torch.Tensor), plain(x))
    torch.testing.assert_close(plain.running_var, marked.running_var)


def test_keys_and_representation_are_a_batch_norms():
    layer = NormAct(4, "relu6")
    assert set(layer.state_dict()) == set(nn.BatchNorm2d(4).state_dict())
    assert "relu6" in repr(layer)
    assert NormAct(4, device="meta").weight.is_meta
    with pytest.raises(ValueError, match="hard_swish"):
        NormAct(4, "mish")
    with pytest.raises(ValueError, match="hard_swish"):
        norm_act(torch.ones(1, 4, 2, 2), activation="mish")
    with pytest.raises(ValueError, match="expected 4D"):
        NormAct(4)(torch.ones(2, 4))


def test_a_frozen_layer_passes_the_gradient_on():
    layer, other = pair(6)
    for part in (layer, other):
        part.eval().requires_grad_(False)
    x = numbers(2, 6, 4, 4).contiguous(memory_format=LAST).requires_grad_()
    exact = x.detach().double().requires_grad_()
    layer(x).sum().backward()
    other(exact).sum().backward()
    torch.testing.assert_close(x.grad, exact.grad.float(), rtol=1e-5, atol=1e-5)
