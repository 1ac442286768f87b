"""`agent run`: a page in, a replay out, and one line for what the user can mend."""

import contextlib
import json
import shutil

import pytest
from tests.multimodal.agent_loop_fakes import BUTTON, FINISHED, NOWHERE, FakePage, Scripted, click

from paragone._core.errors import UsageError
from paragone.cli.app import main
from paragone.lab import agent_run_job
from paragone.lab.agent_run_job import run
from paragone.multimodal.agent.contract import OperatorError
from paragone.multimodal.agent.loop import Episode


@pytest.fixture
def page(monkeypatch):
    """A page that needs no browser; what it was opened with is kept."""
    fake = FakePage()

    @contextlib.contextmanager
    def opened(page, host, view, dpr, headed):
        fake.opened = (page, host, view, dpr, headed)
        yield fake

    monkeypatch.setattr(agent_run_job, "_in_browser", opened)
    return fake


@pytest.fixture
def agent(monkeypatch):
    """Replaces the agent by a script."""

    def script(*texts):
        monkeypatch.setattr(agent_run_job, "_agent", lambda *given: Scripted(*texts))

    return script


def test_a_run_is_told_and_kept(page, agent, tmp_path, capsys):
    agent(BUTTON, "garbage", NOWHERE, FINISHED)
    led = run("runs/agent", "<button>", "Press it.", out=str(tmp_path / "run"), size="640x480")
    assert (led.exit_code, led.outcome, led.steps) == (0, "finished", 4)
    assert page.opened == ("<button>", "", (640, 480), 1.0, False)
    told = capsys.readouterr().out
    assert "  1  click (30, 20)  (" in told
    assert "     There it is." in told
    assert "  2  no action  (" in told
    assert "nothing changed)" in told
    assert "finished after 4 steps" in str(led)
    assert json.loads(led.json())["out"] == str(tmp_path / "run")
    kept = Episode.load(tmp_path / "run")
    assert len(kept.steps) == 4
    assert "Press it." in (tmp_path / "run" / "replay.html").read_text("utf-8")
    assert (tmp_path / "run" / "film.png").read_bytes()[:4] == b"\x89PNG"


def test_not_finished_is_no_success(page, agent, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    agent(click(1, 1), click(60, 1), click(1, 60))
    led = run("deep/agent", "<p>", "Go.", steps=2)
    assert (led.exit_code, led.outcome) == (1, "steps")
    # Without a name, a free one is taken.
    assert led.out == "runs/agent-run-1"
    agent("Action: call_user()")
    again = run("deep/agent", "<p>", "Go.")
    assert (again.exit_code, again.out) == (1, "runs/agent-run-2")
    agent("garbage \x1b[2J\ud800")
    led = run("deep/agent", "<p>", "Go.", out="named")
    assert (led.exit_code, led.outcome) == (1, "error")


def test_the_terminal_is_not_steered(page, agent, tmp_path, capsys):
    evil = "\x1b]0;owned\x07\x1b[2J\u202e\r\b"
    agent(f"Thought: {evil}\nAction: type(content='{evil}')", f"Action: {evil}", FINISHED)
    led = run("a", "<p>", "Go.", out=str(tmp_path))
    print(led)
    told = capsys.readouterr().out
    assert all(one.isprintable() or one == "\n" for one in told)
    assert r"\x1b[2J\u202e" in told


def test_an_interrupt_leaves_a_replay(page, agent, tmp_path, capsys):
    agent(BUTTON, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        run("a", "<p>", "Go.", out=str(tmp_path))
    assert "interrupted" in (tmp_path / "replay.html").read_text("utf-8")
    assert f"replay: {tmp_path / 'replay.html'}" in capsys.readouterr().out
    assert len(Episode.load(tmp_path).steps) == 1


def test_where_a_page_is(page, agent, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "form.html").write_text("<p>")
    agent(FINISHED)
    for given, opened in {
        "form.html": ((tmp_path / "form.html").as_uri(), ""),
        "http://127.0.0.1:8000/x": ("http://127.0.0.1:8000/x", "127.0.0.1"),
        "localhost:8000/x?y=1": ("http://localhost:8000/x?y=1", "localhost"),
        "https://example.org": ("https://example.org", "example.org"),
        "<p>text with http://inside": ("<p>text with http://inside", ""),
    }.items():
        run("a", given, "Go.", out="out")
        assert page.opened[:2] == opened


def test_what_the_user_can_mend(page, agent, tmp_path, monkeypatch, capsys):
    with pytest.raises(UsageError, match=r"no such folder; paragone agent train --out"):
        run(str(tmp_path / "none"), "<p>", "Go.")
    with pytest.raises(UsageError, match=r"no config\.json in it"):
        run(str(tmp_path), "<p>", "Go.")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UsageError, match="model_type"):
        run(str(tmp_path), "<p>", "Go.")
    agent(FINISHED)
    (tmp_path / "file").write_text("")
    wrong = [
        ({"steps": 0}, "--steps 0"), ({"seconds": 0.0}, "--seconds 0"), ({"dpr": 99.0}, "--dpr 99"),
        ({"threads": 0}, "--threads 0"), ({"size": "big"}, "--size 'big'"),
        ({"size": "0x9"}, "--size 0x9"), ({"out": str(tmp_path / "file")}, "a file"),
    ]  # fmt: skip
    for options, why in wrong:
        with pytest.raises(UsageError, match=why):
            run("a", "<p>", "Go.", **options)
    for given, why in (
        (" ", "the page is empty"), ("nowhere.html", "nowhere.html: no such file"),
        ("ftp://x/y", "begins with http"), (str(tmp_path), "a folder; name one"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=why):
            run("a", given, "Go.")
    with pytest.raises(UsageError, match="the instruction is empty"):
        run("a", "<p>", " ")

    @contextlib.contextmanager
    def refused(*given):
        raise OperatorError("no Chromium: install it")
        yield

    monkeypatch.setattr(agent_run_job, "_in_browser", refused)
    with pytest.raises(UsageError, match="no Chromium: install it"):
        run("a", "<p>", "Go.", out=str(tmp_path / "out"))
    with pytest.raises(SystemExit) as left:
        main(["agent", "run", "a", "<p>", "Go.", "--out", str(tmp_path / "out")])
    assert left.value.code == 2
    assert capsys.readouterr().err == "paragone: no Chromium: install it\n"


def test_from_the_shell(page, agent, tmp_path, capsys):
    agent(BUTTON, FINISHED)
    words = ["agent", "run", "a", "<p>", "Go.", "--out", str(tmp_path), "--steps", "5",
             "--dpr", "2", "--size", "320x240", "--seconds", "60", "--headed"]  # fmt: skip
    with pytest.raises(SystemExit) as left:
        main(words)
    assert left.value.code == 0
    assert page.opened[2:] == ((320, 240), 2.0, True)
    assert f"replay: {tmp_path / 'replay.html'}" in capsys.readouterr().out
    agent(NOWHERE)
    with pytest.raises(SystemExit) as left:
        main(words)
    assert left.value.code == 1


HTML = """<body style="margin:0"><button style="position:absolute;left:40px;top:30px;width:100px;
height:40px" onclick="document.body.style.background='rgb(0, 200, 0)'">Go</button>"""


def test_in_a_real_browser(agent, tmp_path):
    pytest.importorskip("playwright", reason="playwright is not installed")
    if shutil.which("chromium") is None:
        pytest.skip("no Chromium here")
    agent(click(180, 100), FINISHED)
    file = tmp_path / "page.html"
    file.write_text(HTML)
    options = {"size": "320x240", "dpr": 2.0}
    led = run("a", str(file), "Press the button.", out=str(tmp_path / "run"), **options)
    assert (led.exit_code, led.steps) == (0, 2)
    kept = Episode.load(tmp_path / "run")
    assert kept.steps[0].screen.pixels.shape == (480, 640, 3)
    assert kept.steps[0].screen.device_pixel_ratio == 2.0
    assert kept.steps[0].changed is True
    assert tuple(kept.steps[1].screen.pixels[400, 600]) == (0, 200, 0)


def test_on_a_desktop(tmp_path, monkeypatch):
    for program in ("chromium", "Xvfb", "xdotool"):
        if shutil.which(program) is None:
            pytest.skip(f"no {program} here")

    class Patient(Scripted):
        """Waits until the page fills what the browser's own buttons leave."""

        def propose(self, context):
            green = (context.screens[-1].pixels == (0, 200, 0)).all(-1).mean()
            return FINISHED if green > 0.5 else "Action: wait(time=20)"

    monkeypatch.setattr(agent_run_job, "_agent", lambda *given: Patient())
    html = "<body style='background: rgb(0, 200, 0)'>"
    led = run("a", html, "Wait.", out=str(tmp_path), size="640x480", desktop=True)
    assert led.outcome == "finished"
    assert Episode.load(tmp_path).steps[-1].screen.pixels.shape == (480, 640, 3)
