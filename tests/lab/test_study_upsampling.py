"""The study of upsampling: images, the task, contestants, claims, pictures, speed."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from paragone._core.errors import UsageError
from paragone.lab import dense_images, studies
from paragone.lab._ranking import applies
from paragone.lab.contestants import carafe_calls
from paragone.lab.outcome import Cell, Row, Summary
from paragone.lab.probe import Probe
from paragone.lab.spec import Block, Contestant, Job, Request, Workload
from paragone.lab.studies import _upsampling_findings as findings
from paragone.lab.studies import _upsampling_pictures as pictures
from paragone.lab.tasks import dense, sweep

STUDY, SPEED = studies.load("upsampling"), studies.load("carafe_speed")
CONTESTANTS = STUDY.contestants(Request())
SEGMENT = {"part": "segment", "width": 2, "depth": 1, "rows": 2, "steps": 2, "rate": 1e-3}
SUPER = {"part": "super", "rows": 2, "patch": 4, "steps": 2, "rate": 1e-3, "scale": 3}
COST = {"part": "cost", "channels": 4, "size": 5, "scale": 2}


pytestmark = pytest.mark.usefixtures("preloaded")


def one(name):
    return next(c for c in CONTESTANTS if c.id == name)


def ran(contestant, facts, load, folder=None, **params):
    workload = Workload(id="w", title="w", load=f"paragone.lab.dense_images:{load}", params=params,
                        facts=facts)  # fmt: skip
    job = Job(
        key="k", task=STUDY.task, contestant=contestant, workload=workload, quick=True,
        block=Block(workload="w", index=0, split=0, seed=0), threads=1, folder=str(folder or ""),
        options={"least_time": 0.0},
    )  # fmt: skip
    probe = Probe(folder)
    dense.run(job, probe)
    return probe


@pytest.mark.parametrize("quick", [True, False])
def test_inputs_and_measures_are_well_formed(quick):
    for study in (STUDY, SPEED):
        found = study.workloads(Request(quick=quick))
        assert len({w.id for w in found}) == len(found)
        known = {m.name for m in study.measures}
        assert all(set(w.measures) <= known for w in found)
        entered = study.contestants(Request())
        assert len({c.id for c in entered}) == len(entered)
        reference = next(c for c in entered if c.id == study.reference)
        assert all(applies(reference, w) for w in found)
    for role in ("quality", "time", "memory", "count"):
        assert sum(m.primary for m in STUDY.measures if m.role == role) == 1
    with pytest.raises(UsageError, match="--target"):
        STUDY.workloads(Request(target="x"))
    with pytest.raises(UsageError, match="--data"):
        SPEED.workloads(Request(data="x"))


def test_test_images_are_in_no_batch():
    train, test = dense_images.scenes(8, 32).parts(1)
    assert train[0].shape == (6, 32, 32, 3)
    assert set(np.unique(test[1])) <= {0, 1}
    assert np.array_equal(train[0], dense_images.scenes(8, 32).parts(1)[0][0])
    assert not np.array_equal(train[0], dense_images.scenes(8, 32).parts(2)[0][0])
    source = dense_images.photos(60)
    for number in (0, 2, 4):
        pieces, crops = source.parts(number)
        area = sum(p.size for p in pieces)
        assert crops.shape[1:] == (60, 60)
        whole = sum(image.size for image in source.images)
        assert area <= whole - sum(60 * image.shape[0] for image in source.images)
        flat = np.concatenate([p.ravel() for p in pieces])
        rows = np.lib.stride_tricks.sliding_window_view(flat, 40)[::1]
        assert not (rows == crops[0, 7, 9:49]).all(1).any()
    small, large = next(source.batches(pieces, 2, 4, 3, 0))
    assert small.shape == (2, 1, 4, 4)
    assert large.shape == (2, 1, 12, 12)
    assert abs(float(small.mean() - large.mean())) < 0.02


@pytest.mark.parametrize("name", [c.id for c in CONTESTANTS])
def test_each_alone(name):
    found = ran(one(name), COST, "maps", channels=4, size=5).values
    assert {"step_s", "forward_s", "step_extra", "parameters"} <= set(found)
    clean = {"nearest", "bilinear", "bicubic", "pixel_shuffle", "transposed", "carafe",
             "carafe_unfold", "torch_bilinear", "dysample", "dysample_pl"}  # fmt: skip
    assert (found["printed_start"] < findings.NOTHING) == (name in clean)


@pytest.mark.parametrize("name", ["bilinear", "unpool", "torch_uneven"])
def test_in_a_unet(name, tmp_path):
    probe = ran(one(name), SEGMENT, "scenes", tmp_path, count=4, size=32)
    assert 0 <= probe.values["iou"] <= 1
    assert 0 <= probe.values["edge"] <= 1
    assert len(probe.curves["iou over seconds"]["x"]) >= 1
    assert {f.stem for f in tmp_path.glob("*.npy")} == {"shown", "image", "truth"}


@pytest.mark.parametrize("name", ["carafe", "torch_shuffle"])
def test_in_super_resolution(name, tmp_path):
    probe = ran(one(name), SUPER, "photos", tmp_path, side=60)
    assert np.isfinite(probe.values["psnr"])
    assert np.load(tmp_path / "shown.npy").shape == (60, 60)


class Stranger(nn.Upsample):
    """Ten lines at most: a module from elsewhere."""

    def __init__(self, scale):
        super().__init__(scale_factor=scale)


class Crooked(nn.Identity):
    """A planted wrong contestant: it does not enlarge."""


def test_strangers_and_wrong_ones():
    here = f"{__file__}:"
    stranger = Contestant(id="s", title="s", make=here + "Stranger", origin="guest")
    assert ran(stranger, COST, "maps", channels=4, size=5).values["parameters"] == 0
    crooked = Contestant(id="c", title="c", make=here + "Crooked", origin="guest")
    with pytest.raises(ValueError, match="away from"):
        dense._Fitted(nn.Identity(), 2)(torch.zeros(1, 1, 3, 3), (6, 6))
    with pytest.raises(ValueError, match="is expected"):
        ran(crooked, COST, "maps", channels=4, size=5)


def test_scores_against_counting():
    masks = torch.zeros(1, 6, 6, dtype=torch.long)
    masks[0, 1:4, 1:4] = 1
    masks[0, 5, 5] = 255

    class Fixed(nn.Module):
        def forward(self, x):
            guess = torch.zeros(1, 6, 6, dtype=torch.long)
            guess[0, 2:5, 1:4] = 1
            guess[0, 5, 5] = 1
            return nn.functional.one_hot(guess, 2).permute(0, 3, 1, 2).float()

    part = np.zeros((1, 6, 6, 3), np.uint8), masks.numpy().astype(np.uint8)
    told = dense._scores(Fixed(), part, dense_images.Crops())
    assert told["iou"] == pytest.approx(6 / 12)
    both = dense._scores(Fixed(), part, dense_images.Crops(background=False))
    assert both["iou"] == pytest.approx((6 / 12 + 23 / 29) / 2)
    near = dense._near_borders(masks)[0]
    assert near[1, 1]
    assert near[2, 2]
    assert not near[0, 5] or masks.max() == 255
    assert 0 < told["edge"] < 1


def test_what_is_printed():
    class Printer(nn.Module):
        def forward(self, x, size=None, indices=None):
            y = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
            return y * (1 + torch.tensor([0.0, 1.0]).repeat(y.shape[3] // 2))

    assert dense.printed(Printer(), 3, 2) == pytest.approx(0.25 / 2.5)


def test_a_users_images(tmp_path):
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
    rng = np.random.default_rng(0)
    for i in range(6):
        pixels = rng.integers(0, 255, (70, 130, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{i}.png")
        Image.fromarray((pixels[..., 0] > 99).astype(np.uint8)).save(
            tmp_path / "masks" / f"{i}.png"
        )
    request = Request(data=str(tmp_path), cache=str(tmp_path / "cache"), quick=True)
    found = STUDY.workloads(request)
    assert [w.id for w in found[:2]] == ["data", "larger"]
    source = dense_images.kept(found[0].params["folder"])
    train, test = source.parts(0)
    assert train[0].shape == (8, 64, 64, 3)
    assert test[1].shape == (4, 64, 64)
    assert dense_images.kept_photos(**found[1].params).parts(0)[1].shape[1:] == (60, 60)
    with pytest.raises(UsageError, match="--data"):
        STUDY.workloads(Request(data=str(tmp_path / "none"), cache=str(tmp_path)))


def summary_of(**values):
    """A summary in which (workload, contestant) have the given values."""
    places = [Workload(id=part, title=part, load="", facts={"part": part})
              for part in ("segment", "super", "cost")]  # fmt: skip
    tables = {}
    for place in places:
        rows = []
        for name, cells in values.items():
            mine = {m: Cell(value=v) for m, v in cells.get(place.id, {}).items()}
            rows.append(
                Row(contestant=name, title=name, origin="paragone", status="ok", cells=mine)
            )
        tables[place.id] = tuple(rows)
    empty = {f: () for f in ("records", "differences")}
    return Summary.__new__(Summary), places, tables, empty


def test_claims_by_numbers():
    clean = {"printed_start": 0.0, "printed_edge": 0.0, "printed_end": 0.0}
    dirty = {"printed_start": 0.5, "printed_edge": 0.5, "printed_end": 0.5}
    summary, places, tables, empty = summary_of(
        transposed={"segment": {**clean, "printed_end": 0.1, "printed_edge": 0.2}},
        torch_transposed={"segment": dirty},
        pixel_shuffle={"segment": clean, "super": {**clean, "psnr": 30.0}},
        torch_shuffle={"segment": dirty, "super": dirty},
        bilinear={"segment": {"iou": 0.5}, "super": {"psnr": 29.0}, "cost": {"step_s": 1.0}},
        carafe={"segment": {"iou": 0.6, "step_s": 2.0, "step_extra": 2.0},
                "cost": {"step_s": 2.0, "step_extra": 1.0}},
        dysample={"segment": {"iou": 0.6, "step_s": 1.0, "step_extra": 1.0}},
        carafe_unfold={"cost": {"step_s": 80.0, "step_extra": 9.0}},
    )  # fmt: skip
    entered = [c for c in CONTESTANTS if any(r.contestant == c.id for r in tables["cost"])]
    for name, value in {"workloads": places, "tables": tables, "contestants": entered,
                        **empty}.items():  # fmt: skip
        object.__setattr__(summary, name, value)
    verdicts = [claim.check(summary).verdict for claim in STUDY.claims]
    assert verdicts == ["does not hold", "holds", "holds", "does not hold", "holds", "holds",
                        "holds"]  # fmt: skip
    assert "only in the interior" in STUDY.claims[0].check(summary).measured
    told = " ".join(findings.findings(summary))
    assert "CARAFE by unfold 80x" in told
    assert "Print one after training" in told
    object.__setattr__(summary, "tables", {})
    assert {claim.check(summary).verdict for claim in STUDY.claims} == {"not tested"}


def test_equal_time_reads_the_curves_where_the_quickest_ends():
    summary = Summary.__new__(Summary)
    records = [
        {"workload": "a", "status": "ok", "contestant": name,
         "curves": {"iou over seconds": {"x": [1.0, end], "y": [0.0, 1.0]}}}
        for name, end in (("bilinear", 2.0), ("carafe", 3.0))
    ]  # fmt: skip
    object.__setattr__(summary, "records", records)
    object.__setattr__(summary, "contestants", CONTESTANTS)
    assert findings.at_equal_time(summary, "a", "iou") == (2.0, {"bilinear": 1.0, "carafe": 0.5})


def test_pictures_are_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "summarize", lambda folder: object())
    monkeypatch.setattr(pictures, "_arrays", lambda summary, folder, part: {
        "one": {k: np.zeros((60, 60), np.uint8) for k in ("truth", "shown", "bicubic", "image")}
    })  # fmt: skip
    for draw in (pictures.enlarged, pictures.masks):
        draw("", str(tmp_path / "a.svg"))
        assert (tmp_path / "a.svg").read_text().count("<image") == 3
    whole = type("Told", (), {"contestants": CONTESTANTS})
    monkeypatch.setattr(pictures, "summarize", lambda folder: whole)
    pictures.printed("", str(tmp_path / "b.svg"))
    assert (tmp_path / "b.svg").read_text().count("<image") == len(CONTESTANTS) - 1


@pytest.mark.parametrize("op", ["carafe", "bilinear", "resize"])
@pytest.mark.parametrize("way", ["forward", "both"])
def test_the_work_is_equal(op, way):
    given = carafe_calls.inputs(op, way, 3, 6)
    exact = carafe_calls.truth(*given)
    for make in (carafe_calls.Ours, carafe_calls.Torch):
        found = make()(*given)
        assert sweep.relative_error(found, exact) < 1e-6
