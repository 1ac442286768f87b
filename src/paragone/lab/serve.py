"""A reading room on the loopback: all studies of a folder, their reports, and what runs now.

Nothing but the standard library's server, nothing but reading. The address carries a random
token, so another user of the machine or a page in the browser cannot guess it; the `Host`
header must name the loopback, so a foreign name that was made to point here (DNS rebinding) is
refused; pages carry a Content-Security-Policy and load nothing. Progress needs no JavaScript:
while something runs, the page asks to be read again.
"""

from __future__ import annotations

import html
import json
import os
import re
import secrets
import sys
import webbrowser
from datetime import datetime
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from paragone._core.errors import UsageError
from paragone.lab import format as fmt

__all__ = ["Room", "serve"]

_FILES = {"report.html", "report.md", "report.json", "study.json", "records.jsonl",
          "progress.json", "results.parquet"}  # fmt: skip
_TYPES = {
    ".html": "text/html; charset=utf-8", ".txt": "text/plain; charset=utf-8",
    ".log": "text/plain; charset=utf-8", ".md": "text/plain; charset=utf-8",
    ".json": "text/plain; charset=utf-8", ".jsonl": "text/plain; charset=utf-8",
    ".png": "image/png", ".svg": "image/svg+xml",
}  # fmt: skip
_DEPTH, _PORTS = 3, 20
_HEAD_BYTES = 4096


def serve(folder: str | Path = "runs", port: int = 0, open_browser: bool = False) -> None:
    """Shows the reports of a folder in the browser, on this machine only, until Ctrl-C.

    Args:
        folder: A folder of studies, or one study.
        port: TCP port on 127.0.0.1, or the next free one after it; 0 takes any free one.
        open_browser: Also open the browser.

    Raises:
        UsageError: The folder is missing, or no port can be had.
    """
    with Room(folder, port) as room:
        print(f"{room.url}\nloopback only, read only; stop with Ctrl-C", flush=True)
        if open_browser:
            webbrowser.open(room.url)
        try:
            room.serve_forever(poll_interval=0.2)
        except KeyboardInterrupt:
            print("stopped")


class Room(ThreadingHTTPServer):
    """The server; `url` is where to read.

    Args:
        folder: A folder of studies, or one study.
        port: TCP port, or the next free one after it; 0 takes any free one.
    """

    daemon_threads = True
    # A port that another server listens on is taken, also where the system would share it.
    allow_reuse_port = False

    def __init__(self, folder: str | Path, port: int = 0):
        self.folder = Path(folder).resolve()
        if not self.folder.is_dir():
            raise UsageError(f"{folder}: no such folder; `paragone compare STUDY` makes runs/NAME")
        self.token = secrets.token_urlsafe(18)
        self.pages: dict[Path, tuple[int, str]] = {}
        if not 0 <= port < 65536:
            raise UsageError(f"port {port}: expected 0 to 65535; 0 takes any free one")
        super().__init__(("127.0.0.1", port), _Reader, bind_and_activate=False)
        self._listen(port)

    def _listen(self, port: int) -> None:
        last = min(port + _PORTS, 65535) if port else 0
        for candidate in range(port, last + 1):
            self.server_address = ("127.0.0.1", candidate)
            try:
                self.server_bind()
                self.server_activate()
                return
            except OSError as error:
                if candidate == last:
                    self.server_close()
                    raise UsageError(
                        f"ports {port} to {last} cannot be used ({error.strerror}); try --port 0"
                    ) from error

    @property
    def url(self) -> str:
        """The address of the index, token included."""
        return f"http://127.0.0.1:{self.server_port}/{self.token}/"

    def studies(self) -> list[Path]:
        """Folders that hold a `study.json`, newest first."""
        found = []
        for depth in range(_DEPTH):
            found += self.folder.glob("*/" * depth + "study.json")
        return [p.parent for p in sorted(found, key=lambda p: -p.stat().st_mtime)]

    def fresh(self, folder: Path) -> str:
        """A study's report as of now; made once for each state of its records.

        Raises:
            ValueError: The folder cannot be summarised.
        """
        from paragone.lab.report.html import page
        from paragone.lab.summary import summarize

        records = folder / "records.jsonl"
        size = records.stat().st_size if records.is_file() else 0
        # Statistics cost CPU that a running study needs: a reader who reloads pays once.
        if self.pages.get(folder, (-1, ""))[0] != size:
            self.pages[folder] = (size, page(summarize(folder), folder))
        return self.pages[folder][1]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A reader that hangs up early is no error worth a traceback; others are."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


class _Reader(BaseHTTPRequestHandler):
    server: Room
    timeout = 20
    server_version, sys_version = "paragone", ""

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet: the token would stand in the log."""

    def _answer(self, body: bool) -> None:
        names = {f"{host}:{self.server.server_port}" for host in ("127.0.0.1", "localhost")}
        if self.headers.get("Host") not in names:
            return self._refuse(HTTPStatus.MISDIRECTED_REQUEST, body)
        parts = [unquote(part) for part in urlsplit(self.path).path.split("/")[1:]]
        given = parts[0] if parts else ""
        if not secrets.compare_digest(given.encode(), self.server.token.encode()):
            return self._refuse(HTTPStatus.NOT_FOUND, body)
        if parts[1:] in ([], [""]):
            text = _index(self.server)
            return self._send(text.encode(), "text/html; charset=utf-8", body)
        path = self._file(parts[1:])
        if path is None:
            return self._refuse(HTTPStatus.NOT_FOUND, body)
        if path.name == "report.html":
            return self._report(path, body)
        kind = _TYPES.get(path.suffix.lower(), "application/octet-stream")
        return self._send(path.read_bytes(), kind, body)

    def _file(self, parts: list[str]) -> Path | None:
        """The file that the path names, if it is one that readers may see."""
        if any(p in {"", ".", ".."} or p[0] == "." or set(p) & set("/\\\0") for p in parts):
            return None
        path = self.server.folder.joinpath(*parts).resolve()
        if not path.is_relative_to(self.server.folder):
            return None
        study = next((p for p in path.parents if (p / "study.json").is_file()), None)
        if study is None or not study.is_relative_to(self.server.folder):
            return None
        inside = PurePosixPath(path.relative_to(study).as_posix())
        allowed = inside.parts[0] in {"artifacts", "pictures"} or str(inside) in _FILES
        return path if allowed and (path.is_file() or str(inside) == "report.html") else None

    def _report(self, path: Path, body: bool) -> None:
        """The report as written, or made afresh in memory when records came since."""
        records = path.with_name("records.jsonl")
        fresh = path.is_file() and (
            not records.is_file() or path.stat().st_mtime >= records.stat().st_mtime
        )
        if fresh:
            text = path.read_text(encoding="utf-8")
        else:
            try:
                text = self.server.fresh(path.parent)
            except ValueError as error:
                return self._refuse(HTTPStatus.CONFLICT, body, f"no report yet: {error}")
        return self._send(text.encode(), _TYPES[".html"], body)

    def _refuse(self, status: HTTPStatus, body: bool, words: str = "") -> None:
        text = words or f"{status.value} {status.phrase}"
        self._send(text.encode(), "text/plain; charset=utf-8", body, status)

    def _send(
        self, content: bytes, kind: str, body: bool, status: HTTPStatus = HTTPStatus.OK
    ) -> None:
        policy = "default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; "
        policy += "frame-ancestors 'none'"
        if kind.startswith("text/html"):
            # Our pages name their one style and one script by hash in a policy of their own,
            # which holds in addition.
            policy += "; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
        else:
            policy += "; sandbox"
        self.send_response(status)
        headers = {
            "Content-Type": kind, "Content-Length": str(len(content)),
            "Content-Security-Policy": policy, "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer", "Cache-Control": "no-store",
            "Cross-Origin-Resource-Policy": "same-origin", "X-Frame-Options": "DENY",
        }  # fmt: skip
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(content)


def _index(room: Room) -> str:
    """The page of all studies."""
    from paragone.lab.report.html import render

    entries = [_entry(room, folder) for folder in room.studies()]
    entries.sort(key=lambda entry: entry["state"] != "running")
    return render(
        "index.html.jinja", entries=entries, folder=str(room.folder),
        running=any(entry["state"] == "running" for entry in entries),
    )  # fmt: skip


def _entry(room: Room, folder: Path) -> dict[str, Any]:
    study, progress = _json(folder / "study.json"), _json(folder / "progress.json")
    name = folder.relative_to(room.folder).as_posix()
    link = "" if name == "." else f"{quote(name)}/"
    created = str(study.get("created", ""))
    eta, done, planned = (progress.get(key) for key in ("eta", "done", "planned"))
    return {
        "name": folder.name, "study": str(study.get("study", "")), "link": f"{link}report.html",
        "question": str(study.get("question", "")), "created": _day(created),
        "state": _state(study, progress), "verdict": _verdict(folder / "report.html"),
        "contestant": str(progress.get("contestant", "")),
        "workload": str(progress.get("workload", "")),
        "done": done if isinstance(done, int) else 0,
        "planned": planned if isinstance(planned, int) else 0,
        "eta": fmt.seconds(eta) if isinstance(eta, int | float) else "",
    }  # fmt: skip


def _state(study: dict[str, Any], progress: dict[str, Any]) -> str:
    """Says "running", "done" or "interrupted"; who runs must have a living process."""
    if progress.get("state") == "running" and _alive(progress.get("pid")):
        return "running"
    return "done" if study.get("complete") else "interrupted"


def _alive(pid: Any) -> bool:
    if not isinstance(pid, int) or pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _verdict(path: Path) -> str:
    """The verdict sentence, from the head of the report."""
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
        return datetime.fromisoformat(created).strftime("%Y-%m-%d %H:%M")
    except ValueError:
        return created
