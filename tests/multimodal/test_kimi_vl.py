"""KimiVL: losses and texts against the forward pass taken apart, batches, freezing, optimizers."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from paragone.language import Tokenizer
from paragone.multimodal import Document, KimiVL
from paragone.multimodal._kimi_rows import rows_of
from paragone.multimodal.kimi_vl import PlaceholderError, Projector
from paragone.training.by_name import make_optimizer

START, END, PAD = 258, 259, 260
WIDE = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1,
        "intermediate_size": 24}  # fmt: skip
DEEP = {"hidden_size": 32, "num_attention_heads": 2, "num_key_value_heads": 2,
        "num_hidden_layers": 2, "intermediate_size": 24, "moe_intermediate_size": 8,
        "kv_lora_rank": 8, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 8,
        "first_k_dense_replace": 1, "n_routed_experts": 3}  # fmt: skip


def small(seed: int = 5, text: dict | None = None, **changes) -> KimiVL:
    model = KimiVL.from_config(
        "digits", generator=torch.Generator().manual_seed(seed), vision_config=WIDE,
        text_config={**DEEP, **(text or {})}, **changes,
    )  # fmt: skip
    # New heads are nearly uniform; sharper ones tell more.
    with torch.no_grad():
        model.language_model.lm_head.weight.mul_(20)
    return model.eval()


def drawn(height: int, width: int) -> np.ndarray:
    rng = np.random.default_rng(height * 31 + width)
    return rng.integers(0, 256, (height, width, 1), dtype=np.uint8)


PAGES = [
    Document((drawn(8, 8), "a zero"), (False, True)),
    Document(("before", drawn(3, 17), "and after", drawn(1, 1), "!"), None),
    Document(("no picture", "at all"), (False, True)),
    Document((drawn(9, 4), "which?", "seven"), (False, False, True)),
    Document(("a picture last", drawn(4, 4)), (True, True)),
]
# Learned tokens by hand: bytes of learned texts, and one for the end behind a learned text.
COUNTS = [7, 6 + 9 + 1 + 1, 7, 6, 14]


def text_of(model: KimiVL, page: Document) -> list[int]:
    """Tokens of a document, written out."""
    ids = [0]
    for part in page.parts:
        if isinstance(part, str):
            ids += model.tokenizer.encode(part, bos=False)
        else:
            rows, columns = model.processor.grid(*part.shape[:2])
            ids += [START, *[PAD] * (rows * columns // 4), END]
    return [*ids, 1]


def test_tokens_labels_and_counts_are_those_by_hand():
    model = small()
    for page, count in zip(PAGES, COUNTS, strict=True):
        rows = rows_of([page], model.config, model.processor, model.tokenizer, model.device)
        assert rows.input_ids[0].tolist() == text_of(model, page)
        assert rows.learned == count
        wanted = rows.labels != -100
        assert torch.equal(
            rows.labels[:, :-1][wanted[:, :-1]], rows.input_ids[:, 1:][wanted[:, :-1]]
        )
        assert not wanted[0, -1]
        assert not torch.isin(rows.labels[wanted], torch.tensor([START, END, PAD])).any()
    answer = rows_of(PAGES[3:4], model.config, model.processor, model.tokenizer, model.device)
    learned = answer.labels[answer.labels != -100].tolist()
    assert learned == [*model.tokenizer.encode("seven", bos=False), 1]


def test_losses_are_those_of_the_forward_pass_taken_apart():
    model = small()
    total = 0.0
    for page in PAGES:
        ids = torch.tensor([text_of(model, page)])
        h = model.language_model.model.embed_tokens(ids).clone()
        spot = (ids[0] == PAD).nonzero()[:, 0]
        seen = [model.features(*model.processor([x])) for x in page.pictures]
        if seen:
            h[0, spot] = torch.cat(seen)
        out, _ = model.language_model.model(h)
        log_probs = model.language_model.lm_head(out)[0].log_softmax(-1)
        at = 1
        for number, part in enumerate(page.parts):
            count = len(part.encode()) if isinstance(part, str) else 0
            if not isinstance(part, str):
                count = 2 + model.processor.tokens(*part.shape[:2])
            elif page.learns(number):
                span = torch.arange(at, at + count)
                total -= float(log_probs[span - 1, ids[0, span]].sum().detach())
            at += count
        if isinstance(page.parts[-1], str):
            total -= float(log_probs[at - 1, 1].detach())
    found = model.losses(PAGES)
    assert found.text_count == sum(COUNTS)
    assert found.count == sum(COUNTS)
    assert float(found.text.detach()) == pytest.approx(total, rel=1e-5)
    assert found.image_count == 0
    assert not found.others


def test_a_batch_is_the_sum_of_its_documents_and_so_is_its_gradient():
    model = small()
    model.losses(PAGES).total.backward()
    whole = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    alone = 0.0
    for page in PAGES:
        one = model.losses([page]).total
        one.backward()
        alone += float(one.detach())
    assert float(model.losses(PAGES).total.detach()) == pytest.approx(alone, rel=1e-5)
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.grad, whole[name], rtol=1e-3, atol=2e-4, msg=name)
        assert p.grad.abs().sum() > 0, name


def test_another_picture_of_the_batch_changes_nothing():
    model = small()
    pages = [PAGES[0], Document((drawn(8, 12), "x"), (False, True))]
    with torch.no_grad():
        rows = rows_of(pages, model.config, model.processor, model.tokenizer, model.device)
        args = (rows.input_ids, rows.patches, rows.grid_hws)
        before = model(*args, lengths=rows.lengths).logits
        rows.patches[16:] += 1.0
        after = model(*args, lengths=rows.lengths).logits
    assert torch.equal(before[0], after[0])
    assert not torch.equal(before[1], after[1])


def test_a_text_cannot_claim_to_be_a_picture():
    model = small()
    page = Document(("<|media_start|><|media_pad|><|media_end|>", PAGES[0].parts[0], "a"))
    rows = rows_of([page], model.config, model.processor, model.tokenizer, model.device)
    assert int((rows.input_ids == PAD).sum()) == 4
    assert int((rows.input_ids == START).sum()) == 1
    assert math.isfinite(float(model.losses([page]).total.detach()))


def test_placeholders_are_checked():
    model = small()
    patches, grids = model.processor([drawn(8, 8), drawn(4, 4)])
    good = torch.tensor([[0, START, PAD, PAD, PAD, PAD, END, START, PAD, END]])
    assert model(good, patches, grids).logits.shape == (1, 10, 261)
    with pytest.raises(PlaceholderError, match=r"4 placeholders, but 2 pictures give 5"):
        model(good[:, :7], patches, grids)
    with pytest.raises(PlaceholderError, match="0 pictures give 0"):
        model(good)
    # The right number in the wrong places: one row has what the other lacks.
    swapped = torch.tensor([[PAD, 5, 5, 5], [PAD, PAD, PAD, PAD]])
    with pytest.raises(PlaceholderError, match="picture 0 do not stand side by side"):
        model(swapped, patches, grids)
    assert issubclass(PlaceholderError, ValueError)
    # Padding that looks like a placeholder is none.
    padded = torch.cat([good, good.new_full((1, 2), PAD)], 1)
    model(padded, patches, grids, lengths=torch.tensor([10]))


def test_projector_norms_each_patch_and_has_the_exact_gelu():
    generator = torch.Generator().manual_seed(3)
    part = Projector(6, 4, 5, dtype=torch.float64)
    for p in part.parameters():
        p.data = torch.randn(p.shape, generator=generator, dtype=torch.float64)
    x = torch.randn(7, 4, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    norm = (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    norm = norm * part.pre_norm.weight + part.pre_norm.bias
    inner = norm.reshape(7, 24) @ part.linear_1.weight.T + part.linear_1.bias
    outer = inner * (1 + torch.erf(inner / 2**0.5)) / 2
    wanted = outer @ part.linear_2.weight.T + part.linear_2.bias
    torch.testing.assert_close(part(x), wanted, rtol=1e-12, atol=1e-12)
    assert torch.autograd.gradcheck(part, (x,))
    # What the oracle must tell apart: the tower's gelu, and a norm over all four patches.
    other = functional.gelu(inner, approximate="tanh") @ part.linear_2.weight.T
    assert (other + part.linear_2.bias - wanted).abs().max() > 1e-4


def greedy(model: KimiVL, prompt: tuple, most: int) -> list[int]:
    """The most likely tokens, everything computed anew for each."""
    rows = rows_of([Document(prompt)], model.config, model.processor, model.tokenizer,
                   model.device, ended=False)  # fmt: skip
    ids, found = rows.input_ids, []
    for _ in range(most):
        with torch.no_grad():
            scores = model(ids, rows.patches, rows.grid_hws).logits[0, -1]
        scores[[0, START, END, PAD]] = -torch.inf
        token = int(scores.argmax())
        if token == 1:
            break
        found.append(token)
        ids = torch.cat([ids, torch.tensor([[token]])], 1)
    return found


def test_texts_are_those_without_a_cache_and_a_row_does_not_depend_on_the_batch():
    model = small()
    prompts = [(drawn(8, 8),), ("what is", drawn(5, 13), drawn(2, 2), "?"), ("tell me",)]
    model.train()
    found = model.generate(prompts, max_new_tokens=9)
    assert model.training
    model.eval()
    for prompt, one in zip(prompts, found, strict=True):
        assert one.parts == (model.tokenizer.decode(greedy(model, prompt, 9)),)
        assert model.generate([prompt], max_new_tokens=9) == [one]
    assert model.describe([prompts[0][0]], max_new_tokens=9) == [found[0].text]
    asked = model.describe([drawn(8, 8)], "how?", max_new_tokens=3)
    assert asked == [model.generate([(drawn(8, 8), "how?")], max_new_tokens=3)[0].text]
    assert model.generate([]) == []


def test_draws_depend_on_seed_and_row_and_end_at_eos():
    model = small()
    prompts = [("a",), ("b", drawn(8, 8)), ("c",)]
    options = {"max_new_tokens": 12, "temperature": 1.0}
    one = model.generate(prompts, seed=1, **options)
    assert one == model.generate(prompts, seed=1, **options)
    assert one[:2] == model.generate(prompts[:2], seed=1, **options)
    assert one != model.generate(prompts, seed=2, **options)
    same = model.generate([("a",)] * 3, seed=1, **options)
    assert len({page.text for page in same}) > 1
    assert model.generate(prompts, temperature=1.0, top_p=0.0, max_new_tokens=5) == model.generate(
        prompts, max_new_tokens=5
    )
    with torch.no_grad():
        model.language_model.lm_head.weight.zero_()
        model.language_model.model.norm.weight.zero_()
    # All scores alike: the first token that is allowed is the end.
    assert [page.text for page in model.generate(prompts, max_new_tokens=5)] == ["", "", ""]


def test_what_cannot_be_done_is_told():
    model = small()
    for options in ({"pictures": "one"}, {"guidance": 2.0}, {"size": (8, 8)}):
        with pytest.raises(ValueError, match="does not draw"):
            model.generate([("a",)], **options)
    with pytest.raises(ValueError, match="does not draw"):
        model.draw(["a"])
    with pytest.raises(ValueError, match="max_new_tokens=0"):
        model.generate([("a",)], max_new_tokens=0)
    with pytest.raises(ValueError, match="temperature=-1"):
        model.generate([("a",)], temperature=-1)
    with pytest.raises(ValueError, match="no document"):
        model.losses([])
    with pytest.raises(ValueError, match="takes 202 tokens"):
        model.losses([Document(("x" * 200,))])
    model.tokenizer = Tokenizer.train(["aa"] * 9, 300)
    model.tokenizer.add_tokens([f"<{i}>" for i in range(9)])
    with pytest.raises(ValueError, match="the model 261"):
        model.losses(PAGES)
    model.tokenizer = None
    with pytest.raises(ValueError, match="no tokenizer"):
        model.losses(PAGES)


def test_a_tokenizer_sets_the_vocabulary():
    tokenizer = Tokenizer.train(["a handwritten seven"] * 9, 290)
    model = KimiVL.from_config("digits", tokenizer=tokenizer)
    config = model.config
    assert config.text_config.vocab_size == len(tokenizer)
    assert tokenizer.id_of("<|media_pad|>") == config.media_placeholder_token_id
    assert tokenizer.id_of("<|media_content|>") is None
    assert model.losses(PAGES[:1]).text_count < 7 + 1
    # The published form has the word "image" and a token behind it.
    other = KimiVL.from_config("digits", tokenizer=tokenizer, media_content_token_id=2)
    page = Document((drawn(4, 4), "b"))
    rows = rows_of([page], other.config, other.processor, tokenizer, other.device)
    word = tokenizer.encode("image", bos=False)
    head = [0, config.media_start_token_id, *word, 2, config.media_placeholder_token_id]
    assert rows.input_ids[0].tolist()[: len(head)] == head


@pytest.mark.parametrize("part", ["vision", "projector", "language", "head"])
def test_frozen_parts_get_no_gradient_and_others_do(part):
    model = small().train()
    names = [n for n, _ in model.named_parameters() if n.startswith(tuple(model.parts()[part]))]
    assert names
    model.freeze(part)
    model.losses(PAGES[:2]).total.backward()
    for name, p in model.named_parameters():
        assert (p.grad is None) == (name in names), name
    router = model.language_model.model.layers[1].mlp.gate
    before = router.e_score_correction_bias.clone()
    assert model.after_step()["expert_load"] >= 1
    assert torch.equal(before, router.e_score_correction_bias) == (part == "language")
    model.freeze(part, frozen=False)
    assert all(p.requires_grad for p in model.parameters())
    with pytest.raises(ValueError, match="none of vision"):
        model.freeze("eyes")


def test_routers_are_balanced_by_load_and_padding_is_sent_nowhere():
    model = small(balance_rate=0.25).train()
    rows = rows_of(PAGES, model.config, model.processor, model.tokenizer, model.device)
    model.losses(PAGES)
    loads = model.expert_loads()
    assert loads.shape == (1, 3)
    assert int(loads.sum()) == 2 * int(rows.lengths.sum())
    bias = model.language_model.model.layers[1].mlp.gate.e_score_correction_bias
    line = model.after_step()
    assert line["expert_load"] == pytest.approx(float(loads.max() / loads.double().mean()))
    assert torch.equal(bias, 0.25 * torch.sign(loads.double().mean() - loads)[0].float())
    assert model.after_step() == {}
    assert model.expert_loads() is None
    # The bias chooses and does not weigh: all biases alike, the same output.
    model.eval()
    with torch.no_grad():
        bias.zero_()
        before = float(model.losses(PAGES).total)
        bias.fill_(3.0)
        assert float(model.losses(PAGES).total) == pytest.approx(before, rel=1e-6)
    even = small(text={"router_aux_loss_coef": 0.01}).train()
    found = even.losses(PAGES)
    assert 0.009 * found.count < float(found.others["balance"].detach()) < 0.03 * found.count


def test_rates_of_parts_and_muon_for_hidden_matrices_alone():
    model = small()
    rates = {"vision_tower.": 0.1, "multi_modal_projector.": 0.5}
    optimizer = make_optimizer(model, "adamw", lr=1e-2, rates=rates)
    found = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    for name, p in model.named_parameters():
        share = next((x for start, x in rates.items() if name.startswith(start)), 1.0)
        assert found[id(p)] == pytest.approx(1e-2 * share), name
    muon = make_optimizer(model, "muon", lr=1e-2)
    hidden = {id(p) for g in muon.param_groups if not g["adamw"] for p in g["params"]}
    for name, p in model.named_parameters():
        outer = p.ndim < 2 or "patch_embed" in name or "embed_tokens" in name or "lm_head" in name
        assert (id(p) in hidden) is not outer, name
    model.freeze("vision")
    left = make_optimizer(model, "muon", lr=1e-2)
    assert not {id(p) for g in left.param_groups for p in g["params"]} & {
        id(p) for p in model.vision_tower.parameters()
    }


def test_longer_texts_by_the_base_of_the_angles():
    model = small()
    longer = model.lengthened(4)
    text = longer.config.text_config
    assert text.rope_theta == 40000.0
    assert text.max_position_embeddings == 512
    for name, p in model.named_parameters():
        assert dict(longer.named_parameters())[name] is p
    assert longer.losses([Document(("x" * 400,))]).text_count == 401
    old = torch.tensor(model.language_model.model.layers[0].self_attn.rotary.frequencies)
    new = torch.tensor(longer.language_model.model.layers[0].self_attn.rotary.frequencies)
    # The fastest pair stays, pair i slows down by c to the power 2 i / R.
    torch.testing.assert_close(new, old * 4.0 ** -torch.tensor([0.0, 0.5]).to(old.dtype))
    with pytest.raises(ValueError, match=r"factor=0\.5"):
        model.lengthened(0.5)


def test_short_texts_are_read_as_before_after_the_base_has_grown():
    """A small training: dark or light, told in words, with the old base and the new ones."""
    model = small().train()
    rng = np.random.default_rng(0)
    pictures = [rng.integers(low, low + 60, (8, 8)).astype(np.uint8) for low in (0, 190) * 12]
    words = ["it is dark", "it is light"] * 12
    pages = [Document(pair, (False, True)) for pair in zip(pictures, words, strict=True)]
    optimizer = make_optimizer(model, "adamw", lr=1e-2)
    for _ in range(30):
        losses = model.losses(pages[:8])
        optimizer.zero_grad()
        (losses.total / losses.count).backward()
        optimizer.step()
        model.after_step()
    for factor in (1, 4, 16):
        found = model.lengthened(factor).describe(pictures[16:], max_new_tokens=16)
        assert found == words[16:], factor


def test_half_precision_runs():
    model = small(dtype=torch.bfloat16)
    found = model.losses(PAGES)
    wanted = float(small().losses(PAGES).total.detach())
    assert float(found.total.detach()) == pytest.approx(wanted, rel=0.05)
    found.total.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())
    assert len(model.generate([("a", drawn(8, 8))], max_new_tokens=3)) == 1
