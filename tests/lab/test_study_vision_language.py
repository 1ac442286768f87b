"""The study of pictures in language models: scenes, judge, task, findings, claims, speed."""

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
from paragone.lab.contestants import vision_language as contestants
from paragone.lab.contestants import vision_language_calls as calls
from paragone.lab.outcome import Cell, Difference, Row, Summary
from paragone.lab.probe import Probe
from paragone.lab.spec import Block, Contestant, Job, Request, Workload
from paragone.lab.studies import _vision_language_findings as findings
from paragone.lab.studies import _vision_language_pictures as pictures
from paragone.lab.tasks import _vision_language_scenes as scenes
from paragone.lab.tasks import sweep
from paragone.lab.tasks import vision_language as task
from paragone.multimodal.contract import Losses, VisionLanguage
from paragone.multimodal.documents import Document

STUDY = studies.load("vision_language")
SPEED = studies.load("vision_speed")
QUICK = STUDY.workloads(Request(quick=True))
FULL = STUDY.workloads(Request())
ALL = STUDY.contestants(Request())

pytestmark = pytest.mark.usefixtures("preloaded")


class Table(VisionLanguage):
    """A model that knows its captions: a linear map of pixels, and the mean picture of each."""

    draws = True

    def __init__(self, scene):
        super().__init__()
        self.names = scene.classes
        self.linear = nn.Linear(int(np.prod(scene.pixels.shape[1:])), len(self.names))
        self.means = nn.Parameter(torch.zeros(len(self.names), *scene.pixels.shape[1:]))
        self.kinds = []

    def losses(self, documents):
        drawn = torch.tensor([isinstance(one.parts[0], str) for one in documents])
        self.kinds.append(drawn.tolist())
        pixels = torch.from_numpy(np.stack([one.pictures[0] for one in documents])).float() / 255
        codes = torch.tensor([self.names.index(one.text) for one in documents])
        image = (self.means[codes] - pixels).square().flatten(1).mean(1)[drawn].sum()
        logits = self.linear(pixels.flatten(1))
        text = nn.functional.cross_entropy(logits, codes, reduction="none")[~drawn].sum()
        return Losses(text, int((~drawn).sum()), image, int(drawn.sum()), 20.0)

    def generate(self, prompts, *, pictures="none", **options):
        made = []
        for (part,) in prompts:
            if isinstance(part, str):
                mean = self.means[self.names.index(part)].detach().clamp(0, 1)
                made.append(Document((mean.numpy(),)))
            else:
                logits = self.linear(torch.from_numpy(part).flatten().float() / 255)
                made.append(Document((self.names[int(logits.argmax())],)))
        return made


class Blind(Table):
    """One that only reads."""

    draws = False


class Wide(Table):
    """A planted wrong one: its pictures are too wide."""

    def generate(self, prompts, **options):
        found = super().generate(prompts, **options)
        return [one if one.text else Document((np.repeat(one.pictures[0], 2, 1),)) for one in found]


def no_model(scene):
    """Another one: no model at all."""
    return [scene]


class Wild(Table):
    """One whose loss is no number from the fourth step on."""

    def losses(self, documents):
        found = super().losses(documents)
        lost = np.nan if len(self.kinds) > 5 else 1
        return dataclasses.replace(found, image=found.image * lost)


def wild(scene):
    """It tells how large its scores are."""
    model = Wild(scene)
    return task.Built(model=model, watch=lambda: float(len(model.kinds)))


def late(scene, seconds):
    """One whose first stage has taken most of its time."""
    return task.Built(model=Table(scene), spent=0.95 * seconds)


def trained(name, folder=None, load="digits", params=None, seed=0, **facts):
    contestant = Contestant(id=name, title=name, make=f"{__file__}:{name}", origin="guest")
    facts = {"part": "learn", "rate": 5e-2, "batch": 16, "steps": 150, "judged": 100, "drawn": 40,
             **facts}  # fmt: skip
    workload = Workload(id="w", title="w", load=f"{scenes.__name__}:{load}", params=params or {},
                        facts=facts)  # fmt: skip
    job = Job(key="k", task=STUDY.task, contestant=contestant, workload=workload, quick=True,
              block=Block(workload="w", index=0, split=0, seed=seed), threads=1,
              options=dict(STUDY.options), folder=str(folder or ""))  # fmt: skip
    probe = Probe(folder)
    task.run(job, probe)
    json.dumps({"values": probe.values, "curves": probe.curves}, allow_nan=False)
    return probe


@pytest.fixture(scope="module")
def digits():
    return scenes.digits(0)


def test_scenes_hold_out_a_fifth_of_each_caption(digits):
    assert digits.size == (8, 8)
    assert digits.channels == 1
    assert len(digits.classes) == 10
    assert len(digits.train) + len(digits.test) == len(digits.captions) == 1797
    assert not set(digits.train) & set(digits.test)
    counts = [np.mean([digits.captions[i] == name for i in digits.test]) for name in digits.classes]
    assert np.ptp(counts) < 0.02
    other = scenes.digits(1)
    assert not set(other.test) & set(digits.test)
    (document,) = digits.reading([3])
    assert document.learned == (False, True)
    assert isinstance(digits.drawing([3])[0].parts[0], str)


def test_words_of_the_test_are_unseen():
    scene = scenes.words(0, count=40, test=20)
    assert scene.size == (32, 32)
    assert not {scene.captions[i] for i in scene.train} & {scene.captions[i] for i in scene.test}
    assert scene.classes == []
    assert scene.pixels.min() < 128 < scene.pixels.max()


def test_energy_distance_is_that_of_two_distributions():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 400, 3))
    assert abs(scenes.apart(x, y)) < 0.02
    assert scenes.apart(x, y + 100) > 0.95
    # The mean of all is no sample: its distance is half of what single points have.
    assert 0.1 < scenes.apart(np.repeat(x.mean(0)[None], 400, 0), y) < 0.5
    assert scenes.apart(np.zeros((3, 2)), np.zeros((4, 2))) == 0.0


def test_the_judge_knows_real_digits_and_sees_through_means(digits):
    judge = scenes.Judge(digits)
    assert judge.sure > 0.97
    asked = judge.asked(200)
    named = [digits.captions[i] for i in asked]
    assert {named.count(name) for name in digits.classes} == {20}
    rng = np.random.default_rng(0)
    by_name = {name: [i for i in digits.train if digits.captions[i] == name] for name in set(named)}
    real = digits.pixels[[rng.choice(by_name[name]) for name in named]]
    means = np.stack([digits.pixels[by_name[name]].mean(0) for name in named]).astype(np.uint8)
    noise = rng.integers(0, 256, real.shape, dtype=np.uint8)
    shares = [judge.right(some, asked).mean() for some in (real, means, noise)]
    assert shares[0] > 0.98
    assert shares[1] > 0.98
    assert shares[2] < 0.3
    gaps = [judge.apart(some, asked).mean() for some in (real, means, noise)]
    zeros = asked == asked[0]
    rows = [i for i in digits.train if digits.captions[i] == named[0]]
    assert judge.apart(real, asked)[zeros].mean() == pytest.approx(
        scenes.apart(real[zeros] / 255, digits.pixels[rows] / 255)
    )
    assert abs(gaps[0]) < 0.03 < 0.15 < gaps[1]
    assert gaps[2] > gaps[1]
    assert judge.spread(real, asked) == pytest.approx(1, abs=0.1)
    assert judge.spread(means, asked) == 0


def test_without_classes_a_drawing_is_compared_with_other_pictures():
    scene = scenes.words(0, count=40, test=20)
    judge = scenes.Judge(scene)
    asked = judge.asked(20)
    assert judge.kind == "pairs"
    assert judge.right(scene.pixels[asked], asked).all()
    assert 0.1 < judge.right(scene.pixels[np.roll(asked, 1)], asked).mean() < 0.8
    assert abs(judge.apart(scene.pixels[asked], asked).mean()) < 0.1
    assert judge.spread(scene.pixels[asked], asked) > 0.5


def test_learning_records_what_the_report_shows(tmp_path, digits):
    probe = trained("Table", tmp_path)
    values = probe.values
    known = {m.name for m in STUDY.measures}
    assert set(QUICK[0].measures) <= known & set(values)
    assert values["accuracy"] > 0.8
    assert values["drawn"] > 0.8
    assert values["apart"] > 0.1
    assert values["spread"] == 0
    assert values["seen"] == 150 * 16
    right, correct = (np.load(tmp_path / f"{n}.npy") for n in ("example_loss", "correct"))
    assert right.mean() == pytest.approx(values["apart"])
    assert correct.mean() == pytest.approx(values["accuracy"])
    assert np.load(tmp_path / "drawn.npy").shape == (40, 8, 8, 1)
    texts, shown = (np.load(tmp_path / f"{n}.npy") for n in ("read", "shown"))
    hits = [str(text) == digits.captions[i] for text, i in zip(texts, shown, strict=True)]
    assert hits == correct[: len(hits)].tolist()
    curve = probe.curves["text loss over CPU seconds"]
    assert curve["y"][-1] < curve["y"][0]


def test_all_see_the_same_documents_and_budgets_end():
    first, again = trained("Table", steps=3), trained("Table", steps=3)
    assert first.digests == again.digests
    assert first.values["caption_loss"] == again.values["caption_loss"]
    assert trained("Table", steps=None, seconds=0.1).values["steps"] >= 1
    reads = trained("Blind", steps=3)
    assert "drawn" not in reads.values
    assert "drawn" not in trained("Table", steps=2, drawing=False).values


def test_a_first_stage_is_part_of_the_budget():
    whole, rest = (trained(name, steps=None, seconds=0.4).values for name in ("Table", "late"))
    assert rest["first_stage_s"] == pytest.approx(0.38)
    assert rest["steps"] < whole["steps"] / 2


def test_half_of_a_batch_is_drawn(digits):
    workload = Workload(id="w", title="w", load="", facts={})
    one = task.Training(task.Built(model=Table(digits)), digits, Job(
        key="", task="", contestant=ALL[0], workload=workload, threads=1,
        block=Block(workload="w", index=0, split=0, seed=0)))  # fmt: skip
    kinds = [isinstance(d.parts[0], str) for d in one.documents(np.arange(7))]
    assert kinds == [False] * 4 + [True] * 3
    one.built = task.Built(model=Blind(digits))
    assert not any(isinstance(d.parts[0], str) for d in one.documents(np.arange(7)))


def test_planted_wrong_contestants_are_caught():
    with pytest.raises(ValueError, match=r"drew \(8, 16, 1\)"):
        trained("Wide", steps=1)
    with pytest.raises(TypeError, match="VisionLanguage"):
        trained("no_model", steps=1)


def test_a_run_that_diverges_is_told():
    calm = trained("Table", part="stable", steps=60).values
    assert calm["diverged"] == 0
    assert calm["lowest_loss"] <= calm["stable_loss"] < 99
    lost = trained("wild", part="stable", steps=60)
    assert lost.values["diverged"] == 1
    assert lost.values["stable_loss"] == 99
    assert lost.values["score"] >= 5
    assert lost.curves["loss over steps"]["y"][-1] is None


@pytest.mark.parametrize("quick", [True, False])
def test_inputs_and_measures_are_well_formed(quick):
    found = QUICK if quick else FULL
    known = {m.name for m in STUDY.measures}
    assert all(set(w.measures) <= known for w in found)
    for role in ("quality", "time", "memory", "count"):
        assert sum(m.primary for m in STUDY.measures if m.role == role) == 1
    met = {w.id: {c.id for c in ALL if applies(c, w)} for w in found}
    assert {"kimi", "chameleon", "flow", "mar", "mse"} <= met["digits"]
    assert {"stable_plain", "stable_both"} <= met["rate-100"]
    assert met["packing"] == {"packed", "single", "padded", "transformers_packed"}
    assert applies(next(c for c in ALL if c.id == STUDY.reference), found[-1])
    if not quick:
        assert {"kimi", "chameleon", "flow", "vq"} == met["words"]
        assert {"expanded", "vq", "flow_rope_tie"} <= met["digits"]
        assert met["rate-100"] == set(findings.STABLE)


def folder_of_images(path, classes=2, each=6):
    rng = np.random.default_rng(0)
    for label in range(classes):
        (path / f"shade {label}").mkdir(parents=True)
        for i in range(each):
            pixels = rng.integers(100 * label, 100 * label + 50, (20 + i, 30), dtype=np.uint8)
            Image.fromarray(pixels).save(path / f"shade {label}" / f"{i}.png")
    return path


def test_the_users_pictures(tmp_path):
    folder = folder_of_images(tmp_path / "mine")
    request = Request(data=str(folder), quick=True, cache=str(tmp_path / "cache"))
    given, packing = STUDY.workloads(request)
    assert packing.id == "packing"
    assert given.primary == "accuracy"
    assert "12 pictures, 2 captions" in given.title
    assert scenes.stored(**given.params).pixels.shape == (12, 32, 32, 1)
    probe = trained(
        "Table", load="stored", params=given.params, batch=4, judged=4, drawn=6, steps=5
    )
    assert probe.digests["data"] == trained(
        "Blind", load="stored", params=given.params, batch=4, judged=4, steps=1
    ).digests["data"]  # fmt: skip
    assert probe.values["judge"] == 1
    assert 0 <= probe.values["drawn"] <= 1
    lines = [json.dumps({"image": str(p), "caption": f"picture number {i}"})
             for i, p in enumerate(sorted(folder.rglob("*.png")))]  # fmt: skip
    table = tmp_path / "captions.jsonl"
    table.write_text("\n".join([*lines, '{"image": "none.png", "caption": "gone"}']))
    (other, _) = STUDY.workloads(dataclasses.replace(request, data=str(table)))
    assert other.primary == "caption_loss"
    assert other.facts["classes"] == 0
    assert any("left out" in note for note in other.facts["notes"])


def test_bad_pictures_are_told(tmp_path):
    few = folder_of_images(tmp_path / "few", each=2)
    for data, words in ((tmp_path / "none", "none"), (few, "at least 10")):
        with pytest.raises(UsageError, match=words):
            STUDY.workloads(Request(data=str(data), cache=str(tmp_path / "cache")))
    with pytest.raises(UsageError, match="--target"):
        STUDY.workloads(Request(target="x"))


def test_our_contestants_have_the_wanted_size(digits):
    known = {"parameters": 60_000, "seconds": None, "seed": 0, "device": "cpu"}
    sizes = {}
    for one in ALL:
        if one.id not in ("kimi", "flow", "mar", "expanded", "vq", "mse"):
            continue
        made = getattr(contestants, one.make.partition(":")[2])(
            digits, parameters=known["parameters"], **one.params)  # fmt: skip
        model = made.model if isinstance(made, task.Built) else made
        sizes[one.id] = sum(p.numel() for p in model.parameters())
        assert model.losses(digits.reading([0])).text_count > 0
        if one.id == "kimi":
            weights = made.attend([digits.pixels[0]])
            assert weights[0].shape == (4, 4)
            assert weights[0].sum() == pytest.approx(1, abs=1e-4)
    assert all(30_000 < size < 110_000 for size in sizes.values()), sizes


def summary(values, differences=(), places=FULL, curves=(), records=()):
    """Values: (workload, contestant) to measure to number."""
    tables = {w.id: [] for w in places}
    for (place, name), more in values.items():
        tables[place].append(Row(
            contestant=name, title=name, origin="paragone",
            cells={key: Cell(value=value) for key, value in more.items()},
        ))  # fmt: skip
    told = [Difference(a=a, b=b, measure=measure, workload=place, estimate=0.0, word=word, low=0.0)
            for place, measure, a, b, word in differences]  # fmt: skip
    return Summary(
        study=STUDY.id, question="?", workloads=places, contestants=ALL, tables=tables,
        measures=STUDY.measures, differences=told, curves=curves, records=records,
    )  # fmt: skip


def holding(good):
    both = {"parameters": 150_000, "judge": 0.98}
    values = {
        ("digits", "kimi"): {"accuracy": 0.97, "parameters": 150_000, "read_s": 1e-3},
        ("digits", "flow"): {"accuracy": 0.95, "drawn": 0.94, "apart": 0.02, "draw_s": 0.1, **both},
        ("digits", "mar"): {"accuracy": 0.9, "drawn": 0.9, "apart": 0.05, "draw_s": 0.2, **both},
        ("digits", "vq"): {"accuracy": 0.8, "drawn": 0.8, "apart": 0.1, "draw_s": 0.05, **both},
        ("digits", "mse"): {"accuracy": 0.8, "drawn": 0.99, "apart": 0.3, "draw_s": 0.01,
                            "spread": 0.0, **both},
        ("digits", "chameleon"): {"accuracy": 0.85, "drawn": 0.9, "apart": 0.1, "draw_s": 0.02,
                                  **both},
        ("words", "flow"): {"accuracy": 0.6}, ("words", "chameleon"): {"accuracy": 0.2},
        ("rate-100", "stable_plain"): {"stable_loss": 6.0, "diverged": 1.0, "score": 9000.0},
        ("rate-100", "stable_both"): {"stable_loss": 2.0 if good else 9.0,
                                     "diverged": 0.0 if good else 1.0,
                                      "score": 20.0 if good else 8000.0},
        ("packing", "packed"): {"call_s": 1.0},
        ("packing", "padded"): {"call_s": 3.0 if good else 1.0},
    }  # fmt: skip
    better, worse = ("better", "worse") if good else ("worse", "better")
    told = [("words", "accuracy", "flow", "chameleon", better),
            ("digits", "apart", "flow", "mse", better), ("digits", "apart", "vq", "mar", worse),
            ("digits", "apart", "flow", "chameleon", better),
            ("digits", "accuracy", "flow", "chameleon", better),
            ("digits", "accuracy", "kimi", "flow", "same" if good else "better"),
            ("digits", "drawn", "flow", "mse", "worse")]  # fmt: skip
    records = [
        {"contestant": name, "workload": place, "artifacts": {},
         "values": {key.replace("_s", "_cpu_s"): value for key, value in more.items()}}
        for (place, name), more in values.items()
    ]  # fmt: skip
    return summary(values, told, records=records)


def test_claims_hold_and_do_not():
    assert [c.check(holding(True)).verdict for c in STUDY.claims] == ["holds"] * 9
    told = [c.check(holding(False)) for c in STUDY.claims]
    assert [t.verdict for t in told] == ["does not hold"] * 9, [t.measured for t in told]
    empty = Summary(study=STUDY.id, question="?")
    assert [c.check(empty).verdict for c in STUDY.claims] == ["not tested"] * 9
    assert STUDY.answer(empty) == ""
    assert STUDY.findings(empty) == []
    open_ = dataclasses.replace(holding(True), differences=())
    assert [c.check(open_).verdict for c in STUDY.claims][:6] == ["not tested"] * 6


def test_the_answer_names_who_reads_and_who_draws():
    told = STUDY.answer(holding(True))
    assert told.startswith("Pictures are read best by Kimi-VL (97.0%), not told apart from raw")
    assert "drawn nearest to real ones by raw patches (flow) (0.02 from real, 94.0%" in told
    # One run without an interval is no tie.
    alone = dataclasses.replace(holding(True), differences=())
    assert "not told apart" not in STUDY.answer(alone)
    assert "150,000 parameters and 120 s of CPU time" in told
    text = " ".join(STUDY.findings(holding(True)))
    for words in ("raw patches (flow) 60.0%, Chameleon 20.0%",
                  "is what raw patches (squared error) (99.0% as asked, variety 0.00",
                  "neither 6.00 (diverged), scores up to 9,000",
                  "plain torch, padded 3.00x", "raw patches (squared error) 10.0 ms",
                  "right on 98.0% of real"):  # fmt: skip
        assert words in text, text


@pytest.mark.parametrize(
    ("theirs", "error", "word"),
    [(0.3, 0.01, "better"), (0.02, 0.01, "worse"), (0.3, 0.2, "inconclusive"),
     (0.1, 0.004, "same"), (0.3, None, "inconclusive")],
)  # fmt: skip
def test_drawings_are_compared_by_their_standard_errors(theirs, error, word):
    values = {"flow": 0.1, "mse": theirs}
    records = [
        {"contestant": name, "workload": "digits", "block": block,
         "values": {"apart": value, **({} if error is None else {"apart_error": error})}}
        for name, value in values.items() for block in (0, 1)
    ]  # fmt: skip
    told = summary({}, records=records)
    assert findings._difference(told, "flow", "mse", "digits", "apart") == (word, error is not None)
    turned = {"better": "worse", "worse": "better"}.get(word, word)
    assert findings._difference(told, "mse", "flow", "digits", "apart")[0] == turned


def test_pictures_are_drawn(tmp_path, monkeypatch, digits):
    kept = {"drawn": digits.pixels[:6], "asked": digits.test[:6], "read": np.array(["a", "b"]),
            "shown": digits.test[:2], "rebuilt": digits.pixels[:2],
            "attention": np.random.default_rng(0).random((2, 4, 4))}  # fmt: skip
    for name, array in kept.items():
        np.save(tmp_path / f"{name}.npy", array)
    record = {"contestant": "flow", "workload": "digits",
              "artifacts": {name: f"{name}.npy" for name in kept}}  # fmt: skip
    curves = [("flow", "digits", "text loss over CPU seconds", [1.0, 2.0, 3.0], [3.0, None, 2.0]),
              ("kimi", "digits", "text loss over CPU seconds", [1.0, 2.0], [3.0, 1.0]),
              ("stable_plain", "rate-100", "loss over steps", [1.0, 2.0], [3.0, 9.0])]  # fmt: skip
    told = summary({}, curves=curves, records=[record])
    monkeypatch.setattr(pictures, "summarize", lambda folder: told)
    path = str(tmp_path / "p.svg")
    for draw, mark, count in ((pictures.drawn, "<image", 12), (pictures.read, "<image", 2),
                              (pictures.rebuilt, "<image", 4), (pictures.attention, "<image", 4),
                              (pictures.losses, 'class="curve', 2),
                              (pictures.stability, 'class="curve', 1)):  # fmt: skip
        draw(str(tmp_path), path)
        assert (tmp_path / "p.svg").read_text().count(mark) >= count, draw.__name__
    monkeypatch.setattr(pictures, "summarize", lambda f: Summary(study="s", question="?"))
    for name in pictures.__all__:
        with pytest.raises(SystemExit, match=r"nothing to draw"):
            getattr(pictures, name)(str(tmp_path), path)


@pytest.mark.parametrize("op", ["see", "learn"])
def test_encoders_do_equal_work(op):
    given = calls.inputs(op, width=32, layers=2, heads=2, count=3, table=8)
    truth = calls.truth(*given)
    for make in (calls.Packed, calls.Single, calls.Padded):
        assert sweep.relative_error(make()(*given), truth) < 1e-5, make.__name__
    counts = given[-1].prod(1)
    assert len(set(counts.tolist())) > 1
    wrong = calls.inputs(op, width=32, layers=2, heads=2, count=3, table=8)
    wrong[2]["encoder.blocks.1.wo.weight"].mul_(1.01)
    assert sweep.relative_error(calls.Packed()(*wrong), truth) > 1e-4


SMALL = {
    "see": {"width": 16, "layers": 1, "heads": 2, "count": 2, "table": 4},
    "codes": {"count": 65, "codes": 33, "width": 7},
    "mixed": {"length": 67, "patches": 16, "heads": 2, "width": 8},
}


@pytest.mark.parametrize("place", ["see", "codes", "mixed"])
def test_contestants_of_speed_do_equal_work(place):
    workload = next(w for w in SPEED.workloads(Request(quick=True)) if w.id == place)
    load = getattr(calls, workload.load.partition(":")[2])
    given = load(workload.params["op"], **SMALL[place])
    truth, met = calls.exact(*given), 0
    for contestant in SPEED.contestants(Request()):
        if applies(contestant, workload) and contestant.distribution != "transformers":
            met += 1
            assert sweep.relative_error(bind(contestant)(*given), truth) < 1e-5, contestant.id
    assert met >= 2


def test_who_sees_whom_in_mixed_documents():
    mask = calls.mixed("mixed", 40, 8, 1, 4)[-1]
    assert mask.diagonal().all()
    # Two places of text, eight of a picture, and so on.
    assert not mask[0, 1:].any()
    assert mask[2, :10].all()
    assert not mask[2:10, 10:].any()
    assert mask[10, :11].all()
    assert not mask[10, 11:].any()


def test_speed_study_is_well_formed():
    found = SPEED.workloads(Request(options={"bench": True, "rows": 4}))
    assert {w.params["count"] for w in found if w.facts["op"] == "see"} == {4}
    assert set(STUDY.speed) <= {c.id for c in SPEED.contestants(Request())}
    with pytest.raises(UsageError, match="--data"):
        SPEED.workloads(Request(data="x"))
    empty = Summary(study="vision_speed", question="?")
    assert {c.check(empty).verdict for c in SPEED.claims} == {"not tested"}
    fast = summary({}, places=found)
    for place, name, time in (("see", "kimi_vl", 1.0), ("see", "transformers_kimi_vl", 1.5),
                              ("see", "padded_kimi_vl", 2.0)):  # fmt: skip
        fast.tables[place].append(Row(contestant=name, title=name, origin="paragone",
                                      cells={"call_s": Cell(value=time)}))  # fmt: skip
    assert [c.check(fast).verdict for c in SPEED.claims] == ["holds", "does not hold"]


@pytest.mark.peers
def test_the_peers_encoder_does_equal_work():
    contestant = next(c for c in SPEED.contestants(Request()) if c.id == "transformers_kimi_vl")
    if not guests.installed(contestant):
        pytest.skip("transformers is not installed")
    given = calls.inputs("learn", **SMALL["see"])
    assert sweep.relative_error(bind(contestant)(*given), calls.truth(*given)) < 1e-5
