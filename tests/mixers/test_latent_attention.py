"""Latent attention: published modules as peers, two ways to one result, what the cache holds."""

import copy

import pytest
import torch

from paragone.mixers import LatentAttention
from paragone.mixers.rotary import Rotary

WIDTH = 40
SIZES = {"kv_lora_rank": 24, "qk_nope_head_dim": 12, "qk_rope_head_dim": 8, "v_head_dim": 10}


def made(dtype=torch.float32, **options):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return LatentAttention(WIDTH, 4, **{**SIZES, **options}, dtype=dtype).eval()


def rows(batch, time, seed=0, dtype=torch.float32):
    return torch.randn(batch, time, WIDTH, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("options", [
    {}, {"q_lora_rank": 16}, {"window": 6, "softcap": 3.0}, {"causal": False},
    {"rotary": Rotary(8, layout="interleaved", scaling={
        "rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 8,
        "mscale": 1.0, "mscale_all_dim": 0.7})},
], ids=["plain", "low_rank", "window", "both_ways", "yarn"])  # fmt: skip
def test_absorbed_and_expanded_agree(options):
    mixer, x = made(dtype=torch.float64, **options), rows(3, 20, dtype=torch.float64)
    for lengths in (None, torch.tensor([20, 0, 7])):
        found = []
        for absorb in (True, False):
            mixer.absorb = absorb
            given = x.clone().requires_grad_()
            y = mixer(given, lengths=lengths)[0]
            grads = torch.autograd.grad(y.square().sum(), (given, *mixer.parameters()))
            found.append((y, *grads))
        for one, two in zip(*found, strict=True):
            torch.testing.assert_close(one, two, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("absorb", [True, False, "auto"])
def test_steps_and_drafts_are_the_whole_in_float64(absorb):
    mixer = made(absorb=absorb, q_lora_rank=16)
    double = copy.deepcopy(mixer).double()
    x = rows(2, 30)
    with torch.no_grad():
        wanted = double(x.double())[0]
        y, state = mixer(x[:, :8])
        found = [y]
        for t in range(8, 12):
            y, state = mixer.step(x[:, t], state)
            found.append(y[:, None])
        for part in (x[:, 12:19], x[:, 19:]):
            y, state = mixer(part, state=state)
            found.append(y)
    torch.testing.assert_close(torch.cat(found, 1).double(), wanted, rtol=3e-5, atol=3e-5)


def test_the_cache_holds_the_normalised_latent_and_one_turned_key():
    mixer, x = made(dtype=torch.float64), rows(1, 5, dtype=torch.float64)
    mixer.kv_a_layernorm.weight.data.uniform_(0.5, 2)
    latent = mixer(x)[1].latent
    assert latent.shape == (1, 5, 24 + 8)
    raw, key = mixer.kv_a_proj_with_mqa(x).split((24, 8), -1)
    normal = raw / (raw.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    torch.testing.assert_close(latent[..., :24], normal * mixer.kv_a_layernorm.weight)
    step = torch.exp(1j * torch.arange(5.0, dtype=torch.float64))
    turned = torch.complex(key[0, :, 0], key[0, :, 1]) * step
    torch.testing.assert_close(latent[0, :, 24], turned.real)
    torch.testing.assert_close(latent[0, :, 25], turned.imag)
    assert mixer(x)[1].bytes_per_token == 32 * 8


def test_the_definition_head_by_head():
    mixer, x = made(dtype=torch.float64), rows(1, 7, dtype=torch.float64)
    c, k_rope = mixer(x)[1].latent[0].split((24, 8), -1)
    q = mixer.q_proj(x)[0].view(7, 4, 20)
    q_rope = mixer.rotary(q[..., 12:].transpose(0, 1)[None], 0)[0]
    rows_b = mixer.kv_b_proj.weight.view(4, 22, 24)
    heads = []
    for h in range(4):
        k = torch.cat([c @ rows_b[h, :12].T, k_rope], -1)
        scores = torch.cat([q[:, h, :12], q_rope[h]], -1) @ k.T / 20**0.5
        hidden = torch.ones(7, 7).triu(1).bool()
        heads.append(scores.masked_fill(hidden, -torch.inf).softmax(-1) @ c @ rows_b[h, 12:].T)
    torch.testing.assert_close(mixer(x)[0][0], mixer.o_proj(torch.cat(heads, -1)))


def published(version, **more):
    peer = pytest.importorskip(
        f"transformers.models.deepseek_{version}.modeling_deepseek_{version}", reason="no peer"
    )
    import transformers

    config = getattr(transformers, f"Deepseek{version.upper()}Config")(
        hidden_size=WIDTH, num_attention_heads=4, num_key_value_heads=4,
        max_position_embeddings=512, **SIZES, **more,
    )  # fmt: skip
    config._attn_implementation = "eager"
    torch.manual_seed(2)
    name = f"Deepseek{version.upper()}"
    module = getattr(peer, f"{name}Attention")(config, 0).eval()
    for parameter in module.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return module, getattr(peer, f"{name}RotaryEmbedding")(config), config


@pytest.mark.peers
@pytest.mark.parametrize("version", ["v2", "v3"])
@pytest.mark.parametrize("low", [None, 16])
def test_published_weights_load_by_name_and_give_the_published_outputs(version, low):
    yarn = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "mscale": 1.0,
            "original_max_position_embeddings": 128, "mscale_all_dim": 0.8}  # fmt: skip
    scaled = {"rope_parameters": yarn} if version == "v3" else {}
    peer, turned, config = published(version, q_lora_rank=low, **scaled)
    ours = LatentAttention.from_config(config.to_dict())
    ours.load_state_dict(peer.state_dict())
    x, at = rows(2, 33), torch.arange(33)[None]
    hidden = torch.full((33, 33), -torch.inf).triu(1)[None, None]
    with torch.no_grad():
        wanted = peer(x, position_embeddings=turned(x, at), attention_mask=hidden)[0]
        y, state = ours(x[:, :32])
        torch.testing.assert_close(y, wanted[:, :32], rtol=2e-5, atol=2e-5)
        last = ours.step(x[:, 32], state)[0]
        torch.testing.assert_close(last, wanted[:, 32], rtol=2e-5, atol=2e-5)


def test_steps_absorb_and_long_prompts_expand():
    mixer = LatentAttention(
        64, 4, kv_lora_rank=512, qk_nope_head_dim=128, qk_rope_head_dim=64, device="meta"
    )
    assert mixer._absorbs(1, 4096)
    assert mixer._absorbs(8, 4096)
    assert not mixer._absorbs(4096, 4096)
    assert not mixer._absorbs(1024, 8192)


def test_what_does_not_fit_is_named():
    for options, text in (
        ({"absorb": "never"}, "never"), ({"dropout": -0.1}, "dropout=-0.1"),
        ({"rotary": Rotary(4)}, "rotary turns 4"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=text):
            made(**options)
    with pytest.raises(ValueError, match="heads=3"):
        LatentAttention(WIDTH, 3)
    with pytest.raises(ValueError, match="x_t has shape"):
        made().step(torch.zeros(2, 3), None)
    with pytest.raises(ValueError, match="has no kv_lora_rank, qk_nope_head_dim"):
        LatentAttention.from_config({"qk_rope_head_dim": 8, "hidden_size": 40,
                                     "num_attention_heads": 4, "q_lora_rank": None})  # fmt: skip
