"""`paragone new`: every file it writes runs as it is, and is short."""

import ast
import dataclasses
import importlib
import inspect
import subprocess
import sys
import types
import warnings
from importlib import metadata

import numpy as np
import pytest
import torch

from paragone._core.errors import UsageError
from paragone._core.lazy import resolve
from paragone.lab import guests, new_job, session, studies
from paragone.lab.build import resolve_target
from paragone.lab.contestant_templates import TEMPLATES, template_for
from paragone.lab.probe import Probe
from paragone.lab.spec import Block, Contestant, Job, Request

STUDIES = [name for template in TEMPLATES for name in template.studies]
TINY = {
    "boosting_speed": ("", {}, {"rows": 300}),
    "forest_speed": ("", {}, {"rows": 300}),
    "neighbors": ("", {}, {"rows": 300, "queries": 300}),
    "estimators": ("", {"samples": 2}, {}),
    "optimizers": ("text", {"steps": 4, "trials": 1}, {}),
    "precision": ("text", {}, {}),
    "collectives": ("p2-1024", {}, {}),
    "attention": ("causal-t256-d64", {}, {}),
    "mixers": ("t512-parameters", {"width": 32, "parameters": 12_288}, {"length": 32, "width": 32}),
    "backbones": ("scaling", {"steps": 2}, {"size": 32}),
    "upsampling": ("digits", {"steps": 2}, {"count": 16}),
    "detectors": ("scenes", {"steps": 1, "seconds": None}, {"count": 24}),
    "scaling": ("", {"compute": 1e7}, {}),
    "multi_token_training": ("small-tokens", {"tokens": 4096, "width": 16}, {}),
}  # fmt: skip
"""Workload of a quick study ("" : the first that fits), and what of its facts is made small."""
SHORT = {
    "precision": {"steps": {"text": 8}, "lr": {"text": 0.003}},
    "collectives": {"least_time": 0.0},
}
ALONE = {"decoding", "alignment", "vision_language", "agents"}
"""Studies whose least run takes long: what is made for them is looked at here."""


@pytest.fixture(autouse=True)
def _settled(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def begun(study, name="Mine"):
    path = new_job.contestant(name, study=study).path
    known = studies.load(study).contestants(Request(quick=True))
    return path, guests.entered(f"{path}:{name}", known)


def lines_of_code(path):
    """Lines of the contestant and of what it imports, without texts about it."""
    tree = ast.parse(path.read_text())
    texts = {node.value.lineno + i for node in ast.walk(tree) if isinstance(node, ast.Expr)
             and isinstance(node.value, ast.Constant)
             for i in range(node.value.end_lineno - node.value.lineno + 1)}  # fmt: skip
    lines = enumerate(path.read_text().splitlines(), 1)
    return [line for i, line in lines if line.strip() and i not in texts]


def job(study, contestant, folder, facts=None, params=None, name=""):
    asked = Request(quick=True, cache=str(folder))
    one = studies.load(study)
    fits = [w for w in one.workloads(asked) if name in ("", w.id)
            and all(w.facts.get(k) in v for k, v in contestant.needs.items())]  # fmt: skip
    changed = {**fits[0].facts, **(facts or {})}
    small = dataclasses.replace(
        fits[0], digest="", params={**fits[0].params, **(params or {})},
        facts={k: v for k, v in changed.items() if v is not None},
    )  # fmt: skip
    return Job(
        key="k", task=one.task, contestant=contestant, workload=small, quick=True, threads=1,
        block=Block(workload=small.id, index=0, split=0, seed=0), folder=str(folder),
        options={**one.options, "least_time": 0.0, **SHORT.get(study, {})},
    )  # fmt: skip


@pytest.mark.parametrize("study", STUDIES)
def test_a_contestant_is_short_and_says_how_it_runs(study):
    path, found = begun(study, "MyOwn")
    assert path.name == "my_own.py"
    assert (found.id, found.title, found.origin) == ("my_own", "MyOwn", "guest")
    assert len(lines_of_code(path)) <= 10
    assert f"compare {study} --quick --with my_own.py:MyOwn" in ast.get_docstring(
        ast.parse(path.read_text())
    )
    assert max(len(line) for line in path.read_text().splitlines()) <= 100


@pytest.mark.parametrize("study", [name for name in STUDIES if name not in ALONE])
def test_a_contestant_runs_as_it_is(study, tmp_path):
    for name in studies.load(study).preload:
        importlib.import_module(name)
    _, found = begun(study)
    name, facts, params = TINY.get(study, ("", {}, {}))
    one = job(study, found, tmp_path, facts, params, name)
    probe = Probe(tmp_path)
    resolve_target(one.task)(one, probe)
    known = {m.name for m in studies.load(study).measures if m.primary}
    assert known & {*probe.values}


def test_a_drafter_is_made():
    _, found = begun("decoding")
    made = resolve_target(found.make)(types.SimpleNamespace())
    assert isinstance(made, resolve("paragone.language.drafting:Drafter"))


def test_a_policy_of_one_stage_calls_dpo_as_it_is(monkeypatch):
    _, found = begun("alignment")
    train, asked = resolve_target(found.make), []
    known = inspect.signature(train.__globals__["dpo"])
    monkeypatch.setitem(train.__globals__, "dpo", lambda *a, **k: asked.append(known.bind(*a, **k)))
    stage = types.SimpleNamespace(
        model="model", pairs=["pair"], pace=2.0, effort={"epochs": 2}, seed=5
    )
    train(stage)
    assert asked[0].arguments["model"] == "model"
    assert asked[0].arguments["lr"] == pytest.approx(6e-4)


def test_a_model_of_texts_and_pictures_is_made(tmp_path):
    _, found = begun("vision_language")
    one = job("vision_language", found, tmp_path, {"parameters": 20_000})
    scene = resolve_target(one.workload.load)(**one.workload.params)
    made = resolve("paragone.lab.tasks.vision_language:built")(one, scene)
    assert sum(p.numel() for p in made.model.parameters()) > 5_000


def test_an_agent_clicks_where_it_says(tmp_path):
    _, found = begun("agents")
    built = resolve("paragone.lab.tasks.agents:built")
    one = job("memory", dataclasses.replace(found, needs={}), tmp_path)
    policy = built(one, None).agent
    assert isinstance(policy, resolve("paragone.multimodal.agent.contract:Policy"))
    screen = types.SimpleNamespace(pixels=np.zeros((20, 60, 3), np.uint8))
    text = policy.propose(types.SimpleNamespace(screens=[screen], history=[]))
    (action,) = resolve("paragone.multimodal.agent:parse")(text, policy.dialect)
    assert action.arguments["start_box"] == (30, 10)


def test_studies_that_time_their_own_calls_say_so():
    for name in studies.ids():
        if name in STUDIES:
            assert name in template_for(name).studies
        else:
            assert name.endswith("_speed")
            with pytest.raises(UsageError, match=f"{name} times calls that were made for it"):
                new_job.contestant(study=name)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"name": "my forest"}, "'my forest' is no name of Python's"),
        ({"name": "class"}, "'class' is no name of Python's"),
        ({"study": "ensemble_s"}, "no study 'ensemble_s'; did you mean ensembles"),
        ({"out": "mine.txt"}, "ends in .py"),
        ({"out": "there.py"}, "there.py is there already"),
        ({"out": "file/mine.py"}, "cannot be written"),
    ],
    ids=["space", "keyword", "study", "suffix", "exists", "folder"],
)
def test_what_cannot_be_written_is_one_line(tmp_path, arguments, words):
    for name in ("there.py", "file"):
        (tmp_path / name).write_text("mine\n")
    with pytest.raises(UsageError, match=words):
        new_job.contestant(**arguments)
    assert (tmp_path / "there.py").read_text() == "mine\n"


def test_a_package_takes_part_where_it_is_installed(tmp_path, monkeypatch):
    folder = new_job.package("Forest").path
    assert {p.name for p in folder.iterdir()} == {"forest.py", "forest_paragone.py",
                                                  "pyproject.toml"}  # fmt: skip
    place = tmp_path / "site"
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--quiet",
               "--no-build-isolation", "--target", str(place), str(folder.resolve())]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"pip cannot build here: {done.stderr.strip().splitlines()[-1]}")
    monkeypatch.syspath_prepend(str(place))
    importlib.invalidate_caches()
    (found,) = guests.announced("ensembles")
    assert (found.id, found.make) == ("forest", "forest:Forest{kind}")
    assert "forest" not in sys.modules
    assert guests.announced("attention") == []
    sys.modules.pop("forest_paragone", None)


def test_a_package_of_functions_says_what_it_needs():
    text = (new_job.package("Kept", study="approximation").path / "kept_paragone.py").read_text()
    space = {}
    exec(text, space)
    (found,) = space["contestants"]("approximation")
    assert isinstance(found, Contestant)
    assert (found.make, found.needs) == ("kept:Kept", {"problem": ["quantile"]})
    with pytest.raises(UsageError, match="kept is there already"):
        new_job.package("Kept")


def test_a_package_that_fails_is_left_out(monkeypatch):
    class Point(metadata.EntryPoint):
        def load(self):
            return {"good": lambda study: [guests.from_object(c, None) for c in KNOWN],
                    "bad": lambda study: 1 / 0, "odd": lambda study: ["x"]}[self.name]  # fmt: skip

    points = [Point(n, "m:f", guests.GROUP) for n in ("bad", "odd", "good")]
    monkeypatch.setattr(guests.metadata, "entry_points", lambda group: points)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        assert guests.announced("ensembles") == KNOWN
    assert ["ZeroDivisionError" in str(told[0].message), "a list of Contestant" in str(
        told[1].message)] == [True, True]  # fmt: skip


KNOWN = [Contestant(id="one", title="one", make="m:f", origin="guest")]


def declared(tmp_path, text, name="Mine"):
    path = tmp_path / "declared.py"
    path.write_text(text)
    return guests.entered(f"{path}:{name}", [])


def test_what_a_file_says_of_its_contestant(tmp_path):
    both = "class MineClassifier:\n    pass\nclass MineRegressor:\n    pass\n"
    found = declared(tmp_path, both)
    assert found.make.endswith(":Mine{kind}")
    assert found.needs == {}
    half = declared(tmp_path, "class MineRegressor:\n    pass\n")
    assert half.make.endswith(":Mine{kind}")
    assert half.needs == {"kind": ["Regressor"]}
    text = (
        'needs = {"a": [1]}\nclass Mine:\n    space = {"lr": [1, 2]}\n'
        'class Own:\n    needs = {"b": [2]}\n'
    )
    assert declared(tmp_path, text).needs == {"a": [1]}
    assert declared(tmp_path, text).space == {"lr": [1, 2]}
    assert declared(tmp_path, text, "Own").needs == {"b": [2]}
    assert declared(tmp_path, "needs = dict(a=1)\ndef Mine():\n    pass\n").needs == {}
    with pytest.raises(UsageError, match="it maps facts to lists"):
        declared(tmp_path, 'needs = {"kind": "grid"}\ndef Mine():\n    pass\n')


def test_what_is_no_python_file(tmp_path):
    (tmp_path / "mine.txt").write_text("class Mine: pass\n")
    for entry in ("mine.txt:Mine", "folder/mine:Mine"):
        with pytest.raises(UsageError, match="is no Python file"):
            guests.entered(entry, [])


def test_two_guests_of_one_name_are_told_apart(tmp_path):
    for name in ("a.py", "b.py"):
        (tmp_path / name).write_text("class Mine:\n    pass\n")
    wanted = session.Wanted(
        study="ensembles", entries=("a.py:Mine", "b.py:Mine"), methods=("baseline",), quick=True
    )
    running, *_ = session._contestants(studies.load("ensembles"), wanted, tmp_path)
    assert [(c.id, c.title) for c in running[1:]] == [("mine", "Mine"), ("mine_2", "Mine (2)")]
