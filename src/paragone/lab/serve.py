"""A reading room on the loopback: all studies of a folder, and a desk that starts and stops them.

Nothing but the standard library's server, and nobody but who holds the token. The printed address
carries it; it is exchanged for a cookie that scripts cannot read and that no other site can send
(`HttpOnly`, `SameSite=Strict`), below a path that is new at each start, as cookies are shared by
all ports of a machine. The `Host` header must name the loopback, so a foreign name that was made
to point here (DNS rebinding) is refused. What changes something is a POST with the page's own
`Origin` and the form's key. Pages carry a Content-Security-Policy and load nothing from elsewhere.
"""

from __future__ import annotations

import re
import secrets
import signal
import sys
import threading
import webbrowser
from collections.abc import Callable, Mapping
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

from paragone._core.errors import UsageError
from paragone.lab import serve_pages as pages
from paragone.lab.serve_jobs import COMPARE, Desk, continuing, holder, interrupt_holder
from paragone.lab.serve_studies import Lister, asked, sketches

__all__ = ["Room", "serve"]

_FILES = {"report.html", "report.md", "report.json", "study.json", "records.jsonl",
          "progress.json", "results.parquet"}  # fmt: skip
_HTML, _TEXT = "text/html; charset=utf-8", "text/plain; charset=utf-8"
_TYPES = {
    **dict.fromkeys((".txt", ".log", ".md", ".json", ".jsonl"), _TEXT),
    ".png": "image/png", ".svg": "image/svg+xml",
}  # fmt: skip
_DEPTH, _PORTS = 3, 20
_FORM_BYTES = 1 << 16
_DEFAULT = "runs"
_ENTER = "open the address that `paragone serve` printed: it carries the token"


def serve(folder: str | Path = _DEFAULT, port: int = 0, open_browser: bool = False) -> None:
    """Shows the reports of a folder in the browser, on this machine only, until Ctrl-C.

    Studies that were started from the page are then interrupted and can be continued.

    Args:
        folder: A folder of studies, or one study.
        port: TCP port on 127.0.0.1, or the next free one after it; 0 takes any free one.
        open_browser: Also open the browser.

    Raises:
        UsageError: The folder is missing, or no port can be had.
    """
    with Room(folder, port) as room, _ending():
        print(f"{room.url}\nthis machine only; stop with Ctrl-C", flush=True)
        if open_browser:
            webbrowser.open(room.url)
        try:
            room.serve_forever(poll_interval=0.2)
        except KeyboardInterrupt:
            print("stopping", flush=True)
        for task in room.desk.close():
            word = "interrupted" if task.begun else "not started"
            print(f"{word}: {task.command}", flush=True)


class _ending:  # noqa: N801
    """Lets a hang-up and a request to end do what Ctrl-C does, as far as this is the main thread.

    A shell that starts the server in the background ignores Ctrl-C for it, and so would every
    study that it starts: the interrupt is given back its meaning.
    """

    def __enter__(self) -> None:
        self._before = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                self._before[number] = signal.signal(number, signal.default_int_handler)

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


class Room(ThreadingHTTPServer):
    """The server; `url` is where to read.

    Args:
        folder: A folder of studies, or one study; the default one need not exist yet.
        port: TCP port, or the next free one after it; 0 takes any free one.
        command: What starts a study; its words follow. None: this Python's `paragone compare`.
    """

    daemon_threads = True
    # A port that another server listens on is taken, also where the system would share it.
    allow_reuse_port = False

    def __init__(self, folder: str | Path, port: int = 0, command: tuple[str, ...] | None = None):
        self.folder = Path(folder).resolve()
        if not self.folder.is_dir() and Path(folder) != Path(_DEFAULT):
            raise UsageError(f"{folder}: no such folder; `paragone compare STUDY` makes runs/NAME")
        self.token = secrets.token_urlsafe(18)
        self.cookie, self.form_key = secrets.token_urlsafe(18), secrets.token_urlsafe(18)
        self.home = f"/{secrets.token_urlsafe(9)}/"
        self._reports: dict[Path, tuple[int, str]] = {}
        self._failed: dict[Path, tuple[int, list[dict[str, Any]]]] = {}
        if not 0 <= port < 65536:
            raise UsageError(f"port {port}: expected 0 to 65535; 0 takes any free one")
        super().__init__(("127.0.0.1", port), _Reader, bind_and_activate=False)
        self._listen(port)
        self.desk, self.lister = Desk(command or COMPARE, self.elsewhere), Lister()

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
                    super().server_close()
                    raise UsageError(
                        f"ports {port} to {last} cannot be used ({error.strerror}); try --port 0"
                    ) from error

    def server_close(self) -> None:
        """Gives the port free and interrupts what was started here."""
        super().server_close()
        self.lister.close()
        self.desk.close()

    @property
    def url(self) -> str:
        """The address to open, token included."""
        return f"http://127.0.0.1:{self.server_port}/?token={self.token}"

    @property
    def single(self) -> bool:
        """Whether the folder is one study and no place for others."""
        return (self.folder / "study.json").is_file()

    def link(self, folder: Path) -> str:
        """The address of a study's page."""
        name = folder.relative_to(self.folder).as_posix()
        return f"{self.home}study/" + ("" if name == "." else f"{quote(name)}/")

    def studies(self) -> list[Path]:
        """Folders that hold a `study.json`, newest first; links to other places do not count."""
        found = []
        for depth in range(_DEPTH):
            found += self.folder.glob("*/" * depth + "study.json")
        inside = [path for path in found if path.resolve() == path]
        return [p.parent for p in sorted(inside, key=lambda p: -p.stat().st_mtime)]

    def elsewhere(self) -> str:
        """A study of the folder that runs and was not started here, "" if there is none."""
        own = {task.folder for task in self.desk.tasks() if task.open and task.process is not None}
        return next((f.name for f in self.studies() if f not in own and holder(f)), "")

    def report(self, folder: Path) -> str:
        """A study's report: as written, or made in memory when it is not of now.

        Files may come from anywhere. One whose script and style are not this version's own would
        not be let run them, so it is made afresh from the records, too.

        Raises:
            ValueError: The folder cannot be summarised.
        """
        from paragone.lab.report.html import page, policy
        from paragone.lab.summary import summarize

        records, written = folder / "records.jsonl", folder / "report.html"
        time = records.stat().st_mtime if records.is_file() else 0.0
        size = records.stat().st_size if records.is_file() else 0
        text = ""
        if written.is_file() and written.stat().st_mtime >= time:
            text = written.read_text(encoding="utf-8")
        scripts = re.findall("sha256-[A-Za-z0-9+/=]+", policy())
        if not text or any(mark not in text for mark in scripts):
            # Statistics cost CPU that a running study needs: a reader who reloads pays once.
            if self._reports.get(folder, (-1, ""))[0] != size:
                self._reports[folder] = (size, page(summarize(folder), folder))
            text = self._reports[folder][1]
        return text.replace("<ul>\n", '<ul>\n<li><a href="./">‹ Study</a></li>\n', 1)

    def failures(self, folder: Path) -> list[dict[str, Any]]:
        """Records of runs that did not finish, in their order."""
        from paragone.lab.store import read_records

        path = folder / "records.jsonl"
        size = path.stat().st_size if path.is_file() else 0
        if size and self._failed.get(folder, (-1, []))[0] != size:
            found: list[dict[str, Any]] = []
            with suppress(ValueError):  # a broken file; the report says so
                found = [row for row in read_records(folder) if row["status"] != "ok"]
            self._failed[folder] = (size, found)
        return self._failed[folder][1] if size else []

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A reader that hangs up early is no error worth a traceback; others are."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


class _RefusedError(Exception):
    """An answer other than 200."""

    def __init__(self, status: HTTPStatus, words: str = ""):
        super().__init__(words)
        self.status, self.words = status, words


def _same(given: str, secret: str) -> bool:
    return secrets.compare_digest(given.encode("utf-8", "replace"), secret.encode())


class _Reader(BaseHTTPRequestHandler):
    server: Room
    timeout = 20
    server_version, sys_version = "paragone", ""

    def do_GET(self) -> None:
        self._guarded(self._get)

    def do_HEAD(self) -> None:
        self._guarded(self._get)

    def do_POST(self) -> None:
        self._guarded(self._post)

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet: the token would stand in the log."""

    # Who asks.

    def _guarded(self, act: Callable[[str, list[str], Mapping[str, list[str]]], None]) -> None:
        nonce = secrets.token_urlsafe(18)
        try:
            names = {f"{host}:{self.server.server_port}" for host in ("127.0.0.1", "localhost")}
            if len(self.headers.get_all("Host", [])) != 1 or self.headers["Host"] not in names:
                raise _RefusedError(HTTPStatus.MISDIRECTED_REQUEST)
            address = urlsplit(self.path)
            fields = parse_qs(address.query, max_num_fields=100)
            if self.command != "POST" and address.path == "/" and "token" in fields:
                return self._enter(fields["token"][-1])
            act(nonce, self._allowed(address.path), fields)
        except _RefusedError as refusal:
            plain = refusal.words or f"{refusal.status.value} {refusal.status.phrase}"
            self._send(plain.encode(), _TEXT, status=refusal.status)
        except ValueError as error:
            if isinstance(error, UsageError):
                text = pages.notice(self.server, nonce, str(error), "Not done")
                return self._page(text, nonce, HTTPStatus.CONFLICT)
            self._send(b"400 Bad Request", _TEXT, status=HTTPStatus.BAD_REQUEST)

    def _enter(self, token: str) -> None:
        if not _same(token, self.server.token):
            raise _RefusedError(HTTPStatus.FORBIDDEN, _ENTER)
        cookie = (
            f"paragone-{self.server.server_port}={self.server.cookie}; Path={self.server.home}; "
            "HttpOnly; SameSite=Strict"
        )
        self._send(pages.enter(self.server).encode(), _HTML, further={"Set-Cookie": cookie})

    def _allowed(self, path: str) -> list[str]:
        """The parts of the path below the room's own, if this reader may be here."""
        home = self.server.home
        name = f"paragone-{self.server.server_port}="
        given = [c.strip() for c in ";".join(self.headers.get_all("Cookie", [])).split(";")]
        cookies = [c.removeprefix(name) for c in given if c.startswith(name)]
        known = len(cookies) == 1 and _same(cookies[0], self.server.cookie)
        if not known or not _same(path[: len(home)], home):
            raise _RefusedError(HTTPStatus.FORBIDDEN, _ENTER)
        site = self.headers.get("Sec-Fetch-Site", "none")
        navigates = self.headers.get("Sec-Fetch-Mode", "navigate") == "navigate"
        if site not in {"none", "same-origin"} and not navigates:
            raise _RefusedError(HTTPStatus.FORBIDDEN)
        parts = [unquote(part) for part in path[len(home) :].split("/")]
        if any(p in {".", ".."} or p[:1] == "." or set(p) & set("/\\\0") for p in parts):
            raise _RefusedError(HTTPStatus.NOT_FOUND)
        return parts

    # What is read.

    def _get(self, nonce: str, parts: list[str], fields: Mapping[str, list[str]]) -> None:
        room = self.server
        if parts == [""]:
            return self._page(pages.index(room, nonce), nonce)
        if parts[0] == "new" and not room.single:
            if len(parts) == 1:
                return self._page(pages.new(room, nonce), nonce)
            if len(parts) == 2 and parts[1] in sketches():
                return self._page(pages.form(room, nonce, sketches()[parts[1]], fields), nonce)
        if parts[0] != "study":
            raise _RefusedError(HTTPStatus.NOT_FOUND)
        folder, rest = self._located(parts[1:])
        if rest == [""]:
            return self._page(pages.study(room, nonce, folder), nonce)
        return self._file(folder, rest)

    def _located(self, parts: list[str]) -> tuple[Path, list[str]]:
        """The study that a path names, and what follows it."""
        room = self.server
        if "" in parts[:-1]:
            raise _RefusedError(HTTPStatus.NOT_FOUND)
        for depth in range(min(len(parts), _DEPTH)):
            folder = room.folder.joinpath(*parts[:depth])
            if folder.resolve() != folder:
                break
            if (folder / "study.json").is_file() or room.desk.task(folder) is not None:
                return folder, parts[depth:]
        raise _RefusedError(HTTPStatus.NOT_FOUND)

    def _file(self, folder: Path, rest: list[str]) -> None:
        """A file of a study, if it is one that readers may see."""
        path = folder.joinpath(*rest).resolve()
        if "" in rest or not path.is_relative_to(folder):
            raise _RefusedError(HTTPStatus.NOT_FOUND)
        inside = PurePosixPath(path.relative_to(folder).as_posix())
        allowed = inside.parts[:1] in {("artifacts",), ("pictures",)} or str(inside) in _FILES
        if allowed and str(inside) == "report.html":
            return self._report(folder)
        if not allowed or not path.is_file():
            raise _RefusedError(HTTPStatus.NOT_FOUND)
        kind = _TYPES.get(path.suffix.lower(), "application/octet-stream")
        return self._send(path.read_bytes(), kind)

    def _report(self, folder: Path) -> None:
        from paragone.lab.report.html import policy

        try:
            text = self.server.report(folder)
        except ValueError as error:
            raise _RefusedError(HTTPStatus.CONFLICT, f"no report yet: {error}") from error
        self._send(text.encode(), _HTML, policy=f"{policy()}; frame-ancestors 'none'")

    # What is done.

    def _post(self, nonce: str, parts: list[str], _: Mapping[str, list[str]]) -> None:
        origin = f"http://{self.headers['Host']}"
        fetched = self.headers.get("Sec-Fetch-Site", "same-origin")
        if self.headers.get("Origin") != origin or fetched != "same-origin":
            raise _RefusedError(HTTPStatus.FORBIDDEN, "this comes from another page")
        fields = self._fields()
        if not _same(fields.pop("key", [""])[-1], self.server.form_key):
            raise _RefusedError(HTTPStatus.FORBIDDEN, "this form is not from this server")
        if parts[0] == "new" and len(parts) == 2 and parts[1] in sketches():
            return self._start(nonce, parts[1], fields)
        if parts[0] != "study" or len(parts) < 2:
            raise _RefusedError(HTTPStatus.NOT_FOUND)
        folder, rest = self._located([*parts[1:-1], ""])
        acts = {"stop": self._stop, "end": self._kill, "continue": self._continue}
        if rest != [""] or parts[-1] not in acts:
            raise _RefusedError(HTTPStatus.NOT_FOUND)
        acts[parts[-1]](folder)
        there = folder if self._known(folder) else None
        return self._see(self.server.link(there) if there else self.server.home)

    def _known(self, folder: Path) -> bool:
        task = self.server.desk.task(folder)
        return task is not None or (folder / "study.json").is_file()

    def _fields(self) -> dict[str, list[str]]:
        length = self.headers.get("Content-Length", "")
        kind = self.headers.get("Content-Type", "").partition(";")[0].strip()
        if not (length.isascii() and length.isdigit()):
            raise _RefusedError(HTTPStatus.LENGTH_REQUIRED)
        if int(length) > _FORM_BYTES:
            raise _RefusedError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        if kind != "application/x-www-form-urlencoded":
            raise _RefusedError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE)
        text = self.rfile.read(int(length)).decode("utf-8")
        return parse_qs(text, max_num_fields=1000, errors="strict")

    def _start(self, nonce: str, name: str, fields: dict[str, list[str]]) -> None:
        room, sketch = self.server, sketches()[name]
        try:
            if room.single:
                raise UsageError("this folder is one study: serve the folder above it to start")
            known: list[str] = []
            if fields.get("methods"):
                listed = room.lister.contestants(name, wait=True) or []
                known = [c["id"] for c in listed if not c["missing"]]
            words, folder = asked(sketch, fields, known, room.folder)
            room.desk.add(words, folder)
        except UsageError as error:
            given = fields or {"quick": [""]}
            text = pages.form(room, nonce, sketch, given, str(error))
            return self._page(text, nonce, HTTPStatus.UNPROCESSABLE_ENTITY)
        return self._see(room.link(folder))

    def _stop(self, folder: Path) -> None:
        task = self.server.desk.task(folder)
        if task is not None and task.open:
            self.server.desk.stop(task)
        else:
            interrupt_holder(folder)

    def _kill(self, folder: Path) -> None:
        task = self.server.desk.task(folder)
        if task is None or task.state != "stopping":
            raise UsageError(f"{folder.name}: only what was stopped and goes on can be ended")
        self.server.desk.kill(task)

    def _continue(self, folder: Path) -> None:
        from paragone.lab.store import read_study

        task = self.server.desk.task(folder)
        words = task.words if task is not None else None
        if words is None:
            told = read_study(folder)
            words = (*continuing(str(told.get("command", ""))), f"--out={folder}")
        self.server.desk.add(words, folder)

    # How it is answered.

    def _see(self, address: str) -> None:
        self._send(b"", _TEXT, status=HTTPStatus.SEE_OTHER, further={"Location": address})

    def _page(self, text: str, nonce: str, status: HTTPStatus = HTTPStatus.OK) -> None:
        policy = (
            f"default-src 'none'; img-src data:; style-src 'nonce-{nonce}'; "
            f"script-src 'nonce-{nonce}'; connect-src 'self'; form-action 'self'; "
            "base-uri 'none'; frame-ancestors 'none'"
        )
        # Forms of a page that tells nobody where it is would have no Origin either.
        further = {"Referrer-Policy": "same-origin"}
        self._send(text.encode(), _HTML, policy=policy, status=status, further=further)

    def _send(
        self,
        content: bytes,
        kind: str,
        *,
        policy: str = "default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'; sandbox",
        status: HTTPStatus = HTTPStatus.OK,
        further: Mapping[str, str] | None = None,
    ) -> None:
        if kind == _HTML:
            policy = policy.removesuffix("; sandbox")
        headers = {
            "Content-Type": kind, "Content-Length": str(len(content)),
            "Content-Security-Policy": policy, "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer", "Cache-Control": "no-store",
            "Cross-Origin-Resource-Policy": "same-origin", "X-Frame-Options": "DENY",
            "Cross-Origin-Opener-Policy": "same-origin",
        } | dict(further or {})  # fmt: skip
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
