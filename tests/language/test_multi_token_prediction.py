"""Multi-token prediction against a float64 oracle; drafting, files and training."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from paragone.language import Llama, LlamaConfig, generate, load, train
from paragone.language._mtp_drafting import likeliest
from paragone.language._mtp_losses import one_at_a_time, weights_of
from paragone.language._mtp_modules import shifted
from paragone.language.drafting import Plan
from paragone.language.engine import engine_of
from paragone.language.losses import IGNORED
from paragone.language.multi_token_prediction import MultiTokenPrediction
from paragone.language.packing import pack

SIZES = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
         "max_position_embeddings": 64}  # fmt: skip
KINDS = [("sequential", "stream"), ("parallel", "trunk"), ("parallel", "stream")]


def made(depth, kind, reads="stream", dtype=torch.float64, **sizes):
    generator = torch.Generator().manual_seed(7)
    model = Llama(LlamaConfig(**{**SIZES, **sizes}), generator=generator, dtype=dtype)
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.3, generator=generator)
    ahead = MultiTokenPrediction(model, depth, kind, reads=reads, generator=generator)
    for p in ahead.modules.parameters():
        torch.nn.init.normal_(p, std=0.3, generator=generator)
    return model.eval(), ahead


def oracle(model, ahead, ids, labels):
    """Loss sums of one text by the papers' equations, place by place."""

    def norm(x, one):
        return x / (x.pow(2).mean(-1, keepdim=True) + one.eps).sqrt() * one.weight

    base = model.model
    h = base.embed_tokens(ids)[None]
    trunk = h
    for block in base.layers:
        trunk, (h, _) = h, block(h, None, None, None)
    sums, stream = [], norm(h[0], base.norm)
    for d, layer in enumerate(ahead.modules.layers, 1):
        if len(ids) <= d + 1:
            sums.append(0 * stream.sum())
            continue
        kept = len(ids) - d
        if ahead.kind == "sequential":
            e = norm(base.embed_tokens.weight[ids[d:]], layer.enorm)
            x = torch.cat([e, norm(stream[:kept], layer.hnorm)], 1) @ layer.eh_proj.weight.T
        else:
            x = (trunk[0] if ahead.reads == "trunk" else stream)[:kept]
        out, _ = layer(x[None], None, None, None)
        own = base.norm if ahead.reads == "trunk" else layer.shared_head.norm
        found = norm(out[0], own)
        if ahead.kind == "sequential":
            stream = found
        logs = (found @ model.lm_head.weight.T).log_softmax(-1)
        wanted = labels[d:]
        there = wanted != IGNORED
        sums.append(-logs[there].gather(1, wanted[there, None]).sum())
    return sums


@pytest.mark.parametrize(("kind", "reads"), KINDS)
def test_losses_are_those_of_the_equations_also_in_packed_rows(kind, reads):
    model, ahead = made(3, kind, reads)
    texts = [np.arange(3, 16), np.array([9, 4, 4, 1, 30]), np.array([7, 8]), np.arange(20)[::-1]]
    row = pack(texts, 64, order="given")[0]
    found = ahead.losses(row, [1.0, 0.5, 0.25])
    wanted = torch.zeros(3, dtype=torch.float64)
    for part, labels in zip(row.input_ids[0].split(row.lengths.tolist()),
                            row.labels[0].split(row.lengths.tolist()), strict=True):  # fmt: skip
        one = oracle(model, ahead, part, labels)
        wanted += torch.stack(one)
    torch.testing.assert_close(torch.stack(found.ahead), wanted.detach())
    assert [int(x) for x in found.counts] == [
        sum(max(len(t) - 1 - d, 0) for t in texts) for d in (1, 2, 3)
    ]
    weighted = wanted @ torch.tensor([1.0, 0.5, 0.25], dtype=torch.float64)
    torch.testing.assert_close(found.weighted.detach(), weighted.detach())
    parameters = [*ahead.modules.parameters(), model.lm_head.weight, model.model.norm.weight,
                  model.model.layers[0].mlp.up_proj.weight]  # fmt: skip
    mine = torch.autograd.grad(found.weighted, parameters, allow_unused=True)
    theirs = torch.autograd.grad(weighted, parameters, allow_unused=True)
    for a, b in zip(mine, theirs, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b)


def test_an_embedding_one_place_off_is_caught():
    model, ahead = made(1, "sequential")
    row = pack([np.arange(3, 16)], 64)[0]
    right = oracle(model, ahead, row.input_ids[0], row.labels[0])[0]
    late = ahead.modules.layers[0]
    h = model(row.input_ids, logits=False).hidden
    wrong = late.ahead(model.model.embed_tokens(row.input_ids), h, None)
    logs = (wrong @ model.lm_head.weight.T).log_softmax(-1)[0, :-2]
    off = -logs.gather(1, row.labels[0, 1:-1, None]).sum()
    assert abs(float((off - right).detach())) > 1e-2
    torch.testing.assert_close(ahead.losses(row).ahead[0], right.detach())


def test_the_value_is_the_main_heads_and_the_gradient_is_that_of_all():
    model, ahead = made(2, "sequential")
    row = pack([np.arange(3, 16)], 64)[0]
    before = model(row.input_ids).logits
    found = ahead.losses(row)
    loss = found.loss()
    assert float(loss.total.detach()) == pytest.approx(float(found.main.detach()))
    assert set(loss.metrics) == {"ahead_1", "ahead_2"}
    grad = torch.autograd.grad(loss.total, model.lm_head.weight, retain_graph=True)[0]
    whole = torch.autograd.grad(found.main + found.weighted, model.lm_head.weight)[0]
    torch.testing.assert_close(grad, whole)
    torch.testing.assert_close(model(row.input_ids).logits, before, rtol=0, atol=0)
    frozen = ahead.losses(row, frozen=True)
    assert frozen.main is None
    assert not [
        p for p in model.model.layers.parameters()
        if torch.autograd.grad(frozen.weighted, p, allow_unused=True, retain_graph=True)[0]
        is not None
    ]  # fmt: skip


def test_heads_are_run_one_at_a_time_with_the_gradients_of_all_at_once():
    x = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    w = [torch.full((3,), float(k + 1), dtype=torch.float64, requires_grad=True) for k in range(3)]
    alive = []

    def run(k, z):
        alive.append(k)
        return (z * w[k]).sin().sum()

    z = x.clone().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda z, *w: one_at_a_time(lambda k, z: (z * w[k]).sin().sum(), (1.0, 0.5, 0.1), z, w)[0],
        (z, *w),
    )
    total, sums = one_at_a_time(run, (1.0, 0.5, 0.1), z, w)
    assert alive == [0, 1, 2]
    assert not sums.requires_grad
    (2 * total).backward()
    assert w[2].grad is not None


def test_weights_and_shifts():
    assert weights_of(0.6, 3, "sequential") == pytest.approx((0.2,) * 3)
    assert weights_of([1, 2], 2, "parallel") == (1.0, 2.0)
    for wrong in ([1.0], -1.0, float("nan")):
        with pytest.raises(ValueError, match="one for each of 2"):
            weights_of(wrong, 2, "parallel")
    ids = torch.arange(1, 7)[None]
    assert shifted(ids, 2, torch.tensor([4, 2]), -1).tolist() == [[3, 4, -1, -1, -1, -1]]
    assert shifted(ids, 9, None, 0).tolist() == [[0] * 6]
    assert shifted(ids[:, :0], 1, None, 0).shape == (1, 0)


def test_arguments_out_of_range_are_refused():
    model, ahead = made(2, "parallel", "trunk")
    with pytest.raises(ValueError, match="none of 'sequential'"):
        MultiTokenPrediction(model, 1, "both")  # pyright: ignore
    with pytest.raises(ValueError, match="at least 1"):
        MultiTokenPrediction(model, 0)
    with pytest.raises(ValueError, match="reads='trunk'"):
        MultiTokenPrediction(model, 1, reads="trunk")
    with pytest.raises(ValueError, match="2 parallel heads"):
        ahead.losses(pack([np.arange(9)], 16)[0], depth=3)
    _, other = made(1, "sequential", hidden_size=8)
    with pytest.raises(ValueError, match="of width 8"):
        other.open(engine_of(model))


def test_the_likeliest_nodes_of_a_product_by_enumeration():
    generator = np.random.default_rng(3)
    logs = -np.sort(generator.exponential(size=(3, 4)), 1)
    tokens = np.stack([generator.permutation(9)[:4] for _ in range(3)])
    draft = likeliest(logs, tokens, Plan(12, 3, 4))
    worth = {}
    for depth in (1, 2, 3):
        for ranks in np.ndindex(*[4] * depth):
            worth[tuple(int(tokens[d, r]) for d, r in enumerate(ranks))] = sum(
                logs[d, r] for d, r in enumerate(ranks)
            )
    paths = []
    for token, parent in zip(draft.tokens.tolist(), draft.parents.tolist(), strict=True):
        paths.append((*(paths[parent] if parent >= 0 else ()), token))
    assert set(paths) == set(sorted(worth, key=lambda path: -worth[path])[:12])
    assert likeliest(logs, tokens, Plan(3, 3, 1)).parents.tolist() == [-1, 0, 1]


@pytest.mark.parametrize(("kind", "reads"), KINDS)
def test_drafts_change_no_token_and_are_the_modules_own(kind, reads):
    model, ahead = made(2, kind, reads, dtype=torch.float32)
    prompt = [3, 1, 4, 1, 5]
    for sampling in ({"temperature": 0.0}, {"temperature": 0.8, "seed": 3}):
        plain = generate(model, None, prompt, max_new_tokens=12, **sampling)
        for plan in (Plan(2, 2), Plan(5, 2, 3)):
            found = generate(
                model, None, prompt, max_new_tokens=12, speculate=ahead, draft=plan, **sampling
            )
            assert found.tokens == plain.tokens
    # What is drafted is what the modules say in one pass over the text.
    drafting = ahead.open(engine_of(model))
    text = np.array([3, 1, 4, 1, 5, 9, 2, 6])
    ids = torch.from_numpy(text)[None]
    hidden = model(ids, logits=False).hidden
    if reads == "trunk":
        hidden = model.model.embed_tokens(ids)
        for block in model.model.layers[:-1]:
            hidden, _ = block(hidden, None, None, None)
    rows = np.concatenate([np.zeros((1, 16), np.float32), hidden[0, :-1].detach().numpy()])
    drafting.add("a", [], plain_sampling())
    drafting.observe(["a"], [text[:5]], [rows[:5]])
    drafting.draft(["a"], Plan(2, 2))
    drafting.observe(["a"], [text[5:]], [rows[5:]])
    draft = drafting.draft(["a"], Plan(2, 2))[0]
    with torch.no_grad():
        streams = ahead.streams(hidden, ids, depth=2)
        first = int((streams[0][0, -2] @ model.lm_head.weight.T).argmax())
        if kind == "parallel":
            second = int((streams[1][0, -2] @ model.lm_head.weight.T).argmax())
        else:
            more = torch.tensor([[*text.tolist(), first]])
            deep = model(more, logits=False).hidden
            second = int((ahead.streams(deep, more)[1][0, -3] @ model.lm_head.weight.T).argmax())
    assert draft.tokens.tolist() == [first, second]
    drafting.observe(["a"], [np.array([1])], [None])
    assert len(drafting.draft(["a"], Plan(2, 2))[0].tokens) == 0
    drafting.drop("a")


def plain_sampling():
    from paragone.language.sampling import Sampling

    return Sampling(temperature=0.0)


@pytest.mark.parametrize(("kind", "reads"), KINDS)
def test_what_is_saved_is_loaded(kind, reads, tmp_path):
    model, ahead = made(2, kind, reads, dtype=torch.float32)
    ahead.draft_ids = torch.tensor([1, 5, 7])
    ahead.accuracies = (0.5, 0.25)
    ahead.save(tmp_path)
    names = set(load_file(tmp_path / "mtp.safetensors"))
    assert "model.layers.3.self_attn.q_proj.weight" in names
    assert ("model.layers.2.eh_proj.weight" in names) == (kind == "sequential")
    other = MultiTokenPrediction.load(tmp_path, model)
    for a, b in zip(ahead.modules.parameters(), other.modules.parameters(), strict=True):
        assert torch.equal(a, b)
    assert other.draft_ids.tolist() == [1, 5, 7]
    assert (other.accuracies, other.kind, other.reads) == ((0.5, 0.25), kind, reads)
    wrong, _ = made(2, kind, reads, vocab_size=41)
    with pytest.raises(ValueError, match="of another model: vocab_size=40"):
        MultiTokenPrediction.load(tmp_path, wrong)
    with pytest.raises(ValueError, match="neither"):
        MultiTokenPrediction.load(tmp_path / "none", model)


@pytest.mark.parametrize("latent", [False, True])
def test_folders_in_the_layout_of_deepseek_are_read(latent, tmp_path):
    sizes = {}
    if latent:
        sizes = {
            "n_routed_experts": 4, "n_shared_experts": 1, "moe_intermediate_size": 8,
            "first_k_dense_replace": 1, "scoring_func": "sigmoid", "kv_lora_rank": 8,
            "qk_nope_head_dim": 4, "qk_rope_head_dim": 4, "v_head_dim": 4, "q_lora_rank": 8,
            "rope_layout": "interleaved",
        }  # fmt: skip
    model, ahead = made(2, "sequential", dtype=torch.float32, **sizes)
    model.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    ahead.save(tmp_path / "beside")
    more = load_file(tmp_path / "beside" / "mtp.safetensors")
    own = torch.randn(40, 16, generator=torch.Generator().manual_seed(1))
    for at in (2, 3):
        more[f"model.layers.{at}.embed_tokens.weight"] = model.model.embed_tokens.weight.clone()
        more[f"model.layers.{at}.shared_head.head.weight"] = own if at == 3 else (
            model.lm_head.weight.clone())  # fmt: skip
    save_file({**load_file(path), **{n: x.detach() for n, x in more.items()}}, path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "num_nextn_predict_layers": 2}))
    with pytest.warns(UserWarning, match="left out"):
        again, _ = load(tmp_path)
    found = MultiTokenPrediction.load(tmp_path, again)
    assert (found.depth, found.kind) == (2, "sequential")
    assert found.modules.layers[0].shared_head.head is None
    assert torch.equal(found.modules.layers[1].shared_head.head.weight, own)
    assert found.modules.layers[1].embed_tokens is None
    ids = torch.arange(1, 12)[None]
    with torch.no_grad():
        mine = ahead.streams(model(ids).hidden, ids)
        theirs = found.streams(again(ids).hidden, ids)
        torch.testing.assert_close(mine[1], theirs[1])
    plain = generate(again, None, [3, 1, 4], max_new_tokens=6, temperature=0.0)
    assert generate(again, None, [3, 1, 4], max_new_tokens=6, temperature=0.0, speculate=found,
                    draft=Plan(2, 2)).tokens == plain.tokens  # fmt: skip
    more.pop("model.layers.2.enorm.weight")
    more["model.layers.3.hnorm.weight"] = torch.ones(3)
    save_file({n: x.detach() for n, x in {**load_file(path), **more}.items()
               if n != "model.layers.2.enorm.weight"}, path)  # fmt: skip
    with pytest.raises(ValueError, match=r"(?s)enorm.weight: missing.*hnorm.weight: shape \(3,\)"):
        MultiTokenPrediction.load(tmp_path, again)


def test_folders_in_metas_layout_are_read(tmp_path):
    model, ahead = made(2, "parallel", "trunk", dtype=torch.float32, rope_layout="interleaved")
    model.save_pretrained(tmp_path, "meta")
    path = tmp_path / "consolidated.00.pth"
    tensors = torch.load(path, weights_only=True)
    names = {
        "self_attn.q_proj": "attention.wq", "self_attn.k_proj": "attention.wk",
        "self_attn.v_proj": "attention.wv", "self_attn.o_proj": "attention.wo",
        "mlp.gate_proj": "feed_forward.w1", "mlp.up_proj": "feed_forward.w3",
        "mlp.down_proj": "feed_forward.w2", "input_layernorm": "attention_norm",
        "post_attention_layernorm": "ffn_norm",
    }  # fmt: skip
    for name, x in ahead.modules.state_dict().items():
        _, at, rest = name.split(".", 2)
        tensors[f"extra_heads.{at}.{names[rest.removesuffix('.weight')]}.weight"] = x
    path.unlink()
    torch.save(tensors, tmp_path / "consolidated.pth")
    params = json.loads((tmp_path / "params.json").read_text())
    params |= {"n_layers": 4, "n_future_tokens": 3}
    (tmp_path / "params.json").write_text(json.dumps(params))
    again, _ = load(tmp_path)
    assert again.config.num_hidden_layers == 2
    found = MultiTokenPrediction.load(tmp_path, again)
    row = pack([np.arange(1, 14)], 16)[0]
    torch.testing.assert_close(found.losses(row).ahead, ahead.losses(row).ahead)


def test_modules_are_trained_on_the_models_own_words_and_go_on(tmp_path):
    model, _ = made(1, "sequential", dtype=torch.float32)
    before = {n: x.clone() for n, x in model.state_dict().items()}
    asked = {"tokens": 600, "length": 24, "batch": 4, "steps": 6, "draft_vocab": 20}
    texts = [[1, 2, 3, 4, 5], [6, 7, 8, 9]]
    for kind in ("sequential", "parallel"):
        done = MultiTokenPrediction.train(model, None, texts, 2, kind, out=tmp_path / kind, **asked)
        assert all(torch.equal(x, before[n]) for n, x in model.state_dict().items())
        assert all(p.requires_grad for p in model.parameters())
        assert len(done.draft_ids) == 20
        assert len(done.accuracies) == (4 if kind == "sequential" else 2)
        assert done.card["digest"]
        again = MultiTokenPrediction.load(tmp_path / kind, model)
        assert again.card["digest"] == done.card["digest"]
        plain = generate(model, None, [3, 1], max_new_tokens=8, temperature=0.0)
        assert (
            generate(model, None, [3, 1], max_new_tokens=8, temperature=0.0, speculate=again).tokens
            == plain.tokens
        )
    more = MultiTokenPrediction.train(model, None, texts, start=again, **asked)
    assert (more.kind, more.depth) == ("parallel", 2)
    joint = MultiTokenPrediction.train(model, None, texts, joint=True, unroll=1, **asked)
    assert any(not torch.equal(x, before[n]) for n, x in model.state_dict().items())
    assert {"loss", "ahead_1"} <= set(joint.history[-1])
    with pytest.raises(ValueError, match="unroll=1 of 2"):
        MultiTokenPrediction.train(model, None, texts, 2, unroll=1, **asked)
    with pytest.raises(ValueError, match="draft_vocab=99"):
        MultiTokenPrediction.train(model, None, texts, **{**asked, "draft_vocab": 99})


TEXT = [f"line {i}: to be or not to be, that is the question number {i % 7}. " for i in range(40)]


@pytest.mark.parametrize("kind", ["sequential", "parallel"])
def test_pre_training_with_modules_logs_the_main_loss_and_goes_on(kind, tmp_path):
    given = {"model": {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
                       "num_key_value_heads": 1}, "vocab_size": 270, "length": 32, "batch": 4,
             "tokens": 1500, "precision": "fp32", "validation": 0.1}  # fmt: skip
    alone = train(TEXT, clip_norm=None, **given)
    done = train(
        TEXT, tmp_path, clip_norm=None, ahead=2, ahead_kind=kind, ahead_weight=1e-9, **given
    )
    # A loss without weight leaves the main head where it is, and is logged beside it.
    assert done.metrics["validation_loss"] == pytest.approx(alone.metrics["validation_loss"], 1e-4)
    assert done.history[-1]["loss"] == pytest.approx(alone.history[-1]["loss"], 1e-4)
    assert {"validation_ahead_1", "validation_ahead_2", "validation_agreed_2"} <= set(done.metrics)
    model, tokenizer = load(tmp_path)
    ahead = MultiTokenPrediction.load(tmp_path, model)
    assert ahead.accuracies == done.ahead.accuracies
    for a, b in zip(ahead.modules.parameters(), done.ahead.modules.parameters(), strict=True):
        assert torch.equal(a, b)
    if kind == "sequential":
        ids = generate(model, tokenizer, "to be", max_new_tokens=8, temperature=0.0).tokens
        assert (
            generate(
                model, tokenizer, "to be", max_new_tokens=8, temperature=0.0, speculate=ahead
            ).tokens
            == ids
        )
    with pytest.raises(ValueError, match="ahead"):
        train(TEXT, tmp_path, ahead=1, ahead_kind=kind, **given)
    with pytest.raises(ValueError, match="ZeRO up to 2"):
        train(TEXT, ahead=1, zero=3, **given)
