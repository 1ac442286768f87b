"""The study of detectors: the task, the user's boxes, protocols, claims, pictures, speed."""

import dataclasses
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
from paragone.lab.contestants import detectors
from paragone.lab.outcome import Cell, Difference, Row, Summary
from paragone.lab.probe import Probe
from paragone.lab.spec import Block, Contestant, Job, Request, Workload
from paragone.lab.statistics.bootstrap import resampled_means
from paragone.lab.studies import _detectors_findings as findings
from paragone.lab.studies import _detectors_pictures as pictures
from paragone.lab.tasks import detection, sweep
from paragone.vision import average_precision

STUDY = studies.load("detectors")
SPEED = studies.load("ps_roi_align_speed")
CONTESTANTS = STUDY.contestants(Request())
WORKLOADS = STUDY.workloads(Request(quick=True))


pytestmark = pytest.mark.usefixtures("preloaded")


class Guess(nn.Module):
    """A stranger's detector: one box, as large as objects are on average; it can be suppressed."""

    suppression = "hard"

    def __init__(self, num_classes, image_size):
        super().__init__()
        self.box = nn.Parameter(torch.tensor([0.3, 0.3, 0.7, 0.7]) * image_size)
        self.logits = nn.Parameter(torch.zeros(num_classes))

    def forward(self, images, targets=None):
        if self.training:
            assert targets is not None
            boxes = torch.cat([t["boxes"] for t in targets])
            labels = torch.cat([t["labels"] for t in targets])
            cross = nn.functional.cross_entropy(self.logits.expand(len(labels), -1), labels)
            return {"box": (self.box - boxes).abs().mean(), "label": cross}
        score, label = self.logits.softmax(0).max(0)
        one = {"boxes": self.box[None], "labels": label[None], "scores": score[None]}
        return [one for _ in images]


class Silent(Guess):
    """One that finds nothing, and says it with a box that is none."""

    def forward(self, images, targets=None):
        if self.training:
            return super().forward(images, targets)
        nan = torch.full((1, 4), torch.nan)
        return [{"boxes": nan, "labels": torch.tensor([0]), "scores": torch.tensor([0.5])}]


def planted(name):
    return Contestant(id=name, title=name, make=f"{__file__}:{name}", origin="guest")


def one(name):
    return next(c for c in CONTESTANTS if c.id == name)


def trained(contestant, folder=None, load="scenes", params=None, **facts):
    facts = {"size": 64, "batch": 4, "rate": 1e-2, "steps": 2, **facts}
    workload = Workload(
        id="w", title="w", load=f"paragone.lab.tasks.detection:{load}", facts=facts,
        params=params or {"count": 16, "size": 64, "kinds": 2},
    )  # fmt: skip
    job = Job(key="k", task=STUDY.task, contestant=contestant, workload=workload, quick=True,
              block=Block(workload="w", index=0, split=0, seed=0), threads=1,
              folder=str(folder or ""))  # fmt: skip
    probe = Probe(folder)
    detection.run(job, probe)
    return probe


@pytest.mark.parametrize("quick", [True, False])
def test_inputs_and_measures_are_well_formed(quick):
    (place,) = STUDY.workloads(Request(quick=quick))
    assert place.primary == "ap"
    for role in ("quality", "time", "memory", "count"):
        assert sum(m.primary for m in STUDY.measures if m.role == role) == 1
    met = {c.id for c in CONTESTANTS if applies(c, place)}
    assert STUDY.reference in met
    assert met == (set(detectors.QUICK) if quick else {c.id for c in CONTESTANTS})


def test_a_run_records_what_the_report_shows(tmp_path):
    probe = trained(planted("Guess"), tmp_path, steps=5)
    values = probe.values
    known = {m.name for m in STUDY.measures} - {"macs", "ap_small", "ap_medium"}
    assert known <= set(values)
    assert values["seen"] == 20
    assert values["found"] == 4
    assert values["ap_soft"] == values["ap_hard"]
    influence = np.load(tmp_path / "example_loss.npy")
    assert influence.mean() == pytest.approx(values["ap"], abs=1e-12)
    counts, boxes = (np.load(tmp_path / f"{n}.npy") for n in ("counts", "boxes"))
    assert counts.tolist() == [1] * 4
    assert boxes.shape == (4, 4)
    json.dumps({"values": values, "curves": probe.curves}, allow_nan=False)
    timed = trained(planted("Guess"), steps=None, seconds=0.02)
    assert timed.values["steps"] >= 1
    assert timed.digests == probe.digests


def test_one_that_finds_nothing_has_no_precision():
    values = trained(planted("Silent")).values
    assert values["found"] == 0
    assert values["ap"] == values["voc2007"] == 0


def test_our_detectors_take_part():
    found = trained(one("thundernet"), size=64)
    assert {"ap", "macs", "ap_soft", "parameters"} <= set(found.values)
    assert trained(planted("Guess")).digests == found.digests


def many(seed, count=40, classes=2, noise=3.0):
    """Objects, and detections near them with some beside."""
    rng = np.random.default_rng(seed)
    objects, found = [], []
    for _ in range(count):
        corner = rng.uniform(0, 60, (3, 2))
        boxes = np.concatenate([corner, corner + rng.uniform(10, 40, (3, 2))], 1)
        labels = rng.integers(0, classes, 3)
        objects.append({"boxes": boxes, "labels": labels, "difficult": np.zeros(3, bool)})
        moved = boxes + rng.normal(0, noise, boxes.shape)
        moved[:, 2:] = np.maximum(moved[:, 2:], moved[:, :2] + 1)
        stray = rng.random(3) < 0.3
        found.append({"boxes": moved, "labels": np.where(stray, 1 - labels, labels),
                      "scores": rng.random(3)})  # fmt: skip
    return objects, found


def test_protocols_differ_one_change_at_a_time():
    objects, found = many(0)
    told = detection.protocols(objects, found, 2)
    assert told["voc2007"] == average_precision(objects, found, protocol="voc2007").ap
    assert told["ap"] < told["ap50"]
    assert told["ap75"] < told["ap50"]
    total = dict(findings.steps(told))
    way = [total[why] for _, _, why in findings.STEPS[1:]]
    assert told["voc2007"] + sum(way) == pytest.approx(told["ap"])
    perfect = [{**t, "scores": np.ones(3)} for t in objects]
    exact = detection.protocols(objects, perfect, 2)
    assert {exact[k] for k in ("voc2007", "voc2012", "coco11", "ap50", "ap")} == {1.0}


def test_contributions_stand_for_the_bootstrap():
    """Their resampled means spread as average precision of resampled images does."""
    objects, found = many(1)
    whole = float(average_precision(objects, found).ap)
    each = detection.contributions(objects, found, 2, whole)
    assert each.mean() == pytest.approx(whole)
    draws = resampled_means(each[None], random_state=np.random.default_rng(0))[:, 0]
    rng = np.random.default_rng(0)
    direct = []
    for _ in range(60):
        rows = rng.integers(0, len(objects), len(objects))
        again = average_precision([objects[i] for i in rows], [found[i] for i in rows], threads=1)
        direct.append(float(again.ap))
    assert np.std(draws) == pytest.approx(np.std(direct), rel=0.35)


COCO = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "cell"}]}


def coco_folder(path, count=12, boxes=1):
    path.mkdir()
    content = json.loads(json.dumps(COCO))
    for i in range(count):
        Image.fromarray(np.full((40, 80, 3), 20 * i % 255, np.uint8)).save(path / f"{i}.png")
        content["images"].append({"id": i, "file_name": f"{i}.png", "width": 80, "height": 40})
        for j in range(boxes):
            content["annotations"].append({
                "id": 10 * i + j + 1, "image_id": i, "category_id": 1, "bbox": [8, 4, 20, 16],
                "area": 320, "iscrowd": 0,
            })  # fmt: skip
    (path / "annotations.json").write_text(json.dumps(content))
    return path


def test_the_users_boxes(tmp_path):
    folder = coco_folder(tmp_path / "mine")
    request = Request(data=str(folder), quick=True, cache=str(tmp_path / "cache"))
    (place,) = STUDY.workloads(request)
    assert "12 images, 12 boxes, 1 classes" in place.title
    scenes = detection.stored(**place.params)
    assert scenes.pixels.shape == (12, 160, 160, 3)
    assert scenes.boxes[0].tolist() == [[16, 8, 56, 40]], "twice as large, as the image is"
    assert not set(scenes.train) & set(scenes.test)
    probe = trained(planted("Guess"), load="stored", params=place.params, size=160)
    assert probe.digests["data"] == place.digest


def test_bad_boxes_are_told(tmp_path):
    few = coco_folder(tmp_path / "few", count=4)
    bare = coco_folder(tmp_path / "bare", boxes=0)
    for data, words in ((tmp_path / "none", "none"), (few, "10 images"), (bare, "--data")):
        with pytest.raises(UsageError, match=words):
            STUDY.workloads(Request(data=str(data), quick=True, cache=str(tmp_path / "cache")))
    with pytest.raises(UsageError, match="--target"):
        STUDY.workloads(Request(target="x"))


def summary(values, differences=()):
    """Values: contestant to measure to number."""
    place = WORKLOADS[0].id
    rows, records = [], []
    for name, more in values.items():
        rows.append(Row(contestant=name, title=name, origin="paragone",
                        cells={k: Cell(value=v) for k, v in more.items()}))  # fmt: skip
        records.append({"contestant": name, "workload": place, "status": "ok", "values": more,
                        "artifacts": {}})  # fmt: skip
    told = [Difference(a=a, b=b, measure="ap", workload=place, estimate=0.0, word=word)
            for a, b, word in differences]  # fmt: skip
    return Summary(study="detectors", question="?", workloads=WORKLOADS, contestants=CONTESTANTS,
                   tables={place: rows}, records=records, differences=told)  # fmt: skip


def holding(good):
    high, low = (0.5, 0.3) if good else (0.3, 0.5)
    shared = {"voc2007": 0.8 if good else 0.1, "voc2012": 0.7, "coco11": 0.72, "ap50": 0.71}
    values = {
        "thundernet": {"ap": high, "ap_soft": high, "ap_hard": 0.4, "ap_small": high, **shared},
        "thundernet_plain": {"ap": low, **shared},
        "nanodet": {"ap": 0.4, "ap_small": 0.4, **shared},
    }  # fmt: skip
    return summary(values, [("thundernet", "thundernet_plain", "better" if good else "worse")])


def test_claims_hold_and_do_not():
    assert [c.check(holding(True)).verdict for c in STUDY.claims] == ["holds"] * 4
    assert [c.check(holding(False)).verdict for c in STUDY.claims] == ["does not hold"] * 4
    empty = Summary(study="detectors", question="?")
    assert [c.check(empty).verdict for c in STUDY.claims] == ["not tested"] * 4
    assert STUDY.findings(empty) == []
    poor = summary({n: {"ap": 0.001, "ap_small": 0.001, "ap_soft": 0.001, "ap_hard": 0.0}
                    for n in ("thundernet", "thundernet_plain", "nanodet")})  # fmt: skip
    assert [c.check(poor).verdict for c in STUDY.claims] == ["not tested"] * 4


def test_why_protocols_differ_is_told():
    told = STUDY.findings(summary({
        "nanodet": {"ap": 0.4, "ap50": 0.71, "voc2007": 0.8, "voc2012": 0.7, "coco11": 0.72,
                    "seen": 900, "latency_s": 0.01},
        "thundernet": {"ap": 0.3, "ap50": 0.75, "voc2007": 0.9, "voc2012": 0.7, "coco11": 0.72,
                       "seen": 500, "latency_s": 0.02},
    }))  # fmt: skip
    assert any("VOC 2007 0.800, VOC 2012 0.700" in t for t in told)
    assert any("-0.100 read at all recalls" in t and "-0.310 ten overlaps" in t for t in told)
    assert any("VOC 2007 ranks ThunderNet" in t for t in told)
    assert any("AP50 0.710 from 900 images" in t for t in told)


def test_pictures_are_drawn(tmp_path, monkeypatch):
    scenes = detection.scenes(16, 64, 2)
    counts = [len(scenes.boxes[i]) for i in scenes.test]
    arrays = {
        "boxes": np.concatenate([scenes.boxes[i] for i in scenes.test]), "counts": counts,
        "labels": np.concatenate([scenes.labels[i] for i in scenes.test]),
        "scores": np.full(sum(counts), 0.9),
    }  # fmt: skip
    for name, array in arrays.items():
        np.save(tmp_path / f"{name}.npy", array)
    place = dataclasses.replace(WORKLOADS[0], params={"count": 16, "size": 64, "kinds": 2})
    told = summary({"nanodet": {"ap": 0.4, "ap50": 0.7, "voc2007": 0.8, "voc2012": 0.7}})
    record = {**told.records[0], "artifacts": {n: f"{n}.npy" for n in arrays}}
    curve = ("nanodet", "scenes", "AP over overlap", [0.5, 0.55, 0.6], [0.7, 0.6, 0.5])
    told = dataclasses.replace(told, records=[record], workloads=[place], curves=[curve])
    monkeypatch.setattr(pictures, "summarize", lambda folder: told)
    path = str(tmp_path / "p.svg")
    for draw, mark, count in ((pictures.boxes, "<image", 4), (pictures.boxes, 'class="found"', 4),
                              (pictures.protocols, 'class="b', 4),
                              (pictures.overlaps, 'class="curve', 1)):  # fmt: skip
        draw(str(tmp_path), path)
        assert (tmp_path / "p.svg").read_text().count(mark) >= count, draw.__name__
    monkeypatch.setattr(pictures, "summarize", lambda f: Summary(study="detectors", question="?"))
    for draw in (pictures.boxes, pictures.protocols, pictures.overlaps):
        with pytest.raises(SystemExit, match="nothing to draw"):
            draw(str(tmp_path), path)


@pytest.mark.parametrize("way", ["forward", "backward"])
@pytest.mark.filterwarnings("ignore")
def test_speed_contestants_do_equal_work(way):
    given = detectors.pooling(way, 2, 37, 9)
    truth = detectors.truth(*given)
    for contestant in SPEED.contestants(Request()):
        if guests.installed(contestant):
            assert sweep.relative_error(bind(contestant)(*given), truth) < 1e-5, contestant.id


def test_speed_study_is_well_formed():
    assert len(SPEED.workloads(Request())) > len(SPEED.workloads(Request(quick=True)))
    short = SPEED.workloads(Request(options={"rows": 12}))
    assert {w.facts["regions"] for w in short} == {12}
    with pytest.raises(UsageError, match="--data"):
        SPEED.workloads(Request(data="x"))
    assert STUDY.speed["thundernet"] == SPEED.id
    assert "thundernet" in {c.id for c in SPEED.contestants(Request())}
