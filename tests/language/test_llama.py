"""LLaMA: a published text word for word, a plain float64 form, caches, padding, packing."""

import math

import pytest
import torch

from paragone.language.checkpoints import load, read_model
from paragone.language.config import LlamaConfig
from paragone.language.llama import Llama, RMSNorm

TINY = {
    "vocab_size": 40, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
}  # fmt: skip

STORY = (
    "Once upon a time, there was a little girl named Lily. She loved to play outside in the park. "
    "One day, she saw a big, red ball. She wanted to play with it, but it was too high.\n"
    "Lily's mom said, \"Lily, let's go to the park.\" Lily was sad and didn't know what to do. "
    'She said, "I want to play with your ball, but I can\'t find it."\n'
    "Lily was sad and didn't know what to do. She said, \"I'm sorry, Lily. I didn't know what "
    "to do.\"\nLily didn't want to help her mom, so she"
)
"""What `./run stories260K.bin -z tok512.bin -t 0.0 -n 200` prints, from llama2.c's test_all.py."""


def made(**changes):
    config = LlamaConfig(**TINY | changes)
    model = Llama(config, generator=torch.Generator().manual_seed(0)).eval()
    with torch.no_grad():
        source = torch.Generator().manual_seed(1)
        for name, x in model.named_parameters():
            spread = torch.randn(x.shape, generator=source) * (0.3 if x.ndim > 1 else 0.1)
            x.copy_(spread + (1 if "norm" in name else 0))
    return model


def tokens(*shape, seed=0, vocab=40):
    return torch.randint(0, vocab, shape, generator=torch.Generator().manual_seed(seed))


def close(found, wanted, tolerance=2e-5):
    torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance)


def greedy(model, count, start=1):
    ids, state, found = torch.tensor([[start]]), None, [start]
    with torch.no_grad():
        for _ in range(count):
            out = model(ids, state=state, logits="last")
            ids, state = out.logits.argmax(-1), out.state
            found.append(int(ids))
    return found


def rotated(x, places, layout, base):
    """Pairs turned one at a time, as the equation says."""
    found, width = x.clone(), x.shape[-1]
    for t, place in enumerate(places.tolist()):
        for i in range(width // 2):
            a, b = (i, i + width // 2) if layout == "half" else (2 * i, 2 * i + 1)
            angle = place * base ** (-2 * i / width)
            c, s = math.cos(angle), math.sin(angle)
            found[..., t, a] = x[..., t, a] * c - x[..., t, b] * s
            found[..., t, b] = x[..., t, a] * s + x[..., t, b] * c
    return found


def plain(model, ids):
    """The module's equations in float64, for one row."""
    config, weights = model.config, {k: v.double() for k, v in model.state_dict().items()}
    heads, keys, width = config.num_attention_heads, config.kv_heads, config.head_size

    def norm(x, name, eps=config.rms_norm_eps):
        return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * weights[f"{name}.weight"]

    def linear(x, name):
        return x @ weights[f"{name}.weight"].T + weights.get(f"{name}.bias", 0)

    h = weights["model.embed_tokens.weight"][ids]
    time = len(ids)
    for at in range(config.num_hidden_layers):
        home = f"model.layers.{at}"
        x = norm(h, f"{home}.input_layernorm")
        q, k, v = (
            linear(x, f"{home}.self_attn.{part}_proj").view(time, -1, width).transpose(0, 1)
            for part in "qkv"
        )
        if config.qk_norm:
            q, k = norm(q, f"{home}.self_attn.q_norm"), norm(k, f"{home}.self_attn.k_norm")
        q, k = (rotated(z, torch.arange(time), config.rope_layout, config.rope_theta)
                for z in (q, k))  # fmt: skip
        out = []
        for head in range(heads):
            group = head * keys // heads
            scores = q[head] @ k[group].T / math.sqrt(width)
            scores = scores.masked_fill(torch.ones(time, time).triu(1).bool(), -torch.inf)
            out.append(scores.softmax(-1) @ v[group])
        h = h + linear(torch.cat(out, -1), f"{home}.self_attn.o_proj")
        x = norm(h, f"{home}.post_attention_layernorm")
        gate, up = linear(x, f"{home}.mlp.gate_proj"), linear(x, f"{home}.mlp.up_proj")
        h = h + linear(gate * torch.sigmoid(gate) * up, f"{home}.mlp.down_proj")
    return norm(h, "model.norm") @ weights["lm_head.weight"].T


VARIANTS = {
    "plain": {}, "pairs": {"rope_layout": "interleaved", "rope_theta": 500.0},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "wide": {"head_dim": 10, "tie_word_embeddings": True, "attention_bias": "qkv"},
    "normed": {"qk_norm": True, "rms_norm_eps": 1e-2, "num_key_value_heads": 1},
}  # fmt: skip


@pytest.mark.parametrize("name", VARIANTS)
def test_logits_are_those_of_the_equations(name):
    model, ids = made(**VARIANTS[name]), tokens(1, 13)
    wanted = plain(model, ids[0])
    close(model.double()(ids).logits[0], wanted, 1e-9)
    close(model.float()(ids).logits[0], wanted.float(), 1e-4)
    other = {"rope_layout": "half" if name == "pairs" else "interleaved"}
    wrong = Llama(model.config.replace(**other))
    wrong.load_state_dict(model.state_dict())
    assert (wrong(ids).logits[0] - wanted).abs().max() > 0.1, "a wrong layout would not be seen"


@pytest.mark.parametrize("file", ["stories260K.bin", "stories260K"])
def test_a_published_story_is_told_word_for_word(data_folder, file):
    folder = data_folder / "language"
    model, tokenizer = load(folder / file, folder / "tok512.model")
    assert tokenizer.decode(greedy(model, 200)) == STORY
    layout = "half" if model.config.rope_layout == "interleaved" else "interleaved"
    wrong = Llama(model.config.replace(rope_layout=layout))
    wrong.load_state_dict(model.state_dict())
    text = tokenizer.decode(greedy(wrong.eval(), 60))
    assert text[:9] == STORY[:9], "the wrong layout looks right at first"
    assert not STORY.startswith(text)


def test_going_on_from_a_state_is_the_whole():
    model, ids = made(), tokens(2, 11)
    whole = model(ids).logits
    state, found = None, []
    with torch.no_grad():
        for part in ids.split((4, 1, 1, 5), 1):
            out = model(part, state=state)
            state = out.state
            found.append(out.logits)
    close(torch.cat(found, 1), whole)
    assert state[0].keys.shape[1] == 2, "the cache holds key heads alone"


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_on_either_side_changes_nothing(side):
    model, ids = made(), tokens(3, 9)
    lengths = [9, 4, 1]
    mask = torch.zeros(3, 9, dtype=torch.int64)
    for row, length in enumerate(lengths):
        mask[row, 9 - length :] = 1
        if side == "right":
            mask[row] = mask[row].flip(0)
    out = model(ids, attention_mask=mask)
    last = model(ids, attention_mask=mask, logits="last").logits
    for row in range(3):
        alone = model(ids[row : row + 1, mask[row].bool()]).logits[0]
        close(out.logits[row, mask[row].bool()], alone)
        close(last[row, 0], alone[-1])
    assert out.logits.isfinite().all()


def test_left_padded_rows_are_continued_from_their_state():
    model, ids = made(), tokens(2, 6)
    mask = torch.tensor([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]])
    with torch.no_grad():
        state = model(ids, attention_mask=mask).state
        found = model(tokens(2, 1, seed=3), state=state).logits
    for row in range(2):
        kept = ids[row : row + 1, mask[row].bool()]
        alone = model(torch.cat([kept, tokens(2, 1, seed=3)[row : row + 1]], 1)).logits
        close(found[row, 0], alone[0, -1])


def test_packed_documents_do_not_see_each_other():
    model = made()
    documents = [tokens(n, seed=n) for n in (5, 1, 12)]
    ids, lengths = torch.cat(documents)[None], torch.tensor([5, 1, 12])
    out = model(ids, lengths=lengths)
    alone = [model(document[None]).logits[0] for document in documents]
    close(out.logits[0], torch.cat(alone))
    last = model(ids, lengths=lengths, logits="last").logits
    close(last[:, 0], torch.stack([one[-1] for one in alone]))
    more = tokens(3, 1, seed=9)
    with torch.no_grad():
        found = model(more, state=model(ids, lengths=lengths).state).logits
    for row, document in enumerate(documents):
        close(found[row, 0], model(torch.cat([document, more[row]])[None]).logits[0, -1])


def test_positions_move_the_text():
    model, ids = made(), tokens(1, 7)
    close(model(ids, positions=torch.arange(7)).logits, model(ids).logits)
    close(model(ids, positions=torch.arange(7) + 20).logits, model(ids).logits, 1e-4)
    spread = model(ids, positions=3 * torch.arange(7)).logits
    assert (spread - model(ids).logits).abs().max() > 0.01
    mask = torch.tensor([[0, 0, 1, 1, 1, 1, 1]])
    found = model(ids, attention_mask=mask, positions=torch.tensor([0, 0, 0, 3, 6, 9, 12])).logits
    close(found[:, 2:], model(ids[:, 2:], positions=3 * torch.arange(5)).logits)


def test_statistics_and_angles_are_wide_whatever_the_weights_are():
    x = torch.randn(5, 24, generator=torch.Generator().manual_seed(0)).bfloat16() * 300
    norm = RMSNorm(24, 1e-5, dtype=torch.bfloat16)
    norm.weight.data.uniform_(0.5, 2, generator=torch.Generator().manual_seed(1))
    wide = x.float() * torch.rsqrt(x.float().square().mean(-1, keepdim=True) + 1e-5)
    assert torch.equal(norm(x), norm.weight * wide.bfloat16())
    model, ids = made(rope_theta=1e4), tokens(1, 5)
    far = torch.arange(5) + 4001
    narrow = made(rope_theta=1e4).bfloat16()
    error = (narrow(ids, positions=far).logits.float() - model(ids, positions=far).logits).abs()
    near = (narrow(ids).logits.float() - model(ids).logits).abs()
    assert error.max() < 3 * near.max() + 0.05


MIXERS = {
    "mamba": {"mixer": "mamba"}, "gla": {"mixer": "gla"}, "window": {"mixer": "window"},
    "mla": {"kv_lora_rank": 12, "qk_nope_head_dim": 6, "qk_rope_head_dim": 4, "v_head_dim": 6},
    "both": {"mixer": ("mamba", "gqa")},
}  # fmt: skip


@pytest.mark.parametrize("name", MIXERS)
def test_any_causal_mixer_serves(name):
    model = Llama(LlamaConfig(**TINY | MIXERS[name]), generator=torch.Generator().manual_seed(0))
    ids = tokens(2, 10)
    whole = model(ids).logits
    whole.square().sum().backward()
    assert all(x.grad is not None and x.grad.isfinite().all() for x in model.parameters())
    with torch.no_grad():
        first = model(ids[:, :6])
        close(model(ids[:, 6:], state=first.state).logits, whole[:, 6:], 1e-4)
    assert (model.model.layers[0].mlp is None) == (name in ("mamba", "both"))


def test_a_model_is_built_anywhere_and_drawn_from_its_generator():
    config = LlamaConfig(**TINY, tie_word_embeddings=True)
    first, second = (Llama(config, generator=torch.Generator().manual_seed(3)) for _ in range(2))
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)
    assert first.lm_head.weight is first.model.embed_tokens.weight
    ids = torch.zeros(1, 3, dtype=torch.int64, device="meta")
    assert Llama(config, device="meta")(ids).logits.shape == (1, 3, 40)
    assert read_model.__name__ == "read_model"
    out = first(torch.zeros(2, 0, dtype=torch.int64))
    assert out.logits.shape == (2, 0, 40)
    assert first(tokens(2, 3), logits=False).logits is None


@pytest.mark.parametrize("experts", [0, 4])
def test_a_compiled_graph_is_whole(experts):
    model, ids = made(n_routed_experts=experts, num_hidden_layers=1), tokens(1, 6)
    whole = torch.compile(model, backend="eager", fullgraph=True)
    close(whole(ids).logits, model(ids).logits)


def test_bad_calls_name_what_is_wrong():
    model = made()
    with pytest.raises(ValueError, match="tokens are 0 to 39"):
        model(torch.tensor([[40]]))
    with pytest.raises(ValueError, match="has -1"):
        model(torch.tensor([[-1]]))
    with pytest.raises(ValueError, match=r"integers of shape \(B, T\)"):
        model(torch.zeros(1, 2))
    with pytest.raises(ValueError, match="holes"):
        model(tokens(1, 3), attention_mask=torch.tensor([[1, 0, 1]]))
    with pytest.raises(ValueError, match="attention_mask has shape"):
        model(tokens(1, 3), attention_mask=torch.ones(1, 2))
    with pytest.raises(ValueError, match="not both"):
        model(tokens(1, 3), attention_mask=torch.ones(1, 3), lengths=torch.tensor([3]))
    with pytest.raises(ValueError, match="none of the causal ones"):
        Llama(LlamaConfig(**TINY, mixer="linformer"))
