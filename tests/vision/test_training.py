"""Training: runs go on bit for bit, weights are told about, figures are those of brute force."""

import json
import math
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from paragone.training.by_name import OPTIMIZERS
from paragone.training.run_folder import Folder, seeded
from paragone.vision import _training_loop as loop
from paragone.vision._data_augment import Augmentation
from paragone.vision._data_sets import ImageData, ImageSet
from paragone.vision._training_feed import Batch
from paragone.vision._training_recipe import Recipe, rate
from paragone.vision._training_state import Average
from paragone.vision._training_use import Inputs, confusion, evaluate
from paragone.vision._training_use import _accuracy as accuracy
from paragone.vision._training_weights import load_weights
from paragone.vision.samples import digit_scenes
from paragone.vision.training import load_model, train

SMALL = {"size": 16, "batch": 16, "epochs": 2, "precision": "fp32", "lr": 0.01, "threads": 1}


def tiny(num_classes, width=8):
    """Batch norm has buffers, dropout draws: both must go on as they were."""
    return nn.Sequential(
        nn.Conv2d(3, width, 3, 2, 1), nn.BatchNorm2d(width), nn.ReLU(), nn.Dropout(0.2),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * width, num_classes),
    )  # fmt: skip


def pixelwise(num_classes):
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 1, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, num_classes, 1)
    )


def images(count, start=0):
    """Noise whose colour tells the class."""
    rng = np.random.default_rng(start)
    labels = rng.integers(0, 6, count)
    pixels = rng.integers(0, 120, (count, 16, 16, 3))
    pixels[np.arange(count), :, :, labels % 3] += 60 + 40 * (labels // 3)[:, None, None]
    return ImageSet(list(pixels.astype(np.uint8)), [f"{start}-{i}" for i in range(count)],
                    labels=labels)  # fmt: skip


def colours():
    return ImageData("classify", tuple("abcdef"), images(70), images(40, 1), images(10, 2))


@pytest.fixture(scope="module")
def data():
    return colours()


def state(folder):
    return load_file(folder / "model.safetensors")


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """The run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    return train("classify", data, tiny, out=folder, **SMALL)


class Stopping(nn.Sequential):
    """Ctrl-C in the middle of an epoch."""

    def stop(self, at):
        self.left = at
        return self

    def forward(self, x):
        self.left -= self.training
        if self.training and self.left == 0:
            os.kill(os.getpid(), signal.SIGINT)
        return super().forward(x)


@pytest.mark.parametrize("at", [2, 4, 7])
def test_an_interrupted_run_is_the_whole_run(at, data, whole, tmp_path):
    def stopping(num_classes):
        return Stopping(*tiny(num_classes)).stop(at)

    stopping.__qualname__ = tiny.__qualname__
    with pytest.raises(KeyboardInterrupt):
        train("classify", data, stopping, out=tmp_path, workers=0, **SMALL)
    assert not math.isnan(torch.load(tmp_path / "last.pt")["seconds"])
    again = train("classify", data, tiny, out=tmp_path, workers=3, **SMALL)
    assert same(state(tmp_path), state(whole.folder))
    assert again.history == whole.history
    assert again.metrics == whole.metrics
    assert again.test == whole.test


def test_a_killed_run_is_the_whole_run(data, whole, tmp_path):
    code = f"""
import os, signal, sys
sys.path.insert(0, {os.path.dirname(__file__)!r})
from test_training import SMALL, tiny, colours
from paragone.vision import _training_loop
from paragone.vision.training import train
_training_loop._SAVE_EVERY = 0.0
write, count = _training_loop.Folder.write_last, [0]
def killed(folder, state):
    count[0] += 1
    if count[0] == 7:
        (folder.path / ".last.99").write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGKILL)
    write(folder, state)
_training_loop.Folder.write_last = killed
train("classify", colours(), tiny, out={str(tmp_path)!r}, **SMALL)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert torch.load(tmp_path / "last.pt")["epoch"] == 1
    again = train("classify", data, tiny, out=tmp_path, **SMALL)
    assert same(state(tmp_path), state(whole.folder))
    assert again.history == whole.history
    assert not (tmp_path / ".last.99").exists()


def test_a_finished_run_is_loaded_not_trained(data, whole, monkeypatch):
    monkeypatch.setattr(loop.Loop, "_one", lambda *_: pytest.fail("trained again"))
    again = train("classify", data, tiny, out=whole.folder, **SMALL)
    assert again.history == whole.history
    lines = (whole.folder / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == whole.history
    config = json.loads((whole.folder / "config.json").read_text())
    assert config["classes"] == list("abcdef")
    assert config["metrics"] == whole.metrics
    assert config["data"]["train"] == 70


def test_another_recipe_does_not_go_on(data, whole):
    with pytest.raises(ValueError, match=r"recipe\.lr \(there 0\.01, now 0\.02\).*resume=False"):
        train("classify", data, tiny, out=whole.folder, **{**SMALL, "lr": 0.02})
    with pytest.raises(ValueError, match="other files, classes"):
        train(
            "classify",
            ImageData("classify", tuple("abcdef"), images(71), images(9)),
            tiny,
            out=whole.folder,
            **SMALL,
        )


def test_a_run_is_used_as_it_was_validated(data, whole):
    model = load_model(whole.folder, tiny(6))
    assert model.evaluate(data.validation) == pytest.approx(
        {k: v for k, v in whole.metrics.items() if k != "epoch"}
    )
    some = data.validation.images[:5]
    for one, again in zip(model.predict(some), whole.model.predict(some, batch=1), strict=True):
        assert np.allclose(one["scores"], again["scores"], atol=1e-6)
        assert one["class"] == "abcdef"[one["label"]]
    grey = model.predict([some[0][..., 0]])[0]
    assert np.allclose(
        grey["scores"], model.predict([np.repeat(some[0][..., :1], 3, 2)])[0]["scores"]
    )
    with pytest.raises(ValueError, match="image 0 has shape"):
        model.predict([np.zeros((4, 4, 3))])
    with pytest.raises(ValueError, match="given as a function"):
        load_model(whole.folder)
    with pytest.raises(ValueError, match="not of this network"):
        load_model(whole.folder, tiny(5))
    with pytest.raises(ValueError, match="expected the folder of a run"):
        load_model(whole.folder / "none")


def test_named_network_and_last_weights(data, tmp_path):
    done = train("classify", data, "shufflenet_v2", keep="last", ema=False, size=32, epochs=1,
                 out=tmp_path, model_options={"width": 0.5})  # fmt: skip
    model = load_model(tmp_path)
    assert model.evaluate(data.validation)["accuracy"] == done.metrics["accuracy"]
    assert done.model.inputs.precision in ("fp32", "bf16")


def test_a_budget_ends_the_run(data):
    events = []
    done = train("classify", data, tiny, budget=1e-3, progress=events.append,
                 **{**SMALL, "epochs": None})  # fmt: skip
    assert done.metrics["epoch"] == 1
    assert [e.kind for e in events][-2:] == ["validated", "end"]
    assert events[-1].done == 1


def test_every_optimizer_and_both_schedules(data):
    for name in OPTIMIZERS:
        done = train("classify", data, tiny, optimizer=name, clip_norm=1.0,
                     **{**SMALL, "epochs": 1, "lr": None})  # fmt: skip
        assert all(torch.isfinite(p).all() for p in done.model.network.parameters()), name
    recipe = made(lr=2.0, warmup=0.2)
    assert rate(recipe, 0.1) == 1.0
    assert rate(recipe, 0.2) == pytest.approx(2.0)
    assert rate(recipe, 0.6) == pytest.approx(2 * (0.01 + 0.99 / 2))
    assert rate(recipe, 1.0) == pytest.approx(0.02)


def made(task="classify", **given):
    names = ("model", "epochs", "budget", "batch", "size", "optimizer", "lr", "weight_decay",
             "clip_norm", "label_smoothing", "augmentation", "fit")  # fmt: skip
    usual = {"warmup": 0.05, "ema": True, "precision": "fp32", "channels_last": True,
             "progressive": 1.0, "multi_scale": (), "freeze": (), "keep": "best", "seed": 0,
             "model_options": {}}  # fmt: skip
    return Recipe.make(task, **{**dict.fromkeys(names), **usual, **given})


@pytest.mark.parametrize(
    ("given", "message"),
    [({"epochs": 0}, "epochs=0"), ({"budget": -1.0}, "budget"), ({"optimizer": "sgdm"}, "sgdm"),
     ({"precision": "fp8"}, "fp8"), ({"fit": "native"}, "only segmenters"), ({"size": 4}, "size=4"),
     ({"progressive": 0.0}, "progressive"), ({"keep": "all"}, "keep"), ({"warmup": 1.0}, "warmup"),
     ({"task": "detect", "fit": "cover"}, "border"), ({"task": "see"}, "'see'"),
     ({"multi_scale": (4,)}, "multi_scale"), ({"seed": -1}, "seed")],
)  # fmt: skip
def test_bad_recipes_are_named(given, message):
    with pytest.raises(ValueError, match=message):
        made(**given)


def test_what_cannot_be_trained_is_named(data):
    with pytest.raises(ValueError, match="model 'resnet' is none of"):
        train("classify", data, "resnet", **SMALL)
    with pytest.raises(ValueError, match="has no masks"):
        train("segment", data, pixelwise, **SMALL)
    with pytest.raises(ValueError, match="no such part"):
        train("classify", data, tiny, freeze=("backbone",), **SMALL)
    with pytest.raises(ValueError, match="everything is frozen"):
        train("classify", data, tiny, freeze=tuple("0123456"), **SMALL)
    with pytest.raises(ValueError, match="threads=0"):
        train("classify", data, tiny, **{**SMALL, "threads": 0})
    with pytest.raises(ValueError, match="unexpected keyword"):
        train("classify", data, "snet49", model_options={"wide": 2}, **SMALL)


def test_a_loss_that_is_no_number_ends_the_run(data):
    def broken(num_classes):
        net = tiny(num_classes)
        nn.init.constant_(net[-1].bias, math.nan)
        return net

    with pytest.raises(ValueError, match="lower lr"):
        train("classify", data, broken, **{**SMALL, "epochs": 9})


def test_frozen_parts_stay(data):
    with seeded(0):
        before = tiny(6)
    done = train("classify", data, tiny, freeze=("0", "1"), **SMALL).model.network
    for k in (0, 1):
        assert same(done[k].state_dict(), before[k].state_dict())
    assert not torch.equal(done[-1].weight, before[-1].weight)


def test_weights_that_do_not_fit_are_told(data, tmp_path):
    net = tiny(7, 8).state_dict()
    net["extra.weight"] = torch.zeros(3)
    del net["1.bias"]
    save_file(net, tmp_path / "w.safetensors")
    torch.save({"state_dict": {f"module.{k}": v for k, v in net.items()}}, tmp_path / "w.pth")
    for file in ("w.safetensors", "w.pth"):
        fresh = tiny(10, 8)
        kept = fresh[-1].weight.clone()
        told = load_weights(fresh, tmp_path / file)
        assert torch.equal(fresh[0].weight, net["0.weight"])
        assert torch.equal(fresh[-1].weight, kept)
        assert told.missing == ("1.bias",)
        assert told.unused == ("extra.weight",)
        assert set(told.reshaped) == {("6.weight", (7, 32), (10, 32)), ("6.bias", (7,), (10,))}
        assert "5 of 8 tensors loaded" in str(told)
    whole = nn.ModuleDict({"backbone": tiny(7), "head": nn.Linear(2, 2)})
    assert load_weights(whole, tmp_path / "w.pth").part == "backbone"
    events = []
    done = train("classify", data, tiny, weights=tmp_path / "w.pth", progress=events.append,
                 **{**SMALL, "epochs": 1})  # fmt: skip
    assert events[0].text == str(done.weights)

    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "w.safetensors").read_bytes()[:40])
    (tmp_path / "text.pth").write_text("weights")
    save_file({"other": torch.zeros(2)}, tmp_path / "other.safetensors")
    torch.save([1, 2], tmp_path / "list.pth")
    for file, message in (("cut.safetensors", "expected safetensors"), ("none.pth", "no such file"),
                          ("text.pth", "expected a state dict"), ("list.pth", "no tensors"),
                          ("other.safetensors", "none of its 1 tensors")):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            load_weights(tiny(3), tmp_path / file)


def test_average_by_hand():
    net = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1)).double()
    average = Average(net, decay=0.5)
    value = net[0].weight.item()
    for step in range(1, 15):
        nn.init.constant_(net[0].weight, step)
        net[1].num_batches_tracked.fill_(step)
        average.update(net)
        d = min(0.5, (1 + step) / (10 + step))
        value = d * value + (1 - d) * step
    assert average.network[0].weight.item() == pytest.approx(value)
    assert average.network[1].num_batches_tracked == 14


def test_what_torch_draws_depends_on_the_numbers_alone():
    before = torch.get_rng_state()
    with seeded(1, 2):
        first = torch.rand(3)
    with seeded(1, 3):
        other = torch.rand(3)
    with seeded(1, 2):
        assert torch.equal(torch.rand(3), first)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)


def test_mixup_and_smoothing_by_hand():
    net = tiny(3).eval()
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (4, 8, 8, 3), np.uint8)
    labels = np.array([0, 1, 2, 1])
    recipe, inputs = made(label_smoothing=0.1), Inputs("classify", 8, "cover")
    with torch.no_grad():
        loss = loop.batch_loss(net, Batch(images, labels=labels, mix=0.3), inputs, recipe)
        x = inputs.tensor(images)
        logp = net(0.3 * x + 0.7 * x[[3, 0, 1, 2]]).log_softmax(1)
    hot = np.eye(3)[labels]
    target = 0.9 * (0.3 * hot + 0.7 * hot[[3, 0, 1, 2]]) + 0.1 / 3
    assert loss.item() == pytest.approx(-(target * logp.numpy()).sum(1).mean(), rel=1e-5)


def test_segment_loss_by_hand():
    rng = np.random.default_rng(0)
    logits = torch.tensor(rng.normal(size=(2, 3, 4, 5)))
    masks = torch.tensor(rng.choice([0, 1, 255], (2, 4, 5)))
    p = logits.softmax(1).numpy()
    entropy, dice = [], []
    for b, y, x in np.ndindex(2, 4, 5):
        if masks[b, y, x] != 255:
            entropy.append(-np.log(p[b, masks[b, y, x], y, x]))
    counted = masks.numpy() != 255
    for k in (0, 1):  # class 2 does not occur
        true = masks.numpy() == k
        both = (p[:, k] * true).sum()
        dice.append((2 * both + 1) / ((p[:, k] * counted).sum() + true.sum() + 1))
    wanted = np.mean(entropy) + 1 - np.mean(dice)
    assert loop.segment_loss(logits, masks).item() == pytest.approx(wanted, rel=1e-5)
    nothing = torch.full_like(masks, 255)
    assert math.isfinite(loop.segment_loss(logits, nothing).item())


def test_metrics_by_brute_force():
    rng = np.random.default_rng(0)
    truth, found = rng.choice([0, 1, 2, 255], (9, 7)), rng.integers(0, 3, (9, 7))
    counts = confusion(truth, found, 3)
    for i, j in np.ndindex(3, 3):
        assert counts[i, j] == ((truth == i) & (found == j)).sum()
    scores = np.array([[0.7, 0.1, 0.1, 0.05, 0.03, 0.02]] * 3 + [[1 / 6] * 6])
    figures = accuracy(scores, np.array([0, 4, 5, 2]))
    assert figures["accuracy"] == 0.25  # the tie is no hit
    assert figures["top5"] == 0.5


def test_a_segmenter_of_any_size(tmp_path):
    data = digit_scenes(12, 40, classes=(0, 1)).for_task("segment")
    done = train("segment", data, pixelwise, out=tmp_path, multi_scale=(16, 32), progressive=0.5,
                 augmentation=Augmentation(mirror="all", scale=(0.5, 2)), **SMALL)  # fmt: skip
    assert set(done.metrics["iou_by_class"]) <= {"background", "0", "1"}
    masks = [one["mask"] for one in done.model.predict(data.validation.images)]
    total = sum(confusion(t, m, 3) for t, m in zip(data.validation.masks, masks, strict=True))
    iou = [total[i, i] / (total[i].sum() + total[:, i].sum() - total[i, i])
           for i in range(3) if total[i].sum() + total[:, i].sum()]  # fmt: skip
    assert done.metrics["iou"] == pytest.approx(np.mean(iou))
    # A pixel's neighbourhood is 3 x 3: cutting the image changes its border alone.
    image = data.validation[0].image
    parts = done.model.predict([image[:33, :17], image])
    assert parts[0]["mask"].shape == (33, 17)
    assert np.array_equal(parts[0]["mask"][:32, :16], parts[1]["mask"][:32, :16])
    for fit in ("stretch", "letterbox"):
        inputs = Inputs("segment", 20, fit)
        metrics = evaluate(done.model.network, data.validation, data.classes, inputs)
        assert 0 <= metrics["iou"] <= 1


def test_validation_is_left_out_if_there_is_none():
    data = ImageData("classify", tuple("abcdef"), images(20), images(0))
    done = train("classify", data, tiny, **SMALL)
    assert done.metrics == {"epoch": 2}
    assert done.test is None


def test_a_folder_that_is_a_file(data, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="expected a folder"):
        Folder(tmp_path / "file")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="expected JSON"):
        Folder(tmp_path).config()
    (tmp_path / "last.pt").write_bytes(b"PK")
    with pytest.raises(ValueError, match="state of a run"):
        Folder(tmp_path).last()
