"""The four linear state spaces: three forms, one state, options, groups, errors."""

import copy
import io

import pytest
import safetensors.torch
import torch
from torch import nn

from paragone.mixers import LRU, S4, S4D, S5
from paragone.mixers.s4d import SpaceState, parameter_groups

FORMS = ("convolution", "scan", "step")
WIDTH = 5
KINDS = {
    "s4d": (S4D, {"state": 8}),
    "s4d-real": (S4D, {"state": 3, "init": "real", "method": "bilinear"}),
    "s4": (S4, {"state": 8}),
    "s4-legt-zoh": (S4, {"state": 6, "measure": "legt", "method": "zoh"}),
    "s4-legt": (S4, {"state": 6, "measure": "legt"}),
    "s5": (S5, {"state": 8, "blocks": 2}),
    "lru": (LRU, {"state": 7}),
}
PLAIN = ("s4d", "s4", "s5", "lru")


@pytest.fixture(autouse=True)
def seeded():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def make(kind, **more):
    layer, options = KINDS[kind]
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return layer(WIDTH, **{**options, **more})


def rows(batch, time, dtype=torch.float32):
    return torch.randn(batch, time, WIDTH, generator=torch.Generator().manual_seed(0)).to(dtype)


@pytest.mark.parametrize("kind", KINDS)
def test_forms_agree_and_hand_over_their_state(kind):
    """Every pair of forms: one reads the prefix, the other goes on; rows of unequal length."""
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-5)):
        mixer = make(kind, dtype=dtype, activation=None, output=None)
        x, lengths = rows(3, 131, dtype), torch.tensor([70, 0, 65])
        double = copy.deepcopy(mixer).double()
        double.form = "step"
        wanted, end = double(x.double())
        scale = wanted.abs().max()
        for first in FORMS:
            mixer.form = first
            y, state = mixer(x[:, :70], lengths=lengths)
            for second in FORMS:
                mixer.form = second
                rest, last = mixer(x[:1, 70:], state=SpaceState(state.hidden[:1]))
                found = torch.cat([y[:1], rest], dim=1)
                assert (found - wanted[:1]).abs().max() < tolerance * scale
                size = end.hidden[0].abs().max()
                assert (last.hidden[0] - end.hidden[0]).abs().max() < 2 * tolerance * size
                short, _ = mixer(x[2:, 65:], state=SpaceState(state.hidden[2:]))
                assert (short - wanted[2:, 65:]).abs().max() < 2 * tolerance * scale
            assert not state.hidden[1].any()


@pytest.mark.parametrize("kind", PLAIN)
@pytest.mark.parametrize("form", FORMS)
def test_gradients_of_the_forms_agree(kind, form):
    mixer, wanted = make(kind), None
    for each, dtype in (("step", torch.float64), (form, torch.float32)):
        mixer = copy.deepcopy(mixer).to(dtype)
        mixer.form = each
        mixer.zero_grad()
        x = rows(2, 40).to(dtype, copy=True).requires_grad_()
        y, state = mixer(x[:, :25], lengths=torch.tensor([25, 9]))
        z, _ = mixer(x[:, 25:], state=state)
        (y.square().sum() + z.square().sum()).backward()
        found = [x.grad, *(p.grad for p in mixer.parameters())]
        if wanted is not None:
            for one, two in zip(found, wanted, strict=True):
                assert (one - two).abs().max() < 1e-4 * two.abs().max()
        wanted = found


@pytest.mark.parametrize("kind", PLAIN)
def test_gradcheck(kind):
    mixer = make(kind, dtype=torch.float64, form="scan", output=None)
    names = [name for name, _ in mixer.named_parameters()]

    def run(x, hidden, *values):
        given = dict(zip(names, values, strict=True))
        y, state = torch.func.functional_call(mixer, given, (x,), {"state": SpaceState(hidden)})
        return y, state.hidden

    hidden = torch.randn(1, *mixer.hidden_shape, dtype=torch.float64)
    given = [rows(1, 4, torch.float64), hidden, *(p.detach() for p in mixer.parameters())]
    given = [each.clone().requires_grad_() for each in given]
    assert torch.autograd.gradcheck(run, given, fast_mode=True)


@pytest.mark.parametrize("kind", PLAIN)
def test_both_directions(kind):
    """A row read from both ends: forms agree, the future counts, and padding does not."""
    mixer = make(kind, causal=False, dtype=torch.float64)
    x = rows(2, 33, torch.float64)
    y, state = mixer(x)
    assert state is None
    mixer.form = "scan"
    torch.testing.assert_close(mixer(x)[0], y)
    longer = torch.cat([x, torch.full_like(x[:, :7], torch.nan)], dim=1)
    torch.testing.assert_close(mixer(longer, lengths=torch.tensor([33, 33]))[0][:, :33], y)
    changed = x.clone()
    changed[:, -1] += 1
    assert (mixer(changed)[0][:, 0] - y[:, 0]).abs().min() > 0
    with pytest.raises(ValueError, match="causal=False"):
        mixer.step(x[:, 0], None)


@pytest.mark.parametrize("kind", PLAIN)
def test_the_second_system_does_not_count_the_token_itself(kind):
    mixer = make(kind, causal=False, skip=False, activation=None, output=None)
    with torch.no_grad():
        mixer.C[0] = 0
    assert mixer(rows(1, 1))[0].abs().max() == 0
    assert mixer(rows(1, 2))[0][:, 0].abs().min() > 0


@pytest.mark.parametrize("kind", PLAIN)
def test_decoding_notices_a_change_of_parameters(kind):
    mixer, x = make(kind), rows(2, 4)
    with torch.no_grad():
        mixer.step(x[:, 0], None)
        mixer.C.mul_(2.0)
        y, _ = mixer.step(x[:, 0], None)
        torch.testing.assert_close(y, mixer(x[:, :1])[0][:, 0])
        again = copy.deepcopy(mixer)
        torch.testing.assert_close(again.step(x[:, 0], None)[0], y)
        buffer = io.BytesIO()
        torch.save(mixer, buffer)
    with torch.inference_mode():
        torch.testing.assert_close(mixer.step(x[:, 0], None)[0], y)
    kept = safetensors.torch.load(safetensors.torch.save(mixer.state_dict()))
    other = make(kind)
    other.load_state_dict(kept)
    torch.testing.assert_close(other.step(x[:, 0], None)[0], y)


@pytest.mark.parametrize("kind", PLAIN)
def test_groups_name_what_must_not_decay(kind):
    """Trap 32: poles, inputs and steps have their own rate and no decay, openly."""
    model = nn.Sequential(nn.Linear(3, WIDTH), make(kind))
    others, own = parameter_groups(model, lr=2e-4, weight_decay=0.1)
    assert (own["lr"], own["weight_decay"], others["weight_decay"]) == (2e-4, 0.0, 0.1)
    names = {id(p): name for name, p in model[1].named_parameters()}
    inside = {names[id(p)] for p in own["params"]}
    assert inside == set(names.values()) - {"C", "D", "project.weight", "project.bias"}
    assert len(others["params"]) + len(own["params"]) == len(list(model.parameters()))
    torch.optim.AdamW(model[1].parameter_groups(), lr=1e-2)


@pytest.mark.parametrize("kind", PLAIN)
def test_narrow_types_keep_the_system_wide(kind):
    mixer = make(kind, dtype=torch.bfloat16)
    assert mixer.project.weight.dtype == torch.bfloat16
    assert mixer.C.dtype == mixer.log_decay.dtype == torch.float32
    x = rows(2, 20, torch.bfloat16)
    y, state = mixer(x)
    assert (y.dtype, state.hidden.dtype) == (torch.bfloat16, torch.float32)
    wanted, _ = make(kind)(x.float())
    assert (y - wanted).abs().max() < 0.05 * wanted.abs().max()


def test_options_change_what_they_name():
    x = rows(2, 9)
    plain = make("s4d", skip=False, activation=None, output=None)
    assert {name for name, _ in plain.named_parameters()} == {
        "log_dt", "log_decay", "frequency", "B", "C"
    }  # fmt: skip
    y = plain(x)[0]
    skipped = make("s4d", activation=None, output=None)
    curved = make("s4d", skip=False, output=None)
    for other in (skipped, curved):
        other.load_state_dict(plain.state_dict(), strict=False)
    torch.testing.assert_close(skipped(x)[0], y + skipped.D * x, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(curved(x)[0], nn.functional.gelu(y))
    mapped = make("s4d", output="linear")
    assert mapped.project.weight.shape == (WIDTH, WIDTH)
    assert make("s4d").project.weight.shape == (2 * WIDTH, WIDTH)


def test_export():
    for kind in PLAIN:
        mixer, x = make(kind).eval(), rows(1, 12)
        program = torch.export.export(mixer, (x,), strict=False)
        torch.testing.assert_close(program.module()(x)[0], mixer(x)[0])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: S4D(0), "width=0"),
        (lambda: S4D(4, form="fft"), "form='fft'"),
        (lambda: S4D(4, form="step", causal=False), "causal=True"),
        (lambda: S4D(4, activation="relu"), "activation='relu'"),
        (lambda: S4D(4, output="mlp"), "output='mlp'"),
        (lambda: S4D(4, backend="cuda"), "backend='cuda'"),
        (lambda: S4D(4, init="ones"), "init='ones'"),
        (lambda: S4D(4, state=7), "state=7"),
        (lambda: S4D(4, method="euler"), "method='euler'"),
        (lambda: S4D(4, dt_min=0.1, dt_max=0.01), "dt_min=0.1"),
        (lambda: S4(4, state=7), "state=7"),
        (lambda: S4(4, method="euler"), "method='euler'"),
        (lambda: S4(4, measure="legz"), "measure='legz'"),
        (lambda: S4(4, dt_min=0.0), "dt_min=0.0"),
        (lambda: S5(4, blocks=0), "blocks=0"),
        (lambda: S5(4, state=6, blocks=2), "2 blocks = 4"),
        (lambda: S5(4, method="euler"), "method='euler'"),
        (lambda: S5(4, dt_max=-1.0), "dt_max=-1.0"),
        (lambda: LRU(4, state=0), "state=0"),
        (lambda: LRU(4, r_max=1.0), "r_max=1.0"),
        (lambda: LRU(4, max_phase=7.0), "max_phase=7.0"),
        (lambda: S4D(4)(torch.zeros(1, 2, 4), state=SpaceState(torch.zeros(2, 4, 2, 32))),
         r"\(1, 4, 2, 32\) is expected"),
        (lambda: S4D(4)(torch.zeros(1, 2, 4), state=3), "int"),
        (lambda: S4D(4, dtype=torch.float64, backend="numba", form="scan")(
            torch.zeros(1, 2, 4, dtype=torch.float64)), "float64"),
    ],
)  # fmt: skip
def test_errors_name_the_value(call, words):
    with pytest.raises(ValueError, match=words):
        call()
