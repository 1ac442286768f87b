"""The table on the terminal: fits its width, says all, plain on a pipe; and live progress."""

import io
import re
from dataclasses import replace

import pytest
from rich.cells import cell_len
from rich.console import Console

from paragone.lab.outcome import NoiseFloor, Summary
from paragone.lab.progress import Progress
from paragone.lab.protocol import Event
from paragone.lab.report.terminal import print_summary


def _text(summary, width=100, **options):
    file = io.StringIO()
    console = Console(file=file, width=width, highlight=False, **options)
    print_summary(summary, console=console, folder="runs/mine")
    return file.getvalue()


@pytest.mark.parametrize("width", [60, 80, 100, 120, 200])
@pytest.mark.parametrize("workloads", [1, 3])
def test_no_line_is_wider_than_the_terminal(summary_of, width, workloads):
    text = _text(summary_of(workloads, 20, 3), width)
    assert max(cell_len(line) for line in text.splitlines()) <= width


def test_one_line_for_each_contestant_and_none_wraps(summary_of):
    summary = summary_of(1, 20, 3)
    lines = _text(summary).splitlines()
    start = next(i for i, line in enumerate(lines) if "─" in line) + 1
    table = lines[start : start + len(summary.rows)]
    for line, row in zip(table, summary.rows, strict=True):
        assert line.split()[0] == (row.tier or "-")
    assert lines[start + len(summary.rows)] == ""


def test_columns_leave_in_their_order(summary_of):
    summary = summary_of(1, 6, 3)
    wide, narrow = _text(summary, 120), _text(summary, 80)
    for head in ("RMSE ↓", "vs best (95 % CI)", "fit ↓", "predict ↓", "peak RAM ↓", "runs"):
        assert head in wide
    assert "predict" not in narrow
    assert "vs best" in narrow
    assert "RMSE" in _text(summary, 44)


def test_verdict_stands_under_the_table_and_paths_at_the_end(summary_of):
    summary = summary_of(1, 4, 3)
    text = " ".join(_text(summary).split())
    places = [text.index(sentence) for sentence in summary.verdict]
    assert places == sorted(places)
    assert text.index("peak RAM") < places[0]
    assert text.index("runs/mine/report.html") > places[-1]
    assert summary.command in text


def test_failed_row_says_why_in_place_of_numbers(summary_of):
    line = next(x for x in _text(summary_of(1, 5, 3)).splitlines() if "timed out" in x)
    assert "killed after 66 s" in line
    assert "(0/3)" in line


def test_pipe_and_no_color_get_no_escape_codes(summary_of, monkeypatch):
    summary = summary_of(1, 4, 3)
    assert "\x1b" not in _text(summary)
    assert "\x1b[" in _text(summary, force_terminal=True, color_system="truecolor")
    monkeypatch.setenv("NO_COLOR", "1")
    painted = _text(summary, force_terminal=True)
    assert not re.search(r"\x1b\[[\d;]*3[0-7]", painted)


def test_markup_in_names_is_shown_not_obeyed(summary_of):
    summary = summary_of(1, 4, 3)
    rows = [replace(summary.rows[0], title="[bold red]x[/]"), *summary.rows[1:]]
    assert "[bold red]x[/]" in _text(replace(summary, rows=rows))


def test_untrusted_noise_is_said(summary_of):
    noise = NoiseFloor(contestant="m0", ratio=1.2, low=1.1, high=1.3, trusted=False, text="no")
    assert "times not trustworthy" in _text(summary_of(1, 4, 3, noise=noise))


def test_nothing_measured_still_says_something():
    text = _text(Summary(study="s", question="q?", verdict=("Nothing finished.",)))
    assert "Nothing finished." in text


EVENTS = (
    Event(kind="study", done=0, planned=4, eta=None),
    Event(kind="start", contestant="gbdt", workload="wine", block=0, planned=4),
    Event(kind="run", contestant="gbdt", workload="wine", block=0, elapsed=1.5, status="ok",
          done=1, planned=4, eta=4.5),
    Event(kind="start", contestant="bad", workload="wine", block=0, done=1, planned=4),
    Event(kind="run", contestant="bad", workload="wine", block=0, elapsed=3.0, status="crashed",
          message="signal 11", done=2, planned=4, eta=3.0),
    Event(kind="start", contestant="gbdt~2", workload="wine", block=0, done=2, planned=4),
    Event(kind="end", status="interrupted", done=2, planned=4, elapsed=5.0),
)  # fmt: skip


def test_plain_progress_tells_bad_news_at_once_and_good_news_seldom():
    file, now = io.StringIO(), [0.0]
    progress = Progress(Console(file=file, width=40), {"bad": "Bad One"}, clock=lambda: now[0])
    with progress:
        for event in EVENTS:
            progress(event)
            now[0] += 10.0 if event.status == "crashed" else 2.0
    text = file.getvalue()
    assert "\r" not in text
    assert "\x1b" not in text
    lines = text.splitlines()
    assert len(lines) == 4
    assert all(re.match(r"\d\d:\d\d:\d\d  \d", line) for line in lines)
    assert "Bad One on wine, block 0  3.0 s  crashed: signal 11" in text
    assert "(duplicate)" in text
    assert "the same command continues" in lines[-1]


def test_line_of_a_terminal_shows_who_runs_and_the_time_left():
    now = [0.0]
    progress = Progress(Console(file=io.StringIO()), {"bad": "Bad One"}, clock=lambda: now[0])
    for event in EVENTS[:4]:
        progress(event)
    now[0] = 7.0
    line = progress.line().plain
    assert "Bad One on wine, block 0, 7 s" in line
    assert "1/4" in line
    for event in EVENTS[4:]:
        progress(event)
    assert "Bad One" not in progress.line().plain


def test_terminal_progress_leaves_failures_on_the_screen():
    file = io.StringIO()
    with Progress(Console(file=file, width=100, force_terminal=True)) as progress:
        for event in EVENTS:
            progress(event)
    assert "crashed: signal 11" in file.getvalue()
