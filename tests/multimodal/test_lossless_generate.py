"""Continuations of documents: memory, rows by themselves, budgets, and what is read again."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.multimodal.lossless_models import page, pixels, small, words

from paragone.multimodal import Document, LosslessTransformer, open_model
from paragone.multimodal._lossless_generate import Asked, _Session
from paragone.multimodal._lossless_layout import Scribe, batched
from paragone.multimodal._lossless_trunk import Memory

HEADS: dict[str, dict[str, Any]] = {
    "flow": {"steps": 2, "solver": "euler"},
    "mar": {"hidden": 16, "depth": 1, "steps": 2},
    "expanded": {"steps": 2},
    "mse": {"hidden": 16, "order": "random"},
}


def asked(**changes: Any) -> Asked:
    values: dict[str, Any] = {
        "pictures": "free", "max_new_tokens": 40, "temperature": 1.0, "top_p": 1.0,
        "guidance": 2.0, "size": (4, 6), "seed": 0,
    }  # fmt: skip
    return Asked(**{**values, **changes})


@torch.no_grad()
def test_reading_in_pieces_is_reading_at_once() -> None:
    model = small().eval()
    parts = [
        ("text", [0, 5, 6, 7]),
        ("picture", 0),
        ("text", [8, 9]),
        ("picture", 1),
        ("text", [5]),
    ]
    pieces: list[torch.Tensor] = []
    memory, scribe, whole = Memory(model.language, 2), Scribe("rope-tv"), Scribe("rope-tv")
    for kind, value in parts:
        for one in (scribe, whole):
            if kind == "text":
                one.text(value)
            else:
                patches, grid = model.patches(pixels(value))
                one.picture(model.head.rows(patches, grid, False), grid)
        batch = batched([scribe.take()], 4)
        pieces.append(model(batch, memory, [1], True)[0])
    wanted = model(batched([whole.take()], 4))[0]
    torch.testing.assert_close(torch.cat(pieces), wanted, rtol=1e-4, atol=1e-5)
    assert memory.lengths.tolist() == [0, len(wanted)]


@torch.no_grad()
@pytest.mark.parametrize("head", sorted(HEADS))
def test_a_picture_that_is_drawn_is_read_clean_before_the_text_goes_on(head: str) -> None:
    model = small(head=head, head_options=HEADS[head]).eval()
    prompts = [page("a dark square"), page(pixels(3), "a")]
    session = _Session(model, prompts, asked())
    session.read(session.lines)
    session.draw(session.lines)
    states = session.read(session.lines)
    for line, prompt, found in zip(session.lines, prompts, states, strict=True):
        drawn = line.parts[0]
        assert isinstance(drawn, np.ndarray)
        assert drawn.shape == (4, 6, 1)
        again = model.written(page(*prompt.parts, drawn))
        wanted = model(batched([again.take()], 4))[0, -1]
        torch.testing.assert_close(found[-1], wanted, rtol=0, atol=1e-4)
        noise = model.written(page(*prompt.parts, pixels(9)))
        assert (model(batched([noise.take()], 4))[0, -1] - found[-1]).abs().max() > 1e-2


@pytest.mark.parametrize("head", sorted(HEADS))
def test_a_row_does_not_depend_on_the_others(head: str) -> None:
    model = small(head=head, head_options=HEADS[head])
    prompts = [("a dark square",), (pixels(0), "a"), ("",)]
    options: dict[str, Any] = {"pictures": "one", "guidance": 2.0, "seed": 5}
    together = model.generate(prompts, **options)
    alone = model.generate(prompts[:1], **options)
    assert [len(one.parts) for one in together] == [1, 1, 1]
    for one in together:
        assert one.pictures[0].shape == (4, 6, 1)
        assert one.pictures[0].dtype == np.uint8
    difference = together[0].pictures[0].astype(int) - alone[0].pictures[0]
    assert abs(difference).max() <= 1
    other = model.generate(prompts[:1], **{**options, "seed": 6})
    if head != "mse":
        assert not np.array_equal(other[0].pictures[0], alone[0].pictures[0])


@pytest.mark.parametrize("pictures", ["none", "free"])
def test_rows_that_end_at_different_steps_are_those_alone(pictures: Any) -> None:
    model = small(head_options=HEADS["flow"])
    with torch.no_grad():
        model.language.lm_head.weight[[1, model.config.boi_token_id]] *= 2
    prompts = [("a dark",), (pixels(0), "a"), ("bright square",), ("a",), (pixels(1),)]
    options: dict[str, Any] = {"pictures": pictures, "temperature": 1.0, "max_new_tokens": 24}
    together = model.generate(prompts, **options)
    assert len({len(one.text) for one in together}) > 2
    # What is drawn belongs to the place of a prompt: the others are replaced, not left out.
    for number in (1, 2):
        others = [("",)] * number + [prompts[number]]
        alone = model.generate(others, **options)[number]
        assert together[number].text == alone.text
        for a, b in zip(together[number].pictures, alone.pictures, strict=True):
            assert abs(a.astype(int) - b).max() <= 1


def test_many_prompts_are_continued_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small()
    prompts = [("a",), ("a",), (pixels(0),), ("b",), ("a",)]
    whole = model.generate(prompts, temperature=1.0, max_new_tokens=6, seed=2)
    monkeypatch.setattr("paragone.multimodal._lossless_generate._TOGETHER", 2)
    assert [one.text for one in model.generate(prompts, temperature=1.0, max_new_tokens=6, seed=2)
            ] == [one.text for one in whole]  # fmt: skip
    assert whole[0].text != whole[1].text


def test_text_goes_on_as_a_plain_language_model_does() -> None:
    model = small()
    ids = [words().bos_id, *words().encode("a dark", bos=False)]
    never = [0, model.config.eoi_token_id, model.config.boi_token_id]
    for _ in range(6):
        scores = model.language(torch.tensor([ids])).logits[0, -1].detach()
        scores[[one for one in never if one is not None]] = -torch.inf
        ids.append(int(scores.argmax()))
        if ids[-1] in model.config.text_config.eos:
            ids.pop()
            break
    wanted = words().decode(ids[-6:] if len(ids) > 6 else ids)
    found = model.generate([("a dark",), (pixels(0),)], max_new_tokens=6)
    assert ("a dark" + found[0].text).endswith(wanted)
    assert model.describe([pixels(0)], max_new_tokens=6) == [found[1].text]


def test_a_generator_decides_all_first_weights() -> None:
    one, again = (small(seed=3, head_options=HEADS["flow"]).state_dict() for _ in range(2))
    assert all(bool(torch.equal(value, again[name])) for name, value in one.items())


def test_free_pictures_keep_the_budget_and_come_with_text() -> None:
    model = small(head_options=HEADS["flow"])
    begin = model.config.boi_token_id
    with torch.no_grad():
        model.language.lm_head.weight[begin] *= 3
    seen = 0
    for seed in range(2):
        rows = model.generate(
            [("a",), (pixels(1),)], pictures="free", temperature=1.0, max_new_tokens=30, seed=seed
        )
        for one in rows:
            count = len(one.pictures) * 8
            seen += len(one.pictures)
            assert count <= 30
            assert len(one.parts) <= 30
    assert seen
    few = model.generate([("a",)], pictures="free", temperature=1.0, max_new_tokens=7)
    none = model.generate([("a",)], pictures="none", temperature=1.0, max_new_tokens=30)
    assert not few[0].pictures
    assert not none[0].pictures


def test_other_sizes_and_words_that_look_like_markers() -> None:
    model = small(head_options=HEADS["flow"])
    assert [one.shape for one in model.draw(["a", "b"], size=(3, 5))] == [(3, 5, 1)] * 2
    assert model.generate([]) == []
    scribe = model.written(Document(("<|image|>",)))
    assert model.config.boi_token_id not in scribe.take().ids


def test_a_folder_holds_the_model_and_says_what_is_wrong(tmp_path: Path) -> None:
    model = small(head_options={"steps": 2}, text={"tie_word_embeddings": True})
    model.save_pretrained(tmp_path)
    again = open_model(tmp_path)
    assert isinstance(again, LosslessTransformer)
    assert again.config == model.config
    assert again.language.lm_head.weight is again.language.model.embed_tokens.weight
    document = page("a dark square", pixels(0))
    for a, b in zip(
        (model.losses([document], seeds=[1]).total,), (again.losses([document], seeds=[1]).total,),
        strict=True,
    ):  # fmt: skip
        assert torch.equal(a, b)
    assert np.array_equal(model.draw(["a"])[0], again.draw(["a"])[0])
    half = LosslessTransformer.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert half.patch_embed.weight.dtype == torch.bfloat16
    assert half.draw(["a"])[0].shape == (4, 6, 1)
    other = small(head="vq", head_options={"codes": 4})
    other.save_pretrained(tmp_path / "codes")
    (tmp_path / "config.json").write_text((tmp_path / "codes" / "config.json").read_text())
    with pytest.raises(ValueError, match=r"head\.codebook is missing"):
        open_model(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"none")
    with pytest.raises(ValueError, match="no safetensors file"):
        open_model(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="no such file"):
        open_model(tmp_path)


@pytest.mark.parametrize(
    ("options", "said"),
    [({"pictures": "two"}, "none of"), ({"max_new_tokens": 0}, "max_new_tokens"),
     ({"size": (0, 4)}, "size=0"), ({"size": (4000, 4000)}, "max_patches"),
     ({"temperature": -1.0}, "temperature"), ({"top_p": 2.0}, "top_p")],
    ids=lambda x: x if isinstance(x, str) else next(iter(x)),
)  # fmt: skip
def test_options_that_do_not_fit(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        small().generate([("a",)], **options)
