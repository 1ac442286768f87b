"""The contract of every sequence mixer in the registry, the same questions for all."""

import pytest
import safetensors.torch
import torch

from paragone.mixers import SequenceModel, build, names
from paragone.mixers.registry import MIXERS

WIDTH, HEADS = 32, 2
OPTIONS = {
    "linformer": {"length": 48, "rank": 8},
    "window": {"window": 7},
    "flash": {"chunk": 8},
    "sparse": {},
}
ALL = names()
CAUSAL = names(causal=True)


def make(name, **more):
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return build(name, WIDTH, heads=HEADS, **OPTIONS.get(name, {}), **more).eval()


def rows(batch, time, seed=0, dtype=torch.float32):
    return torch.randn(batch, time, WIDTH, generator=torch.Generator().manual_seed(seed)).to(dtype)


def close(found, wanted, tolerance=2e-4):
    torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", ALL)
def test_gives_the_shape_and_type_it_got_and_every_parameter_a_gradient(name):
    mixer = make(name).train()
    x = rows(2, 33).requires_grad_()
    y, state = mixer(x)
    assert (y.shape, y.dtype) == (x.shape, x.dtype)
    assert (state is None) == (not mixer.causal)
    y.square().sum().backward()
    assert x.grad.isfinite().all()
    assert x.grad.abs().sum() > 0
    for key, parameter in mixer.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key


@pytest.mark.parametrize("name", ALL)
def test_gradient_is_that_of_float64(name):
    mixer, x = make(name), rows(2, 19)
    double = make(name).double()
    double.load_state_dict(mixer.state_dict())
    found, wanted = [], []
    for module, grads, dtype in ((mixer, found, torch.float32), (double, wanted, torch.float64)):
        given = x.to(dtype, copy=True).requires_grad_()
        y = module(given)[0]
        (y * torch.linspace(-1, 1, y.numel(), dtype=dtype).view_as(y)).sum().backward()
        grads += [y, given.grad, *(p.grad for p in module.parameters())]
    for one, two in zip(found, wanted, strict=True):
        size = two.abs().max().clamp(min=1e-6)
        assert ((one - two).abs().max() / size) < 2e-3


@pytest.mark.parametrize("name", ALL)
def test_rows_do_not_see_each_other(name):
    mixer, x = make(name), rows(3, 21)
    whole = mixer(x)[0]
    for at in range(3):
        close(mixer(x[at : at + 1])[0], whole[at : at + 1])
    close(mixer(x.flip(0))[0].flip(0), whole)


@pytest.mark.parametrize("name", ALL)
def test_padding_changes_nothing_be_it_nan(name):
    mixer, x = make(name), rows(4, 25)
    lengths = torch.tensor([25, 0, 1, 13])
    poisoned = x.clone()
    for row, length in enumerate(lengths):
        poisoned[row, length:] = torch.nan
    y, state = mixer(poisoned, lengths=lengths)
    for row, length in enumerate(lengths.tolist()):
        assert (y[row, length:] == 0).all()
        if length:
            alone, _ = mixer(x[row : row + 1, :length])
            close(y[row : row + 1, :length], alone)
    if mixer.causal:
        token = rows(4, 1, seed=9)[:, 0]
        after, _ = mixer.step(token, state)
        for row, length in enumerate(lengths.tolist()):
            begun = mixer(x[row : row + 1, :length])[1] if length else None
            close(after[row : row + 1], mixer.step(token[row : row + 1], begun)[0])


@pytest.mark.parametrize("name", ALL)
def test_packed_rows_are_as_if_alone(name):
    mixer, x = make(name), rows(1, 30)
    lengths = torch.tensor([11, 0, 1, 18])
    y, _ = mixer(x, lengths=lengths)
    start = 0
    for length in lengths.tolist():
        if length:
            close(y[:, start : start + length], mixer(x[:, start : start + length])[0])
        start += length


@pytest.mark.parametrize("name", CAUSAL)
def test_no_output_knows_the_future(name):
    mixer, x = make(name), rows(1, 40)
    before = mixer(x)[0]
    for at in (1, 17, 39):
        changed = x.clone()
        changed[:, at:] = 50 * rows(1, 40, seed=3)[:, at:]
        after = mixer(changed)[0]
        close(after[:, :at], before[:, :at], 1e-5)
        assert not torch.allclose(after[:, at:], before[:, at:])


@pytest.mark.parametrize("name", CAUSAL)
def test_going_on_from_a_state_is_the_whole(name):
    mixer, x = make(name), rows(2, 37)
    whole = mixer(x)[0]
    for cuts in ((20, 17), (1, 8, 28), (36, 1)):
        state, found = None, []
        for part in x.split(cuts, dim=1):
            y, state = mixer(part, state=state)
            found.append(y)
        close(torch.cat(found, 1), whole)


@pytest.mark.parametrize("name", CAUSAL)
def test_steps_are_the_whole_and_a_state_can_branch(name):
    mixer, x = make(name), rows(2, 24)
    with torch.no_grad():
        whole = mixer(x)[0]
        state, found = None, []
        for t in range(8):
            y, state = mixer.step(x[:, t], state)
            found.append(y)
        kept = state
        for t in range(8, 24):
            y, state = mixer.step(x[:, t], state)
            found.append(y)
        close(torch.stack(found, 1), whole)
        close(mixer.step(x[:, 8], kept)[0], whole[:, 8])
        close(mixer(x[:, 8:], state=kept)[0], whole[:, 8:])


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("time", [0, 1, 2])
def test_shortest_sequences(name, time):
    mixer = make(name)
    y, _ = mixer(rows(2, time))
    assert y.shape == (2, time, WIDTH)
    assert y.isfinite().all()
    assert mixer(rows(0, 5))[0].shape == (0, 5, WIDTH)


@pytest.mark.parametrize("name", ALL)
def test_saves_loads_and_builds_without_memory(name, tmp_path):
    mixer, x = make(name), rows(1, 12)
    file = tmp_path / "mixer.safetensors"
    safetensors.torch.save_file(mixer.state_dict(), file)
    empty = make(name, device="meta")
    assert all(p.is_meta for p in empty.parameters())
    with torch.random.fork_rng():
        torch.manual_seed(77)
        other = build(name, WIDTH, heads=HEADS, **OPTIONS.get(name, {})).eval()
    other.load_state_dict(safetensors.torch.load_file(file))
    torch.testing.assert_close(other(x)[0], mixer(x)[0], rtol=0, atol=0)


@pytest.mark.parametrize("name", ALL)
def test_exports(name):
    mixer, x = make(name), rows(1, 16)
    with torch.no_grad():
        program = torch.export.export(_Output(mixer), (x,), strict=False)
        close(program.module()(x), mixer(x)[0])


class _Output(torch.nn.Module):
    def __init__(self, mixer):
        super().__init__()
        self.mixer = mixer

    def forward(self, x):
        return self.mixer(x)[0]


@pytest.mark.parametrize("name", ALL)
def test_bad_input_is_named(name):
    mixer = make(name)
    with pytest.raises(ValueError, match=r"\(2, 5, 31\)"):
        mixer(torch.zeros(2, 5, WIDTH - 1))
    with pytest.raises(ValueError, match=r"int64|floating"):
        mixer(torch.zeros(2, 5, WIDTH, dtype=torch.int64))
    with pytest.raises(ValueError, match="9, but x has T = 5"):
        mixer(rows(2, 5), lengths=torch.tensor([9, 1]))
    with pytest.raises(ValueError, match="3 lengths with sum 3"):
        mixer(rows(2, 5), lengths=torch.tensor([1, 1, 1]))
    if not mixer.causal:
        with pytest.raises(ValueError, match="no state and no step"):
            mixer.step(rows(2, 1)[:, 0], None)


def test_registry_knows_what_is_causal():
    for name, entry in MIXERS.items():
        assert make(name).causal == entry.causal, name
    with pytest.raises(ValueError, match="'lstm' is none of mha"):
        build("lstm", 32)


@pytest.mark.parametrize("name", ["mha", "mamba", ("linear", "window")])
def test_small_model_generates_what_it_would_score_highest(name):
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = SequenceModel(20, WIDTH, 2, mixer=name).eval()
    start = torch.tensor([[1, 2, 3], [4, 5, 6]])
    found = model.generate(start, 5)
    whole = torch.cat([start, found], 1)
    logits, _ = model(whole)
    assert torch.equal(logits[:, 2:-1].argmax(-1), found)


def test_small_model_refuses_an_unknown_mixer():
    with pytest.raises(ValueError, match="'lstm' is none of"):
        SequenceModel(5, 32, 1, mixer="lstm")
