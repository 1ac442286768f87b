"""The reading room: who may read and act, what may be read, and what runs now."""

import http.client
import json
import os
import re
import shlex
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlencode

import pytest

from paragone._core.errors import UsageError
from paragone.lab.report.html import write_html
from paragone.lab.serve import Room


@pytest.fixture(scope="module")
def report(summary_of, tmp_path_factory):
    """The text of one report; making it for each test would take longer than the tests."""
    summary = summary_of(1, 3, 2, verdict=('Use <this> & "that".',))
    return write_html(summary, tmp_path_factory.mktemp("report")).read_text()


@pytest.fixture
def studies(tmp_path, report):
    """A folder with a finished study, one that runs, and one that was killed."""
    runs = tmp_path / "runs"
    for name, complete in (("done", True), ("alive", False), ("dead", False)):
        folder = runs / name
        (folder / "artifacts" / "r0001").mkdir(parents=True)
        study = {"study": "ensembles", "question": "Which <b>one</b>?", "complete": complete,
                 "created": "2026-11-22T20:00:00+00:00"}  # fmt: skip
        (folder / "study.json").write_text(json.dumps(study))
        (folder / "records.jsonl").write_text("")
        (folder / "artifacts" / "r0001" / "log.txt").write_text("<script>alert(1)</script>")
        (folder / ".lock").write_text("secret")
    state = {"state": "running", "done": 3, "planned": 9, "contestant": "gbdt",
             "workload": "wine", "eta": 12.0}  # fmt: skip
    (runs / "alive" / ".lock").write_text(f"{os.getpid()} mark")
    (runs / "alive" / "progress.json").write_text(json.dumps({**state, "pid": os.getpid()}))
    # No process has this id: Linux counts to 2^22 at most.
    (runs / "dead" / "progress.json").write_text(json.dumps({**state, "pid": 2**22 + 1}))
    (runs / "done" / "report.html").write_text(report)
    (tmp_path / "outside.txt").write_text("outside")
    (runs / "secret.txt").write_text("secret")
    # A study runs as long as its process has the lock open.
    with (runs / "alive" / ".lock").open():
        yield runs


QUICK = ("/bin/sh", "-c")
"""Stands for `paragone compare`: a study's first word is then a script's text."""


class Reader:
    """What a browser sends, unless a test says otherwise."""

    def __init__(self, room):
        self.room = room
        self.host = f"127.0.0.1:{room.server_port}"
        self.key = room.form_key
        self.cookie = f"paragone-{room.server_port}={room.cookie}"

    def __call__(self, path, method="GET", body=None, **headers):
        """Status, headers and text of a path below the room's own, or of a path from the root."""
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        headers = {"Host": self.host, "Cookie": self.cookie, **headers}
        connection = http.client.HTTPConnection("127.0.0.1", self.room.server_port, timeout=60)
        connection.putrequest(method, path if path[:1] in ("/", "*") else self.room.home + path,
                              skip_host=True)  # fmt: skip
        for name, value in headers.items():
            if value is not None:
                connection.putheader(name, value)
        connection.endheaders(body)
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
        return answer.status, dict(answer.getheaders()), text

    def post(self, path, fields=(), **headers):
        """A form's answer."""
        body = urlencode({"key": self.key, **dict(fields)}, doseq=True).encode()
        kind = "application/x-www-form-urlencoded"
        usual = {"Origin": f"http://{self.host}", "Content_Type": kind,
                 "Content_Length": str(len(body))}  # fmt: skip
        return self(path, "POST", body, **{**usual, **headers})


@contextmanager
def _open(folder, command=QUICK):
    with Room(folder, command=command) as room:
        thread = threading.Thread(target=room.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield room, Reader(room)
        finally:
            room.shutdown()
            thread.join()


def until(true):
    """Waits for what another thread or process does; a test that hangs has failed."""
    while not true():
        time.sleep(0.01)


def test_index_tells_of_each_study(studies):
    with _open(studies) as (_, get):
        status, headers, text = get("")
    assert status == 200
    assert text.count("<article") == 1
    assert text.count('<tr><th scope="row"') == 2
    assert "Use &lt;this&gt; &amp; &#34;that&#34;." in text
    assert "<b>one</b>" not in text
    assert "3 of 9 runs" in text
    assert "12.0 s to go" in text
    assert text.count(">running<") == 1
    assert text.count(">interrupted<") == 1
    assert '<noscript><meta http-equiv="refresh"' in text
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Cache-Control"] == "no-store"
    policy = headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    nonces = set(re.findall(r"nonce-([^']+)'", policy))
    assert nonces == set(re.findall(r'<(?:style|script) nonce="([^"]+)"', text))
    assert len(nonces) == 1
    assert not re.search(r"<(?:style|script)>| style=| on[a-z]+=", text.partition("<style")[0])


def test_a_nonce_is_used_once(studies):
    with _open(studies) as (_, get):
        first, second = (get("")[1]["Content-Security-Policy"] for _ in range(2))
    assert first != second


def test_index_is_quiet_when_nothing_runs(studies):
    (studies / "alive" / ".lock").unlink()
    with _open(studies) as (_, get):
        assert 'http-equiv="refresh"' not in get("")[2]


def test_progress_is_read_anew(studies):
    path = studies / "alive" / "progress.json"
    with _open(studies) as (_, get):
        for page in ("", "study/alive/"):
            assert "3 of 9" in get(page)[2]
        path.write_text(path.read_text().replace('"done": 3', '"done": 8'))
        for page in ("", "study/alive/"):
            assert "8 of 9" in get(page)[2]


def test_report_and_log_are_served(studies):
    with _open(studies) as (_, get):
        status, headers, text = get("study/done/report.html")
        assert status == 200
        assert "<h1>Use &lt;this&gt;" in text
        assert '<a href="./">‹ Study</a>' in text
        assert "unsafe" not in headers["Content-Security-Policy"]
        status, headers, _ = get("study/done/artifacts/r0001/log.txt")
        assert status == 200
        assert headers["Content-Type"].startswith("text/plain")
        assert "sandbox" in headers["Content-Security-Policy"]


def test_one_study_may_be_the_folder(studies):
    with _open(studies / "done") as (room, get):
        assert get("study/report.html")[0] == 200
        assert f'href="{room.home}study/"' in get("")[2]
        assert get("study/")[0] == 200
        assert "New study" not in get("")[2]
        assert get("new")[0] == 404
        assert get.post("new/ensembles")[0] == 422


# Who may come in.


def test_the_printed_address_gives_the_cookie(studies):
    with _open(studies) as (room, get):
        address = room.url.partition(get.host)[2]
        status, headers, text = get(address, Cookie=None)
        assert status == 200
        assert room.home in text
        cookie = headers["Set-Cookie"]
        assert cookie.startswith(f"paragone-{room.server_port}={room.cookie}; Path={room.home};")
        assert cookie.endswith("; HttpOnly; SameSite=Strict")
        for wrong in ("/?token=", "/?token=wrong", "/?token=%C3%A9", f"/x?token={room.token}"):
            status, headers, text = get(wrong, Cookie=None)
            assert status == 403
            assert "Set-Cookie" not in headers
            assert room.home not in text


@pytest.mark.parametrize("path", ["/", "", "study/done/report.html", "new", "/favicon.ico", "*"])
@pytest.mark.parametrize("cookie", [None, "", "paragone-1=x", "{name}=wrong", "{all}x"])
def test_without_the_cookie_there_is_nothing(studies, path, cookie):
    with _open(studies / "done") as (room, get):
        name = f"paragone-{room.server_port}"
        given = cookie and cookie.format(name=name, all=get.cookie)
        status, _, text = get(path, Cookie=given)
        assert status == 403
        for secret in (room.token, room.cookie, room.home, room.form_key):
            assert secret not in text


def test_the_cookie_alone_does_not_open_another_path(studies):
    with _open(studies) as (_, get):
        for path in ("/", "/study/done/", "/x/study/done/"):
            assert get(path)[0] == 403


def test_secrets_differ_at_each_start(studies):
    with Room(studies) as one, Room(studies) as two:
        secrets = [one.token, one.cookie, one.form_key, one.home,
                   two.token, two.cookie, two.form_key, two.home]  # fmt: skip
        assert len(set(secrets)) == 8
        assert min(map(len, secrets)) >= 14


@pytest.mark.parametrize(
    "path",
    [
        "../outside.txt", "done/../../outside.txt", "%2e%2e/outside.txt", "..%2foutside.txt",
        "done/artifacts/..%2f..%2f..%2foutside.txt", "secret.txt", "done/.lock", "done/link",
        "done/%2elock", "done/artifacts/%2e%2e/%2e%2e/secret.txt", "done/artifacts/..%5c..%5cx",
        "done/%252e%252e/secret.txt", "done/artifacts/%c0%ae%c0%ae/secret.txt",
        "done/artifacts/link", "done/artifacts/away/outside.txt", "away/report.html", "away/",
        "done/artifacts", "done/artifacts/", "done//report.html", "nowhere/report.html",
        "done/%00", "done/artifacts/r0001/log.txt%00.png", "//etc/passwd", "%2fetc%2fpasswd",
    ],
)  # fmt: skip
def test_no_way_leads_out_of_the_studies(studies, path):
    outside = studies.parent / "elsewhere"
    outside.mkdir()
    for name in ("study.json", "records.jsonl", "outside.txt"):
        (outside / name).write_text("outside")
    (studies / "away").symlink_to(outside)
    (studies / "done" / "link").symlink_to(studies.parent / "outside.txt")
    (studies / "done" / "artifacts" / "link").symlink_to(studies.parent / "outside.txt")
    (studies / "done" / "artifacts" / "away").symlink_to(outside)
    with _open(studies) as (_, get):
        status, _, text = get(f"study/{path}")
        assert "away" not in get("")[2]
    assert status == 404
    assert "outside" not in text
    assert "secret" not in text


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1", "localhost:1", "", None]
)
def test_foreign_host_header_is_refused(studies, host):
    with _open(studies) as (room, get):
        status, _, text = get("", Host=host)
        assert status == 421
        assert "article" not in text
        assert get("", Host=f"localhost:{room.server_port}")[0] == 200


def test_other_pages_cannot_fetch(studies):
    with _open(studies) as (_, get):
        for site in ("cross-site", "same-site"):
            assert get("", Sec_Fetch_Site=site, Sec_Fetch_Mode="no-cors")[0] == 403
            assert get("", Sec_Fetch_Site=site, Sec_Fetch_Mode="navigate")[0] == 200
        assert get("", Sec_Fetch_Site="same-origin", Sec_Fetch_Mode="cors")[0] == 200


def test_head_has_the_length_and_no_body(studies):
    with _open(studies) as (_, get):
        status, headers, text = get("study/done/study.json", method="HEAD")
        assert (status, text) == (200, "")
        size = (studies / "done" / "study.json").stat().st_size
        assert int(headers["Content-Length"]) == size


# Who may act.


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS"])
def test_other_methods_are_unknown(studies, method):
    with _open(studies) as (_, get):
        assert get("study/done/study.json", method=method)[0] == 501


FOREIGN = {
    "no-cookie": ({"Cookie": None}, 403),
    "no-origin": ({"Origin": None}, 403),
    "null-origin": ({"Origin": "null"}, 403),
    "other-origin": ({"Origin": "http://evil.example"}, 403),
    "other-port": ({"Origin": "http://127.0.0.1:1"}, 403),
    "other-site": ({"Sec_Fetch_Site": "same-site"}, 403),
    "other-host": ({"Host": "evil.example"}, 421),
    "no-key": ({}, 403),
    "text": ({"Content_Type": "text/plain"}, 415),
    "no-length": ({"Content_Length": None}, 411),
    "long": ({"Content_Length": "70000"}, 413),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_what_comes_from_elsewhere_changes_nothing(studies, name):
    headers, expected = FOREIGN[name]
    with _open(studies) as (room, get):
        key = {"key": "wrong"} if name == "no-key" else {}
        for path in ("new/ensembles", "study/dead/continue"):
            assert get.post(path, key, **headers)[0] == expected
        assert room.desk.tasks() == []


@pytest.mark.parametrize(
    "path", ["", "new", "new/nothing", "study/done/", "study/done/stop/now", "study/done/remove",
             "study/nowhere/stop", "study/done/study.json", "study/../done/stop"],
)  # fmt: skip
def test_only_what_is_known_can_be_done(studies, path):
    with _open(studies) as (room, get):
        assert get.post(path)[0] == 404
        assert room.desk.tasks() == []


def test_a_form_that_cannot_be_used_comes_back_as_it_was(studies):
    with _open(studies) as (room, get):
        fields = {"data": "/no/where.csv", "target": "<b>", "budget": "10m", "quick": "yes"}
        status, _, text = get.post("new/ensembles", fields)
        assert status == 422
        assert 'role="alert"' in text
        assert "no such file" in text
        assert 'value="/no/where.csv"' in text
        assert 'value="&lt;b&gt;"' in text
        assert room.desk.tasks() == []


def test_a_study_is_started_watched_and_stopped(studies):
    (studies / "alive" / ".lock").unlink()
    script = "trap 'exit 130' INT; echo '<i>'; while true; do sleep 0.05; done"
    with _open(studies, (*QUICK, script)) as (room, get):
        status, headers, _ = get.post("new/ensembles", {"quick": "yes", "name": "mine"})
        assert (status, headers["Location"]) == (303, f"{room.home}study/mine/")
        task = room.desk.task(studies / "mine")
        assert task.words[:2] == ("ensembles", "--quick")
        until(lambda: task.tail() == "<i>")
        text = get("study/mine/")[2]
        assert ">running<" in text
        assert "&lt;i&gt;" in text
        assert get.post("new/ensembles", {"name": "mine"})[0] == 422
        assert get.post("study/mine/end")[0] == 409
        get.post("new/workers", {"name": "next"})
        assert ">waiting, place" not in get("")[2]
        assert ">waiting<" in get("study/next/")[2]
        status, headers, _ = get.post("study/next/stop")
        assert (status, headers["Location"]) == (303, room.home)
        assert get("study/next/")[0] == 404
        assert get.post("study/mine/stop")[0] == 303
        until(lambda: not task.open)
        text = get("study/mine/")[2]
        assert ">interrupted<" in text
        assert ">Continue " in text
        assert get.post("study/mine/continue")[0] == 303
        assert room.desk.task(studies / "mine").words == task.words


def test_a_refused_command_is_shown_with_its_log(studies):
    (studies / "alive" / ".lock").unlink()
    with _open(studies, (*QUICK, "echo 'no column <price>'; exit 2")) as (room, get):
        get.post("new/ensembles", {"target": "price", "name": "mine"})
        until(lambda: not room.desk.task(studies / "mine").open)
        text = get("study/mine/")[2]
        assert ">failed<" in text
        assert "no column &lt;price&gt;" in text
        again = re.search(r'href="[^"]*/(new/ensembles\?[^"]*)"', text).group(1)
        assert 'value="price"' in get(again.replace("&amp;", "&"))[2]


def test_a_study_from_a_file_is_continued_by_our_command_alone(studies):
    (studies / "alive" / ".lock").unlink()
    path = studies / "dead" / "study.json"
    told = json.loads(path.read_text())
    with _open(studies, (*QUICK, "exit 0")) as (room, get):
        for command in ("touch stolen", "paragone compare ensembles --with x.py:Y"):
            path.write_text(json.dumps({**told, "command": command}))
            assert ">Continue " not in get("study/dead/")[2]
            assert get.post("study/dead/continue")[0] == 409
        assert room.desk.tasks() == []
        path.write_text(json.dumps({**told, "command": "paragone compare ensembles --quick"}))
        assert ">Continue " in get("study/dead/")[2]
        assert get.post("study/dead/continue")[0] == 303
        task = room.desk.task(studies / "dead")
        assert task.words == ("ensembles", "--quick", f"--out={studies / 'dead'}")


def test_failed_runs_are_listed_with_their_logs(fabricate, tmp_path):
    folder = fabricate(tmp_path / "study", workloads_count=1, contestants_count=3, blocks=2)
    lines = (folder / "records.jsonl").read_text().splitlines()
    row = json.loads(lines[0]) | {"status": "failed", "message": "<no luck>", "log": "artifacts/x"}
    (folder / "records.jsonl").write_text("\n".join([json.dumps(row), *lines[1:], ""]))
    with _open(tmp_path) as (room, get):
        text = get("study/study/")[2]
        assert "failed: &lt;no luck&gt;" in text
        assert f'href="{room.home}study/study/artifacts/x"' in text


def test_it_listens_on_the_loopback_only(studies):
    with Room(studies) as room:
        assert room.server_address[0] == "127.0.0.1"
        with Room(studies, room.server_port) as second:
            assert room.server_port < second.server_port <= room.server_port + 20


@pytest.mark.parametrize("port", [-1, 65536])
def test_impossible_port_is_one_clear_line(studies, port):
    with pytest.raises(UsageError, match="expected 0 to 65535"):
        Room(studies, port)


def test_missing_folder_is_one_clear_line(tmp_path, monkeypatch):
    with pytest.raises(UsageError, match="no such folder"):
        Room(Path(tmp_path / "nowhere"))
    monkeypatch.chdir(tmp_path)
    # Who starts here has no `runs` yet, and can make the first study from the page.
    with _open("runs") as (_, get):
        assert "Nothing here yet" in get("")[2]


def test_a_report_that_is_not_of_now_is_made_afresh_in_memory(fabricate, tmp_path):
    folder = fabricate(tmp_path / "study", workloads_count=1, contestants_count=3, blocks=2)
    with _open(tmp_path) as (_, get):
        status, _, text = get("study/study/report.html")
        assert status == 200
        assert "paragone xgboost" in text
        assert not (folder / "report.html").exists()
        marked = text.replace("</main>", "marked</main>")
        (folder / "report.html").write_text(marked)
        assert "marked" in get("study/study/report.html")[2]
        os.utime(folder / "report.html", (1, 1))
        assert "marked" not in get("study/study/report.html")[2]
        # Another's page, whose script could not run under our policy.
        (folder / "report.html").write_text("<h1>marked</h1><script>steal()</script>")
        assert "marked" not in get("study/study/report.html")[2]


def test_a_broken_study_says_so(tmp_path):
    (tmp_path / "study.json").write_text("{")
    with _open(tmp_path) as (_, get):
        assert get("")[0] == 200
        assert get("study/")[0] == 200
        status, _, text = get("study/report.html")
        assert status == 409
        assert "not JSON" in text


def test_the_end_of_the_server_interrupts_what_it_started(tmp_path):
    """Also where a shell has started it in the background, which ignores Ctrl-C for it."""
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "import sys\nfrom paragone.lab import serve\n"
        "room = serve.Room\n"
        "script = 'echo $$ > pid; trap \"echo kept > end; exit 130\" INT;'\n"
        "script += 'while true; do sleep 0.05; done'\n"
        "def made(folder, port):\n"
        "    found = room(folder, port, ('/bin/sh', '-c', script))\n"
        "    found.desk.add(['ensembles'], found.folder / 'mine')\n"
        "    return found\n"
        "serve.Room = made\nserve.serve(sys.argv[1])"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path) as process:
        assert process.stdout.readline().startswith("http://127.0.0.1:")
        until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
        process.terminate()
        told = process.stdout.read()
        assert process.wait() == 0
    assert (tmp_path / "end").read_text() == "kept\n"
    assert shlex.split(told.splitlines()[-1])[:4] == ["interrupted:", "paragone", "compare",
                                                     "ensembles"]  # fmt: skip
