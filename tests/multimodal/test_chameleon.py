"""Chameleon: words of codes, losses, generation, files, against what is computed by hand."""

import json

import numpy as np
import pytest
import torch

from paragone.language import Tokenizer
from paragone.multimodal import Chameleon, ChameleonConfig, Document, ImageTokenizer, open_model
from paragone.multimodal._chameleon_blocks import HeadNorm
from paragone.multimodal._chameleon_decode import Choice, continue_rows
from paragone.multimodal._chameleon_documents import rows_of, strayed
from paragone.multimodal._chameleon_prompts import as_prompts, thinned
from paragone.multimodal._chameleon_sampling import draw_tokens, guided, penalised, uniforms
from paragone.multimodal._chameleon_words import CodeTable, code_of, code_word, published_words
from paragone.training import Muon

VQ = {
    "resolution": 4, "in_channels": 1, "base_channels": 8, "channel_multiplier": (1, 1),
    "num_res_blocks": 1, "latent_channels": 4, "embed_dim": 4, "num_embeddings": 8,
    "norm_groups": 4,
}  # fmt: skip
SIZES = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
    "max_position_embeddings": 64, "vq_config": VQ,
}  # fmt: skip
NOISE = np.random.default_rng(0)
PICTURES = [NOISE.integers(0, 256, (4, 4, 1), dtype=np.uint8) for _ in range(3)]


def made(seed=0, scale=12.0, **changes):
    """A model whose logits are far from flat."""
    model = Chameleon.from_config(
        {**SIZES, **changes}, tokenizer=Tokenizer.train([], 258),
        generator=torch.Generator().manual_seed(seed),
    ).eval()  # fmt: skip
    with torch.no_grad():
        model.lm_head.weight.mul_(scale)
        for block in model.model.layers:
            for norm in (block.self_attn.q_norm, block.self_attn.k_norm):
                if isinstance(norm, HeadNorm):
                    noise = torch.Generator().manual_seed(seed + 1)
                    norm.weight.normal_(1.0, 0.3, generator=noise)
                    norm.bias.normal_(0.0, 0.3, generator=noise)
    return model


PAGES = [
    Document(("ab", PICTURES[0]), (False, True)),
    Document((PICTURES[1], "cde")),
    Document(("x", PICTURES[2], PICTURES[0], "y"), (True, False, True, False)),
    Document(("",)),
]


def test_all_codes_have_a_word_and_come_back():
    words = published_words()
    table = CodeTable(words, 8192, 65536)
    codes = torch.arange(8192)
    assert [code_of(code_word(code)) for code in range(8192)] == codes.tolist()
    assert table.codes_of(table.tokens_of(codes)).equal(codes)
    assert (words["<eoss>"], words["<racm3:break>"], words["<reserved08706>"]) == (8196, 8197, 8710)
    assert code_word(8191) == "IMGIMGIBJBZ"
    for other in ("IMGIMGZ", "IMGIMGKZ", "IMGIMGA", "xIMGIMGAZ", "IMGIMGAZ "):
        assert code_of(other) is None


def test_the_order_of_words_does_not_matter():
    places = np.random.default_rng(1).permutation(500)[:64]
    table = CodeTable({code_word(c): int(places[c]) for c in range(64)}, 64, 500)
    codes = torch.arange(64).view(2, 4, 8)
    assert table.codes_of(table.tokens_of(codes)).equal(codes)
    assert table.ids.tolist() == places.tolist()
    with pytest.raises(ValueError, match=r"is no code of a picture"):
        table.codes_of(torch.tensor([int(np.setdiff1d(np.arange(500), places)[0])]))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ({"IMGIMGAZ": 1}, r"words for 1 codes, and the image tokenizer has 2; the first without"),
        ({"IMGIMGAZ": 1, "IMGIMGBZ": 9}, r"IMGIMGBZ is token 9; the vocabulary has 9"),
        ({"IMGIMGAZ": 1, "IMGIMGBZ": 1}, r"two codes have one token"),
        ({"IMGIMGAZ": 1, "IMGIMGBZ": 2, "IMGIMGAAZ": 3}, r"code 0 has two words"),
    ],
    ids=["missing", "out", "same", "twice"],
)
def test_broken_words(words, told):
    with pytest.raises(ValueError, match=told):
        CodeTable(words, 2, 9)


@pytest.mark.parametrize(("name", "tensors", "numbers"), [
    # By the published sizes: 2 V M + L (2 M^2 + 2 M G D + 3 M F + 2 M + 2 (H + G) D) + M.
    ("chameleon-7b", 32 * 13 + 3, 7_013_666_816),
    ("chameleon-34b", 48 * 13 + 3, 34_294_308_864),
])  # fmt: skip
def test_published_sizes_build_without_memory(name, tensors, numbers):
    model = Chameleon.from_config(name, device="meta", vq_config={"decoder": False})
    state = model.state_dict()
    own = {n: x.shape for n, x in state.items() if not n.startswith("model.vqmodel.")}
    assert len(own) == tensors
    assert all(x.is_meta for x in state.values())
    assert sum(x.numel() for x in own.values()) == numbers
    # Names and shapes as transformers' ChameleonForConditionalGeneration has them; test_*_peers
    # compares all of them at a small size.
    heads, width = model.config.num_attention_heads, model.config.hidden_size
    assert own["model.layers.5.self_attn.q_norm.bias"] == (heads, 128)
    assert own["model.layers.5.self_attn.k_norm.weight"] == (model.config.kv_heads, 128)
    assert own["lm_head.weight"] == own["model.embed_tokens.weight"] == (65536, width)
    assert state["model.vqmodel.quantize.embedding.weight"].shape == (8192, 256)
    assert model.config.picture_tokens == 1024


def test_norms_of_heads_are_layer_norms_of_their_own():
    norm = HeadNorm(3, 5, dtype=torch.float64)
    noise = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for x in norm.parameters():
            x.normal_(generator=noise)
    x = torch.randn(2, 7, 3, 5, dtype=torch.float64, generator=noise) + 2
    for head in range(3):
        wanted = torch.nn.functional.layer_norm(
            x[:, :, head], (5,), norm.weight[head], norm.bias[head], 1e-5
        )
        assert torch.allclose(norm(x)[:, :, head], wanted, atol=1e-12)
    assert torch.autograd.gradcheck(norm, (x[:1, :2].requires_grad_(),))


def test_losses_are_those_of_all_logits():
    model = made().double()
    found = model.losses(PAGES)
    sums = dict.fromkeys(("text", "image", "z_text", "z_image"), 0.0)
    counts = dict.fromkeys(("text", "image"), 0)
    for row in rows_of(model, PAGES):
        logits = model(torch.tensor([row.ids])).logits[0]
        for at in range(1, len(row.ids)):
            if not row.learned[at]:
                continue
            kind = "image" if model.codes[row.ids[at]] >= 0 else "text"
            log_z = float(logits[at - 1].detach().logsumexp(0))
            sums[kind] += log_z - float(logits[at - 1, row.ids[at]].detach())
            sums[f"z_{kind}"] += 1e-5 * log_z**2
            counts[kind] += 1
    told = {"text": found.text, "image": found.image, **found.others}
    for name, value in told.items():
        assert float(value.detach()) == pytest.approx(sums[name], rel=1e-9), name
    assert (found.text_count, found.image_count) == (counts["text"], counts["image"]) == (13, 12)
    assert float(found.total.detach()) == pytest.approx(sum(sums.values()), rel=1e-9)
    found.total.backward()
    trained = {n for n, x in model.named_parameters() if x.requires_grad}
    assert trained == {n for n, x in model.named_parameters() if x.grad is not None}
    assert not any(name.startswith("model.vqmodel") for name in trained)


def test_documents_do_not_see_each_other():
    model = made()
    with torch.no_grad():
        alone = [model.losses([one]) for one in PAGES]
        packed = model.losses(PAGES)
        assert float(packed.total) == pytest.approx(float(sum(x.total for x in alone)), rel=1e-5)
        rows = rows_of(model, PAGES)
        lengths = torch.tensor([len(row.ids) for row in rows])
        ids = torch.tensor([[id for row in rows for id in row.ids]])
        first = model(ids, lengths=lengths).logits[0, : lengths[0]]
        ids[0, lengths[0] :] = 5
        assert model(ids, lengths=lengths).logits[0, : lengths[0]].equal(first)
    assert packed.count == sum(one.count for one in alone)


def test_rows_of_tokens():
    model = made()
    config, row = model.config, rows_of(model, [PAGES[0]])[0]
    a, b = model.tokenizer.encode("ab", bos=False)
    codes = model.image_tokenizer.encode([PICTURES[0]]).flatten()
    inner = model.words.tokens_of(codes).tolist()
    assert row.ids == [
        config.bos, a, b, config.begin_image, *inner, config.end_image, config.eos,
    ]  # fmt: skip
    assert row.learned == [False] * 3 + [True] * 7
    assert rows_of(model, [PAGES[2]])[0].learned[-2:] == [False, False], (
        "the end goes with the last"
    )
    stranger = rows_of(model, [("</s><racm3:break>",)])[0].ids[1:-1]
    assert not {config.eos, config.begin_image} & set(stranger), "texts hold no markers"


def test_text_is_what_is_no_code_and_no_marker():
    model = made()
    words = {**model.config.vocabulary_map, "<reserved00001>": 99, "<": 98}
    model.config = model.config.replace(vocabulary_map=words, vocab_size=model.config.vocab_size)
    text = model.grammar().table[0]
    assert not text[model.words.ids].any()
    assert not text[[0, 99, model.config.begin_image, model.config.end_image]].any()
    assert text[[98, 97, model.config.eos]].all()


def test_pictures_are_encoded_once(monkeypatch):
    model, asked = made(), []
    encode = model.image_tokenizer.encode
    monkeypatch.setattr(
        model.image_tokenizer, "encode", lambda found: asked.append(len(found)) or encode(found)
    )
    both = model.codes_of([PICTURES[0], PICTURES[0], PICTURES[1]])
    assert both[0] == both[1]
    assert model.codes_of([PICTURES[1]]) == both[2:]
    assert asked == [2]
    with torch.no_grad():
        model.image_tokenizer.quantize.embedding.weight.neg_()
    assert model.codes_of(PICTURES[:1]) == encode(PICTURES[:1]).flatten(1).tolist()
    assert asked == [2, 1], "other weights, other codes"


def test_dropout_is_in_the_branches_and_off_in_evaluation():
    model = made(dropout=0.5)
    with torch.no_grad():
        still = model.losses(PAGES).total
        assert model.losses(PAGES).total.equal(still)
        block = model.model.layers[0].train()
        x = torch.ones(1, 1, 16)
        branches = [block(x, None, None, None)[0] - x for _ in range(8)]
    assert any(not one.equal(branches[0]) for one in branches[1:])
    model.train()
    assert not model.image_tokenizer.training


@pytest.mark.parametrize("behind", [False, True])
def test_the_order_of_norms(behind):
    model = made(swin_norm=behind)
    block = model.model.layers[0]
    x = torch.randn(1, 5, 16, generator=torch.Generator().manual_seed(3))
    attend = lambda x: block.self_attn(x)[0]  # noqa: E731
    first, second = block.input_layernorm, block.post_attention_layernorm
    if behind:
        h = x + first(attend(x))
        wanted = h + second(block.mlp(h))
    else:
        h = x + attend(first(x))
        wanted = h + block.mlp(second(h))
    assert torch.allclose(block(x, None, None, None)[0], wanted, atol=1e-6)


def by_hand(model, prompt, place, mode, left, choice):
    """A row continued without caches: three readings, written out anew for each token."""
    grammar, config = model.grammar(), model.config
    ids, state, step = list(prompt), grammar.start(mode, [left]), 0
    while not bool(state.done):
        opened = max((at for at, id in enumerate(ids) if id == config.begin_image), default=0)
        pictures = [ids[0], *(id for id in ids[1:] if model.codes[id] >= 0
                              or id in (config.begin_image, config.end_image))]  # fmt: skip
        readings = [model(torch.tensor([x])).logits[0, -1:]
                    for x in (ids, pictures, [ids[0], *ids[opened:]])]  # fmt: skip
        seen = torch.zeros_like(readings[0], dtype=torch.bool)
        seen[0, ids] = True
        logits = penalised(readings[0], seen, choice.repetition_penalty)
        if bool(state.drawing):
            logits = guided(*readings, choice.text_guidance, choice.image_guidance)
        draws = torch.from_numpy(uniforms(choice.seed, np.array([place]), step))
        tokens = draw_tokens(
            logits, grammar.allowed(state), choice.temperature, choice.top_p, draws
        )
        state, step = grammar.advance(state, tokens), step + 1
        ids += tokens.tolist()
    return ids[len(prompt) :]


@pytest.mark.parametrize(("mode", "guidance"), [("free", 2.5), ("one", 3.0), ("none", 1.0)])
def test_generation_is_the_readings_written_out(mode, guidance):
    model = made()
    with torch.no_grad():
        # Markers often, ends seldom: rows write, draw and write again.
        model.lm_head.weight[model.config.begin_image] *= 10
    prompts = [row.ids for row in rows_of(
        model, [("ab", PICTURES[0]), ("q",), (PICTURES[1], PICTURES[2], "c"), ("",)], ended=False,
    )]  # fmt: skip
    choice = Choice(1.0, 0.95, guidance, 1.4, 1.3, seed=5)
    left = [6] * 4 if mode == "one" else [21, 5, 14, 0]
    found = continue_rows(model, model.grammar(), prompts, mode, left, choice)
    with torch.no_grad():
        wanted = [by_hand(model, row, at, mode, left[at], choice) for at, row in enumerate(prompts)]
    assert found == wanted
    if mode == "free":
        assert sum(row.count(model.config.begin_image) for row in found) >= 2
        assert found[3] == []


def test_a_row_does_not_depend_on_its_batch():
    model = made()
    prompts = [("a",), (PICTURES[0], "bc"), ("d", PICTURES[1])]
    options = {"pictures": "free", "max_new_tokens": 12, "temperature": 1.0, "seed": 3}
    together = model.generate(prompts, **options)
    alone = model.generate(prompts[:1], **options)[0]
    assert same(together[0], alone)
    assert all(map(same, model.generate(prompts[:2], **options), together[:2]))
    other = model.generate(prompts, **{**options, "seed": 4})
    assert not all(map(same, other, together))


def same(one, other):
    return len(one.parts) == len(other.parts) and all(
        np.array_equal(a, b) for a, b in zip(one.parts, other.parts, strict=True)
    )


def test_what_generation_returns():
    model = made()
    drawn = model.draw(["a", "b"], temperature=0.7, top_p=0.9)
    assert [x.shape for x in drawn] == [(4, 4, 1)] * 2
    assert drawn[0].dtype == np.uint8
    assert all(isinstance(text, str) for text in model.describe(PICTURES, "what", max_new_tokens=4))
    one = model.generate("see <image> and <image>", PICTURES[:2], max_new_tokens=9)
    assert isinstance(one, Document)
    assert model.generate([], pictures="one") == []
    assert model.generate([("a",)], max_new_tokens=0)[0].parts == ("",)
    assert model.training is False


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"pictures": "one", "size": (8, 8)}, r"draws 4 x 4 pixels"),
        ({"temperature": -1.0}, r"temperature=-1"),
        ({"top_p": 0.0}, r"top_p=0"),
        ({"guidance": float("nan")}, r"text_guidance=nan"),
        ({"repetition_penalty": 0.0}, r"repetition_penalty=0"),
        ({"max_new_tokens": -1}, r"max_new_tokens=-1"),
        ({"images": PICTURES}, r"images go with one text"),
        ({"pictures": "two"}, r"pictures='two' is none of"),
    ],
    ids=lambda x: next(iter(x)) if isinstance(x, dict) else "",
)
def test_options_out_of_range(options, told):
    with pytest.raises(ValueError, match=told):
        made().generate([("a",)], **options)


def test_too_long_and_too_little():
    model = made()
    with pytest.raises(ValueError, match=r"a prompt has 71 tokens; max_position_embeddings=64"):
        model.generate([("a" * 70,)])
    with pytest.raises(ValueError, match=r"a document has 72 tokens"):
        model.losses([Document(("a" * 70,))])
    with pytest.raises(ValueError, match=r"3 tokens are left, and a picture takes 6"):
        model.draw(["a" * 60])
    with pytest.raises(ValueError, match=r"there is no document"):
        model.losses([])
    model.tokenizer = None
    with pytest.raises(ValueError, match=r"the model has no tokenizer"):
        model.losses(PAGES)


def test_places_of_pictures_in_a_text():
    assert [type(x) for x in as_prompts("a", PICTURES[:1])] == [np.ndarray, str]
    assert as_prompts("<image><image>", PICTURES[:2])[1].shape == (4, 4, 1)
    assert as_prompts("", None) == [""]
    with pytest.raises(ValueError, match=r"2 places <image> for 1 images"):
        as_prompts("<image>a<image>", PICTURES[:1])


def test_texts_are_left_out_before_learned_pictures_alone():
    with torch.random.fork_rng():
        kept = thinned(PAGES, 0.999999)
    assert [len(one.parts) for one in kept] == [1, 2, 3, 1]
    assert kept[2].learned == (False, True, False)
    assert kept[1] is PAGES[1]


def test_codes_that_are_read_stray_to_near_ones():
    model = made()
    rows = rows_of(model, PAGES)
    book = model.image_tokenizer.quantize.embedding.weight.detach()
    near = torch.cdist(book, book).argsort(1)[:, :6]
    with torch.random.fork_rng():
        found = [strayed(model, rows, 0.999999) for _ in range(20)]
        assert strayed(model, rows, 0.0) == rows
    changed = 0
    for one in found:
        for before, after in zip(rows, one, strict=True):
            assert after.learned == before.learned
            for old, new, learned in zip(before.ids, after.ids, before.learned, strict=True):
                code = int(model.codes[old])
                assert old == new or (not learned and int(model.codes[new]) in near[code].tolist())
                changed += old != new
    assert changed > 40, "four codes of one picture, most of them"


def test_files_come_back(tmp_path):
    model = made(qk_norm=False, tie_word_embeddings=True, text_dropout=0.25)
    model.save_pretrained(tmp_path)
    back = open_model(tmp_path)
    assert back.config == model.config
    assert isinstance(back, Chameleon)
    assert back.lm_head.weight is back.model.embed_tokens.weight
    with torch.no_grad():
        assert back.losses(PAGES).total.equal(model.losses(PAGES).total)
    assert same(*(x.generate([("a",)], pictures="one")[0] for x in (model, back)))
    assert not back.training
    assert not back.image_tokenizer.quant_conv.weight.requires_grad


def test_shards_and_a_decoder_from_elsewhere(tmp_path):
    from paragone.multimodal._chameleon_files import save

    model = made()
    whole = model.image_tokenizer
    model.image_tokenizer = half_of(whole)
    save(model, tmp_path, shard_bytes=4000)
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    assert not Chameleon.from_pretrained(tmp_path).config.vq_config.decoder
    back = Chameleon.from_pretrained(tmp_path, image_tokenizer=whole)
    assert back.draw(["a"])[0].shape == (4, 4, 1)
    save(model, tmp_path)
    assert [x.name for x in tmp_path.glob("model*")] == ["model.safetensors"]
    with pytest.raises(ValueError, match=r"8 codes and 4 x 4 cells; 8 and 2 x 2 are expected"):
        model.image_tokenizer = ImageTokenizer.from_config({**VQ, "resolution": 8})


def half_of(whole):
    half = ImageTokenizer(whole.config.replace(decoder=False))
    state = {n: x for n, x in whole.state_dict().items() if not n.startswith("decoder.")}
    half.load_state_dict(state)
    return half


def test_files_that_do_not_fit(tmp_path):
    with pytest.raises(ValueError, match=r"no such file; the folder of a Chameleon is expected"):
        Chameleon.from_pretrained(tmp_path)
    made().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    raw = json.loads(path.read_text())
    for changes, told in (
        ({"num_hidden_layers": 1, "intermediate_size": 32}, r"(?s)16 tensors do not fit.*shape"),
        ({"model_type": "llama"}, r"model_type='llama', 'chameleon' is expected"),
        ({"rope_parameters": {"rope_type": "yarn"}}, r"rope_type='yarn'"),
        ({"vocabulary_map": {"<s>": 0}}, r"vocabulary_map has </s>: None"),
    ):
        path.write_text(json.dumps({**raw, **changes}))
        with pytest.raises(ValueError, match=told):
            Chameleon.from_pretrained(tmp_path)


def test_what_is_trained_and_how():
    model = made()
    parts, named = model.parts(), [name for name, _ in model.named_parameters()]
    for name in named:
        held = [k for k, starts in parts.items() if any(name.startswith(s) for s in starts)]
        assert len(held) == 1, name
    groups = {g["name"]: g["params"] for g in Muon.split(model)}
    hidden = {id(p) for p in groups["hidden"]}
    told = {name.split(".")[-2] for name, p in model.named_parameters() if id(p) in hidden}
    assert told == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def test_codes_that_are_near_begin_near():
    vq = ImageTokenizer.from_config("digits", generator=torch.Generator().manual_seed(0))
    model = Chameleon.from_config(
        "digits", image_tokenizer=vq, generator=torch.Generator().manual_seed(1)
    )
    book = vq.quantize.embedding.weight.detach()
    book = book - book.mean(0)
    apart = torch.pdist(book)
    for table in (model.model.embed_tokens.weight, model.lm_head.weight):
        rows = table.detach()[model.words.ids]
        assert torch.corrcoef(torch.stack([apart, torch.pdist(rows)]))[0, 1] > 0.5
        assert rows.std() == pytest.approx(0.02, rel=0.15)
        assert table.detach()[:256].std() == pytest.approx(0.02, rel=0.05)


def test_watched_sizes():
    plain, model = made(qk_norm=False), made()
    with torch.no_grad():
        for one in (plain, model):
            for block in one.model.layers:
                block.self_attn.q_proj.weight.mul_(90)
                block.self_attn.k_proj.weight.mul_(90)
    seen, held = plain.watched(PAGES), model.watched(PAGES)
    assert seen["score"] > 50 > held["score"], "norms of heads bound the scores"
    for one in (plain, model):
        ids = torch.tensor([rows_of(one, PAGES[2:3])[0].ids])
        logits = one(ids).logits.detach()
        told = one.watched(PAGES[2:3])
        assert told["logit"] == pytest.approx(float(logits.abs().max()), rel=1e-5)
        assert told["log_z"] == pytest.approx(float(logits.logsumexp(-1).mean()), rel=1e-5)
        assert told["stream"] > 0


def test_configurations():
    config = ChameleonConfig.make("digits", dropout=0.2, vq_config={"num_embeddings": 32})
    assert (config.dropout, config.vq_config.num_embeddings, config.picture_tokens) == (0.2, 32, 16)
    assert ChameleonConfig.make(config.to_dict()) == config
    for changes, told in (
        ({"hidden_size": 97}, r"hidden_size=97 is no multiple"),
        ({"num_key_value_heads": 3}, r"no multiple of num_key_value_heads=3"),
        ({"dropout": 1.0}, r"dropout=1.0"),
        ({"z_loss": -1.0}, r"z_loss=-1.0"),
        ({"heads": 3}, r"heads: no field"),
    ):
        with pytest.raises(ValueError, match=told):
            config.replace(**changes)
    with pytest.raises(ValueError, match=r"config='huge' is none of"):
        Chameleon.from_config("huge")
    with pytest.raises(ValueError, match=r"float32 of shape \(3,\); integers"):
        made()(torch.zeros(3))
