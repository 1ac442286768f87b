"""Mamba-2: the published module as a peer, forms and chunks that agree, states that reset."""

import pytest
import safetensors.torch
import torch
from torch import nn

from paragone.mixers import Mamba2


def make(width=32, seed=3, **options):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        mixer = Mamba2(width, **{"head_size": 16, "state_size": 12, **options})
        with torch.no_grad():
            mixer.D.normal_()
            mixer.norm.weight.uniform_(0.5, 2)
        return mixer


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def close(found, wanted, tolerance=2e-5):
    torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance)


def gradients(mixer, x):
    x = x.detach().clone().requires_grad_()
    mixer.zero_grad()
    y = mixer(x)[0] if isinstance(mixer, Mamba2) else mixer(x)
    (y * torch.linspace(-1, 1, y.numel()).view_as(y)).sum().backward()
    named = {key: value.grad for key, value in mixer.named_parameters()}
    return {"y": y.detach(), "x": x.grad, **named}


@pytest.mark.peers
@pytest.mark.parametrize("groups", [1, 2])
def test_is_the_mixer_of_transformers(groups):
    modeling = pytest.importorskip(
        "transformers.models.mamba2.modeling_mamba2", reason="the peer is not installed"
    )
    config = modeling.Mamba2Config(
        hidden_size=32, state_size=12, expand=2, head_dim=16, num_heads=4, n_groups=groups,
        conv_kernel=4, chunk_size=16, num_hidden_layers=1, use_bias=groups == 2,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(11)
        peer = modeling.Mamba2Mixer(config, 0).train()
        for parameter in peer.parameters():
            nn.init.normal_(parameter, std=0.3)
    ours = Mamba2.from_state_dict(peer.state_dict(), groups=groups, norm_eps=1e-5)
    assert ours.norm.eps == config.layer_norm_epsilon
    found, wanted = gradients(ours, normal(2, 37, 32)), gradients(peer, normal(2, 37, 32))
    for key, value in wanted.items():
        assert (found[key] - value).abs().max() < 2e-5 * value.abs().max().clamp(min=1), key


def test_every_form_chunk_and_back_end_gives_the_same():
    x, lengths = normal(3, 40, 32), torch.tensor([40, 0, 17])
    wanted, state = make(groups=2)(x)
    padded, ended = make(groups=2)(x, lengths=lengths)
    for options in ({"form": "scan"}, {"form": "step"}, {"backend": "torch"}, {"chunk": 1},
                    {"chunk": 7}, {"chunk": 100}):  # fmt: skip
        for more, y, last in (({}, wanted, state), ({"lengths": lengths}, padded, ended)):
            found, after = make(groups=2, **options)(x, **more)
            close(found, y)
            for one, two in zip(after, last, strict=True):
                close(one, two)


@pytest.mark.parametrize("gradient", [True, False])
def test_steps_are_the_chunks_and_branch(gradient):
    mixer, x = make(groups=2), normal(2, 12, 32)
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
        close(mixer(x[:, 5:], state=kept[5])[0], whole[:, 5:])


def test_packed_rows_start_from_nothing():
    mixer, x = make(), normal(1, 30, 32)
    changed = x.clone()
    changed[:, :11] = 100
    lengths = torch.tensor([11, 0, 2, 17])
    one, state = mixer(x, lengths=lengths)
    two, _ = mixer(changed, lengths=lengths)
    assert torch.equal(one[:, 11:], two[:, 11:])
    close(one[:, 13:], mixer(x[:, 13:])[0])
    assert (state.conv[1] == 0).all()
    assert (state.ssd[1] == 0).all()


def test_steps_keep_to_their_limits():
    free, bound = make(), make(dt_limit=(0.01, 0.02))
    x = normal(1, 9, 32)
    assert not torch.allclose(free(x)[0], bound(x)[0])
    close(make(dt_limit=(0.01, 0.02), form="step")(x)[0], bound(x)[0])


def test_float32_step_sizes_and_decay_rules():
    mixer = make(width=512, head_size=4).to(torch.bfloat16)
    assert mixer.A_log.dtype == mixer.D.dtype == torch.float32
    assert ((mixer.A_log.exp() >= 1) & (mixer.A_log.exp() <= 16)).all()
    dt = nn.functional.softplus(mixer.dt_bias.float())
    assert ((dt > 0.9e-3) & (dt < 0.11)).all()
    names = {id(p): name for name, p in mixer.named_parameters()}
    decayed, kept = mixer.parameter_groups()
    assert {names[id(p)] for p in decayed["params"]} == {
        "in_proj.weight", "conv1d.weight", "out_proj.weight"
    }  # fmt: skip
    assert {"A_log", "D", "dt_bias", "norm.weight"} <= {names[id(p)] for p in kept["params"]}
    y, state = mixer(normal(1, 9, 512).bfloat16())
    assert (y.dtype, state.ssd.dtype) == (torch.bfloat16, torch.float32)


def test_loads_a_published_folder_by_name(tmp_path):
    source, file, prefix = make(), tmp_path / "model.safetensors", "backbone.layers.0.mixer."
    safetensors.torch.save_file({prefix + k: v for k, v in source.state_dict().items()}, file)
    loaded = Mamba2.from_state_dict(safetensors.torch.load_file(file), prefix)
    x = normal(1, 8, 32)
    assert torch.equal(loaded(x)[0], source(x)[0])


@pytest.mark.parametrize(
    ("options", "text"),
    [({"causal": False}, "causal=False"), ({"form": "fft"}, "form='fft'"),
     ({"backend": "tpu"}, "backend='tpu' is none of auto"), ({"head_size": 5}, "heads of 5"),
     ({"groups": 3}, "in 3 groups"), ({"chunk": 0}, "chunk=0")],
)  # fmt: skip
def test_bad_options_are_named(options, text):
    with pytest.raises(ValueError, match=text):
        Mamba2(8, **options)


def test_bad_states_are_named():
    mixer, x = make(), normal(2, 5, 32)
    state = mixer(x)[1]
    with pytest.raises(ValueError, match=r"state has shape \(1, 4, 12, 16\)"):
        mixer(x, state=state._replace(ssd=state.ssd[:1]))
    for gradient in (True, False):
        with torch.set_grad_enabled(gradient), pytest.raises(ValueError, match="state"):
            mixer.step(x[:, 0], state._replace(ssd=state.ssd[:1]))
