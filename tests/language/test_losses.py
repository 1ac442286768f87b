"""Losses of next tokens against the definition in float64: values, gradients, refusals."""

import pytest
import torch

from paragone.language import token_log_probs, token_loss
from paragone.language.ops.token_loss import cpu, interface
from paragone.language.ops.token_loss.reference import token_log_probs_reference


def _case(n, m, v, scale=1.0, masked=3):
    generator = torch.Generator().manual_seed(n + m + v)
    hidden = torch.randn(n, m, generator=generator) * scale
    weight = torch.randn(v, m, generator=generator)
    labels = torch.randint(0, v, (n,), generator=generator)
    if masked:
        labels[1::masked] = -100
    return hidden, weight, labels, torch.randn(n, generator=generator)


def _gradients(total, *leaves):
    return torch.autograd.grad(total, leaves, retain_graph=True)


def _wanted(hidden, weight, labels, factors):
    h, w = (x.double().requires_grad_() for x in (hidden, weight))
    found = token_log_probs_reference(h, w, labels)
    each = _gradients((found * factors.double()).sum(), h, w)
    return found.detach(), each, _gradients(-found.sum(), h, w)


def _close(found, wanted, tolerance=3e-5):
    scale = float(wanted.abs().max()) + 1e-6
    assert float((found.detach().double() - wanted).abs().max()) <= tolerance * scale


@pytest.mark.parametrize("backend", ["numba", "torch"])
@pytest.mark.parametrize(
    ("n", "m", "v", "scale"),
    [(1, 16, 193, 1), (37, 8, 50, 30), (64, 63, 64, 1), (65, 97, 777, 1), (130, 48, 401, 10)],
)
def test_values_and_gradients_are_those_of_the_definition(backend, n, m, v, scale):
    hidden, weight, labels, factors = _case(n, m, v, scale)
    values, each, summed = _wanted(hidden, weight, labels, factors)
    h, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
    found = token_log_probs(h, w, labels, backend=backend)
    total, count = token_loss(h, w, labels, backend=backend)
    assert int(count) == int((labels >= 0).sum())
    _close(found, values)
    _close(total, -values.sum())
    for a, b in zip(_gradients((found * factors).sum(), h, w), each, strict=True):
        _close(a, b)
    for a, b in zip(torch.autograd.grad(total, (h, w)), summed, strict=True):
        _close(a, b)


@pytest.mark.parametrize("backend", ["numba", "torch"])
def test_chunks_do_not_change_the_result(backend, monkeypatch):
    hidden, weight, labels, factors = _case(100, 24, 300)
    whole = token_log_probs(hidden, weight, labels, backend=backend)
    monkeypatch.setattr(cpu, "_CHUNK", 8 * 400)
    monkeypatch.setattr(interface, "_ELEMENTS_CPU", 5000)
    _, _, summed = _wanted(hidden, weight, labels, factors)
    h, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
    _close(token_log_probs(h, w, labels, backend=backend), whole.double(), 1e-6)
    found = torch.autograd.grad(token_loss(h, w, labels, backend=backend)[0], (h, w))
    for a, b in zip(found, summed, strict=True):
        _close(a, b)


def test_gradcheck_in_float64():
    hidden, weight, labels, _ = _case(7, 5, 11)
    h, w = hidden.double().requires_grad_(), weight.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda h, w: token_log_probs(h, w, labels), (h, w))
    assert torch.autograd.gradcheck(lambda h, w: token_loss(h, w, labels)[0], (h, w))


def test_masked_rows_may_be_anything_and_get_no_gradient():
    hidden, weight, labels, _ = _case(20, 16, 60)
    hidden[labels < 0] = float("nan")
    h, w = hidden.requires_grad_(), weight.requires_grad_()
    total, _ = token_loss(h, w, labels)
    total.backward()
    assert torch.isfinite(total)
    assert torch.isfinite(w.grad).all()
    assert (h.grad[labels < 0] == 0).all()


@pytest.mark.parametrize("backend", ["numba", "torch"])
def test_without_labels_the_loss_is_zero(backend):
    hidden, weight, labels, _ = _case(3, 8, 9)
    h, w = hidden.requires_grad_(), weight.requires_grad_()
    for rows in (slice(0, 0), slice(None)):
        total, count = token_loss(h[rows], w, torch.full_like(labels[rows], -100), backend=backend)
        total.backward()
        assert (total.item(), int(count)) == (0.0, 0)
    assert (w.grad == 0).all()


def test_strided_input_frozen_parts_and_batches():
    hidden, weight, labels, _ = _case(24, 16, 60)
    wide = torch.cat([hidden, hidden], 1)[:, ::2].contiguous()
    strided = torch.stack([wide, wide], -1)[..., 0]
    column = torch.stack([weight, weight], -1)[..., 0]
    found = token_log_probs(strided.view(4, 6, 16), column, labels.view(4, 6))
    assert found.shape == (4, 6)
    _close(found.flatten(), token_log_probs_reference(wide.double(), weight.double(), labels))
    h = hidden.clone().requires_grad_()
    token_loss(h, weight, labels)[0].backward()
    w = weight.clone().requires_grad_()
    token_loss(hidden, w, labels)[0].backward()
    _, _, (wanted_h, wanted_w) = _wanted(hidden, weight, labels, torch.ones(24))
    _close(h.grad, wanted_h)
    _close(w.grad, wanted_w)


def test_bfloat16_has_a_softmax_in_float32():
    hidden, weight, labels, _ = _case(16, 32, 90)
    narrow = (hidden.bfloat16(), weight.bfloat16())
    total, _ = token_loss(*narrow, labels)
    assert total.dtype == torch.float32
    wanted = -token_log_probs_reference(narrow[0].double(), narrow[1].double(), labels).sum()
    _close(total, wanted, 2e-2)
    with torch.autocast("cpu", torch.bfloat16):
        cast, _ = token_loss(hidden, weight, labels)
    _close(cast, total.double(), 1e-6)


def test_results_do_not_depend_on_threads():
    hidden, weight, labels, _ = _case(200, 48, 2000)
    found, before = [], torch.get_num_threads()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        h, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
        total, _ = token_loss(h, w, labels, backend="numba")
        total.backward()
        found.append((total.detach(), h.grad, w.grad))
    torch.set_num_threads(before)
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


def test_logits_are_never_whole(monkeypatch):
    """The largest buffer is a chunk, and no row without a label is in it."""
    sizes, scores = [], cpu.Head.scores
    monkeypatch.setattr(cpu, "_CHUNK", 1 << 12)

    def counted(self, h, labels):
        sizes.append(len(h))
        return scores(self, h, labels)

    monkeypatch.setattr(cpu.Head, "scores", counted)
    hidden, weight, labels, _ = _case(90, 8, 300)
    token_loss(hidden, weight, labels, backend="numba")
    assert sum(sizes) == int((labels >= 0).sum())
    assert max(sizes) <= 16


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"labels": torch.tensor([9, 0])}, "label 9 is no token of a vocabulary of 9"),
        ({"labels": torch.tensor([-1, 0])}, "label -1 is no token"),
        ({"labels": torch.zeros(3, dtype=torch.int64)}, "one label for each row"),
        ({"labels": torch.zeros(2)}, "labels is torch.float32"),
        ({"weight": torch.zeros(9, 5)}, r"weight \(9, 5\)"),
        ({"hidden": torch.zeros(2, 4, dtype=torch.int64)}, "floats are expected"),
        ({"weight": torch.zeros(9, 4, device="meta")}, "one device is expected"),
        ({"hidden": torch.zeros(2, 4).double(), "backend": "numba"}, "not float32"),
    ],
)
def test_what_does_not_fit_is_refused(change, words):
    given = {"hidden": torch.zeros(2, 4), "weight": torch.zeros(9, 4),
             "labels": torch.zeros(2, dtype=torch.int64), **change}  # fmt: skip
    with pytest.raises(ValueError, match=words):
        token_loss(given.pop("hidden"), given.pop("weight"), given.pop("labels"), **given)
