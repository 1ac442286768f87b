"""Two studies side by side."""

import json

import pytest

import paragone
from paragone._core.errors import UsageError


@pytest.fixture(scope="module")
def folders(fabricate, tmp_path_factory):
    place = tmp_path_factory.mktemp("diff")
    return [fabricate(place / name, workloads_count=1, blocks=4) for name in "ab"]


def test_a_study_against_itself_changes_nothing(folders):
    found = paragone.diff(*folders)
    assert found.changes
    assert not found.verdicts
    for change in found.changes:
        assert change.before == change.after
        assert change.same == change.pairs
    assert any(change.pairs == 4 for change in found.changes)
    assert "no verdict changed" in str(found)


def test_a_worse_contestant_is_found_and_its_verdict_told(folders, tmp_path):
    import shutil

    worse = tmp_path / "worse"
    shutil.copytree(folders[1], worse)
    name = next(c.contestant for c in paragone.diff(*folders).changes if c.pairs == 4)
    lines = []
    for line in (worse / "records.jsonl").read_text().splitlines():
        record = json.loads(line)
        if record["contestant"] == name:
            record["values"] = {k: v * 3 if k in ("log_loss", "rmse") else v
                                for k, v in record["values"].items()}  # fmt: skip
        lines.append(json.dumps(record))
    (worse / "records.jsonl").write_text("\n".join(lines) + "\n")
    found = paragone.diff(folders[0], worse)
    change = next(c for c in found.changes if c.contestant == name)
    assert change.after == pytest.approx(3 * change.before)
    assert change.same == 0
    assert found.verdicts
    assert "verdicts that changed" in str(found)


def test_what_cannot_be_compared_is_said(folders, tmp_path):
    with pytest.raises(UsageError, match="no study here"):
        paragone.diff(folders[0], tmp_path)
