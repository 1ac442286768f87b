"""Large pages: advice for whole pages inside the tensor alone, and no value changed."""

import mmap

import pytest
import torch

from paragone.training import AdamW, _pages


@pytest.mark.skipif(not hasattr(mmap, "MADV_HUGEPAGE"), reason="Linux alone has this advice")
@pytest.mark.parametrize("count", [0, 3, 1 << 19, (1 << 20) + 5, 3 << 20])
def test_only_whole_pages_inside_are_asked_for(count, monkeypatch):
    asked = []
    monkeypatch.setattr(_pages, "_advise", lambda: lambda *call: asked.append(call))
    tensor = torch.ones(count)
    assert _pages.on_large_pages(tensor) is tensor
    assert bool((tensor == 1).all())
    assert bool(asked) == (4 * count >= 2 * _pages.PAGE)
    for first, size, advice in asked:
        assert advice == mmap.MADV_HUGEPAGE
        assert first % _pages.PAGE == size % _pages.PAGE == 0
        assert tensor.data_ptr() <= first
        assert first + size <= tensor.data_ptr() + 4 * count


def test_other_tensors_and_systems_are_left_alone(monkeypatch):
    def never(*call):
        raise AssertionError(call)

    monkeypatch.setattr(_pages, "_advise", lambda: never)
    for tensor in (torch.eye(2).to_sparse(), torch.empty(1 << 22, device="meta"),
                   torch.nn.Parameter(torch.ones(1 << 20))):  # fmt: skip
        assert _pages.on_large_pages(tensor) is tensor
    monkeypatch.setattr(_pages, "_advise", lambda: None)
    assert _pages.on_large_pages(torch.ones(1 << 20)).sum() == 1 << 20


def test_states_begin_with_zeros_and_are_loaded_as_they_were():
    p = torch.nn.Parameter(torch.ones(1 << 20))
    optimizer = AdamW([p], lr=0.1)
    p.grad = torch.ones_like(p)
    optimizer.step()
    assert bool((optimizer.state[p]["exp_avg"] == 0.1).all())
    other = AdamW([torch.nn.Parameter(p.detach().clone())], lr=0.1)
    other.load_state_dict(optimizer.state_dict())
    (state,) = other.state.values()
    for name, value in optimizer.state[p].items():
        assert torch.equal(state[name], value)
        assert state[name].data_ptr() != value.data_ptr()
