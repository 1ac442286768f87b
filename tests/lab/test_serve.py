"""The reading room: who may read, what may be read, and what runs now."""

import http.client
import json
import os
import threading
from contextlib import contextmanager
from pathlib import Path

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
    (runs / "alive" / "progress.json").write_text(json.dumps({**state, "pid": os.getpid()}))
    # No process has this id: Linux counts to 2^22 at most.
    (runs / "dead" / "progress.json").write_text(json.dumps({**state, "pid": 2**22 + 1}))
    (runs / "done" / "report.html").write_text(report)
    (tmp_path / "outside.txt").write_text("outside")
    (runs / "secret.txt").write_text("secret")
    return runs


@contextmanager
def _open(folder):
    with Room(folder) as room:
        thread = threading.Thread(target=room.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()

        def get(path, method="GET", **headers):
            connection = http.client.HTTPConnection("127.0.0.1", room.server_port, timeout=20)
            connection.putrequest(method, path, skip_host="Host" in headers)
            for name, value in headers.items():
                connection.putheader(name, value)
            connection.endheaders()
            answer = connection.getresponse()
            text = answer.read().decode()
            connection.close()
            return answer.status, dict(answer.getheaders()), text

        try:
            yield room, get
        finally:
            room.shutdown()
            thread.join()


def test_index_tells_of_each_study(studies):
    with _open(studies) as (room, get):
        status, headers, text = get(f"/{room.token}/")
    assert status == 200
    assert text.count("<article") == 3
    assert "Use &lt;this&gt; &amp; &#34;that&#34;." in text
    assert "<b>one</b>" not in text
    assert "3 of 9 runs" in text
    assert "12.0 s to go" in text
    assert text.count(">running<") == 1
    assert text.count(">interrupted<") == 1
    assert 'http-equiv="refresh"' in text
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Content-Security-Policy"].startswith("default-src 'none'")
    assert headers["Referrer-Policy"] == "no-referrer"


def test_index_is_quiet_when_nothing_runs(studies):
    (studies / "alive" / "progress.json").unlink()
    with _open(studies) as (room, get):
        assert 'http-equiv="refresh"' not in get(f"/{room.token}/")[2]


def test_progress_is_read_anew(studies):
    path = studies / "alive" / "progress.json"
    with _open(studies) as (room, get):
        assert "3 of 9" in get(f"/{room.token}/")[2]
        path.write_text(path.read_text().replace('"done": 3', '"done": 8'))
        assert "8 of 9" in get(f"/{room.token}/")[2]


def test_report_and_log_are_served(studies):
    with _open(studies) as (room, get):
        status, _, text = get(f"/{room.token}/done/report.html")
        assert status == 200
        assert "<h1>Use &lt;this&gt;" in text
        status, headers, _ = get(f"/{room.token}/done/artifacts/r0001/log.txt")
        assert status == 200
        assert headers["Content-Type"].startswith("text/plain")
        assert "sandbox" in headers["Content-Security-Policy"]


def test_one_study_may_be_the_folder(studies):
    with _open(studies / "done") as (room, get):
        assert get(f"/{room.token}/report.html")[0] == 200
        assert 'href="report.html"' in get(f"/{room.token}/")[2]


@pytest.mark.parametrize("path", ["/", "/wrong/", "/wrong/done/report.html", "/favicon.ico", ""])
def test_without_the_token_there_is_nothing(studies, path):
    with _open(studies) as (room, get):
        status, _, text = get(path or "*")
        assert status == 404
        assert room.token not in text


@pytest.mark.parametrize(
    "path",
    [
        "../outside.txt", "done/../../outside.txt", "%2e%2e/outside.txt", "..%2foutside.txt",
        "done/artifacts/..%2f..%2f..%2foutside.txt", "secret.txt", "done/.lock", "done/link",
        "done/artifacts/link", "done/artifacts", "done/", "done//report.html",
        "nowhere/report.html",
        "done/%00", "done/artifacts/r0001/log.txt%00.png", "//etc/passwd", "%2fetc%2fpasswd",
    ],
)  # fmt: skip
def test_no_way_leads_out_of_the_studies(studies, path):
    (studies / "done" / "link").symlink_to(studies.parent / "outside.txt")
    (studies / "done" / "artifacts" / "link").symlink_to(studies.parent / "outside.txt")
    with _open(studies) as (room, get):
        status, _, text = get(f"/{room.token}/{path}")
    assert status == 404
    assert "outside" not in text
    assert "secret" not in text


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1", "localhost:1", ""]
)
def test_foreign_host_header_is_refused(studies, host):
    with _open(studies) as (room, get):
        status, _, text = get(f"/{room.token}/", Host=host)
        assert status == 421
        assert "article" not in text
        assert get(f"/{room.token}/", Host=f"localhost:{room.server_port}")[0] == 200


def test_head_has_the_length_and_no_body(studies):
    with _open(studies) as (room, get):
        status, headers, text = get(f"/{room.token}/done/study.json", method="HEAD")
        assert (status, text) == (200, "")
        size = (studies / "done" / "study.json").stat().st_size
        assert int(headers["Content-Length"]) == size


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_nothing_can_be_written(studies, method):
    with _open(studies) as (room, get):
        assert get(f"/{room.token}/done/study.json", method=method)[0] == 501


def test_it_listens_on_the_loopback_only(studies):
    with Room(studies) as room:
        assert room.server_address[0] == "127.0.0.1"
        with Room(studies, room.server_port) as second:
            assert room.server_port < second.server_port <= room.server_port + 20
            assert second.token != room.token


@pytest.mark.parametrize("port", [-1, 65536])
def test_impossible_port_is_one_clear_line(studies, port):
    with pytest.raises(UsageError, match="expected 0 to 65535"):
        Room(studies, port)


def test_missing_folder_is_one_clear_line(tmp_path):
    with pytest.raises(UsageError, match="no such folder"):
        Room(Path(tmp_path / "nowhere"))


def test_a_report_older_than_its_records_is_made_afresh_in_memory(fabricate, tmp_path):
    folder = fabricate(tmp_path / "study", workloads_count=1, contestants_count=3, blocks=2)
    with _open(tmp_path) as (room, get):
        status, _, text = get(f"/{room.token}/study/report.html")
        assert status == 200
        assert "paragone xgboost" in text
        assert not (folder / "report.html").exists()
        (folder / "report.html").write_text("<h1>old</h1>")
        assert "<h1>old</h1>" in get(f"/{room.token}/study/report.html")[2]
        os.utime(folder / "report.html", (1, 1))
        assert "<h1>old</h1>" not in get(f"/{room.token}/study/report.html")[2]


def test_a_broken_study_says_so(tmp_path):
    (tmp_path / "study.json").write_text("{")
    with _open(tmp_path) as (room, get):
        assert get(f"/{room.token}/")[0] == 200
        status, _, text = get(f"/{room.token}/report.html")
        assert status == 409
        assert "not JSON" in text
