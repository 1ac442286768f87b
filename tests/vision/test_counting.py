"""Counted multiply-adds against formulas, and against torch's own counter on what it counts."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from paragone.vision import count_macs
from paragone.vision.counting import macs_by_layer


@given(
    groups=st.sampled_from([1, 2, 4]), kernel=st.integers(1, 5), stride=st.integers(1, 3),
    side=st.sampled_from([7, 8, 13]),
)  # fmt: skip
@settings(max_examples=20, deadline=None)
def test_a_convolution_costs_what_the_paper_says(groups, kernel, stride, side):
    layer = nn.Conv2d(8, 12, kernel, stride, kernel // 2, groups=groups)
    out = (side + 2 * (kernel // 2) - kernel) // stride + 1
    assert count_macs(layer, (8, side, side)) == out * out * 12 * kernel * kernel * 8 // groups


def test_agrees_with_torchs_counter():
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.ConvTranspose2d(8, 4, 4, stride=2, padding=1), nn.Conv2d(4, 4, 5, groups=4),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10),
    ).eval()  # fmt: skip
    with FlopCounterMode(display=False) as counter:
        net(torch.zeros(1, 3, 20, 22))
    assert 2 * count_macs(net, (3, 20, 22)) == counter.get_total_flops()


def test_leaves_no_trace():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout()).train()
    net[2].eval()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    count_macs(net, (3, 8, 8))
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert [part.training for part in net.modules()] == [True, True, True, False]
    assert not any(part._forward_hooks for part in net.modules())


def test_a_layer_called_twice_counts_twice():
    layer = nn.Linear(6, 6)
    net = nn.Sequential(layer, layer)
    assert macs_by_layer(net, (6,)) == {"0": 72}


def test_needs_no_memory_for_the_weights():
    net = nn.Conv2d(4096, 4096, 3, device="meta")
    assert count_macs(net, (4096, 3, 3)) == 4096 * 4096 * 9


def test_hooks_are_gone_after_an_error():
    net = nn.Conv2d(3, 4, 3)
    with pytest.raises(RuntimeError):
        count_macs(net, (5, 8, 8))
    assert not net._forward_hooks
