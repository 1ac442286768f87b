"""A study again from its study.json."""

import json
import shutil

import pytest

import paragone
from paragone._core.errors import UsageError

METHODS = "baseline,sklearn_decision_tree"


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    place = tmp_path_factory.mktemp("replay")
    table = place / "t.csv"
    table.write_text("x,y\n" + "".join(f"{i},{(i * 37) % 101 / 10}\n" for i in range(60)))
    guest = place / "own.py"
    guest.write_text(
        "from sklearn.linear_model import LinearRegression as Line\n"
        f"open({str(place / 'ran')!r}, 'w').close()\n"
    )
    paragone.compare(
        "ensembles",
        data=str(table),
        target="y",
        methods=METHODS,
        with_=f"{guest}:Line",
        repeats="2-2",
        threads=1,
        seed=3,
        out=place / "first",
    )
    return place


def records(folder):
    rows = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]
    return {
        (r["contestant"], r["workload"], r["block"]): (
            r["setup"], r["seed"], r["split"], r["digests"], r["values"].get("rmse")
        )
        for r in rows
    }  # fmt: skip


def test_the_same_plan_and_the_same_bits(study):
    (study / "ran").unlink()
    found = paragone.replay(
        study / "first" / "study.json", with_=f"{study / 'own.py'}:Line", out=study / "again"
    )
    assert found.differences == ()
    assert found.exit_code == 0
    assert found.equal == found.pairs == 6
    assert not found.comparison.verdicts
    assert records(study / "again") == records(study / "first")
    assert "6 of 6" in str(found)
    before, after = (
        json.loads((study / name / "study.json").read_text()) for name in ("first", "again")
    )
    assert before["setups"] == after["setups"]


def test_what_differs_is_said_and_no_code_is_taken_from_the_file(study, tmp_path):
    changed = tmp_path / "changed"
    shutil.copytree(study / "first", changed)
    content = json.loads((changed / "study.json").read_text())
    content["environment"]["versions"]["numpy"] = "1.0"
    content["workloads"][0]["digest"] = "0" * 20
    tree = next(c for c in content["contestants"] if c["id"] == "sklearn_decision_tree")
    tree |= {"make": f"{study / 'own.py'}:Line", "version": "0.1", "source_digest": "x"}
    (changed / "study.json").write_text(json.dumps(content))
    (study / "ran").unlink(missing_ok=True)
    plan = paragone.replay(changed, dry_run=True)
    text = str(plan)
    for words in (
        "numpy: 1.0 before", "0000", "sklearn_decision_tree, version: 0.1 before",
        "source has changed", "code of the study's own", "--with",
    ):  # fmt: skip
        assert words in text
    assert set(plan.contestants) == {"baseline", "sklearn_decision_tree"}
    assert not (study / "ran").exists()


def test_other_quality_is_no_success(study):
    (lines := study / "again" / "records.jsonl").write_text(
        lines.read_text().replace('"rmse":', '"rmse":1')
    )
    found = paragone.diff(study / "first", study / "again")
    assert sum(c.same for c in found.changes) < sum(c.pairs for c in found.changes)


def test_what_cannot_be_replayed_is_said(study, tmp_path):
    with pytest.raises(UsageError, match="no study here"):
        paragone.replay(tmp_path)
    with pytest.raises(UsageError, match="choose another folder"):
        paragone.replay(study / "first", out=study / "first")
