"""Where tensors lie: the C interface answers what Python answers, or nothing is taken from it."""

import numpy as np
import pytest
import torch

from paragone.training import AdamW, _look

TENSORS = (
    torch.zeros(3, 4), torch.nn.Parameter(torch.ones(9)[2:]), torch.zeros(3, 4).T,
    torch.zeros(5, dtype=torch.bfloat16), torch.zeros(5, dtype=torch.float16),
    torch.zeros(5, dtype=torch.uint8), torch.zeros(0), torch.tensor(1.0),
    torch.eye(3).to_sparse(),
)  # fmt: skip


def test_the_interface_is_there_and_answers_as_python_does():
    assert _look.interface() is not None
    truth = _look.asked(TENSORS)
    assert truth[0].tolist() == [TENSORS[0].data_ptr(), 6, 1]
    assert truth[-1].tolist() == [-1, -1, -1]
    assert truth[1, 0] == TENSORS[1].data_ptr()
    assert np.array_equal(_look.look(TENSORS, truth), truth[:, 0])


@pytest.mark.parametrize("at", [0, 2, 3, 5, 8])
def test_what_is_not_as_expected_is_seen(at, monkeypatch):
    """A tensor of another type or layout, in each way of asking."""
    other = list(TENSORS)
    other[at] = {0: torch.zeros(4, 3).T, 2: torch.zeros(3, 4), 3: torch.zeros(5),
                 5: torch.zeros(5, dtype=torch.float64), 8: torch.eye(3)}[at]  # fmt: skip
    truth = _look.asked(TENSORS)
    for _ in range(2):
        assert _look.look(TENSORS, truth) is not None
        assert _look.look(other, truth) is None
        monkeypatch.setattr(_look, "interface", lambda: None)


def test_only_plain_tensors_are_looked_at():
    class Odd(torch.Tensor):
        pass

    plain = [torch.zeros(3)]
    assert _look.look([torch.zeros(3).as_subclass(Odd)], _look.asked(plain)) is None
    assert _look.look([None], _look.asked(plain)) is None


def test_no_library_no_interface(monkeypatch):
    monkeypatch.setattr(_look, "_LIBRARIES", {})
    assert _look.interface.__wrapped__() is None


@pytest.mark.parametrize("through", ["interface", "python"])
def test_swapped_and_moved_memory_is_found(through, monkeypatch):
    """A parameter's memory, its object's content, a state and its memory, all changed by hand."""
    if through == "python":
        monkeypatch.setattr(_look, "interface", lambda: None)
    ps = [torch.nn.Parameter(torch.ones(300)) for _ in range(2)]
    mine, exact = AdamW(ps[:1], lr=0.1), torch.optim.AdamW(ps[1:], lr=0.1)
    for step in range(7):
        for p, optimizer in zip(ps, (mine, exact), strict=True):
            state = optimizer.state[p]
            if step == 1:
                p.data = p.data.clone()
            if step == 2:
                torch.utils.swap_tensors(p, torch.nn.Parameter(p.detach() + 1))
            if step == 3:
                state["exp_avg"] = state["exp_avg"] * 2
            if step == 4:
                state["exp_avg"].data = state["exp_avg"].data * 2
            if step == 5:
                state["step"] = state["step"] + 3
            p.grad = torch.linspace(-1, 1, 600)[::2] if step == 6 else torch.linspace(-1, 1, 300)
            optimizer.step()
        torch.testing.assert_close(ps[0], ps[1], rtol=1e-6, atol=1e-6)
