"""`paragone train-vision` and `paragone detect` in the shell: results, errors, exit codes."""

import json
import os
import signal

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from paragone._core.errors import UsageError
from paragone.cli import main
from paragone.lab import vision_jobs
from paragone.lab.vision_jobs import JobProgress
from paragone.vision import _training_loop
from paragone.vision.training import Progressed

QUICK = ("--size", "32", "--batch", "8", "--epochs", "1", "--precision", "fp32")


def shell(capsys, *words):
    with pytest.raises(SystemExit) as end:
        main([str(word) for word in words])
    told = capsys.readouterr()
    return end.value.code, told.out, told.err


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for c, shade in (("dark", 40), ("light", 200)):
        for i in range(10):
            path = tmp_path / "photos" / c / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = rng.integers(shade - 40, shade + 40, (20, 24, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(path)
    return tmp_path / "photos"


def test_a_classifier_from_a_folder(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (folder / "dark" / "broken.png").write_bytes(b"x")
    words = ("train-vision", "classify", folder, "--model", "shufflenet_v2", "--options",
             "width=0.5", "--validation", "0.2", "--test", "0.2", "--mirror", "all",
             *QUICK)  # fmt: skip
    code, out, err = shell(capsys, *words)
    assert code == 0, err
    assert out.startswith("runs/classify-photos: shufflenet_v2")
    assert "load_model('runs/classify-photos').predict(images)" in out
    assert "validation  accuracy" in out
    assert "test        accuracy" in out
    assert "left out: broken image: 1" in err
    assert "broken.png: expected a picture" in err
    assert "epoch 1/1  loss" in err
    listed = (tmp_path / "runs/classify-photos/left-out.txt").read_text()
    assert "broken.png: expected a picture" in listed
    config = json.loads((tmp_path / "runs/classify-photos/config.json").read_text())
    assert config["recipe"]["augmentation"]["mirror"] == "all"
    assert config["recipe"]["model_options"] == {"width": 0.5}

    code, out, err = shell(capsys, *words, "--json")
    assert code == 0
    assert json.loads(out)["metrics"] == config["metrics"]
    assert "loss" not in err

    code, _, err = shell(capsys, *words, "--lr", "0.5")
    assert code == 2
    assert "another run: recipe.lr" in err
    assert len(err.splitlines()) == 1
    code, _, err = shell(capsys, *words, "--lr", "-1")
    assert code == 2
    assert "lr=-1.0: above 0" in err
    code, _, err = shell(capsys, "detect", "runs/classify-photos", folder)
    assert code == 2
    assert "trained to classify" in err


def test_ctrl_c_and_the_same_command(folder, tmp_path, monkeypatch, capsys):
    loss, count = _training_loop.batch_loss, [0]

    def interrupted(*given):
        count[0] += 1
        if count[0] == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return loss(*given)

    monkeypatch.setattr(_training_loop, "batch_loss", interrupted)
    words = ("train-vision", "classify", folder, "--model", "shufflenet_v2", "--options",
             "width=0.5", "--out", tmp_path / "run", *QUICK)  # fmt: skip
    code, _, err = shell(capsys, *words)
    assert code == 130
    assert "the same command goes on from here" in err
    assert torch.load(tmp_path / "run/last.pt")["step"] == 1
    code, _, err = shell(capsys, *words)
    assert code == 0
    assert "goes on from epoch 0, step 1" in err


@pytest.mark.parametrize(
    ("words", "told"),
    [(("classify", "none"), "no such file or folder"), (("see",), "see"),
     (("classify", "--model", "resnet"), "none of efficientnet_b0"),
     (("classify", "--budget", "soon"), "--budget: 'soon'"),
     (("classify", "--options", "wide"), "write NAME=VALUE"),
     (("classify", "--multi-scale", "a,b"), "whole numbers"),
     (("classify", "scenes"), "take digits"), (("detect", "digits"), "take scenes")],
)  # fmt: skip
def test_what_is_wrong_is_told_in_one_line(words, told, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = shell(capsys, "train-vision", *words)
    assert code == 2
    assert told in err
    assert len(err.splitlines()) == 1


def test_detect_writes_and_tells_what_it_left_out(folder, tmp_path, monkeypatch, capsys):
    code, _, err = shell(capsys, "detect", tmp_path / "none", folder)
    assert code == 2
    assert "expected the folder of a run" in err

    class Nothing(torch.nn.Module):
        num_classes = 1

        def forward(self, images):
            box = torch.tensor([[1.0, 2, 30, 20]])
            return [{"boxes": box, "labels": torch.zeros(1, dtype=torch.int64),
                     "scores": torch.tensor([0.7])} for _ in images]  # fmt: skip

    (folder / "broken.png").write_bytes(b"x")
    monkeypatch.setattr("paragone.vision.training.load_model", lambda *_, **__: Nothing().eval())
    with pytest.raises(UsageError, match="is no model"):
        vision_jobs.detect(3, folder, out=None, threshold=0.5, like=None, batch=4, device="auto",
                           progress=None)  # fmt: skip
    code, out, err = shell(capsys, "detect", "run", folder, "--out", tmp_path / "found")
    assert code == 1
    assert out.splitlines()[0] == "20 objects in 20 images: 0 20"
    assert "left out: " in out
    assert "images/s" in err
    assert len(json.loads((tmp_path / "found/detections.json").read_text())) == 20


def test_progress_on_a_terminal_and_in_a_log(tmp_path):
    now = [0.0]
    step = Progressed("step", 2, 5, 0.25, 1.5, rate=100.0, seconds=3.0, left=9.4)
    done = Progressed("validated", 2, 5, 0.4, 1.25, {"accuracy": 0.5, "loss": 1.0}, 80.0)
    with (
        open(tmp_path / "log", "w") as file,
        JobProgress(Console(file=file, width=200), lambda: now[0]) as progress,
    ):
        for now[0] in (0.0, 1.0, 2.0, 11.0):
            progress(step)
        progress(done)
    lines = (tmp_path / "log").read_text().splitlines()
    assert len(lines) == 3
    assert lines[0][10:] == "epoch 2/5  loss 1.500  100 images/s  ETA 9.0 s"
    assert lines[2][10:] == "epoch 2/5  loss 1.250  accuracy 0.5000, loss 1.0000  80 images/s"
    with open(tmp_path / "screen", "w") as file:
        console = Console(file=file, width=200, force_terminal=True)
        with JobProgress(console, lambda: now[0]) as progress:
            progress(step)
            progress(done)
    assert "accuracy 0.5000" in (tmp_path / "screen").read_text()
