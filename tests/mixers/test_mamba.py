"""Mamba: published modules as peers, forms that agree, states that reset, rules for parameters."""

import pytest
import safetensors.torch
import torch
from torch import nn

from paragone.mixers import Mamba
from paragone.mixers.mamba import MambaState


def make(width=32, seed=3, **options):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        mixer = Mamba(width, **options)
        with torch.no_grad():
            mixer.D.normal_()
        return mixer


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def close(found, wanted, tolerance=1e-5):
    torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance)


def gradients(mixer, x, **options):
    x = x.detach().clone().requires_grad_()
    mixer.zero_grad()
    y = mixer(x, **options)[0] if isinstance(mixer, Mamba) else mixer(x)
    (y * torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)).sum().backward()
    named = {key: value.grad for key, value in mixer.named_parameters()}
    return {"y": y.detach(), "x": x.grad, **named}


@pytest.mark.peers
@pytest.mark.parametrize(("bias", "conv_bias"), [(False, True), (True, False)])
def test_is_the_mixer_of_transformers(bias, conv_bias):
    modeling = pytest.importorskip(
        "transformers.models.mamba.modeling_mamba", reason="the peer is not installed"
    )
    config = modeling.MambaConfig(
        hidden_size=24, state_size=8, expand=2, conv_kernel=4, use_bias=bias,
        use_conv_bias=conv_bias, num_hidden_layers=1,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(11)
        peer = modeling.MambaMixer(config, 0).train()
        for parameter in peer.parameters():
            nn.init.normal_(parameter, std=0.3)
    ours = Mamba.from_state_dict(peer.state_dict())
    assert {k: v.shape for k, v in ours.state_dict().items()} == {
        k: v.shape for k, v in peer.state_dict().items()
    }
    found, wanted = gradients(ours, normal(2, 37, 24)), gradients(peer, normal(2, 37, 24))
    for key, value in wanted.items():
        size = value.abs().max()
        assert (found[key] - value).abs().max() < 1e-5 * size.clamp(min=1), key


@pytest.mark.peers
def test_is_the_block_of_mambapy():
    peer_module = pytest.importorskip("mambapy.mamba", reason="the peer is not installed")
    config = peer_module.MambaConfig(d_model=24, n_layers=1, d_state=8, pscan=False)
    with torch.random.fork_rng():
        torch.manual_seed(11)
        peer = peer_module.MambaBlock(config)
    ours = Mamba.from_state_dict(peer.state_dict())
    found, wanted = gradients(ours, normal(2, 37, 24)), gradients(peer, normal(2, 37, 24))
    for key, value in wanted.items():
        assert (found[key] - value).abs().max() < 1e-5 * value.abs().max().clamp(min=1), key


def test_every_form_and_back_end_gives_the_same():
    wanted, state = make()(normal(3, 40, 32))
    lengths = torch.tensor([40, 0, 17])
    padded, ended = make()(normal(3, 40, 32), lengths=lengths)
    for options in ({"form": "scan"}, {"form": "step"}, {"backend": "torch"}):
        y, last = make(**options)(normal(3, 40, 32))
        close(y, wanted)
        for one, two in zip(last, state, strict=True):
            close(one, two)
        y, last = make(**options)(normal(3, 40, 32), lengths=lengths)
        close(y, padded)
        for one, two in zip(last, ended, strict=True):
            close(one, two)


@pytest.mark.parametrize("gradient", [True, False])
def test_steps_are_the_scan_and_branch(gradient):
    mixer, x = make(conv=3, state_size=5), normal(2, 12, 32)
    whole, last = mixer(x)
    with torch.set_grad_enabled(gradient):
        state, kept, found = None, [], []
        for t in range(12):
            kept.append(state)
            y, state = mixer.step(x[:, t], state)
            found.append(y)
        close(torch.stack(found, 1), whole)
        for one, two in zip(state, last, strict=True):
            close(one, two)
        close(mixer.step(x[:, 5], kept[5])[0], whole[:, 5])


def test_gradients_flow_through_steps_and_states():
    mixer, x = make(), normal(2, 9, 32)
    wanted = gradients(mixer, x)
    start = x.clone().requires_grad_()
    mixer.zero_grad()
    first, state = mixer(start[:, :4])
    found = [*first.unbind(1)]
    for t in range(4, 9):
        y, state = mixer.step(start[:, t], state)
        found.append(y)
    y = torch.stack(found, 1)
    (y * torch.linspace(-1, 1, y.numel()).view_as(y)).sum().backward()
    close(start.grad, wanted["x"], 1e-4)
    for key, parameter in mixer.named_parameters():
        assert (parameter.grad - wanted[key]).abs().max() < 1e-4 * wanted[key].abs().max() + 1e-6


def test_packed_rows_start_from_nothing_in_convolution_and_scan():
    """Both states reset: a conv that looked back by one row would be seen in its first outputs."""
    mixer, x = make(), normal(1, 30, 32)
    changed = x.clone()
    changed[:, :11] = 100
    lengths = torch.tensor([11, 0, 2, 17])
    one, state = mixer(x, lengths=lengths)
    two, _ = mixer(changed, lengths=lengths)
    assert torch.equal(one[:, 11:], two[:, 11:])
    close(one[:, 13:], mixer(x[:, 13:])[0])
    assert (state.conv[1] == 0).all()
    assert (state.scan[1] == 0).all()
    close(state.conv[2, 0], torch.zeros(64))


def test_float32_stays_where_decays_live():
    mixer = make(dtype=torch.bfloat16)
    assert mixer.A_log.dtype == mixer.D.dtype == torch.float32
    assert mixer.in_proj.weight.dtype == torch.bfloat16
    other = make()
    before = other.A_log.detach().clone()
    other.to(torch.bfloat16)
    assert torch.equal(other.A_log, before)
    assert other.in_proj.weight.dtype == torch.bfloat16
    y, state = other(normal(1, 9, 32).bfloat16())
    assert (y.dtype, state.scan.dtype) == (torch.bfloat16, torch.float32)
    close(y.float(), make()(normal(1, 9, 32))[0], 0.05)
    assert make().double().A_log.dtype == torch.float64


def test_first_step_sizes_survive_a_recipe_for_linear_layers():
    mixer = make(width=512)
    dt = nn.functional.softplus(mixer.dt_proj.bias)
    assert ((dt > 0.9e-3) & (dt < 0.11)).all()
    assert dt.log().std() > 1  # log-uniform over two decades: 4.6 / sqrt(12)

    def recipe(module):
        if isinstance(module, nn.Linear | nn.Conv1d):
            nn.init.normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)

    mixer.apply(recipe)
    assert torch.equal(nn.functional.softplus(mixer.dt_proj.bias), dt)
    close(-torch.exp(mixer.A_log[0]), -torch.arange(1.0, 17))


def test_only_matrices_decay():
    mixer = make(bias=True)
    decayed, kept = mixer.parameter_groups(0.3)
    names = {id(p): name for name, p in mixer.named_parameters()}
    assert {names[id(p)] for p in decayed["params"]} == {
        "in_proj.weight", "conv1d.weight", "x_proj.weight", "dt_proj.weight", "out_proj.weight"
    }  # fmt: skip
    assert {"A_log", "D", "dt_proj.bias"} <= {names[id(p)] for p in kept["params"]}
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.3, 0.0)
    torch.optim.AdamW(mixer.parameter_groups())


def test_loads_a_published_folder_by_name(tmp_path):
    source = make(width=16)
    file = tmp_path / "model.safetensors"
    prefix = "backbone.layers.3.mixer."
    safetensors.torch.save_file({prefix + k: v for k, v in source.state_dict().items()}, file)
    weights = safetensors.torch.load_file(file)
    loaded = Mamba.from_state_dict(weights, prefix)
    x = normal(1, 8, 16)
    assert torch.equal(loaded(x)[0], source(x)[0])
    with pytest.raises(ValueError, match=r"backbone\.layers\.4\.mixer\.x_proj\.weight"):
        Mamba.from_state_dict(weights, "backbone.layers.4.mixer.")


@pytest.mark.parametrize(
    ("options", "text"),
    [({"causal": False}, "causal=False"), ({"form": "fft"}, "form='fft'"),
     ({"backend": "tpu"}, "backend='tpu' is none of auto"), ({"conv": 0}, "conv=0"),
     ({"state_size": 0}, "state_size=0")],
)  # fmt: skip
def test_bad_options_are_named(options, text):
    with pytest.raises(ValueError, match=text):
        Mamba(8, **options)


def test_bad_states_and_tokens_are_named():
    mixer = make()
    with pytest.raises(ValueError, match=r"x_t has shape \(2, 31\)"):
        mixer.step(normal(2, 31), None)
    wrong = MambaState(torch.zeros(2, 2, 64), torch.zeros(2, 64, 16))
    with pytest.raises(ValueError, match=r"state \(2, 2, 64\); \(2, 3, 64\)"):
        mixer(normal(2, 5, 32), state=wrong)
    for gradient in (True, False):
        with torch.set_grad_enabled(gradient), pytest.raises(ValueError, match="state"):
            mixer.step(normal(2, 32), wrong)
