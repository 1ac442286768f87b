"""`paragone train-vl`, `caption`, `ask` and `draw`: from words of the shell to files and codes."""

import json

import numpy as np
import pytest
from PIL import Image
from tests.multimodal.fake_vl import Fake, known, squares

from paragone._core.errors import UsageError
from paragone.cli.app import main
from paragone.lab.vl_job import train_vl
from paragone.lab.vl_use_jobs import ask, caption, draw, picture_files
from paragone.multimodal._pictures_out import save_png
from paragone.multimodal.contract import open_model


@pytest.fixture(autouse=True)
def _known(monkeypatch):
    known(monkeypatch)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run over a file of captions and questions."""
    folder = tmp_path_factory.mktemp("vl")
    lines = []
    for number, one in enumerate(squares(24)):
        save_png(one.picture, folder / "pictures" / f"{number}.png")
        image = f"pictures/{number}.png"
        lines.append({"image": image, "caption": one.caption})
        bright = "yes" if "bright" in one.caption else "no"
        lines.append({"image": image, "question": "Is it bright?", "answer": bright})
    (folder / "captions.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\nbroken\n")
    with pytest.MonkeyPatch.context() as patch:
        known(patch)
        events = []
        done = train_vl(
            str(folder / "captions.jsonl"), out=str(folder / "run"), arch="fake", steps=100,
            batch=8, lr=3e-2, judged=5, progress=events.append,
        )  # fmt: skip
    return folder, done, events


def test_a_run(trained):
    folder, done, events = trained
    told = json.loads(done.json())
    assert told["metrics"]["answers_exact"] == 1
    assert told["notes"][0] == "left out: 1 not JSON"
    text = str(done)
    assert "held out    loss" in text
    assert "drawn as asked  100" in text
    assert f"next: paragone draw {folder / 'run'} 'a dark square'" in text
    assert {"step", "end"} & {event.kind for event in events}


def test_captions_and_answers(trained):
    folder = trained[0]
    run, pictures = str(folder / "run"), folder / "pictures"
    one = caption(run, str(pictures / "1.png"))
    assert str(one) == "a bright square"
    many = caption(run, str(pictures))
    assert len(many.texts) == 24
    assert str(many).splitlines()[0] == f"{pictures / '0.png'}: a dark square"
    assert str(ask(run, str(pictures / "1.png"), "Is it bright?")) == "yes"
    found = json.loads(ask(run, str(pictures / "0.png"), "Is it bright?").json())
    assert found["captions"][0]["text"] == "no"


def test_what_cannot_be_read_is_said(trained, tmp_path):
    run = str(trained[0] / "run")
    good = save_png(np.full((8, 8, 1), 200, np.uint8), tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(b"no picture")
    found = caption(run, str(tmp_path))
    assert found.exit_code == 1
    assert list(found.texts) == [str(good)]
    assert "bad.png: expected a picture" in found.skipped[0]
    with pytest.raises(UsageError, match="expected a picture"):
        caption(run, str(tmp_path / "bad.png"))
    with pytest.raises(UsageError, match="no such file"):
        picture_files([str(tmp_path / "none.png")])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no picture in this folder"):
        picture_files([str(tmp_path / "empty")])
    with pytest.raises(UsageError, match="at least one picture"):
        caption(run)
    with pytest.raises(UsageError, match="the folder of a model is expected"):
        caption(str(tmp_path), str(good))


def test_one_picture_that_does_not_fit_is_left_out(trained, tmp_path, monkeypatch):
    good = save_png(np.full((8, 8, 1), 200, np.uint8), tmp_path / "good.png")
    save_png(np.full((9, 99, 1), 200, np.uint8), tmp_path / "wide.png")
    inside = Fake.generate

    def narrow(self, prompts, **options):
        if max(one[0].shape[1] for one in prompts) > 64:
            raise ValueError("too wide: at most 64 pixels")
        return inside(self, prompts, **options)

    monkeypatch.setattr(Fake, "generate", narrow)
    found = caption(str(trained[0] / "run"), str(tmp_path))
    assert list(found.texts) == [str(good)]
    assert "wide.png: too wide" in str(found).splitlines()[-1]
    with pytest.raises(UsageError, match="too wide"):
        caption(str(trained[0] / "run"), str(tmp_path / "wide.png"))


def test_drawing_writes_files(trained, tmp_path):
    run = str(trained[0] / "run")
    done = draw(run, "a bright square", count=3, out=str(tmp_path / "drawn"))
    assert len(json.loads(done.json())["files"]) == 3
    with Image.open(done.files[0]) as image:
        assert image.size == (8, 8)
        assert np.asarray(image).mean() > 150
    with Image.open(done.grid) as image:
        assert image.size[0] > 128
    assert "3 drawn" in str(done)
    (tmp_path / "file").write_text("")
    for options, words in (
        ({"count": 0}, "--count 0"), ({"size": "big"}, "rows x columns"),
        ({"out": str(tmp_path / "file")}, "file"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=words):
            draw(run, "a bright square", **options)


def test_a_reader_does_not_draw(trained, tmp_path, monkeypatch):
    file = str(trained[0] / "captions.jsonl")
    train_vl(file, out=str(tmp_path), arch="reader", steps=1, judged=0)
    assert not open_model(tmp_path).draws
    with pytest.raises(UsageError, match="a reader reads pictures and does not draw"):
        draw(str(tmp_path), "a dark square")


def test_words_of_the_shell(trained, capsys, tmp_path):
    folder = trained[0]
    run = str(folder / "run")
    with pytest.raises(SystemExit) as left:
        main(["caption", run, str(folder / "pictures" / "1.png"), "--json"])
    assert left.value.code == 0
    assert json.loads(capsys.readouterr().out)["captions"][0]["text"] == "a bright square"
    with pytest.raises(SystemExit) as left:
        main(["draw", run, "a dark square", "--count", "2", "--out", str(tmp_path)])
    assert left.value.code == 0
    assert "2 drawn" in capsys.readouterr().out
    assert (tmp_path / "a-dark-square-all.png").is_file()
    with pytest.raises(SystemExit) as left:
        main(["ask", run, str(folder / "pictures" / "1.png"), " "])
    assert left.value.code == 2
    assert "the question is empty" in capsys.readouterr().err


def test_what_the_user_can_mend(tmp_path):
    for options, words in (
        ({"tasks": "paint"}, "'paint' is none of read, draw, answer"),
        ({"rates": "vision"}, "NAME=VALUE"), ({"budget": "soon"}, "--budget"),
        ({"freeze": "eyes"}, "'eyes' is no part of"), ({"options": "a=1", "model": "x"}, "sizes"),
        ({"preset": "huge"}, "is no preset"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=words):
            train_vl(None, out=str(tmp_path / "run"), **{"arch": "fake", **options})
    with pytest.raises(UsageError, match="no such file or folder"):
        train_vl(str(tmp_path / "none"), out=str(tmp_path / "run"), arch="fake")
