"""The trunk of lossless pictures: who sees whom, plain text, losses, heads, what is wrong."""

from typing import Any

import numpy as np
import pytest
import torch
from tests.multimodal.lossless_models import page, pixels, small, words

from paragone.multimodal import Document, LosslessTransformer
from paragone.multimodal._lossless_flow import FlowHead
from paragone.multimodal._lossless_rows import BLOCK, visible
from paragone.training import Muon

HEADS: dict[str, dict[str, Any]] = {
    "flow": {"copies": 2},
    "mar": {"hidden": 16, "depth": 1},
    "expanded": {},
    "vq": {"codes": 8},
    "mse": {"hidden": 16},
}


def kinds(model: LosslessTransformer, document: Document) -> list[tuple[str, int, int, bool]]:
    """(kind, number of the part, copy, alone) of each row, from the document alone."""
    config, found = model.config, [("text", -1, 0, False)]
    scribe = model.written(document, torch.Generator().manual_seed(7), train=True)
    alone = [one.alone for one, _, _ in scribe.take().pictures]
    for number, part in enumerate(document.parts):
        if isinstance(part, str):
            count = len(model.tokenizer.encode(part, bos=False))
            found += [("text", number, 0, False)] * count
            continue
        found.append(("text", number, 0, False))
        flags, n = alone.pop(0), part.size // config.patch_size**2
        for copy in range(len(flags) // n):
            kind = "clean" if copy == len(flags) // n - 1 else "noisy"
            found += [(kind, number, copy, bool(flags[copy * n]))] * n
        found.append(("text", number, 0, False))
    return [*found, ("text", len(document.parts), 0, False)]


def sees(rows: list[tuple[str, int, int, bool]], i: int, j: int) -> bool:
    """The rule in words."""
    mine, other = rows[i], rows[j]
    if mine[0] != "text" and mine[:3] == other[:3]:
        return True
    if other[0] == "noisy":
        return False
    if mine[3]:
        return j == 0
    if mine[0] != "text" and other[0] == "clean" and other[1] == mine[1]:
        return False
    return j <= i


@pytest.mark.parametrize("seed", [0, 1])
def test_who_sees_whom_is_the_rule_in_words(seed: int) -> None:
    model = small(head_options={"copies": 3, "drop": 0.5})
    document = page("a dark square", pixels(0), pixels(1, 2, 2), "a", pixels(2), "square")
    rows = kinds(model, document)
    batch, _ = model.lay([document], seeds=[7])
    found = visible(batch.marks, batch.marks)[0, 0]
    wanted = torch.tensor([[sees(rows, i, j) for j in range(len(rows))] for i in range(len(rows))])
    assert torch.equal(found, wanted)
    assert any(row[3] for row in rows)
    assert any(row[0] == "noisy" and not row[3] for row in rows)
    # Planted: two pictures in one block would see each other.
    planted = batch.marks.clone()
    clean = [i for i, row in enumerate(rows) if row[0] == "clean"]
    planted[0, BLOCK, clean] = int(planted[0, BLOCK, clean[0]])
    assert not torch.equal(visible(planted, planted)[0, 0], wanted)


def test_adjacent_pictures_see_nothing_of_each_others_future() -> None:
    model = small()
    states = []
    for seed in (1, 2):
        document = page("a", pixels(0), pixels(seed), learned=(False, False, False))
        batch, _ = model.lay([document], seeds=[0])
        states.append(model(batch)[0])
    first, second = (len(batch.rows[i]) for i in range(2))
    until = 2 + 1 + first + 2
    assert batch.ids.shape[1] == until + second + 2
    assert torch.equal(states[0][:until], states[1][:until])
    assert not torch.allclose(states[0][until:], states[1][until:])


def test_nobody_sees_noise_and_documents_of_a_line_do_not_see_each_other() -> None:
    model = small(head_options={"copies": 2, "drop": 0.0})
    drawn = page("a dark square", pixels(0), "a")
    read = page(pixels(1), "square", learned=(False, True))
    batch, _ = model.lay([drawn, read, read], seeds=[0, 1, 2])
    assert len(batch.ids) == 2
    assert {int(one) for one in batch.marks[1, 0] if one >= 0} == {1, 2}
    before = model(batch)
    noisy = batch.time > 0
    inputs = batch.inputs.clone()
    batch.inputs[noisy] += 1.0
    after = model(batch)
    same = (before == after).all(-1).flatten()
    assert set(torch.nonzero(~same)[:, 0].tolist()) == set(batch.dest[noisy].tolist())
    batch.inputs = inputs
    third = batch.where[2]
    batch.ids[third[0], third[1]] = 5
    changed = (model(batch) != before).any(-1)
    assert set(batch.marks[:, 0][changed].tolist()) == {2}


@pytest.mark.parametrize("scheme", ["rope-tv", "m-rope"])
@pytest.mark.parametrize(
    "text",
    [{}, {"rope_layout": "interleaved", "qk_norm": True, "num_key_value_heads": 2}],
    ids=["plain", "grouped"],
)
def test_text_alone_is_that_of_a_plain_language_model_bit_for_bit(
    scheme: str, text: dict[str, Any]
) -> None:
    model = small(text=text, positions=scheme).eval()
    one = page("a dark square is a square " * 4)
    many = [one, page("a"), page("bright square"), page("x" * 63)]
    for documents in ([one], many):
        batch, _ = model.lay(documents, seeds=range(len(documents)))
        assert batch.plain
        with torch.no_grad():
            found = model(batch)
            lengths = batch.lengths if len(documents) > 1 else None
            wanted = model.language(batch.ids, lengths=lengths, logits=False).hidden
        for a, b, length in zip(found, wanted, batch.lengths.tolist(), strict=True):
            assert torch.equal(a[:length], b[:length])


def test_losses_of_text_are_those_of_a_language_model() -> None:
    model = small()
    document = page("a dark", " square", learned=(False, True))
    found = model.losses([document])
    ids = model.lay([document])[0].ids
    scores = model.language(ids).logits[0, :-1].log_softmax(-1)
    each = -scores.gather(1, ids[0, 1:, None])[:, 0]
    count = len(words().encode(" square", bos=False)) + 1
    torch.testing.assert_close(found.text, each[-count:].sum())
    assert (found.text_count, found.image_count, found.image) == (count, 0, 0)


@pytest.mark.parametrize("head", sorted(HEADS))
def test_a_document_has_the_same_loss_alone_and_among_others(head: str) -> None:
    model = small(head=head, head_options={**HEADS[head], "drop": 0.5})
    if head == "vq":
        model.head.fit(torch.randn(90, 4, generator=torch.Generator().manual_seed(1)))
    documents = [
        page("a dark square", pixels(0), learned=(False, True)),
        page(pixels(1), "a bright square", learned=(False, True)),
        page("a", pixels(2, 2, 2), "b", pixels(3)),
        page("square"),
    ]
    alone = [model.losses([one], seeds=[seed]) for seed, one in enumerate(documents)]
    for pack in (True, False):
        both = model.losses(documents, seeds=range(4), pack=pack)
        assert both.text_count == sum(one.text_count for one in alone)
        assert both.image_count == sum(one.image_count for one in alone) == 6 + 1 + 6
        torch.testing.assert_close(both.text, sum(one.text for one in alone), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(both.image, sum(one.image for one in alone), rtol=1e-5,
                                   atol=1e-5)  # fmt: skip
    again = model.losses(documents[:1], seeds=[9])
    if head not in ("vq", "mse"):
        assert not torch.allclose(again.image, alone[0].image)
    both.total.backward()
    for name, x in model.named_parameters():
        assert x.grad is not None, name
        assert torch.isfinite(x.grad).all(), name


@pytest.mark.parametrize("head", ["mar", "mse"])
def test_the_stream_without_text_is_the_document_without_text(head: str) -> None:
    model, states = small(head=head, head_options=HEADS[head]).eval(), []
    text = ("a dark square",)
    for drop, prompt in ((0.0, ()), (0.9999, ()), (0.0, text), (0.9999, text)):
        model.head.drop = drop
        document = page(*prompt, pixels(0), learned=(False,) * len(prompt) + (True,))
        batch, _ = model.lay([document], seeds=[0])
        states.append(model(batch).flatten(0, 1)[batch.reads])
    torch.testing.assert_close(states[0], states[1])
    assert (states[2] - states[3]).abs().max() > 1e-3


@pytest.mark.parametrize("prediction", ["x0", "v", "eps"])
def test_a_right_prediction_has_no_loss(prediction: str) -> None:
    head = FlowHead(8, 4, prediction=prediction, copies=5, drop=0.0)  # pyright: ignore
    generator = torch.Generator().manual_seed(0)
    patches = torch.rand(6, 4, generator=generator) * 2 - 1
    rows = head.rows(patches, (2, 3), True, generator)
    assert rows.time is not None
    assert rows.targets is not None
    time = rows.time[:30]
    noisy, clean = rows.inputs[:30], patches.repeat(5, 1)
    noise = (noisy - (1 - time[:, None]) * clean) / time[:, None]
    answer = {"x0": clean, "v": noise - clean, "eps": noise}[prediction]
    head.linear.forward = lambda x: answer  # pyright: ignore
    found = head.rows_loss(torch.zeros(30, 8), [rows], [None])
    near = (time > 0.06) & (time < 0.94)
    assert near.sum() > 12
    torch.testing.assert_close(found[near], torch.zeros_like(found[near]), atol=1e-6, rtol=0)
    assert len(rows) == 36
    assert (rows.time[30:] == 0).all()
    assert torch.equal(rows.inputs[30:], patches)


def test_times_are_spread_and_some_copies_see_no_text() -> None:
    generator = torch.Generator().manual_seed(0)
    head = FlowHead(8, 4, times="uniform", copies=8)
    rows = head.rows(torch.zeros(2, 4), (1, 2), True, generator)
    assert rows.time is not None
    assert (8 * rows.time[:16:2]).floor().tolist() == list(range(8))
    drawn = [FlowHead(8, 4, shift=s)._times(4000, generator) for s in (0.0, 1.0)]
    assert abs(drawn[0].logit().mean()) < 0.01
    assert abs(drawn[1].logit().mean() - 1) < 0.01
    share = head.drop * 8 * 200
    flags = [head.rows(torch.zeros(1, 4), (1, 1), True, generator).alone for _ in range(200)]
    assert abs(np.sum(flags) - share) < 4 * share**0.5


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"positions": "2d"}, "none of 1d"), ({"head": "gan"}, "none of"), ({"channels": 2}, "grey"),
     ({"patch_size": 0}, "patch_size"), ({"image_size": (0, 4)}, "image_size"),
     ({"head_options": {"steps": 0}}, "steps=0"), ({"head_options": {"wrong": 1}}, "wrong"),
     ({"hidden_size": 30, "num_attention_heads": 5}, "multiple of 4"), ({"depth": 3}, "depth"),
     ({"head_options": {"prediction": "u"}}, "prediction"), ({"max_patches": 0}, "max_patches"),
     ({"image_weight": -1.0}, "image_weight"), ({"mixer": "retention"}, "plain attention")],
    ids=lambda x: x if isinstance(x, str) else next(iter(x)),
)  # fmt: skip
def test_configurations_that_do_not_fit(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        LosslessTransformer.from_config("digits", device="meta", **changes)


def test_documents_that_do_not_fit() -> None:
    model = small(max_patches=6)
    with pytest.raises(ValueError, match="no documents"):
        model.losses([])
    with pytest.raises(ValueError, match="max_patches=6"):
        model.losses([page(pixels(0, 4, 8))])
    with pytest.raises(ValueError, match="2 seeds for 1"):
        model.losses([page("a")], seeds=[0, 1])
    model.tokenizer = None
    with pytest.raises(ValueError, match="no tokenizer"):
        model.losses([page("a")])
    bare = LosslessTransformer.from_config("digits")
    bare.tokenizer = words()
    with pytest.raises(ValueError, match="no boi_token_id"):
        bare.losses([page(pixels(0))])
    with pytest.raises(ValueError, match="no preset"):
        LosslessTransformer.from_config("huge")


def test_colours_and_odd_sizes_are_taken() -> None:
    model = small(channels=3)
    found = model.losses([page(np.zeros((3, 5), np.uint8), "a"), page("a", np.zeros((1, 1, 3)))])
    assert found.image_count == 6 + 1
    assert torch.isfinite(found.total)


def test_parts_name_every_parameter_and_large_models_are_built_on_meta() -> None:
    model = LosslessTransformer.from_config("celeba-64", device="meta")
    names = [name for name, _ in model.named_parameters()]
    beginnings = [one for part in model.parts().values() for one in part]
    assert all(sum(name.startswith(one) for one in beginnings) == 1 for name in names)
    assert all(x.is_meta for x in model.parameters())


@pytest.mark.parametrize("head", ["flow", "mar"])
def test_muon_gets_hidden_matrices_only(head: str) -> None:
    model = LosslessTransformer.from_config("digits", device="meta", head=head)
    names = {id(x): name for name, x in model.named_parameters()}
    groups = Muon.split(model)
    hidden = {
        names[id(x)] for group in groups for x in group["params"] if group["name"] == "hidden"
    }
    assert hidden
    outer = ("patch_embed.", "embed_tokens", "lm_head", "head.linear.", "head.input_proj.")
    assert not [name for name in hidden if any(one in name for one in outer)]
