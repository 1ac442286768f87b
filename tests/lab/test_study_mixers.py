"""The study of mixers: problems, the task, contestants, crossovers, claims, pictures, speed."""

import dataclasses
import importlib
import json

import numpy as np
import pytest
import torch
from torch import nn

from paragone._core.errors import UsageError
from paragone.lab import guests, sequences, studies
from paragone.lab._ranking import applies
from paragone.lab.build import bind
from paragone.lab.contestants import mixers, mixers_calls, mixers_maps
from paragone.lab.outcome import Cell, Row, Summary
from paragone.lab.probe import Probe
from paragone.lab.spec import Block, Contestant, Job, Request, Workload
from paragone.lab.studies import _mixers_findings as findings
from paragone.lab.studies import _mixers_pictures as pictures
from paragone.lab.tasks import sequence, sweep
from paragone.mixers.registry import MIXERS

STUDY = studies.load("mixers")
SPEED = studies.load("mixers_speed")
CONTESTANTS = STUDY.contestants(Request())
QUICK = [w.id for w in STUDY.workloads(Request(quick=True))]
WIDTH = {"width": 32, "heads": 2}


pytestmark = pytest.mark.usefixtures("preloaded")


def one(name):
    return next(c for c in CONTESTANTS if c.id == name)


def job(contestant, facts, load="paragone.lab.sequences:noise", folder="", **params):
    workload = Workload(id="w", title="w", load=load, params=params, facts=facts)
    return Job(
        key="k", task=STUDY.task, contestant=contestant, workload=workload, quick=True,
        block=Block(workload="w", index=0, split=0, seed=0), threads=1, folder=str(folder),
        options={"least_time": 0.0},
    )  # fmt: skip


def swept(contestant, mode="width", length=24, **facts):
    facts = {"part": "sweep", "mode": mode, "length": length, "order": "any", **WIDTH,
             "parameters": 12 * 32 * 32, "state_bytes": 2048, **facts}  # fmt: skip
    probe = Probe()
    sequence.run(job(contestant, facts, length=length, width=32), probe)
    return probe.values


def learnt(contestant, kind="recall", folder=None, steps=3, rates=(3e-3,), **shape):
    facts = {"part": "learn", "steps": steps, "rates": list(rates), "rows": 4, "layers": 1,
             "order": "causal", **WIDTH, "parameters": 12 * 32 * 32}  # fmt: skip
    probe = Probe(folder)
    sequence.run(
        job(contestant, facts, "paragone.lab.sequences:load", folder or "", kind=kind, **shape),
        probe,
    )
    return probe


@pytest.mark.parametrize("quick", [True, False])
def test_inputs_and_measures_are_well_formed(quick):
    found = STUDY.workloads(Request(quick=quick))
    assert len({w.id for w in found}) == len(found)
    known = {m.name for m in STUDY.measures}
    assert all(set(w.measures) <= known and w.primary in w.measures for w in found)
    for role in ("quality", "time", "memory", "count"):
        assert sum(m.primary for m in STUDY.measures if m.role == role) == 1
    kinds = [w.facts.get("kind") for w in found if w.facts["part"] == "learn"]
    assert kinds == (["recall", "copying"] if quick else list(mixers_kinds()))
    assert all(applies(one(STUDY.reference), w) for w in found)
    ids = [c.id for c in CONTESTANTS]
    assert len(set(ids)) == len(ids)
    assert set(MIXERS) < set(ids)
    meeting = [c.id for c in CONTESTANTS if all(applies(c, w) for w in found)]
    assert set(mixers.QUICK) <= set(meeting)
    assert "linformer" not in meeting
    assert quick == ("retention" not in meeting)


def mixers_kinds():
    return importlib.import_module("paragone.lab.studies.mixers").PROBLEMS


def test_a_users_text(tmp_path):
    text = tmp_path / "mine.txt"
    text.write_text("to be or not to be, that is the question. " * 600)
    (found,) = STUDY.workloads(Request(data=str(text)))
    task = sequences.load(**found.params)
    x, y = task.held_out("test", 3)
    assert torch.equal(x[:, 1:], y[:, :-1])
    assert int(x.max()) < task.vocab
    assert found.primary == "bits"
    for data, words in ((tmp_path / "none.txt", "none.txt"), (tmp_path, "no text")):
        with pytest.raises(UsageError, match=words):
            STUDY.workloads(Request(data=str(data)))
    text.write_text("short")
    with pytest.raises(UsageError, match="5 characters"):
        STUDY.workloads(Request(data=str(text)))
    with pytest.raises(UsageError, match="--target"):
        STUDY.workloads(Request(target="x"))


def brute_recall(x, y, tokens):
    known = {}
    for at, token in enumerate(x):
        if y[at] != sequences.IGNORED:
            assert y[at] == known[int(token)]
        elif token < tokens:
            known[int(token)] = x[at + 1]


def test_problems_have_the_answers_that_their_text_says():
    rng = np.random.default_rng(0)
    x, y = sequences.recall(rng, 20, 48, pairs=8, tokens=16)
    assert ((y != sequences.IGNORED).sum(1) == 8).all()
    for row, due in zip(x, y, strict=True):
        brute_recall(row, due, 16)
    planted = y.copy()
    planted[0][planted[0] != sequences.IGNORED] += 1
    with pytest.raises((AssertionError, KeyError)):
        brute_recall(x[0], planted[0], 16)
    x, y = sequences.copying(rng, 20, 30, items=5, tokens=8)
    for row, due in zip(x, y, strict=True):
        assert due[25:].tolist() == row[:25][row[:25] > 1].tolist()
        assert (row[25:] == 0).all()
        assert (due[:25] == sequences.IGNORED).all()
    assert len({tuple(np.flatnonzero(row > 1)) for row in x}) > 10, "places change"
    x, y = sequences.induction(rng, 20, 32, tokens=20)
    for row, due in zip(x, y, strict=True):
        follows = {row[i]: row[i + 1] for i in range(15)} | {row[15]: row[0]}
        assert all(follows[row[i]] == due[i] for i in range(16, 32))
        assert (due[:16] == sequences.IGNORED).all()


@pytest.mark.parametrize(
    ("kind", "shape"),
    [("recall", {"length": 32, "pairs": 4, "tokens": 8}), ("digits", {}), ("text", {"length": 40})],
)
def test_batches_are_the_same_for_all_and_tests_are_apart(kind, shape):
    task, again = (sequences.load(kind, 1, **shape) for _ in range(2))
    first, second = (next(t.batches(3, 1, 5)) for t in (task, again))
    assert torch.equal(first[0], second[0])
    assert not torch.equal(first[0], next(task.batches(4, 1, 5))[0])
    test = task.held_out("test", 16)
    assert torch.equal(test[0], again.held_out("test", 16)[0])
    assert not torch.equal(test[0], task.held_out("valid", 16)[0])
    assert int(test[0].max()) < task.vocab
    assert int(test[1].max()) < task.vocab
    if kind == "digits":
        rows = {part: {tuple(r) for r in x.tolist()} for part, (x, _) in task.parts.items()}
        assert sum(map(len, rows.values())) == 1797
        assert set(test[1][:, -1].tolist()) <= set(range(18, 28))
    if kind == "text":
        sizes = {part: len(codes) for part, codes in task.parts.items()}
        assert sizes["train"] > 8 * sizes["test"] > 0


@pytest.mark.parametrize("name", ["mha", "linear", "mamba", "linformer", "gau"])
def test_a_sweep_measures_each_kind(name):
    found = swept(one(name))
    assert {"forward_s", "train_s", "train_extra", "state_bytes", "parameters"} <= set(found)
    assert ("step_s" in found) == (name != "linformer")
    assert (found["leak"] < 1e-5) == (name != "linformer")
    if name in ("mha", "gau"):
        longer = swept(one(name), length=48)
        assert longer["state_bytes"] > 1.9 * found["state_bytes"]


def test_modes_make_parameters_and_states_equal():
    counts = {
        name: swept(one(name), "parameters")["parameters"]
        for name in ("mha", "linear", "mamba", "gau", "torch_sdpa")
    }
    assert max(counts.values()) < 1.1 * min(counts.values()), counts
    sizes = {name: swept(one(name), "state")["state_bytes"] for name in ("linear", "retention")}
    assert all(0.5 < size / 2048 < 2 for size in sizes.values()), sizes


class Leaky(nn.Module):
    """A planted wrong contestant: each output knows the last input."""

    def __init__(self, width):
        super().__init__()
        self.map = nn.Linear(width, width)

    def forward(self, x, *, state=None, **more):
        return self.map(x) + x[:, -1:], None


class Forgetful(nn.Module):
    """Another one: it does not go on from its state."""

    def __init__(self, width):
        super().__init__()
        self.map = nn.Linear(width, width)

    def forward(self, x, *, state=None, **more):
        return self.map(x.cumsum(1)), x.sum(1)

    def step(self, x_t, state):
        return self.map(x_t), state


class Narrow(Leaky):
    def forward(self, x, *, state=None, **more):
        return x[..., :1], None


def planted(name):
    return Contestant(id=name, title=name, make=f"{__file__}:{name}", origin="guest")


def test_planted_wrong_contestants_are_caught():
    assert swept(planted("Leaky"))["leak"] > 0.1
    with pytest.raises(ValueError, match="prefix and rest differ"):
        swept(planted("Forgetful"))
    with pytest.raises(ValueError, match="returned"):
        swept(planted("Narrow"))


@pytest.mark.parametrize("name", ["mha", "deltanet"])
def test_learning_records_what_the_report_shows(name, tmp_path):
    shape = {"length": 16, "pairs": 2, "tokens": 4}
    probe = learnt(one(name), folder=tmp_path, rates=(1e-3, 1e-2), steps=12, **shape)
    values, curves = probe.values, probe.curves
    assert {"accuracy", "bits", "fit_s", "state_bytes"} <= set(values)
    assert values["rate"] in (1e-3, 1e-2)
    assert 0.8 < values["parameters"] / (12 * 32 * 32 + 9 * 32) < 1.1
    assert curves["accuracy over steps"]["x"][-1] == 12
    assert np.all(np.diff(curves["accuracy over seconds"]["x"]) > 0)
    assert np.load(tmp_path / "looks.npy").shape == (2, 16)
    json.dumps({"values": values, "curves": curves}, allow_nan=False)
    other = learnt(one("torch_sdpa"), **shape)
    assert other.digests == probe.digests


def test_a_contestant_that_knows_everything_says_it():
    """The tokens due are reachable: a table of the answers is right in all of them."""
    task = sequences.load("copying", length=16, items=2, tokens=4)
    x, y = task.held_out("test", 8)

    class Oracle(nn.Module):
        def forward(self, tokens):
            logits = torch.zeros(*tokens.shape, task.vocab)
            logits.scatter_(-1, y.clamp(min=0)[..., None], 30.0)
            return logits, None

    told = sequence._judge(Oracle(), (x, y))
    assert told["accuracy"] == 1.0
    assert told["bits"] < 1e-6


def test_ranks_and_errors_of_attention_matrices():
    assert mixers_maps.told("mha")["rank"] == 512
    linear = mixers_maps.told("linear")
    assert linear["rank"] <= linear["rank_bound"] == 64
    assert mixers_maps.told("s4d") == {}


WORKLOADS = STUDY.workloads(Request(quick=True))


def summary(times, values=(), curves=()):
    """Times: contestant to forward times at 128, 512, 2048; values: (workload, name) to dict."""
    tables = {w.id: [] for w in WORKLOADS}
    cells: dict = {}
    for name, row in times.items():
        for length, value in zip((128, 512, 2048), row, strict=True):
            cells.setdefault((f"t{length}", name), {}).update(forward_s=value, step_s=value)
    records = []
    for (place, name), more in dict(values).items():
        cells.setdefault((place, name), {}).update(more)
        drawn = dict(curves).get((place, name), {})
        records.append({"contestant": name, "workload": place, "status": "ok", "values": more,
                        "curves": drawn, "artifacts": {}})  # fmt: skip
    for (place, name), found in cells.items():
        tables[place].append(Row(
            contestant=name, title=name, origin="paragone",
            cells={key: Cell(value=value) for key, value in found.items()},
        ))  # fmt: skip
    return Summary(study="mixers", question="?", workloads=WORKLOADS, contestants=CONTESTANTS,
                   tables=tables, records=records)  # fmt: skip


TIMES = {"mha": (1.0, 4.0, 64.0), "linear": (2.0, 4.0, 8.0), "mamba": (0.5, 1.0, 2.0)}


def test_crossovers_of_every_pair():
    found = findings.crossovers(summary(TIMES))
    assert found["mha", "linear"] == pytest.approx(512)
    assert found["mha", "mamba"] is None
    assert found["linear", "mamba"] is None
    assert len(found) == 3
    texts = STUDY.findings(summary(TIMES))
    assert "Forward: linear attention overtakes attention from 510." in texts
    assert any(
        "Mamba has no crossover with attention and linear attention (ahead from 128 to 2,048)" in t
        for t in texts
    )
    slow = {"mha": (1.0, 1.0, 1.0), "linear": (2.0, 3.0, 4.0)}
    texts = STUDY.findings(summary(slow))
    assert "Decoding: attention is overtaken by not by linear attention up to 2,048." not in texts
    assert "Decoding: attention is not overtaken by linear attention up to 2,048." in texts


def learning(seconds, values):
    return {"accuracy over seconds": {"x": list(seconds), "y": list(values)}}


def test_equal_time_and_leaks():
    values = {("recall", "mha"): {"accuracy": 1.0}, ("recall", "mamba"): {"accuracy": 0.9},
              ("t512", "performer_pytorch"): {"leak": 0.4}}  # fmt: skip
    curves = {("recall", "mha"): learning((1, 2, 3), (0.2, 0.5, 1.0)),
              ("recall", "mamba"): learning((2, 4, 6), (0.3, 0.8, 0.9))}  # fmt: skip
    texts = STUDY.findings(summary({}, values, curves))
    assert "Associative recall at equal training time (3.0 s): attention 100%, Mamba 30%." in texts
    assert any("sees the future" in text and "0.4" in text for text in texts)


def holding(good):
    values = {
        ("copying", "mamba"): {"accuracy": 0.99 if good else 0.5},
        ("copying", "s4d"): {"accuracy": 0.5},
        ("recall", "mha"): {"accuracy": 1.0 if good else 0.7},
        ("recall", "deltanet"): {"accuracy": 0.9 if good else 0.3, "state_bytes": 1000},
        ("recall", "linear"): {"accuracy": 0.4, "state_bytes": 1000},
        ("t512", "mha"): {"rank": 512, "rank_bound": 512},
        ("t512", "linear"): {"rank": 64 if good else 100, "rank_bound": 64},
        ("t512", "performer"): {
            f"softmax_{size}_{m}": 0.05 if good else 2.0
            for size in ("small", "unit") for m in (64, 1024, "mean")
        },
    }  # fmt: skip
    for length, factor in ((128, 1), (512, 4), (2048, 16)):
        for name in ("mha", "linear", "mamba"):
            power = 2 if not good and name == "mha" else 1
            fixed = 1000 if good or name == "mamba" else 1000 * factor
            more = values.setdefault((f"t{length}", name), {})
            more |= {"train_extra": 1e6 * factor**power,
                     "state_bytes": 1000 * factor if name == "mha" else fixed}  # fmt: skip
    for name, time in (("gau", 0.7 if good else 1.0), ("mha", 1.0)):
        values["t512-parameters", name] = {"forward_s": time, "train_s": time}
    times = {"linear": (1, 4, 16) if good else (1, 16, 256), "mha": (1, 16, 256)}
    return summary(times, values)


def test_claims_hold_and_do_not():
    verdicts = [claim.check(holding(True)).verdict for claim in STUDY.claims]
    assert verdicts == ["holds"] * 9
    verdicts = [claim.check(holding(False)).verdict for claim in STUDY.claims]
    assert verdicts == ["does not hold"] * 9
    empty = Summary(study="mixers", question="?")
    assert [claim.check(empty).verdict for claim in STUDY.claims] == ["not tested"] * 9
    assert STUDY.findings(empty) == []


def test_pictures_are_drawn(tmp_path, monkeypatch):
    np.save(tmp_path / "looks.npy", np.eye(4, 12) + 0.01)
    np.save(tmp_path / "row.npy", np.arange(12))
    told = summary(TIMES, {("recall", "mha"): {"accuracy": 1.0}})
    files = {"looks": "looks.npy", "row": "row.npy"}
    told = dataclasses.replace(told, records=[{**told.records[0], "artifacts": files}])
    monkeypatch.setattr(pictures, "summarize", lambda folder: told)
    path = str(tmp_path / "p.svg")
    for draw, mark, count in (
        (pictures.crossings, 'class="curve', 3), (pictures.matrix, "<text", 9),
        (pictures.maps, 'class="cell"', 4), (pictures.memory, 'class="curve', 4),
        (pictures.ranks, 'class="curve', 4),
    ):  # fmt: skip
        draw(str(tmp_path), path)
        assert (tmp_path / "p.svg").read_text().count(mark) >= count, draw.__name__
    empty = Summary(study="mixers", question="?")
    monkeypatch.setattr(pictures, "summarize", lambda folder: empty)
    for draw in (pictures.crossings, pictures.matrix, pictures.maps):
        with pytest.raises(SystemExit, match="nothing to draw"):
            draw(str(tmp_path), path)


SHAPES = {"linear": (70, 2, 8), "scan": (20, 6, 4), "kernel": (33, 4, 3), "legs": (30, 2, 8),
          "mamba": (20, 32, 0), "gau": (20, 64, 0), "performer": (20, 32, 0),
          "linformer": (20, 32, 0)}  # fmt: skip
EQUAL = ("torch_linear_attention", "torch_state_space", "transformers_mamba", "mambapy",
         "peer_linformer", "torch_gated_attention_unit")  # fmt: skip


@pytest.mark.parametrize("op", SHAPES)
@pytest.mark.filterwarnings("ignore")
def test_speed_contestants_do_equal_work(op):
    way = "both" if op in ("linear", "scan", "gau") else "forward"
    given = mixers_calls.inputs(op, way, *SHAPES[op])
    truth = mixers_calls.truth(*given)
    met = 0
    for contestant in SPEED.contestants(Request()):
        ours = contestant.origin == "paragone"
        if op not in contestant.needs["op"] or not guests.installed(contestant):
            continue
        if ours or contestant.id in EQUAL:
            met += 1
            assert sweep.relative_error(bind(contestant)(*given), truth) < 1e-5, contestant.id
    assert met


def test_speed_study_covers_every_operation():
    ops = {w.facts["op"] for w in SPEED.workloads(Request())}
    assert ops == set(SHAPES)
    for contestant in SPEED.contestants(Request()):
        assert set(contestant.needs["op"]) <= ops
    short = SPEED.workloads(Request(quick=True, options={"bench": True, "rows": 300}))
    assert {w.facts["length"] for w in short} == {300}
    with pytest.raises(UsageError, match="--data"):
        SPEED.workloads(Request(data="x"))
    assert set(STUDY.speed.values()) == {"mixers_speed"}
    assert set(STUDY.speed) <= {c.id for c in SPEED.contestants(Request())}
