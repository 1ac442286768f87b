"""Super-resolution: the published layers, luma, PSNR, and that a photograph gets sharper."""

import math

import numpy as np
import pytest
import torch
from sklearn.datasets import load_sample_images
from torch.nn import functional

from paragone.vision import ESPCN, count_macs
from paragone.vision.espcn import luma, psnr
from paragone.vision.upsampling import METHODS


def test_the_published_layers():
    model = ESPCN(scale=3)
    shapes = [tuple(p.shape) for p in model.parameters() if p.dim() == 4]
    assert shapes == [(64, 1, 5, 5), (32, 64, 3, 3), (9, 32, 3, 3)]
    assert count_macs(model, (1, 4, 4)) == 16 * (1600 + 18432 + 288 * 9)


@pytest.mark.parametrize("upsampling", [m for m in METHODS if m != "unpool"])
@pytest.mark.parametrize("scale", [2, 3])
def test_any_way_of_upsampling(upsampling, scale):
    y = ESPCN(scale, 3, upsampling=upsampling)(torch.rand(1, 3, 5, 7))
    assert y.shape == (1, 3, 5 * scale, 7 * scale)


def test_luma_is_bt601():
    colours = torch.tensor([[0.0, 0, 0], [1, 1, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    found = 255 * luma(colours.T[None, :, None, :])[0, 0, 0]
    np.testing.assert_allclose(found, [16, 235, 81.481, 144.553, 40.966], rtol=1e-5)


def test_psnr():
    a, b = torch.rand(2, 1, 9, 9), torch.rand(2, 1, 9, 9)
    error = float(((a - b).double() ** 2)[..., 2:-2, 2:-2].mean())
    assert psnr(a, b, border=2) == pytest.approx(-10 * math.log10(error))
    assert psnr(255 * a, 255 * b, border=2, peak=255) == pytest.approx(psnr(a, b, border=2), 1e-5)
    assert psnr(a, a) == math.inf
    with pytest.raises(ValueError, match="nothing is left"):
        psnr(a, b, border=5)
    with pytest.raises(ValueError, match="the truth"):
        psnr(a, b[:1])


def test_a_photograph_gets_sharper():
    photo = torch.from_numpy(load_sample_images().images[0][:192, :192].copy())
    image = luma(photo.permute(2, 0, 1)[None].float() / 255)
    small = functional.interpolate(image, scale_factor=0.5, mode="bicubic", antialias=True)
    model = ESPCN(2)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    scores = []
    for _ in range(25):
        found = model(small)
        scores.append(psnr(found.detach(), image, border=2))
        optimizer.zero_grad()
        (found - image).square().mean().backward()
        optimizer.step()
    assert scores[-1] > scores[0] + 3


def test_refusals():
    with pytest.raises(ValueError, match="pools nothing"):
        ESPCN(2, upsampling="unpool")
    with pytest.raises(ValueError, match=r"\(B, 1, H, W\)"):
        ESPCN(2)(torch.zeros(1, 3, 4, 4))
    with pytest.raises(ValueError, match=r"\(B, 3, H, W\)"):
        luma(torch.zeros(1, 1, 4, 4))
