"""EAGLE: training as it is used against drafts one by one; what is saved, loaded and refused."""

import json
import warnings

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from paragone.language import Eagle, Llama, LlamaConfig, Plan, generate
from paragone.language._block_unroll import distilled, unrolled
from paragone.language._heads_data import streams
from paragone.language.llama import Block

SIZES = {
    "vocab_size": 40, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": 40, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


@pytest.fixture(scope="module")
def model():
    made = Llama(LlamaConfig(**SIZES), generator=torch.Generator().manual_seed(0)).eval()
    with torch.no_grad():
        for p in made.parameters():
            if p.ndim > 1:
                p.mul_(8)
    return made


@pytest.fixture(scope="module")
def heads(model):
    return Eagle.train(
        model, None, None, depth=2, samples=1500, steps=30, length=48, batch=8, vocabulary=36
    )


def untrained(model, **more):
    made = Eagle(model, generator=torch.Generator().manual_seed(1), **more)
    with torch.no_grad():
        for p in made.module.parameters():
            if p.ndim > 1:
                p.mul_(6)
    return made


@pytest.mark.parametrize("norms", [True, False])
def test_unrolled_guesses_are_drafts_made_one_by_one(model, norms):
    net = untrained(model, norms=norms).module.double()
    generator = torch.Generator().manual_seed(2)
    embeddings, read = (torch.randn(2, 7, 24, generator=generator).double() for _ in "ab")
    found = unrolled(net.layers[0], net.merge, net.norm, embeddings, read, 3)
    wrong = 0.0
    for d in range(1, 4):
        for root in range(7 - d + 1):
            # The model's streams up to the root, then those that the block leaves.
            mine = read[:, : root + 1]
            for step in range(d):
                x = net.merge(embeddings[:, : root + 1 + step], mine)
                g = net.norm(net.layers[0](x, None, None, None)[0])
                mine = torch.cat([mine, g[:, -1:]], 1)
            torch.testing.assert_close(found[d - 1][:, root + d - 1], g[:, -1])
            wrong = max(wrong, float((found[0][:, root + d - 1] - g[:, -1]).detach().abs().max()))
    # The first guess everywhere is what training without this would have seen.
    assert wrong > 1e-2


def test_the_loss_has_the_gradient_of_its_definition():
    generator = torch.Generator().manual_seed(3)
    guessed, true = (torch.randn(5, 6, generator=generator).double() for _ in "ab")
    head = torch.randn(11, 6, generator=generator).double()
    guessed.requires_grad_()
    total, same = distilled(guessed, true, head)
    p, logs = (true @ head.T).softmax(-1), (guessed @ head.T).log_softmax(-1)
    torch.testing.assert_close(total.double(), -(p * logs).sum(), rtol=1e-5, atol=1e-5)
    (own,) = torch.autograd.grad(2 * total, guessed)
    (wanted,) = torch.autograd.grad(-2 * (p * logs).sum(), guessed)
    torch.testing.assert_close(own, wanted, rtol=1e-5, atol=1e-6)
    assert same.tolist() == ((true @ head.T).argmax(-1) == (guessed @ head.T).argmax(-1)).tolist()


def test_the_loss_counts_what_was_held_and_nothing_behind_a_row(model):
    heads = untrained(model)
    rows = [np.array([1, 7, 8, 9, 5, 4]), np.array([1, 30, 20])]
    both = heads.loss(streams(model, rows), depth=3)
    alone = [heads.loss(streams(model, [row]), depth=3) for row in rows]
    torch.testing.assert_close(both.total, alone[0].total + alone[1].total)
    assert int(both.count) == 5 + 2
    assert [int(both.metrics["accepted_1"][1]), int(both.metrics["accepted_2"][1])] == [
        7, sum(int(one.metrics["accepted_2"][1]) for one in alone),
    ]  # fmt: skip
    both.total.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in heads.module.parameters())


def test_training_makes_drafts_better_and_leaves_the_model(model, heads):
    before = {name: x.clone() for name, x in model.state_dict().items()}
    again = Eagle.train(
        model, None, None, depth=2, samples=1500, steps=2, length=48, start=heads, seed=1
    )
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())
    assert all(p.requires_grad for p in model.parameters())
    assert again.ids.tolist() == heads.ids.tolist()
    rows = [np.random.default_rng(0).integers(3, 40, 40) for _ in range(4)]
    fresh = Eagle(model, ids=heads.ids)
    losses = [one.loss(streams(model, rows), 2).total.item() for one in (heads, fresh)]
    assert losses[0] < 0.95 * losses[1]
    assert len(heads.accuracies) == 2
    assert heads.card["tokens_per_step"] > 1
    assert 2 in heads.ids


@pytest.mark.parametrize("plan", [Plan(3, 3), Plan(7, 3, 3)], ids=["chain", "tree"])
def test_texts_are_those_of_plain_decoding(model, heads, plan):
    prompts = [[1, 5, 9], [1, 30], [1, 8, 8, 8, 12]]
    for options in ({}, {"temperature": 0.9, "top_k": 12, "seed": 3}):
        plain = generate(model, None, prompts, max_new_tokens=24, **options)
        drafted = generate(
            model, None, prompts, max_new_tokens=24, speculate=heads, draft=plan, **options
        )
        assert [one.tokens for one in drafted] == [one.tokens for one in plain]
    assert max(one.tokens_per_step for one in drafted) > 1


def test_drawn_drafts_end_and_are_seeded(model, heads, tmp_path):
    heads.save(tmp_path)
    drawn = Eagle.load(tmp_path, model, drawn=True)
    options = {"max_new_tokens": 20, "temperature": 1.0, "seed": 5, "speculate": drawn}
    once, again = (generate(model, None, [1, 5], draft=Plan(6, 3, 2), **options) for _ in range(2))
    assert once.tokens == again.tokens


def test_saved_heads_come_back(model, heads, tmp_path):
    heads.save(tmp_path)
    names = set(load_file(tmp_path / "model.safetensors"))
    assert {"fc.weight", "layers.0.self_attn.q_proj.weight", "d2t", "norm.weight"} <= names
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = Eagle.load(tmp_path, model)
    assert found.accuracies == heads.accuracies
    assert found.ids.tolist() == heads.ids.tolist()
    for name, x in heads.module.state_dict().items():
        assert torch.equal(x, found.module.state_dict()[name])


def published(model, folder, **changes):
    """A folder as EAGLE-1 is published: no norm before the block or behind it."""
    config = model.config
    block = Block(config, 0)
    tensors = {f"layers.0.{k}": v for k, v in block.state_dict().items() if "input" not in k}
    tensors["fc.weight"] = 0.1 * torch.randn(
        24, 48, generator=torch.Generator().manual_seed(4)
    )  # fmt: skip
    tensors["fc.bias"] = torch.ones(24)
    tensors["embed_tokens.weight"] = model.model.embed_tokens.weight.detach()
    tensors |= changes
    about = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "num_hidden_layers": 1,
        "hidden_size": 24, "num_attention_heads": 4, "num_key_value_heads": 2,
        "intermediate_size": 40, "vocab_size": 40, "rms_norm_eps": 1e-5,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(about))
    return {name: x.contiguous() for name, x in tensors.items() if x is not None}


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_published_files_are_read(model, tmp_path, file):
    tensors = published(model, tmp_path)
    (save_file if file.endswith("safetensors") else torch.save)(tensors, tmp_path / file)
    found = Eagle.load(tmp_path, model, weights="float32")
    assert torch.equal(found.module.merge.fc.bias, torch.ones(24))
    batch = streams(model, [np.array([1, 4, 9, 3, 7, 21, 13])])
    net = found.module
    x = net.merge(model.model.embed_tokens(batch.tokens[:, 1:]), batch.hidden[:, :-1])
    h = x + net.layers[0].self_attn(x)[0]
    h = h + net.layers[0].mlp(net.layers[0].post_attention_layernorm(h))
    wanted = int((h[0, -1] @ model.lm_head.weight.T).argmax())
    from paragone.language import Engine, Sampling

    drafting = found.open(Engine.make(model))
    drafting.add(0, [], Sampling(temperature=0.0))
    rows = np.concatenate([np.zeros((1, 24), np.float32), batch.hidden[0, :-1].numpy()])
    drafting.observe([0], [batch.tokens[0].numpy()], [rows])
    assert drafting.draft([0], Plan(1, 1))[0].tokens.tolist() == [wanted]


def test_what_does_not_fit_is_refused(model, heads, tmp_path):
    with pytest.raises(ValueError, match=r"has no config\.json"):
        Eagle.load(tmp_path, model)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"neither model\.safetensors nor"):
        Eagle.load(tmp_path, model)
    tensors = published(model, tmp_path, **{"fc.bias": None, "layers.1.x": torch.ones(1)})
    tensors["fc.weight"] = torch.ones(24, 24)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"2 tensors.*no such parameter.*\(24, 24\), expected"):
        Eagle.load(tmp_path, model)
    with pytest.raises(ValueError, match="depth=0"):
        Eagle.train(model, None, depth=0)
    with pytest.raises(ValueError, match="vocabulary=0"):
        Eagle.train(model, None, vocabulary=0, samples=60, length=40)
    other = Llama(LlamaConfig(**{**SIZES, "hidden_size": 16}))
    with pytest.raises(ValueError, match="start has width 24, the model 16"):
        Eagle.train(other, None, start=heads, samples=60, length=40)
