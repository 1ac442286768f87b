"""`dev.py` sees to a browser where it can, and says in one line where it cannot."""

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from paragone.lab.diagnose import examine


@pytest.fixture
def dev(monkeypatch, tmp_path):
    path = Path(__file__).resolve().parents[2] / "dev.py"
    spec = importlib.util.spec_from_file_location("paragone_dev", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.delenv("PARAGONE_CHROMIUM", raising=False)
    monkeypatch.setattr(module, "BROWSER_TRIED", tmp_path / "tried")
    return module


@pytest.fixture
def machine(monkeypatch):
    """A Debian without Chromium: what is there, what was run, and what `apt-get` answers."""
    there, ran, answers = {"apt-get", "sudo"}, [], {"status": 0, "brings": True, "sudo": 0}

    def run(command, **options):
        assert options["stdin"] is subprocess.DEVNULL, "it must not ask"
        ran.append(command)
        if command[-1] == "true":
            return subprocess.CompletedProcess(command, answers["sudo"], "", "")
        if command[-1] == answers.get("unknown"):
            return subprocess.CompletedProcess(command, 100, "", "E: no such package\n")
        if "install" in command and answers["brings"]:
            there.add("chromium")
        return subprocess.CompletedProcess(command, answers["status"], "", "E: no\nE: network\n")

    monkeypatch.setattr(shutil, "which", lambda name: name if name in there else None)
    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(Path, "exists", exists := Exists(Path.exists))
    return there, ran, answers, exists


class Exists:
    """Whether a path exists; /etc/debian_version does."""

    def __init__(self, real):
        self.real, self.debian = real, True

    def __get__(self, path, kind):
        return lambda: self.debian if str(path) == "/etc/debian_version" else self.real(path)


def test_nothing_is_done_where_there_is_one(dev, machine, capsys, monkeypatch):
    machine[0].add("google-chrome")
    dev.set_up_browser(False)
    machine[0].clear()
    monkeypatch.setenv("PARAGONE_CHROMIUM", "mine")
    dev.set_up_browser(False)
    assert machine[1] == []
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("user", [0, 1000])
def test_it_is_installed_as_root_or_by_sudo(dev, machine, capsys, monkeypatch, user):
    monkeypatch.setattr(os, "geteuid", lambda: user)
    dev.set_up_browser(False)
    update, install, faster = machine[1][-3:]
    assert "update" in update
    assert faster[-1] == dev.FASTER
    assert install[-5:] == ["--no-install-recommends", *dev.DEBIAN]
    assert ("sudo" in install) == (user == 1000)
    assert capsys.readouterr().err.count("\n") == 1
    assert not dev.BROWSER_TRIED.exists()


def test_what_cannot_be_is_said_in_one_line(dev, machine, capsys, monkeypatch):
    _, ran, answers, exists = machine
    exists.debian = False
    dev.set_up_browser(False)
    assert "this is no Debian" in capsys.readouterr().err
    exists.debian = True
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    answers["sudo"] = 1
    dev.set_up_browser(False)
    assert "sudo without a password" in capsys.readouterr().err
    assert not any("apt-get" in command for command in ran)


def test_a_failure_is_told_and_tried_again_by_setup_alone(dev, machine, capsys):
    _, ran, answers, _ = machine
    answers |= {"status": 100, "brings": False}
    dev.set_up_browser(False)
    assert "apt-get failed (E: network)" in capsys.readouterr().err
    ran.clear()
    dev.set_up_browser(False)
    assert "failed before" in capsys.readouterr().err
    assert ran == []
    answers |= {"status": 0, "brings": True}
    dev.set_up_browser(True)
    assert len(ran) == 3
    assert not dev.BROWSER_TRIED.exists()


def test_an_older_debian_has_no_browser_without_windows(dev, machine, capsys):
    machine[2]["unknown"] = dev.FASTER
    dev.set_up_browser(False)
    assert capsys.readouterr().err.count("\n") == 1
    assert not dev.BROWSER_TRIED.exists()


def test_doctor_tells_of_the_browser(monkeypatch):
    monkeypatch.setenv("PARAGONE_CHROMIUM", "/nowhere/chromium")
    told = examine()
    assert "/nowhere/chromium is no program" in told.facts["browser"]
    assert any("agents cannot run" in one for one in told.problems)
    monkeypatch.setenv("PARAGONE_CHROMIUM", "sh")
    assert examine().facts["browser"].endswith("sh, for agents")
