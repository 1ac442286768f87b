"""The tour over small studies: one book, resumable, a failing study costs its own page."""

import dataclasses
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console

from paragone._core.catalog import methods
from paragone._core.errors import UsageError
from paragone.lab import api, session, studies, tour
from paragone.lab.report import lineage
from paragone.lab.tour_progress import TourProgress

HERE = Path(__file__).parent
SMALL = """
import dataclasses, importlib.util, sys
spec = importlib.util.spec_from_file_location("small_studies", {path!r})
small = importlib.util.module_from_spec(spec)
sys.modules["small_studies"] = small
spec.loader.exec_module(small)
"""


def _small():
    space = {}
    exec(SMALL.format(path=str(HERE / "small_studies.py")), space)
    return space["small"]


def _broken(request):
    raise RuntimeError("<b>no such data</b>")


@pytest.fixture
def stops(monkeypatch):
    """Two studies that work and one that does not, in place of the agenda."""
    small = _small()
    change = dataclasses.replace(small.CHANGE, quick_blocks=(2, 2))
    broken = dataclasses.replace(change, id="broken", workloads=_broken)
    twice = dataclasses.replace(change, id="again")
    known = {"change": change, "broken": broken, "again": twice}
    found = (
        tour.Stop(id="change", seconds=8, brief=2, contestants=("greedy", "optimal")),
        tour.Stop(id="broken", seconds=1, brief=1),
        tour.Stop(id="again", seconds=500, brief=1, contestants=("optimal",)),
    )
    monkeypatch.setattr(studies, "load", lambda name: known[name])
    monkeypatch.setattr(tour, "agenda", lambda chosen=(): found)
    return known


class _Page(HTMLParser):
    """Ids, inner links, images without text and headings of a page; open tags must close."""

    def __init__(self, text):
        super().__init__()
        self.ids, self.links, self.silent, self.addresses = [], [], 0, []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.ids += [given["id"]] if "id" in given else []
        target = given.get("href") or given.get("src") or ""
        self.links += [target[1:]] if target.startswith("#") else []
        self.addresses += [target] if target and not target.startswith("#") else []
        named = {"alt", "aria-label", "aria-labelledby"} & given.keys()
        self.silent += (tag == "img" or given.get("role") == "img") and not named


def test_one_book_one_eta_and_the_same_call_measures_nothing_again(stops, tmp_path):
    events = []
    found = tour.run(tmp_path, quick=True, budget=9000, progress=events.append)
    assert found.exit_code == 1
    assert [card.state for card in found.cards] == ["done", "failed", "done"]
    assert all(event.eta is not None and event.eta <= 9000 for event in events)
    assert (events[-1].eta, events[-1].share) == (0, pytest.approx(1))
    shares = [event.share for event in events if event.kind in ("study", "done", "failed")]
    assert shares == sorted(shares)
    text = found.path.read_text()
    page = _Page(text)
    assert len(page.ids) == len(set(page.ids))
    assert set(page.links) <= set(page.ids)
    assert not page.silent
    files = {a.partition("#")[0] for a in page.addresses if not a.startswith("data:")}
    assert all((tmp_path / name).is_file() for name in files)
    assert not re.search(r"https?://(?!www\.w3\.org)", text)
    assert "&lt;b&gt;no such data" in text
    assert "<b>no such data" not in text
    assert "Use optimal" in text
    assert all(f'id="m-{method.id}"' in text for method in methods())
    row = text.partition('<tr id="m-linear_attention">')[2].partition("</tr>")[0]
    assert '<a href="#m-latent_attention">MHA</a>' in row
    assert '<a href="#m-gated_attention_unit">FLASH</a>' in row

    records = (tmp_path / "change" / "records.jsonl").read_bytes()
    again = []
    second = tour.run(tmp_path, quick=True, budget=9000, progress=again.append)
    kinds = "tour kept study failed kept end"
    assert " ".join(event.kind for event in again if event.kind != "run") == kinds
    assert [card.verdict for card in second.cards] == [card.verdict for card in found.cards]
    assert (tmp_path / "change" / "records.jsonl").read_bytes() == records


def test_a_small_budget_takes_short_forms_that_say_so(stops, tmp_path):
    found = tour.run(tmp_path, quick=True, budget=9, chosen=())
    last = next(card for card in found.cards if card.id == "again")
    assert any("1 of 2 contestants" in note for note in last.notes)
    assert "1 of 2 contestants" in found.path.read_text()
    assert "1 of 2 contestants" in (tmp_path / "again" / "report.html").read_text()
    first = next(card for card in found.cards if card.id == "change")
    assert not any("1 of 2" in note for note in first.notes)


def test_an_interruption_loses_nothing(stops, tmp_path):
    class Stopped(KeyboardInterrupt):
        pass

    def stop(event):
        if event.event is not None and event.event.kind == "run":
            raise Stopped

    with pytest.raises(Stopped):
        tour.run(tmp_path, quick=True, budget=9000, progress=stop)
    before = (tmp_path / "change" / "records.jsonl").read_bytes()
    assert before.count(b"\n") >= 1
    assert (tmp_path / "index.html").exists()
    found = tour.run(tmp_path, quick=True, budget=9000)
    after = (tmp_path / "change" / "records.jsonl").read_bytes()
    assert after.startswith(before)
    assert after.count(b"\n") == 4
    assert found.cards[0].state == "done"


def test_progress_is_plain_lines_without_a_terminal():
    out, now = io.StringIO(), [0.0]
    with TourProgress(Console(file=out, width=200), clock=lambda: now[0]) as progress:
        event = tour.TourEvent(kind="study", study="a", count=2, eta=61, message="Which?")
        progress(event)
        progress(dataclasses.replace(event, kind="run", event=None))
        now[0] = 11
        progress(dataclasses.replace(event, kind="failed", number=1, message="no\nbrowser"))
    lines = out.getvalue().splitlines()
    assert len(lines) == 2
    assert "0/2 studies  ETA 61 s  a: Which?" in lines[0]
    assert lines[1].endswith("a: failed, the tour goes on. no")
    assert "\r" not in out.getvalue()


def test_the_agenda_names_what_there_is():
    whole = tour.agenda()
    asking = [name for name in studies.ids() if not name.endswith("_speed")]
    assert sorted(stop.id for stop in whole) == asking
    assert {method.study for method in methods()} <= {stop.id for stop in whole}
    assert sum(stop.brief for stop in whole) <= tour.QUICK_BUDGET < sum(s.seconds for s in whole)
    for stop in whole:
        if stop.id == "agents":
            # Its workloads are demonstrations, which a browser would collect first.
            known = {c.id for c in studies.load(stop.id).contestants(session.Request(quick=True))}
            assert set(stop.contestants) <= known
            continue
        prepared = session.prepare(session.Wanted(study=stop.id, quick=True), dry=True)
        everyone = {c.id for c in (*prepared.contestants, *prepared.missing)}
        assert set(stop.contestants) <= everyone, stop.id
        assert set(stop.workloads) <= {w.id for w in prepared.workloads}, stop.id


def test_two_tours_do_not_share_a_folder(stops, tmp_path):
    with tour._alone(tmp_path), pytest.raises(UsageError, match="another tour"):
        tour.run(tmp_path, quick=True)


def test_bad_input_is_named_before_anything_is_made(tmp_path):
    taken = tmp_path / "file"
    taken.touch()
    with pytest.raises(UsageError, match="no folder can be made"):
        tour.run(taken)
    with pytest.raises(UsageError, match="at least 1"):
        tour.run(tmp_path / "new", threads=0)
    with pytest.raises(UsageError, match="no study 'nothing'"):
        api.tour(studies="nothing", out=tmp_path / "new")
    with pytest.raises(UsageError, match="names none"):
        api.tour(studies=",", out=tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_the_tree_holds_every_form_once_and_nothing_overlaps():
    nodes = lineage.forest(methods())
    names = [form.name for method in methods() for form in method.line]
    text = lineage.nested(nodes)
    assert text.count("<li>") == len(names)
    drawn = lineage.drawing(nodes, {m.family: "c0" for m in methods()})
    boxes = re.findall(r'<rect x="([\d.]+)" y="([\d.]+)"[^>]*class="form"', drawn)
    assert len(set(boxes)) == len(boxes) == len(names)
    row = next(node for node in nodes if node.form.name == "MHA")
    line = []
    while row.form.name != "MLA":
        line.append(row.form.name)
        row = next(child for child in row.children if child.form.name in ("MQA", "GQA", "MLA"))
    assert line == ["MHA", "MQA", "GQA"]
