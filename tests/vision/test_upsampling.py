"""Every way of upsampling against loops, torch and PIL, and the traps of each."""

import itertools

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional

from paragone.vision import upsampling as up
from paragone.vision._upsampling_resize import Interpolate, resize, taps
from paragone.vision.upsampling import (
    METHODS,
    DySample,
    MaxUnpool,
    PixelShuffle,
    TransposedConv,
    Upsample,
    checkerboard,
    phase_energy,
)


def drawn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("mode", ["nearest", "nearest-exact", "bilinear", "bicubic"])
def test_our_definition_is_torchs(mode):
    smooth = mode.startswith("bi")
    forms = [{}, {"align_corners": True}, {"antialias": True}] if smooth else [{}]
    x = drawn(1, 2, 7, 11)
    for form, size in itertools.product(forms, ((7, 11), (13, 5), (1, 1), (3, 23), (64, 65))):
        cubic = -0.5 if form.get("antialias") else -0.75
        found = resize(x, size, mode, cubic=cubic, **form)
        given = {"align_corners": form.get("align_corners", False)} if smooth else {}
        expected = functional.interpolate(
            x, size, mode=mode, antialias=form.get("antialias", False), **given
        )
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("mode", ["nearest", "bilinear", "bicubic"])
@pytest.mark.parametrize("recompute", [False, True])
def test_a_scale_that_is_not_whole(mode, recompute):
    x = drawn(1, 1, 7, 5)
    form = {} if mode == "nearest" else {"align_corners": False}
    expected = functional.interpolate(
        x, scale_factor=1.7, mode=mode, recompute_scale_factor=recompute, **form
    )
    module = Interpolate(mode, 1.7, recompute_scale_factor=recompute)
    assert torch.equal(module(x), expected)
    ratios = None if recompute else (1 / 1.7, 1 / 1.7)
    torch.testing.assert_close(resize(x, (11, 8), mode, ratios=ratios), expected)
    if mode != "nearest":
        other = Interpolate(mode, 1.7, recompute_scale_factor=not recompute)
        assert (other(x) - expected).abs().max() > 1e-3, "the places must differ"


@pytest.mark.parametrize("shrink", [True, False])
@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_antialias_is_pils(mode, shrink):
    photo = drawn(17, 23, dtype=torch.float32)
    size = (6, 5) if shrink else (31, 40)
    way = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}[mode]
    expected = np.asarray(Image.fromarray(photo.numpy()).resize(size[::-1], way))
    wide = photo[None, None].double()
    found = Interpolate(mode, antialias=True)(wide, size)
    np.testing.assert_allclose(found[0, 0], expected, atol=2e-6)
    if shrink:
        plain = Interpolate(mode)(wide, size)
        assert np.abs(plain[0, 0].numpy() - expected).max() > 0.1


def test_both_cubic_constants():
    x = drawn(1, 1, 12, 12)
    inner = (..., slice(8, -8), slice(8, -8))
    pil = functional.interpolate(x, scale_factor=2, mode="bicubic", antialias=True)
    half = Interpolate("bicubic", 2, cubic=-0.5)
    assert not half.torch_has_it
    torch.testing.assert_close(half(x)[inner], pil[inner], rtol=1e-12, atol=1e-12)
    assert Interpolate("bicubic", 2).cubic == -0.75
    assert Interpolate("bicubic", 2, antialias=True).cubic == -0.5
    wide = Interpolate("bicubic", 2, antialias=True, cubic=-0.75)(x)
    torch_own = Interpolate("bicubic", 2)(x)
    torch.testing.assert_close(wide[inner], torch_own[inner], rtol=1e-12, atol=1e-12)
    assert (torch_own - half(x)).abs().max() > 1e-2


def test_half_pixels_corners_and_asymmetric_places():
    x = torch.arange(5.0, dtype=torch.float64).view(1, 1, 1, 5)
    inner = slice(2, 7)

    def line(**form):
        return Interpolate("bilinear", 2, **form)(x, (1, 10) if form.get("align_corners") else None)

    asked = Interpolate("bilinear", 2, half_pixel=False)
    assert not asked.torch_has_it
    np.testing.assert_allclose(asked(x)[0, 0, 0, inner], np.arange(10)[inner] / 2)
    np.testing.assert_allclose(line()[0, 0, 0, inner], np.arange(10)[inner] / 2 - 0.25)
    np.testing.assert_allclose(line(align_corners=True)[0, 0, 0], np.linspace(0, 4, 10))


def test_taps_add_up_to_one():
    for (n, m), mode in itertools.product(((1, 7), (9, 4), (65, 64)), ("bilinear", "bicubic")):
        for antialias in (False, True):
            at, weights = taps(n, m, mode, antialias=antialias)
            assert at.min() >= 0
            assert at.max() < n
            torch.testing.assert_close(weights.sum(1), torch.ones(m, dtype=torch.float64))


def test_gradient_of_our_own_interpolation():
    module = Interpolate("bicubic", 1.5, cubic=-0.5)
    assert torch.autograd.gradcheck(module, drawn(1, 2, 3, 4).requires_grad_())


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"mode": "cubic"}, "none of nearest"),
        ({"mode": "bilinear", "scale": 0}, "positive"),
        ({"mode": "nearest", "align_corners": True}, "leave them out"),
        ({"mode": "bilinear", "cubic": -0.5}, "for bicubic"),
        ({"mode": "bilinear", "align_corners": True, "antialias": True}, "choose one"),
    ],
)
def test_interpolations_that_mean_nothing(given, words):
    with pytest.raises(ValueError, match=words):
        Interpolate(**given)


def test_a_map_without_pixels_cannot_grow():
    with pytest.raises(ValueError, match="at least one pixel"):
        Interpolate("bilinear")(torch.zeros(1, 1, 0, 3))


def test_pixel_shuffle_has_torchs_order():
    module = PixelShuffle(3, 2, 3, kernel_size=1).double()
    x = drawn(2, 3, 4, 5)
    wide, found = module.conv(x), module(x)
    for c, i, j, y, q in ((0, 0, 2, 1, 3), (1, 2, 1, 3, 4), (1, 0, 0, 0, 0)):
        assert found[0, c, 3 * y + i, 3 * q + j] == wide[0, c * 9 + i * 3 + j, y, q]


def test_icnr_repeats_kernels_and_biases():
    module = PixelShuffle(4, 3, 2)
    kernels = module.conv.weight.unflatten(0, (3, 4))
    biases = module.conv.bias.unflatten(0, (3, 4))
    assert torch.equal(kernels, kernels[:, :1].expand_as(kernels))
    assert torch.equal(biases, biases[:, :1].expand_as(biases))
    assert not torch.equal(kernels[0], kernels[1])
    assert checkerboard(module, 4, border=0) < 1e-12
    assert checkerboard(PixelShuffle(4, 3, 2, icnr=False), 4) > 1e-6
    # The order of TensorFlow's depth_to_space is another one as soon as there are two channels.
    with torch.no_grad():
        module.conv.weight.copy_(
            module.conv.weight.unflatten(0, (3, 4)).transpose(0, 1).flatten(0, 1)
        )
    assert checkerboard(module, 4) > 1e-6


def test_icnr_must_treat_the_bias_too():
    module = PixelShuffle(4, 3, 2)
    with torch.no_grad():
        module.conv.bias.copy_(torch.arange(12.0))
    assert checkerboard(module, 4) > 0.1


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_a_transposed_convolution_starts_bilinear(scale):
    module = TransposedConv(2, 2, scale).double()
    module._start()
    x, cut = drawn(1, 2, 5, 7), scale
    found = module(x)
    expected = functional.interpolate(x, scale_factor=scale, mode="bilinear")
    assert found.shape == expected.shape
    inner = (..., slice(cut, -cut), slice(cut, -cut))
    torch.testing.assert_close(found[inner], expected[inner], rtol=1e-12, atol=1e-12)
    assert (found - expected).abs().max() > 1e-3, "at the edges the zeros outside shine through"


def test_sizes_of_transposed_convolutions():
    x = drawn(1, 1, 5, 6)
    for scale, side in itertools.product((1, 2, 3), (3, 4, 5, 7)):
        if scale > 1 or side % 2:
            module = TransposedConv(1, 1, scale, kernel_size=side).double()
            assert module(x).shape[2:] == (5 * scale, 6 * scale), (scale, side)
    module = TransposedConv(1, 1, 2).double()
    for size in ((9, 11), (10, 13), (11, 12)):
        assert module(x, size).shape[2:] == size
    natural = functional.conv_transpose2d(x, module.weight, module.bias, 2, 1)
    assert torch.equal(module(x, (11, 13))[..., :10, :12], natural), "more is added at the end"


def test_a_kernel_that_is_a_multiple_of_the_stride_helps_in_the_interior_only():
    def flat(side, border):
        module = TransposedConv(1, 1, 2, kernel_size=side, bias=False).double()
        nn.init.ones_(module.weight)
        return checkerboard(module, 1, border=border)

    assert flat(4, 8) < 1e-12
    assert flat(3, 8) > 0.1
    module = TransposedConv(4, 4, 2, init="default")
    assert checkerboard(module, 4) > 1e-6, "even overlap does not help kernels that are not even"
    assert flat(4, 0) > 1e-3, "at the edges the phases differ"


def test_unpooling_an_odd_map():
    module, x = MaxUnpool(2), drawn(2, 3, 7, 5)
    small, where = module.pool(x)
    back = module(small, where, size=(7, 5))
    expected = functional.max_unpool2d(small, where, 2, 2, output_size=(7, 5))
    assert torch.equal(back, expected)
    kept = back != 0
    assert torch.equal(back[kept], x[kept])
    assert kept.sum() == small.numel()
    with pytest.raises(ValueError, match="outside"):
        module(small, where)
    assert torch.equal(module.pool(back.abs())[1], module.pool(back.abs())[1])


def test_ties_go_to_the_first_and_overlaps_are_refused():
    module = MaxUnpool(2)
    small, where = module.pool(torch.ones(1, 1, 4, 4))
    assert where.flatten().tolist() == [0, 2, 8, 10]
    assert module(small, where).sum() == 4
    with pytest.raises(ValueError, match="overlap"):
        MaxUnpool(3, stride=2)
    with pytest.raises(ValueError, match="agree"):
        module(small, where[:, :, :1])
    grad = torch.autograd.grad(module(small.requires_grad_(), where).square().sum(), small)[0]
    assert torch.equal(grad, 2 * small)


def sampled(module, x):
    """DySample as the paper's equations say, pixel by pixel."""
    s, groups, (batch, channels, height, width) = module.scale, module.groups, x.shape
    y = x.new_zeros(batch, channels, s * height, s * width)
    weight, bias = module.offset.weight[:, :, 0, 0], module.offset.bias
    for b, row, column, i, j in itertools.product(
        range(batch), range(height), range(width), range(s), range(s)
    ):
        if module.style == "lp":
            seen = x[b, :, row, column]
        else:
            seen = x[b, :, row, column].view(-1, s, s)[:, i, j]
        raw = weight @ seen + bias
        reach = torch.full_like(raw, 0.25)
        if module.scope is not None:
            reach = 0.5 / (1 + torch.exp(-(module.scope.weight[:, :, 0, 0] @ seen)))
        moves = (raw * reach).view(2, groups, -1)
        for g in range(groups):
            at = i * s + j if module.style == "lp" else 0
            q = column + moves[0, g, at] + (j + 0.5) / s - 0.5
            p = row + moves[1, g, at] + (i + 0.5) / s - 0.5
            q, p = q.clamp(0, width - 1), p.clamp(0, height - 1)
            left, top = min(int(q), max(width - 2, 0)), min(int(p), max(height - 2, 0))
            right, low = min(left + 1, width - 1), min(top + 1, height - 1)
            a, c = q - left, p - top
            part = slice(g * channels // groups, (g + 1) * channels // groups)
            y[b, part, row * s + i, column * s + j] = (
                (1 - c) * ((1 - a) * x[b, part, top, left] + a * x[b, part, top, right])
                + c * ((1 - a) * x[b, part, low, left] + a * x[b, part, low, right])
            )  # fmt: skip
    return y


@pytest.mark.parametrize(
    ("style", "dyscope"), [("lp", False), ("lp", True), ("pl", False), ("pl", True)]
)
def test_dysample_against_its_definition(style, dyscope):
    scale, groups = (2, 2) if style == "lp" else (2, 4)
    module = DySample(8, scale, style=style, groups=groups, dyscope=dyscope).double()
    with torch.no_grad():
        for seed, value in enumerate(module.parameters()):
            value.copy_(drawn(*value.shape, seed=seed))
    x = drawn(2, 8, 3, 2, seed=9)
    with torch.no_grad():
        torch.testing.assert_close(module(x), sampled(module, x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("style", ["lp", "pl"])
def test_dysample_starts_bilinear(style):
    module = DySample(9, 3, style=style, groups=3, dtype=torch.float64)
    nn.init.zeros_(module.offset.weight)
    x = drawn(1, 9, 4, 5)
    expected = functional.interpolate(x, scale_factor=3, mode="bilinear")
    torch.testing.assert_close(module(x), expected, rtol=1e-12, atol=1e-12)
    assert module.init_pos.shape == (1, 2 * 3 * 9, 1, 1)
    assert {"offset.weight", "offset.bias", "init_pos"} == set(module.state_dict())


def test_dysample_refuses():
    with pytest.raises(ValueError, match="multiple of groups=4"):
        DySample(6)
    with pytest.raises(ValueError, match="of 9"):
        DySample(8, 3, style="pl")
    with pytest.raises(ValueError, match="lp nor pl"):
        DySample(8, style="pp")


def called(module, x, size=None):
    if module.method != "unpool":
        return module(x, size)
    _, where = functional.max_pool2d(drawn(*x.shape[:2], 2 * x.shape[2], 2 * x.shape[3]).to(x), 2,
                                     return_indices=True)  # fmt: skip
    return module(x, size, where)


@pytest.mark.parametrize("method", METHODS)
def test_one_interface(method):
    module, x = Upsample(method, 8, 2).double(), drawn(2, 8, 5, 7)
    with torch.no_grad():
        y = called(module, x)
        assert y.shape == (2, 8, 10, 14)
        if method != "unpool":
            alone = torch.cat([module(x[:1]), module(x[1:])])
            torch.testing.assert_close(y, alone, rtol=1e-12, atol=1e-12)
            last = x.to(memory_format=torch.channels_last)
            torch.testing.assert_close(module(last), y, rtol=1e-12, atol=1e-12)
            wide = torch.stack([x, x], -1)[..., 0]
            assert not wide.is_contiguous()
            torch.testing.assert_close(module(wide), y, rtol=1e-12, atol=1e-12)
            for size in ((9, 13), (11, 15), (10, 13)):
                assert module(x, size).shape[2:] == size
            assert module(x[:0]).shape == (0, 8, 10, 14)
        narrow = Upsample(method, 8, 2, out_channels=3, project="before").double()
        assert called(narrow, x).shape[1] == 3 if method != "unpool" else True
    meta = Upsample(method, 8, 4, device="meta")
    if method != "unpool":
        assert meta(torch.empty(1, 8, 3, 3, device="meta")).shape == (1, 8, 12, 12)


@pytest.mark.parametrize("method", ["pixel_shuffle", "transposed", "carafe", "dysample"])
def test_every_parameter_learns(method):
    module = Upsample(method, 4, 2, out_channels=2, project="after").double()
    module(drawn(1, 4, 5, 5)).square().sum().backward()
    for name, value in module.named_parameters():
        assert value.grad is not None, name
        assert torch.isfinite(value.grad).all()


@pytest.mark.parametrize("method", ["pixel_shuffle", "transposed", "carafe"])
@pytest.mark.parametrize("scale", [2, 3])
def test_no_checkerboard_at_the_start(method, scale):
    assert checkerboard(Upsample(method, 6, scale), 6, scale=scale) < 1e-12


def test_upsample_says_what_it_misses():
    for given, words in (
        (("carafe",), "needs channels"), (("cubic", 4), "none of nearest"),
        (("carafe", 4, 1.5), "whole number"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=words):
            Upsample(*given)
    with pytest.raises(ValueError, match="before nor after"):
        Upsample("nearest", project="never")
    with pytest.raises(ValueError, match="needs indices"):
        Upsample("unpool")(drawn(1, 2, 3, 3))
    with pytest.raises(ValueError, match="only unpool"):
        Upsample("nearest").pool(drawn(1, 2, 4, 4))
    with pytest.raises(ValueError, match="2 or more pixels away"):
        Upsample("carafe", 4)(torch.zeros(1, 4, 3, 3), (8, 6))
    with pytest.raises(ValueError, match=r"\(B, 4, H, W\)"):
        PixelShuffle(4, 4)(torch.zeros(1, 3, 3, 3))
    with pytest.raises(ValueError, match="odd"):
        PixelShuffle(4, 4, kernel_size=2)
    with pytest.raises(ValueError, match="holes"):
        TransposedConv(1, 1, 4, kernel_size=3)
    with pytest.raises(ValueError, match="odd one keeps"):
        TransposedConv(1, 1, 1, kernel_size=4)


def test_the_meter_reads_what_was_printed():
    phases = torch.tensor([[0.0, 1.0], [2.0, 5.0]])
    image = phases.repeat(6, 7)[None, None] + 3
    assert phase_energy(image, 2) == pytest.approx(float(phases.var(correction=0)))
    assert phase_energy(image[..., :11, :], 2, border=2) == pytest.approx(3.5)
    assert phase_energy(torch.full((1, 2, 9, 9), 7.0), 3) == 0
    with pytest.raises(ValueError, match="multiple"):
        phase_energy(image, 2, border=3)
    with pytest.raises(ValueError, match="nothing is left"):
        phase_energy(image, 2, border=6)
    assert up.bilinear_kernel(4, 2).sum() == pytest.approx(4)
