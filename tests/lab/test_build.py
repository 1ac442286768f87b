"""From strings to things, and what they depend on."""

import importlib.metadata
import sys

import pytest

from paragone.lab.build import (
    bind,
    build,
    load_inputs,
    locate,
    resolve_target,
    source_digest,
    version_of,
)
from paragone.lab.spec import Block, Contestant, Job, Workload


def one(make, **more):
    return Contestant(**{"id": "c", "title": "c", "make": make, **more})


@pytest.fixture
def mine(tmp_path):
    (tmp_path / "beside_mine.py").write_text("LEVEL = 3\n")
    path = tmp_path / "mine.py"
    path.write_text(
        "import beside_mine\n"
        "class Model:\n"
        "    level = beside_mine.LEVEL\n"
        "    def __init__(self, depth=1, seed=None):\n"
        "        self.depth, self.seed = depth, seed\n"
        "    def __call__(self, x):\n"
        "        return x + self.depth\n"
        "def add(x, depth=0):\n"
        "    return x + depth\n"
    )
    yield path
    for name in [n for n in sys.modules if n.startswith("_paragone_mine")] + ["beside_mine"]:
        sys.modules.pop(name, None)
    sys.path[:] = [entry for entry in sys.path if entry != str(tmp_path)]


def test_a_file_is_executed_once_and_finds_its_neighbours(mine):
    model = resolve_target(f"{mine}:Model")
    assert model.level == 3
    assert resolve_target(f"{mine}:Model") is model
    assert resolve_target(f"{mine}:Model.level") == 3


def test_what_is_not_there_is_named(mine):
    with pytest.raises(AttributeError, match=r"mine\.py has no 'Other'"):
        resolve_target(f"{mine}:Other")
    with pytest.raises(FileNotFoundError, match="no such file"):
        resolve_target("/nowhere/at/all.py:X")


def test_a_file_that_fails_is_executed_again_next_time(tmp_path):
    path = tmp_path / "broken.py"
    path.write_text("raise RuntimeError('not yet')")
    for _ in range(2):
        with pytest.raises(RuntimeError, match="not yet"):
            resolve_target(f"{path}:X")


def test_facts_fill_in_the_name_and_arguments_win(mine):
    contestant = one(f"{mine}:{{kind}}", params={"depth": 4})
    made = build(contestant, {"kind": "Model"}, seed=7)
    assert (made.depth, made.seed) == (4, 7)
    assert build(contestant, {"kind": "Model"}, depth=5).depth == 5


def test_classes_are_built_and_functions_get_their_parameters(mine):
    assert bind(one(f"{mine}:Model", params={"depth": 2}))(1) == 3
    assert bind(one(f"{mine}:add", params={"depth": 5}))(1) == 6
    assert bind(one("operator:neg"))(1) == -1


def job(load, **params):
    return Job(
        key="", task="", contestant=one("operator:neg"), threads=1, quick=True,
        workload=Workload(id="w", title="w", load=load, params=params),
        block=Block(workload="w", index=2, split=4, seed=6),
    )  # fmt: skip


def inputs(rows, seed, split, quick=False):
    return rows, seed, split, quick


def single():
    return [1, 2]


def test_inputs_get_what_they_name():
    assert load_inputs(job(f"{__file__}:inputs", rows=9)) == (9, 6, 4, True)
    assert load_inputs(job(f"{__file__}:inputs", rows=9, seed=1)) == (9, 1, 4, True)
    assert load_inputs(job(f"{__file__}:single")) == ([1, 2],)


def test_versions_come_from_distributions():
    assert version_of(one("numpy:sort", distribution="numpy")) == importlib.metadata.version(
        "numpy"
    )
    assert version_of(one("paragone.ensemble:X")) == importlib.metadata.version("paragone")
    assert version_of(one("x:y", distribution="no-such-thing")) == ""
    assert version_of(one("/a/b.py:C")) == ""


def test_a_digest_follows_the_source_that_matters(mine):
    before = source_digest(one(f"{mine}:Model", origin="guest"))
    assert before == source_digest(one(f"{mine}:add", origin="guest"))
    mine.write_text(mine.read_text() + "# changed\n")
    assert source_digest(one(f"{mine}:Model", origin="guest")) != before
    assert source_digest(one("numpy:sort", origin="rival", distribution="numpy")) == ""
    assert source_digest(one("operator:neg", origin="guest"))


def test_a_digest_follows_what_an_adapter_uses():
    make = "paragone.lab.contestants.searchers:Tree"
    plain, told, other = (
        source_digest(one(make, params=params))
        for params in ({}, {"target": "paragone.neighbors:KDTree"}, {"target": "a word"})
    )
    assert plain == other != told
    assert told.startswith(plain)


def test_ours_depend_on_their_family_and_the_layers_below():
    def folders(target):
        return {path.parent.name for path in locate(target)}

    found = folders("paragone.ensemble:RandomForest{kind}")
    assert {"_core", "kernels", "ensemble"} <= found
    assert "lab" not in found
    assert [p.name for p in locate("paragone.lab.tasks.sweep:run")] == ["sweep.py"]
    assert locate("sys:exit") == []
    assert locate("no_such_package_at_all:x") == []
