"""The study of attention: inputs, the task, caches, claims, pictures, speed."""

import pytest
import torch

from paragone._core.errors import UsageError
from paragone.lab import guests, studies
from paragone.lab._ranking import applies
from paragone.lab.build import bind
from paragone.lab.contestants import attention_calls
from paragone.lab.outcome import Cell, Row, Summary
from paragone.lab.probe import Probe
from paragone.lab.spec import Block, Contestant, Job, Request, Workload
from paragone.lab.studies import _attention_pictures as pictures
from paragone.lab.tasks import attention, sweep

STUDY = studies.load("attention")
SPEED = studies.load("attention_speed")
CONTESTANTS = [c for c in STUDY.contestants(Request()) if guests.installed(c)]
MASKS = ("none", "causal", "window", "random")


pytestmark = pytest.mark.usefixtures("preloaded")


def one(name):
    return next(c for c in CONTESTANTS if c.id == name)


def run(contestant, facts, load, **params):
    workload = Workload(
        id="w", title="w", load=f"paragone.lab.tasks.attention:{load}", params=params, facts=facts
    )
    job = Job(
        key="k", task=STUDY.task, contestant=contestant, workload=workload, quick=True,
        block=Block(workload="w", index=0, split=0, seed=0), threads=1,
        options={"least_time": 0.0},
    )  # fmt: skip
    probe = Probe()
    attention.run(job, probe)
    return probe.values


def kernel(contestant, mask, length=70, heads=2, depth=16):
    facts = {"part": "kernel", "mask": mask, "window": 9, "length": length}
    return run(contestant, facts, "inputs", length=length, heads=heads, depth=depth, mask=mask)


def decode(contestant, layout, length=40, width=64):
    facts = {"part": "decode", "layout": layout, "length": length, "width": width, "heads": 4,
             "groups": 2, "mask": ""}  # fmt: skip
    return run(contestant, facts, "stream", length=length, width=width)


@pytest.mark.parametrize("quick", [True, False])
def test_inputs_and_measures_are_well_formed(quick):
    found = STUDY.workloads(Request(quick=quick))
    assert len({w.id for w in found}) == len(found)
    known = {m.name for m in STUDY.measures}
    assert all(set(w.measures) <= known for w in found)
    assert {w.facts["mask"] for w in found} == {*MASKS, ""}
    layouts = {w.facts["layout"] for w in found if w.facts["part"] == "decode"}
    assert layouts == {"mha", "gqa", "mqa", "mla"}
    assert all(applies(one(name), w) for w in found for name in ("flash_attention", "torch_flash"))
    assert any(applies(one("tiled"), w) for w in found)
    with pytest.raises(UsageError, match="--target"):
        STUDY.workloads(Request(target="x"))


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("name", ["flash_attention", "torch_flash", "torch_math", "naive"])
def test_everyone_attends_alike(name, mask):
    found = kernel(one(name), mask)
    assert found["error"] < 2e-6
    assert found["grad_error"] < 1e-5
    assert found["failed_backward"] == 0
    assert {"forward_s", "backward_s", "forward_extra", "train_extra"} <= set(found)


@pytest.mark.parametrize("layout", ["mha", "gqa", "mqa", "mla"])
@pytest.mark.parametrize("name", ["flash_attention", "torch_flash"])
def test_caches_hold_what_the_formula_says(name, layout):
    found = decode(one(name), layout)
    assert found["cache_bytes"] == found["formula_bytes"]
    assert found["formula_bytes"] == {"mha": 512, "gqa": 256, "mqa": 128, "mla": 2304}[layout]
    assert found["error"] < 1e-5
    assert found["bandwidth"] > 0


@pytest.mark.peers
@pytest.mark.filterwarnings("ignore")
def test_transformers_caches_the_latent():
    found = decode(one("transformers_mla"), "mla")
    assert found["error"] < 1e-5


def mean_pooling(q, k, v, *, causal=False, window=None, mask=None):
    """A planted wrong contestant."""
    return v.mean(2, keepdim=True).expand_as(v)


def peeking(q, k, v, *, causal=False, window=None, mask=None):
    """Another one: it knows no mask."""
    return torch.nn.functional.scaled_dot_product_attention(q, k, v)


def inert(q, k, v, *, causal=False, window=None, mask=None):
    """Another one: right, but the gradient of the keys is lost."""
    return torch.nn.functional.scaled_dot_product_attention(q, k.detach() + 0 * k, v)


def one_way(q, k, v, *, causal=False, window=None, mask=None):
    """One without backward pass."""
    if torch.is_grad_enabled():
        raise NotImplementedError("no backward pass")
    return torch.nn.functional.scaled_dot_product_attention(q, k, v)


def planted(function):
    return Contestant(
        id="planted", title="planted", make=f"{__file__}:{function.__name__}", origin="guest"
    )


def test_planted_wrong_contestants_are_caught():
    with pytest.raises(ValueError, match="this is no attention"):
        kernel(planted(mean_pooling), "none")
    with pytest.raises(ValueError, match="this is no attention"):
        kernel(planted(peeking), "causal")
    with pytest.raises(ValueError, match="gradients are off"):
        kernel(planted(inert), "none")
    found = kernel(planted(one_way), "none")
    assert found["failed_backward"] == 1
    assert "backward_s" not in found


WORKLOADS = STUDY.workloads(Request(quick=True))


def summary(good=True):
    tables = {w.id: [] for w in WORKLOADS}
    power = 1 if good else 2
    for w in WORKLOADS:
        length = w.facts["length"]
        for name, times in (("flash_attention", 1.0), ("torch_flash", 3.0)):
            if w.facts["part"] == "kernel":
                cells = {"forward_s": times * length**power, "backward_s": 2 * times * length,
                         "error": 1e-7 if good else 1e-3,
                         "train_extra": float(length**power)}  # fmt: skip
            else:
                layout = w.facts["layout"]
                size = attention.formula(layout, 16, 4, 64)
                wrong = 1 if good else 5 - len(layout) + (layout == "mla") * 9
                step = {"mha": 8.0, "gqa": 4.0, "mqa": 2.0, "mla": 3.0}[layout]
                cells = {"forward_s": step * times if good else 1.0, "bandwidth": 1e9,
                         "cache_bytes": size * wrong + (0 if good or layout != "mqa" else 99),
                         "formula_bytes": size}  # fmt: skip
            tables[w.id].append(Row(
                contestant=name, title=name, origin="paragone",
                cells={key: Cell(value=value) for key, value in cells.items()},
            ))  # fmt: skip
    extra = Workload(
        id="window-t4096-d64", title="w", load="", axis={"length, window of 256, 8 x 64": 4096},
        facts={"part": "kernel", "mask": "window", "length": 4096, "depth": 64},
    )  # fmt: skip
    tables[extra.id] = [Row(
        contestant="flash_attention", title="", origin="paragone",
        cells={"forward_s": Cell(value=float(4096**power))},
    )]  # fmt: skip
    return Summary(study="attention", question="?", workloads=[*WORKLOADS, extra],
                   contestants=CONTESTANTS, tables=tables)  # fmt: skip


def test_claims_hold_and_do_not():
    assert [claim.check(summary()).verdict for claim in STUDY.claims] == ["holds"] * 7
    verdicts = [claim.check(summary(good=False)).verdict for claim in STUDY.claims]
    assert verdicts == ["does not hold"] * 7
    empty = Summary(study="attention", question="?")
    assert [claim.check(empty).verdict for claim in STUDY.claims] == ["not tested"] * 7
    assert STUDY.findings(empty) == []


def test_findings_say_ratios_steps_and_bytes():
    texts = STUDY.findings(summary())
    assert any("against ours, mask causal: forward 3x (3 to 3) and backward 3x" in t for t in texts)
    assert "A token in the cache: MHA 8,192 B, GQA 2,048 B, MQA 512 B and MLA 2,304 B." in texts
    assert any(t.startswith("Decoding: MQA") and "2.0 s a step" in t for t in texts)


def test_pictures_are_drawn(tmp_path, monkeypatch):
    path = tmp_path / "p.svg"
    monkeypatch.setattr(pictures, "summarize", lambda folder: summary())
    pictures.lengths("", str(path))
    assert path.read_text().count('class="curve') >= 3
    pictures.caches("", str(path))
    assert path.read_text().count('class="bar"') == 4
    monkeypatch.setattr(pictures, "summarize", lambda f: Summary(study="attention", question="?"))
    for draw in (pictures.lengths, pictures.caches):
        with pytest.raises(SystemExit, match="nothing to draw"):
            draw("", str(path))


SHAPES = (("forward", "causal", 70, 2, 16, 0), ("forward", "window", 70, 1, 16, 0),
          ("backward", "causal", 70, 2, 16, 0), ("decode", "none", 70, 4, 16, 2),
          ("latent", "none", 40, 4, 16, 0))  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES, ids=[f"{s[0]}-{s[1]}" for s in SHAPES])
@pytest.mark.filterwarnings("ignore")
def test_speed_contestants_do_equal_work(shape):
    given = attention_calls.inputs(*shape)
    truth = attention_calls.truth(*given)
    met = 0
    for contestant in SPEED.contestants(Request()):
        if shape[0] in contestant.needs["op"] and guests.installed(contestant):
            call = bind(contestant)
            assert sweep.relative_error(call(*given), truth) < 1e-5, contestant.id
            call(*given)
            met += 1
    assert met > 1


def test_speed_study_covers_every_operation():
    assert {w.facts["op"] for w in SPEED.workloads(Request())} == {s[0] for s in SHAPES}
    short = SPEED.workloads(Request(quick=True, options={"bench": True, "rows": 300}))
    assert {w.facts["length"] for w in short} == {300}
    with pytest.raises(UsageError, match="--data"):
        SPEED.workloads(Request(data="x"))
    assert set(STUDY.speed) <= {c.id for c in SPEED.contestants(Request())}
