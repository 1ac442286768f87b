"""The study of backbones: the task, the user's images, findings, claims, pictures, speed."""

import dataclasses
import importlib
import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from paragone._core.errors import UsageError
from paragone.lab import guests, studies
from paragone.lab._ranking import applies
from paragone.lab.build import bind
from paragone.lab.contestants import backbones, backbones_calls
from paragone.lab.outcome import Cell, Difference, Row, Summary
from paragone.lab.probe import Probe
from paragone.lab.spec import Block, Contestant, Job, Request, Workload
from paragone.lab.studies import _backbones_findings as findings
from paragone.lab.studies import _backbones_pictures as pictures
from paragone.lab.tasks import image, sweep
from paragone.vision import backbone, load_model
from paragone.vision.counting import macs_by_layer
from paragone.vision.registry import BACKBONES

STUDY = studies.load("backbones")
SPEED = studies.load("backbones_speed")
CONTESTANTS = STUDY.contestants(Request())
WORKLOADS = STUDY.workloads(Request(quick=True))
FULL = STUDY.workloads(Request())


pytestmark = pytest.mark.usefixtures("preloaded")


class Tiny(nn.Module):
    """A stranger's network: two convolutions, one of them depthwise."""

    def __init__(self, num_classes):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8, momentum=0.01), nn.ReLU(),
            nn.Conv2d(8, 8, 3, 1, 1, groups=8, bias=False), nn.Conv2d(8, 16, 1, bias=False),
            nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
        )  # fmt: skip
        self.head = nn.Linear(64, num_classes)

    def forward(self, x):
        return self.head(self.body(x))


class Narrow(Tiny):
    """A planted wrong one: a class short."""

    def forward(self, x):
        return super().forward(x)[:, 1:]


class Cheat(nn.Module):
    """Another one: no network at all."""

    def __new__(cls, num_classes):
        return [num_classes]


def planted(name):
    return Contestant(id=name, title=name, make=f"{__file__}:{name}", origin="guest")


def one(name):
    return next(c for c in CONTESTANTS if c.id == name)


def trained(contestant, folder=None, load="digits", params=None, seed=0, **facts):
    facts = {"part": "learn", "size": 16, "batch": 32, "rates": [1e-2], "steps": 4, **facts}
    workload = Workload(id="w", title="w", load=f"paragone.lab.tasks.image:{load}",
                        params=params or {"size": 16}, facts=facts)  # fmt: skip
    job = Job(key="k", task=STUDY.task, contestant=contestant, workload=workload, quick=True,
              block=Block(workload="w", index=0, split=0, seed=seed), threads=1,
              folder=str(folder or ""))  # fmt: skip
    probe = Probe(folder)
    image.run(job, probe)
    return probe


@pytest.mark.parametrize("quick", [True, False])
def test_inputs_and_measures_are_well_formed(quick):
    found = STUDY.workloads(Request(quick=quick))
    known = {m.name for m in STUDY.measures}
    assert all(set(w.measures) <= known for w in found)
    for role in ("quality", "time", "memory", "count"):
        assert sum(m.primary for m in STUDY.measures if m.role == role) == 1
    assert set(BACKBONES) < {c.id for c in CONTESTANTS}
    assert set(backbones.PAIRS.values()) <= set(BACKBONES)
    assert set(BACKBONES) <= set(backbones.TITLES)
    place = {w.id: w for w in found}
    assert applies(one(STUDY.reference), place["seconds"])
    met = {c.id for c in CONTESTANTS if applies(c, place["seconds"])}
    assert met == set(backbones.QUICK) if quick else len(met) > 25
    assert {c.id for c in CONTESTANTS if applies(c, place["scaling"])} == {
        f"b0_{name}" for name in backbones.DIMENSIONS
    }
    if not quick:
        assert {c.id for c in CONTESTANTS if applies(c, place["parameters"])} == {
            "xception", "inception_v3", "mobilenet_v2", "shufflenet_v2"
        }  # fmt: skip


def test_learning_records_what_the_report_shows(tmp_path):
    probe = trained(planted("Tiny"), tmp_path, steps=80, rates=[2e-2])
    values = probe.values
    known = {m.name for m in STUDY.measures}
    assert set(WORKLOADS[0].measures) <= known & set(values)
    assert values["accuracy"] > 0.5
    assert values["seen"] == 80 * 32
    losses, correct = (np.load(tmp_path / f"{n}.npy") for n in ("example_loss", "correct"))
    assert losses.mean() == pytest.approx(values["log_loss"])
    assert correct.mean() == pytest.approx(values["accuracy"])
    rows, guess = (np.load(tmp_path / f"{n}.npy") for n in ("rows", "guess"))
    assert ((image.digits(16).labels[rows] == guess) == correct).all()
    curve = probe.curves["training loss over seconds"]
    assert curve["y"][-1] < curve["y"][0]
    json.dumps({"values": values, "curves": probe.curves}, allow_nan=False)


def test_all_get_the_same_batches_and_a_budget_of_seconds_ends():
    first = trained(planted("Tiny"))
    again = trained(planted("Tiny"))
    assert first.values["log_loss"] == again.values["log_loss"]
    other = trained(one("shufflenet_v2"), width=0.5, size=32, params={"size": 16}, steps=2)
    assert other.digests == first.digests
    timed = trained(planted("Tiny"), steps=None, seconds=0.05)
    assert timed.values["steps"] >= 1


def test_the_best_rate_is_chosen_where_there_are_several():
    probe = trained(planted("Tiny"), rates=[1e-7, 1e-2], steps=12)
    assert probe.values["rate"] == 1e-2
    assert probe.values["tune_s"] > 0


def test_norms_are_settled():
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(3, momentum=0.01)
    x = 5 + 2 * torch.randn(64, 3, 4, 4)
    image.settle(norm, lambda: norm(x))
    assert norm.running_mean is not None
    assert torch.allclose(norm.running_mean, torch.full((3,), 5.0), atol=0.3)
    assert norm.momentum == 0.01
    assert not norm.training


def test_planted_wrong_contestants_are_caught():
    with pytest.raises(ValueError, match="expected"):
        trained(planted("Narrow"))
    with pytest.raises(TypeError, match="Module"):
        trained(planted("Cheat"))


def test_costs_are_counted_not_estimated():
    model = Tiny(10)
    pair, full, formula = image.separable(model, macs_by_layer(model, (3, 16, 16)))
    assert pair == 8 * 8 * (9 * 8 + 8 * 16)
    assert full == 8 * 8 * 9 * 8 * 16
    assert pair == pytest.approx(formula)
    net = backbone("mobilenet_v1", device="meta")
    pair, full, formula = image.separable(net, macs_by_layer(net, (3, 64, 64)))
    assert pair == pytest.approx(formula)
    assert 0.11 < pair / full < 0.13
    plain = nn.Conv2d(4, 4, 3)
    assert image.separable(plain, macs_by_layer(plain, (4, 8, 8))) == (0, 0, 0.0)
    told = trained(planted("Tiny"), load="noise", params={"size": 16, "rows": 4}, part="cost",
                   batch=4, labels=1000).values  # fmt: skip
    assert {"latency_s", "batch_s", "step_s", "macs", "separable_full"} <= set(told)
    assert told["parameters"] == sum(p.numel() for p in Tiny(1000).parameters())


def test_networks_are_scaled_to_equal_costs():
    plain = backbones.scaled("none", 10, 32, 0.25)
    net = backbones.scaled("compound", 10, 32, 0.25, times=4.0)
    assert net.macs(net.image_size) == pytest.approx(4 * plain.macs((32, 32)), rel=0.1)
    assert net.image_size[0] > 32
    assert net.parameter_count() > plain.parameter_count()
    net = backbones.network("shufflenet_v2", 10, parameters=400_000)
    assert net.parameter_count() == pytest.approx(400_000, rel=0.05)


def folder_of_images(path, classes=2, each=6):
    rng = np.random.default_rng(0)
    for label in range(classes):
        (path / f"class{label}").mkdir(parents=True)
        for i in range(each):
            pixels = rng.integers(0, 255, (20 + i, 30, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(path / f"class{label}" / f"{i}.png")
    return path


def test_the_users_images(tmp_path):
    folder = folder_of_images(tmp_path / "mine")
    request = Request(data=str(folder), quick=True, cache=str(tmp_path / "cache"))
    (given,) = STUDY.workloads(request)
    assert given.id == "data"
    assert "12 images of 2 classes" in given.title
    images = image.stored(**given.params)
    assert images.pixels.shape == (12, 64, 64, 3)
    assert np.bincount(images.labels).tolist() == [6, 6]
    probe = trained(planted("Tiny"), load="stored", params=given.params, batch=4, size=64)
    assert probe.digests["data"] == given.digest


def test_bad_images_are_told(tmp_path):
    few = folder_of_images(tmp_path / "few", each=3)
    alone = folder_of_images(tmp_path / "alone", classes=1)
    for data, words in ((tmp_path / "none", "none"), (few, "at least 2"), (alone, "class")):
        with pytest.raises(UsageError, match=words):
            STUDY.workloads(Request(data=str(data), cache=str(tmp_path / "cache")))
    with pytest.raises(UsageError, match="--target"):
        STUDY.workloads(Request(target="x"))


def summary(values, differences=()):
    """Values: (workload, contestant) to measure to number."""
    tables = {w.id: [] for w in FULL}
    records = []
    for (place, name), more in values.items():
        tables[place].append(Row(
            contestant=name, title=name, origin="paragone",
            cells={key: Cell(value=value) for key, value in more.items()},
        ))  # fmt: skip
        records.append({"contestant": name, "workload": place, "status": "ok", "values": more,
                        "artifacts": {}})  # fmt: skip
    told = [Difference(a=a, b=b, measure="accuracy", workload=place, estimate=0.0, word=word)
            for place, a, b, word in differences]  # fmt: skip
    return Summary(study="backbones", question="?", workloads=FULL, contestants=CONTESTANTS,
                   tables=tables, records=records, differences=told)  # fmt: skip


def holding(good):
    def sized(accuracy, macs, **more):
        return {"accuracy": accuracy, "macs": macs, **more}

    values = {
        ("seconds", "shufflenet_v2"): sized(0.9, 1e6 if good else 9e6),
        ("seconds", "mobilenet_v2"): sized(0.9, 1e6 if good else 9e6),
        ("seconds", "mobilenet_v1"): sized(0.9, 5e6),
        ("parameters", "xception"): sized(0.9 if good else 0.5, 1, parameters=1e6),
        ("parameters", "inception_v3"): sized(0.8, 1, parameters=1e6),
        ("scaling", "b0_compound"): sized(0.9, 4e6),
        ("scaling", "b0_none"): sized(0.5, 1e6),
    }  # fmt: skip
    for name in ("depth", "width", "resolution"):
        values["scaling", f"b0_{name}"] = sized(0.8, 4e6)
    cost = {
        "efficientnet_b0": (1e6, 1e-3, 5e6), "resnet50": (11e6 if good else 2e6, 2e-3, 25e6),
        "mobilenet_v1": (2e6, 1.5e-3 if good else 2.1e-3, 4e6), "snet49": (3e6, 3.1e-3, 1e6),
    }  # fmt: skip
    for name, (macs, time, size) in cost.items():
        time = time if good or name != "resnet50" else 2.1e-3
        values["cost", name] = {"macs": macs, "batch_s": time, "parameters": size}
    values["cost", "mobilenet_v1"] |= {"separable_macs": 11.0, "separable_full": 100.0,
                                       "separable_formula": 11.0 if good else 12.0}  # fmt: skip
    better, same = ("better", "same") if good else ("worse", "worse")
    told = [("parameters", "xception", "inception_v3", better),
            ("seconds", "mobilenet_v1", "shufflenet_v2", same),
            ("seconds", "mobilenet_v2", "mobilenet_v1", same)]  # fmt: skip
    told += [("scaling", "b0_compound", f"b0_{n}", better)
             for n in ("depth", "width", "resolution")]  # fmt: skip
    return summary(values, told)


def test_claims_hold_and_do_not():
    assert [c.check(holding(True)).verdict for c in STUDY.claims] == ["holds"] * 7
    told = [c.check(holding(False)) for c in STUDY.claims]
    assert [t.verdict for t in told] == ["does not hold"] * 7, [t.measured for t in told]
    empty = Summary(study="backbones", question="?")
    assert [c.check(empty).verdict for c in STUDY.claims] == ["not tested"] * 7
    assert STUDY.findings(empty) == []
    open_ = dataclasses.replace(holding(True), differences=())
    assert [c.check(open_).verdict for c in STUDY.claims][1:5] == ["not tested"] * 4


def test_equal_seconds_and_equal_networks_are_told():
    told = STUDY.findings(summary({
        ("seconds", "snet49"): {"accuracy": 0.97, "macs": 1e6, "seen": 9000, "step_s": 1.0},
        ("seconds", "efficientnet_b0"): {"accuracy": 0.6, "macs": 9e6, "seen": 1000,
                                         "step_s": 2.0},
        ("seconds", "timm_efficientnet_b0"): {"accuracy": 0.55, "macs": 9e6, "seen": 800,
                                              "step_s": 3.0},
        ("cost", "snet49"): {"macs": 1e6, "batch_s": 1e-3},
        ("cost", "xception"): {"macs": 1e6, "batch_s": 2e-3},
        ("cost", "resnet18"): {"macs": 1e6, "batch_s": 5e-3},
    }))  # fmt: skip
    assert any("SNet49 is right in 97.0%" in t and "lighter network saw 9,000" in t for t in told)
    assert any("1.50x faster than timm" in t and "60.0% against 55.0%" in t for t in told)
    assert any("SNet49 1.0 s and ResNet-18 5.0 s" in t for t in told), told
    assert findings.rank_correlation([1, 2, 3], [3, 2, 1]) == -1.0


def test_pictures_are_drawn(tmp_path, monkeypatch):
    rows = image.digits(48).labels[:6]
    np.save(tmp_path / "rows.npy", np.arange(6))
    np.save(tmp_path / "guess.npy", (rows + 1) % 10)
    np.save(tmp_path / "correct.npy", np.zeros(6, bool))
    names = {n: f"{n}.npy" for n in ("rows", "guess", "correct")}
    told = summary({("cost", n): {"macs": m, "batch_s": t} for n, m, t in
                    (("snet49", 1e6, 1e-3), ("xception", 9e6, 1e-2))})  # fmt: skip
    record = {"contestant": "snet49", "workload": "seconds", "artifacts": names}
    told = dataclasses.replace(told, records=[record])
    monkeypatch.setattr(pictures, "summarize", lambda folder: told)
    path = str(tmp_path / "p.svg")
    for draw, mark, count in ((pictures.macs, "<circle", 2), (pictures.mistakes, "<image", 6),
                              (pictures.lineage, 'class="bar"', 10)):  # fmt: skip
        draw(str(tmp_path), path)
        assert (tmp_path / "p.svg").read_text().count(mark) >= count, draw.__name__
    monkeypatch.setattr(pictures, "summarize", lambda f: Summary(study="backbones", question="?"))
    for draw in (pictures.macs, pictures.mistakes):
        with pytest.raises(SystemExit, match="nothing to draw"):
            draw(str(tmp_path), path)


@pytest.mark.parametrize("place", ["shuffle-96", "shuffle-one"])
@pytest.mark.filterwarnings("ignore")
def test_speed_contestants_do_equal_work(place):
    workload = next(w for w in SPEED.workloads(Request()) if w.id == place)
    small = {**workload.params, "size": 64, "rows": 8 if place == "shuffle-96" else 1}
    given = backbones_calls.inputs(**small)
    truth = backbones_calls.truth(*given)
    met = 0
    for contestant in SPEED.contestants(Request()):
        skipped = contestant.distribution in ("onnxruntime", "timm")
        if skipped or not applies(contestant, workload) or not guests.installed(contestant):
            continue
        met += 1
        assert sweep.relative_error(bind(contestant)(*given), truth) < 2e-3, contestant.id
    assert met


def test_speed_study_covers_every_network():
    nets = {w.facts["net"] for w in SPEED.workloads(Request())}
    for contestant in SPEED.contestants(Request()):
        assert contestant.needs["net"]
        assert set(contestant.needs["net"]) <= nets
    short = SPEED.workloads(Request(quick=True, options={"bench": True, "rows": 4}))
    assert {w.facts["images"] for w in short if w.facts["op"] == "train"} == {4}
    with pytest.raises(UsageError, match="--data"):
        SPEED.workloads(Request(data="x"))
    assert set(STUDY.speed) <= {c.id for c in SPEED.contestants(Request())}


class Finished:
    """What `export` reads of a finished study."""

    def __init__(self, folder):
        self.folder, self.content = folder, {"request": {"seed": 0}}


def test_the_winner_is_written(tmp_path):
    place = Workload(
        id="seconds", title="Digits", load="paragone.lab.tasks.image:digits", params={"size": 32},
        facts={"part": "learn", "size": 32, "batch": 64, "rates": [2e-3], "seconds": 0.5,
               "width": 0.5},
    )  # fmt: skip
    write = importlib.import_module("paragone.lab.studies._backbones_export").write
    done = write(Finished(tmp_path), place, one("shufflenet_v2"), tmp_path / "winner")
    assert "load_model" in str(done)
    model = load_model(tmp_path / "winner")
    told = model.predict([image.digits(32).pixels[0]])
    assert told[0]["class"] in "0123456789"
    with pytest.raises(UsageError, match="own networks"):
        write(Finished(tmp_path), place, one("timm_mobilenet_v2"), tmp_path / "other")
    cost = dataclasses.replace(place, facts={"part": "cost"})
    with pytest.raises(UsageError, match="nothing was learnt"):
        write(Finished(tmp_path), cost, one("shufflenet_v2"), tmp_path / "other")
