"""Captions: what is read, what is left out and said, splits that share no picture, a judge."""

import json

import numpy as np
import pytest
from PIL import Image

from paragone.multimodal._captions_fit import fitted
from paragone.multimodal.captions import (
    Captioned,
    Captions,
    Page,
    digit_judge,
    digits_with_captions,
    read_captions,
    rendered_words,
)
from paragone.multimodal.documents import Document


def saved(path, value=90, size=(5, 4), mode="L"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value).save(path)
    return path


@pytest.fixture
def folder(tmp_path):
    for number in range(3):
        saved(tmp_path / f"{number}.png", 40 * number)
    saved(tmp_path / "colour.png", (9, 200, 30), mode="RGB")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG no picture")
    lines = [
        {"image": "0.png", "caption": "a dark square"},
        {"image": "1.png", "question": "How bright is it?", "answer": "a little"},
        {"parts": ["first", {"image": "2.png"}, "then", {"image": "colour.png"}]},
        {"file_name": "colour.png", "text": "a green square"},
        {"image": "none.png", "caption": "not there"},
        {"image": "broken.png", "caption": "broken"},
        {"image": "0.png"},
        {"image": "0.png", "caption": 7},
        {"caption": "no picture"},
        {"parts": [5]},
        [1, 2],
    ]
    text = "\n".join(json.dumps(line) for line in lines) + "\n{not json\n"
    (tmp_path / "captions.jsonl").write_text(text)
    return tmp_path


def test_records_of_a_file(folder):
    found = read_captions(folder / "captions.jsonl")
    caption, question, page, green = found
    assert caption.document("read").learned == (False, True)
    assert caption.document("draw").parts[0] == "a dark square"
    assert caption.picture.shape == (4, 5, 1)
    assert question.tasks() == ("answer",)
    assert question.document("answer").parts[1:] == ("How bright is it?", "a little")
    assert page.document().text == "firstthen"
    assert [one.shape for one in page.document().pictures] == [(4, 5, 1), (4, 5, 3)]
    assert green.picture[0, 0].tolist() == [9, 200, 30]
    assert read_captions(found) is found
    assert [(type(one).__name__, task) for one, task in found.work(("draw",))] == [
        ("Captioned", "draw"), ("Page", "page"), ("Captioned", "draw"),
    ]  # fmt: skip


def test_what_is_left_out_is_counted_and_said(folder):
    found = read_captions(folder)
    assert found.skipped == {
        "without its file": 1, "broken picture": 1, "without a caption": 1,
        "of another form": 3, "without a picture": 1, "not JSON": 1,
    }  # fmt: skip
    assert len(found.problems) == sum(found.skipped.values()) == 8
    assert "captions.jsonl, line 5: without its file" in found.problems[0]
    assert "none.png" in found.problems[0]
    assert "line 12: not JSON" in found.problems[-1]
    assert len(found.notes()) == 7
    assert "… and 3 more" in found.notes()[-1]


def test_folders_of_pictures(tmp_path):
    saved(tmp_path / "a" / "red_square" / "1.png")
    saved(tmp_path / "a" / "blue-square" / "2.jpg", 20)
    assert {one.caption for one in read_captions(tmp_path / "a")} == {"red square", "blue square"}
    saved(tmp_path / "b" / "an_old_house_12.png")
    saved(tmp_path / "b" / "017.png", 3)
    saved(tmp_path / "b" / "x.png", 4)
    (tmp_path / "b" / "x.txt").write_text("told beside it\n")
    captions = {one.caption for one in read_captions(tmp_path / "b")}
    assert captions == {"an old house", "017", "told beside it"}


def test_nothing_to_use(tmp_path):
    with pytest.raises(ValueError, match="no such file or folder"):
        read_captions(tmp_path / "none")
    with pytest.raises(ValueError, match="no record in it"):
        read_captions(tmp_path)
    (tmp_path / "notes.md").write_text("no captions")
    with pytest.raises(ValueError, match=r"a file of \.jsonl"):
        read_captions(tmp_path / "notes.md")
    (tmp_path / "bad.jsonl").write_text('{"image": "x.png", "caption": "a"}\n')
    with pytest.raises(ValueError, match="line 1: without its file"):
        read_captions(tmp_path / "bad.jsonl")
    with pytest.raises(ValueError, match="longest=0"):
        read_captions([{"image": np.zeros((2, 2)), "caption": "a"}], longest=0)


def test_memory_is_bounded(tmp_path):
    saved(tmp_path / "wide_one.png", 7, (300, 2))
    kept = read_captions(tmp_path, longest=100)[0]
    lazy = read_captions(tmp_path, longest=100, cache=0)[0]
    assert kept.picture.shape == (1, 100, 1)
    assert callable(lazy.source)
    assert not callable(kept.source)
    assert (lazy.picture == kept.picture).all()
    assert lazy.digest == kept.digest


def test_no_picture_is_on_both_sides():
    draws = np.random.default_rng(0)
    pictures = draws.integers(0, 256, (40, 3, 3, 1), dtype=np.uint8)
    # Five captions of each picture, and a page with it.
    records = [Captioned(one, f"caption {n}") for one in pictures for n in range(5)]
    records += [Page(("see", one)) for one in pictures]
    every = Captions(records)
    train, held = every.split(0.3)
    assert len(train) + len(held) == 240
    assert not {one.digest for one in train} & {one.digest for one in held}
    assert 4 <= len({one.digest for one in held}) <= 20
    # What is added later moves none of the others.
    later, _ = Captions([*records, Captioned(np.zeros((9, 9, 1), np.uint8), "new")]).split(0.3)
    assert {one.digest for one in train} <= {one.digest for one in later}
    assert every.split(0.3, seed=1)[1] != held
    one, other = Captions(records[:10]).split(0.001)
    assert len(one) == len(other) == 5
    with pytest.raises(ValueError, match="share=1"):
        every.split(1)


def test_digits_and_their_judge():
    train, test = digits_with_captions("train"), digits_with_captions("test")
    assert len(train) + len(test) == 1797
    assert train.fingerprint() != test.fingerprint()
    asked = digits_with_captions("test", questions=True)
    assert len(asked) == 3 * len(test)
    by_question = {one.question: one.caption for one in asked[:3]}
    word = by_question["Which digit is it?"]
    assert by_question[""] == f"a handwritten {word}"
    assert len(asked.work(("answer",))) == 2 * len(test)
    pictures = [one.picture for one in test]
    captions = [one.caption for one in test]
    judge = digit_judge()
    assert judge.agreement(pictures, captions) > 0.98
    # A planted bug: captions of other digits.
    assert judge.agreement(pictures, captions[1:] + captions[:1]) < 0.3
    # Enlarged and coloured, they are the same to it.
    large = [np.repeat(np.repeat(np.repeat(x, 4, 0), 4, 1), 3, 2) for x in pictures[:50]]
    assert judge(large) == judge(pictures[:50])
    with pytest.raises(ValueError, match="none of train, test, all"):
        digits_with_captions("rest")


def test_words_are_drawn():
    words = [f"{a}{b}{c}" for a in "abc" for b in "def" for c in "ghi"]
    train = rendered_words(60, words=words)
    test = rendered_words(20, "test", words=words)
    assert not {one.caption for one in train} & {one.caption for one in test}
    assert all(one.picture.shape == (16, 48, 1) for one in train)
    assert len({one.digest for one in train}) == 60
    again = rendered_words(60, words=words)
    assert again.fingerprint() == train.fingerprint()
    same = [rendered_words(1, "all", words=["word"], seed=s)[0].picture for s in (0, 1)]
    assert (same[0] != same[1]).any()
    with pytest.raises(ValueError, match="none of 1 words fits"):
        rendered_words(1, "all", words=["m" * 30])
    with pytest.raises(ValueError, match="count=0"):
        rendered_words(0)


def test_tasks_are_known():
    with pytest.raises(ValueError, match="some of read, draw, answer"):
        digits_with_captions("test").work(("paint",))


def test_pictures_are_cropped_to_a_size(tmp_path):
    wide = np.zeros((4, 12, 3), np.uint8)
    wide[:, 4:8] = 200
    (tmp_path / "a").mkdir()
    Image.fromarray(wide).save(tmp_path / "a" / "wide.png")
    lazy = read_captions(tmp_path, cache=0)
    records = Captions([*lazy, Captioned(wide[:2, :2], "small"), Page(("x", wide))])
    found, count = fitted(records, (4, 4))
    assert count == 2
    assert callable(found[0].source)
    assert (found[0].picture == 200).all()
    assert found[0].digest == lazy[0].digest
    assert found[1].picture.shape == (2, 2, 3)
    assert found[2].document().pictures[0].shape == (4, 4, 3)
    # Smaller in one direction only: enlarged, then cut.
    assert fitted(records, (8, 8))[0][0].picture.shape == (8, 8, 1)


def test_conversations_about_a_picture(tmp_path):
    saved(tmp_path / "0.png")
    turns = [
        {"from": "human", "value": "<image>\nHow bright is it?"},
        {"from": "gpt", "value": "a little"},
        {"from": "human", "value": "And how large?"},
        {"from": "gpt", "value": "five by four"},
    ]
    records = [
        {"image": "0.png", "conversations": turns},
        {"image": "0.png", "conversations": turns[2:]},
        {"image": "0.png", "conversations": [{"role": "user"}]},
        {"conversations": turns},
    ]
    (tmp_path / "data.json").write_text(json.dumps(records))
    found = read_captions(tmp_path)
    first, second, third = (one.document() for one in found)
    assert [one if isinstance(one, str) else one.shape for one in second.parts] == [
        (4, 5, 1), "How bright is it?", "a little", "And how large?", "five by four",
    ]  # fmt: skip
    # Each answer is the end of a page, so that its end is learned, too.
    assert first.parts[1:] == ("How bright is it?", "a little")
    assert first.learned == third.learned == (False, False, True)
    assert second.learned == (False, False, False, False, True)
    assert found.skipped == {"of another form": 2}


def test_documents_are_pages():
    dark = np.zeros((2, 2, 1), np.uint8)
    given = [Document((dark, "dark"), (False, True)), Document(("dark", dark), (False, True))]
    found = read_captions([*given, Captioned(dark, "dark")])
    assert [one.tasks() for one in found] == [("page",), ("page",), ("read", "draw")]
    assert found.documents()[0].learned == (False, True)
    assert found[0].digest == found[1].digest == found[2].digest
    with pytest.raises(ValueError, match="no document to use"):
        read_captions([])
