"""Pages of the reading room: what each study's folder and the queue tell, as HTML.

All text goes through the templates' autoescape. Style and script of these pages are named by a
nonce that is new in each answer, so nothing that slipped into a page could run.
"""

from __future__ import annotations

import hashlib
import html
import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from paragone._core.errors import UsageError
from paragone.lab import format as fmt
from paragone.lab.serve_jobs import Task, continuing, holder
from paragone.lab.serve_studies import Sketch, sketches

if TYPE_CHECKING:
    from paragone.lab.serve import Room

__all__ = ["enter", "entries", "form", "index", "new", "notice", "study", "verdict"]

_HEAD_BYTES = 4096
_FAILURES = 10
_ENDS = {
    "budget": "its time budget is spent; start it again with a larger one",
    "mismatch": "contestants did not get the same data",
}


def _render(room: Room, template: str, nonce: str, **content: Any) -> str:
    from paragone.lab.report.html import read, render

    busy = bool(content.pop("busy", False)) or any(task.open for task in room.desk.tasks())
    usual = {"here": "", "problem": "", "title": "", "reload": False}
    return render(
        template, nonce=nonce, home=room.home, busy=busy, key=room.form_key,
        can_start=not room.single, style=read("style.css") + read("room.css"),
        script=read("room.js") + read("page.js"), policy="", **(usual | content),
    )  # fmt: skip


def enter(room: Room) -> str:
    """The page behind the printed address: it leads on to the studies.

    A redirect would not do: a browser that came from another site (a terminal in the browser)
    would follow it without the new cookie.
    """
    from paragone.lab.report.html import render

    return render("room_enter.html.jinja", home=room.home)


def notice(room: Room, nonce: str, problem: str, title: str) -> str:
    """A page that tells why something was not done."""
    return _render(room, "room.html.jinja", nonce, title=title, problem=problem)


def index(room: Room, nonce: str) -> str:
    """The page of all studies."""
    found = entries(room)
    now = [e for e in found if e["state"] in {"running", "stopping", "waiting"}]
    now.sort(key=lambda e: e["place"])
    return _render(
        room, "room_index.html.jinja", nonce, here="index", folder=str(room.folder),
        total=len(found), now=now, rest=[e for e in found if e not in now],
        blocked=_blocked(room), busy=now, reload=bool(now),
    )  # fmt: skip


def study(room: Room, nonce: str, folder: Path, problem: str = "") -> str:
    """The page of one study: its state, what can be done, what failed, and what it printed."""
    task = room.desk.task(folder)
    entry = _entry(room, folder, task)
    failed = room.failures(folder)
    busy = entry["state"] in {"running", "stopping", "waiting"}
    return _render(
        room, "room_study.html.jinja", nonce, e=entry, problem=problem, busy=busy, reload=busy,
        failures=failed[-_FAILURES:], failed=len(failed), blocked=_blocked(room),
        log=task.tail() if task is not None and task.state != "waiting" else None,
    )  # fmt: skip


def new(room: Room, nonce: str) -> str:
    """The page of all questions."""
    known = list(sketches().values())
    whole = [s for s in known if not s.speed]
    groups = [
        ("On your data, or on real data of their own", [s for s in whole if s.takes_data]),
        ("On inputs of their own", [s for s in whole if not s.takes_data]),
        ("How fast one method is, against its peers", [s for s in known if s.speed]),
    ]
    return _render(room, "room_new.html.jinja", nonce, here="new", groups=groups)


def form(
    room: Room, nonce: str, sketch: Sketch, fields: Mapping[str, Sequence[str]], problem: str = ""
) -> str:
    """The form that starts a study, filled with what was given before."""
    names = ("quick", "data", "target", "prompts", "budget", "prefer", "threads", "seed", "name")
    given = {name: (fields.get(name) or [""])[-1] for name in names}
    if not fields:
        given["quick"] = "yes"
    known, unreadable = None, ""
    try:
        known = room.lister.contestants(sketch.id)
    except UsageError as error:
        unreadable = str(error)
    waits = any(task.open for task in room.desk.tasks()) or bool(_blocked(room))
    return _render(
        room, "room_form.html.jinja", nonce, here="new", s=sketch, given=given, known=known,
        unreadable=unreadable, chosen=list(fields.get("methods", ())), problem=problem,
        busy_now=waits, busy=known is None and not unreadable,
    )  # fmt: skip


def _blocked(room: Room) -> str:
    waits = any(task.state == "waiting" for task in room.desk.tasks())
    return room.desk.blocked() if waits else ""


def entries(room: Room) -> list[dict[str, Any]]:
    """What is known of each study, and of each task that has no folder yet; newest first."""
    tasks = {task.folder: task for task in room.desk.tasks()}
    studies = room.studies()
    folders = [folder for folder in reversed(tasks) if folder not in studies] + studies
    return [_entry(room, folder, tasks.get(folder)) for folder in folders]


def _entry(room: Room, folder: Path, task: Task | None) -> dict[str, Any]:
    told, progress = _json(folder / "study.json"), _json(folder / "progress.json")
    running = holder(folder)
    if task is not None and task.process is not None and task.open:
        running = task.process.pid
    # What an earlier process wrote says nothing of this one.
    current = progress if not running or progress.get("pid") == running else {}
    state, note = _state(told, task, running)
    name = folder.relative_to(room.folder).as_posix()
    eta, done, planned, block = (current.get(key) for key in ("eta", "done", "planned", "block"))
    waiting = [other.folder for other in room.desk.tasks() if other.state == "waiting"]
    goes_on, cannot = _goes_on(state, told, task)
    sketch = sketches().get(str(told.get("study") or (task.words[0] if task else "")))
    return {
        "name": folder.name, "id": hashlib.sha256(name.encode()).hexdigest()[:8],
        "link": room.link(folder), "state": state, "note": note,
        "question": str(told.get("question") or (sketch.question if sketch else "")),
        "created": _day(str(told.get("created", ""))), "verdict": verdict(folder / "report.html"),
        "contestant": str(current.get("contestant", "")),
        "workload": str(current.get("workload", "")),
        "block": block if isinstance(block, int) else -1,
        "done": done if isinstance(done, int) else 0,
        "planned": planned if isinstance(planned, int) else 0,
        "eta": fmt.seconds(eta) if isinstance(eta, int | float) and state == "running" else "",
        "place": waiting.index(folder) + 1 if folder in waiting else 0,
        "goes_on": goes_on, "cannot": cannot,
        "command": task.command if task is not None else str(told.get("command", "")),
        "report": bool(told) and (folder / "records.jsonl").is_file(),
        "again": _again(room, task) if state == "failed" and task is not None else "",
    }  # fmt: skip


def _state(told: Mapping[str, Any], task: Task | None, running: int) -> tuple[str, str]:
    """The state in one word, and a remark on it."""
    if task is not None and (task.open or not told):
        return task.state, task.note
    if running:
        return "running", f"started elsewhere, process {running}"
    note = task.note if task is not None else ""
    if task is not None and task.state == "failed":
        return "failed", note
    if told.get("complete"):
        return "done", note
    return "interrupted", note or _ENDS.get(str(told.get("ended")), "")


def _goes_on(state: str, told: Mapping[str, Any], task: Task | None) -> tuple[bool, str]:
    """Whether the page can continue it, and else why not."""
    if state not in {"interrupted", "failed"} or (task is None and not told):
        return False, ""
    if task is not None:
        return state == "interrupted" or bool(told), ""
    try:
        continuing(str(told.get("command", "")))
    except UsageError as error:
        return False, f"{str(error)[:1].upper()}{str(error)[1:]}."
    return True, ""


def _again(room: Room, task: Task) -> str:
    """The address of the form, filled with what this task was given."""
    fields = []
    for word in task.words[1:]:
        option, _, value = word.removeprefix("--").partition("=")
        if option == "methods":
            fields += [("methods", one) for one in value.split(",")]
        elif option == "out":
            fields.append(("name", Path(value).name))
        else:
            fields.append((option, value or "yes"))
    return f"{room.home}new/{quote(task.words[0])}?{urlencode(fields)}"


def verdict(path: Path) -> str:
    """The verdict sentence, from the head of a report."""
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES).decode("utf-8", errors="replace")
    found = re.search(r'<meta name="description" content="([^"]*)">', head)
    return html.unescape(found.group(1)) if found else ""


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _day(created: str) -> str:
    try:
        return datetime.fromisoformat(created).astimezone().strftime("%Y-%m-%d %H:%M")
    except ValueError:
        return created
