"""What `paragone doctor` tells."""

import json
import tomllib
from pathlib import Path

import pytest

from paragone.lab import diagnose


@pytest.fixture(scope="module")
def found():
    return diagnose.examine()


def test_it_tells_all_that_a_report_of_a_fault_needs(found):
    for name in (
        "python", "system", "processor", "cores", "SIMD", "memory", "disk", "load", "GPU",
        "browser", "cache folder", "back ends", "packages", "extras",
    ):  # fmt: skip
        assert found.facts[name], name
    told = json.loads(found.json())
    assert told["verdict"] == found.verdict
    assert str(found).splitlines()[-1] == f"verdict: {found.verdict}"
    assert "kernels" in told["cache folder"]


def test_each_extra_has_its_pip_line(found, monkeypatch):
    text = Path(__file__).parents[2].joinpath("pyproject.toml").read_text(encoding="utf-8")
    extras = tomllib.loads(text)["project"]["optional-dependencies"]
    assert set(found.facts["extras"]) <= set(extras) - {"dev", "docs"}
    monkeypatch.setattr(
        diagnose.metadata,
        "requires",
        lambda name: ["nowhere-at-all>=1; extra == 'ray'", "numpy>=2; extra == 'lab'", "numpy"],
    )
    assert diagnose._extras() == {
        "ray": "without nowhere-at-all: pip install 'paragone[ray]'", "lab": "installed",
    }  # fmt: skip


def test_the_verdict_says_what_to_do():
    assert "compare" in diagnose.Diagnosis({}, ()).verdict
    assert diagnose.Diagnosis({}, ("one", "two")).verdict.endswith("one, and 1 more above")


def test_limits_of_a_container_are_read(tmp_path, monkeypatch):
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    (tmp_path / "a" / "cpu.max").write_text("150000 100000\n")
    (inner / "cpu.max").write_text("max 100000\n")
    (inner / "memory.max").write_text("1073741824\n")
    (tmp_path / "proc").write_text("0::/a/b\n")
    monkeypatch.setattr(diagnose, "GROUPS", tmp_path)
    monkeypatch.setattr(diagnose, "OWN_GROUP", tmp_path / "proc")
    assert diagnose._limit("cpu.max") == 1.5
    assert diagnose._limit("memory.max") == 1 << 30
    (inner / "memory.max").write_text("max\n")
    assert diagnose._limit("memory.max") is None
