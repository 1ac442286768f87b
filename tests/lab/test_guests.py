"""Contestants from outside: files, modules, objects, and a stranger's installed package."""

import importlib
import subprocess
import sys
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

from paragone._core.errors import MissingPackageError, UsageError
from paragone.lab import guests
from paragone.lab.build import build
from paragone.lab.contestants import ensembles
from paragone.lab.spec import Contestant

PACKAGE = Path(__file__).parent.parent / "packages" / "paragone-guest"
KNOWN = ensembles.contestants()


@pytest.fixture
def mine(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from sklearn.neighbors import KNeighborsClassifier\n"
        "raise_on_import = 1\n"
        "class Nearest(KNeighborsClassifier):\n    pass\n"
        "class ForestClassifier:\n    pass\n"
        "class ForestRegressor:\n    pass\n"
        "def anything():\n    return 1\n"
    )
    return path


def test_a_file_is_named_and_its_task_known_from_its_bases(mine):
    found = guests.entered(f"{mine}:Nearest", KNOWN)
    assert (found.id, found.origin) == ("nearest", "guest")
    assert found.needs == {"kind": ["Classifier"]}
    assert type(build(found)).__name__ == "Nearest"
    assert guests.entered(f"{mine}:anything", KNOWN).needs == {}
    both = guests.entered(f"{mine}:Forest{{kind}}", KNOWN)
    assert both.needs == {}
    assert type(build(both, {"kind": "Regressor"})).__name__ == "ForestRegressor"


def test_a_file_is_read_and_not_run(tmp_path):
    path = tmp_path / "loud.py"
    path.write_text("raise SystemExit('ran')\nclass Loud:\n    pass\n")
    assert guests.entered(f"{path}:Loud", KNOWN).id == "loud"


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("{mine}:Nearst", "defines no 'Nearst'; did you mean Nearest"),
        ("{mine}", "name the contestant too"),
        ("nowhere.py:X", "no such file nowhere.py"),
        ("lightgmb", "did you mean lightgbm"),
        ("no_such_module:X", "no module 'no_such_module'"),
    ],
)
def test_wrong_entries_are_one_clear_line(mine, entry, words):
    with pytest.raises(UsageError) as caught:
        guests.entered(entry.format(mine=mine), KNOWN)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_python_that_does_not_parse(tmp_path):
    path = tmp_path / "bad.py"
    path.write_text("class X(:\n")
    with pytest.raises(UsageError, match="is not Python"):
        guests.entered(f"{path}:X", KNOWN)


def test_names_pick_ours_first_then_rivals():
    assert [c.id for c in guests.pick(KNOWN, ["gbdt", "xgboost"])] == ["gbdt", "newton_boosting"]
    assert [c.id for c in guests.pick(KNOWN, ["stacking"])] == ["stacking"]
    assert [c.id for c in guests.pick(KNOWN, ["random-forest"])] == ["random_forest"]
    assert [c.id for c in guests.pick(KNOWN, ["lightgbm"])] == ["lightgbm"]
    with pytest.raises(UsageError, match="did you mean gbdt"):
        guests.pick(KNOWN, ["gbtd"])


def test_a_known_rival_that_is_not_installed_names_its_pip_line():
    absent = Contestant(
        id="far", title="far", make="far_away_library:X", origin="rival", install="pip install far"
    )
    with pytest.raises(MissingPackageError, match="pip install far"):
        guests.entered("far", [absent])
    assert not guests.installed(absent)
    adapted = Contestant(
        id="far", title="far", make="paragone.lab.contestants.searchers:HNSW", origin="rival",
        distribution="no-such-distribution",
    )  # fmt: skip
    assert not guests.installed(adapted)
    assert guests.installed(replace(adapted, distribution="numpy"))


def test_objects_travel_by_value_with_their_classes(tmp_path):
    from sklearn.tree import DecisionTreeClassifier

    source = "class Local:\n    def fit(self, X, y):\n        self.seen = len(X)\n"
    space = {"__name__": "__main__"}
    exec(source, space)
    for thing, check in (
        (DecisionTreeClassifier(max_depth=2), lambda got: got.max_depth == 2),
        (space["Local"], lambda got: type(got).__name__ == "Local"),
    ):
        contestant = guests.from_object(thing, tmp_path)
        code = (
            "import sys; from paragone.lab.guests import unpickle; "
            f"got = unpickle(**{dict(contestant.params)!r}); "
            "print(type(got).__name__, getattr(got, 'max_depth', None))"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert type(thing).__name__ in done.stdout or thing.__name__ in done.stdout
        assert check(build(contestant))
    with pytest.raises(UsageError, match="has no `fit`"):
        guests.from_object(np.arange(3), tmp_path)


@pytest.fixture
def installed_guest(tmp_path, monkeypatch):
    place = tmp_path / "site"
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--quiet",
               "--no-build-isolation", "--target", str(place), str(PACKAGE)]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"pip cannot build here: {done.stderr.strip().splitlines()[-1]}")
    monkeypatch.syspath_prepend(str(place))
    importlib.invalidate_caches()
    yield
    sys.modules.pop("paragone_guest", None)


def test_an_installed_package_takes_part(installed_guest):
    names = [point.value for point in metadata.entry_points(group=guests.GROUP)]
    assert "paragone_guest:contestants" in names
    found = guests.announced("ensembles")
    assert [c.id for c in found] == ["guest_neighbors"]
    assert guests.announced("attention") == []
    assert type(build(found[0], {"kind": "Classifier"})).__name__ == "KNeighborsClassifier"
    lines = (PACKAGE / "paragone_guest.py").read_text().splitlines()
    assert len([line for line in lines if line.strip()]) <= 10
