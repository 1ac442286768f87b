"""The page: one file that loads nothing, says all, leads to every record, and trusts no text."""

import base64
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from rich.console import Console

from paragone._core.errors import UsageError
from paragone.lab.outcome import Cell, ClaimResult, Row, Summary
from paragone.lab.report import html, to_json, view, write
from paragone.lab.report.html import page, write_html
from paragone.lab.report.markdown import markdown
from paragone.lab.report.terminal import print_summary
from paragone.lab.spec import Contestant, Workload

VOID = {"meta", "link", "input", "br", "img", "hr"}
HOSTILE = (
    "</script><script>alert('x')</script><img src=https://evil.example/x onerror=a()>\"'&{{7*7}}"
)


class Page(HTMLParser):
    """Elements, ids and links of a page; complains when tags do not match."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.elements, self.stack, self.texts = [], [], {}
        self.feed(text)
        self.close()
        assert self.stack == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag

    def handle_data(self, data):
        for tag in set(self.stack):
            self.texts[tag] = self.texts.get(tag, "") + data

    def all(self, tag):
        return [attrs for name, attrs in self.elements if name == tag]

    def ids(self):
        return [attrs["id"] for _, attrs in self.elements if "id" in attrs]


def _shapes(summary_of):
    curves = [(f"m{c}", "set0", "loss over step", [1, 2, 4, 8], [1.0, 0.5, 0.3, 0.2 + b / 50])
              for c in range(3) for b in range(2)]  # fmt: skip
    failed = summary_of(1, 1, 2)
    return {
        "one": summary_of(1, 8, 5),
        "two contestants": summary_of(1, 3, 2),
        "one block": summary_of(1, 6, 1),
        "seven": summary_of(7, 6, 3, pictures=()),
        "all failed": replace(failed, verdict=("Nothing finished.",)),
        "nothing": Summary(study="s", question="q?"),
        "curves only": Summary(
            study="optimizers",
            question="Which optimizer?",
            verdict=("Use AdamW.",),
            curves=curves,
            contestants=[Contestant(id=f"m{c}", title=f"m{c}", make="x:y") for c in range(3)],
            workloads=[Workload(id="set0", title="set 0", load="x:y")],
        ),
    }


@pytest.fixture(scope="module")
def shapes(summary_of):
    return _shapes(summary_of)


SHAPES = ("one", "two contestants", "one block", "seven", "all failed", "nothing", "curves only")


@pytest.mark.parametrize("name", SHAPES)
def test_page_loads_nothing_and_every_link_leads_somewhere(shapes, tmp_path, name):
    text = page(shapes[name], tmp_path)
    parsed = Page(text)
    ids = parsed.ids()
    assert len(ids) == len(set(ids))
    for _, attrs in parsed.elements:
        assert not attrs.keys() & {"style", "onclick", "onload", "onerror", "srcset", "action"}
        for key in ("src", "href", "xlink:href", "poster", "data"):
            target = attrs.get(key, "")
            assert not re.match(r"(?i)\s*(https?:)?//", target)
            if target.startswith("#"):
                assert target[1:] in ids, target
    assert not parsed.all("link")
    assert "@import" not in text
    assert "url(" not in text
    assert not re.search(r"\b(fetch|XMLHttpRequest|import)\s*\(", text)


@pytest.mark.parametrize("name", SHAPES)
def test_policy_names_the_style_and_the_script_and_nothing_else(shapes, tmp_path, name):
    text = page(shapes[name], tmp_path)
    metas = Page(text).all("meta")
    (policy,) = (m["content"] for m in metas if m.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")
    for tag in ("style", "script"):
        (body,) = re.findall(f"<{tag}>(.*?)</{tag}>", text, re.S)
        assert f"'{html._hash(body)}'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy


@pytest.mark.parametrize("name", SHAPES)
def test_verdict_comes_first(shapes, tmp_path, name):
    summary = shapes[name]
    text = page(summary, tmp_path)
    verdict = summary.verdict[0] if summary.verdict else "Nothing has been measured yet."
    assert Page(text).texts["h1"] == verdict
    assert text.index("<h1>") < text.index("<table") if "<table" in text else True
    assert [*re.findall(r"<h1", text)] == ["<h1"]


@pytest.mark.parametrize("name", SHAPES)
def test_drawings_are_well_formed(shapes, tmp_path, name):
    drawings = re.findall(r"<svg .*?</svg>", page(shapes[name], tmp_path), re.S)
    assert bool(drawings) == (name != "nothing")
    for drawing in drawings:
        root = ElementTree.fromstring(drawing)
        assert root.get("aria-label") or root.get("aria-hidden")
        assert "nan" not in drawing.replace("explanan", "")


@pytest.mark.parametrize("name", SHAPES)
def test_no_section_is_empty(shapes, tmp_path, name):
    text = page(shapes[name], tmp_path)
    for section in re.findall(r"<section.*?</section>", text, re.S):
        body = re.sub(r"<h2.*?</h2>|<p>.*?</p>|<[^>]*>", " ", section, flags=re.S)
        assert len(body.split()) >= 2
    linked = re.findall(r'<li><a href="#(\w+)"', text)
    assert set(linked) <= set(re.findall(r'<section id="(\w+)"', text))


def test_every_contestant_has_a_row_even_if_it_failed(shapes, tmp_path):
    summary = shapes["one"]
    parsed = Page(page(summary, tmp_path))
    for row in summary.rows:
        assert row.title in parsed.texts["tbody"]
    assert "timed out (0/5)" in parsed.texts["tbody"]
    assert "killed after 66 s" in parsed.texts["tbody"]
    number = view.Guide(summary).index[summary.rows[-1].contestant]
    assert {"href": f"#f{number}"} in parsed.all("a")


def test_every_number_of_the_leaderboard_leads_to_its_records(shapes, tmp_path):
    summary = shapes["seven"]
    text = page(summary, tmp_path)
    table = re.search(r'<table class="board">.*?</table>', text, re.S)
    assert table
    cells = re.findall(r"<td[^>]*>(.*?)</td>", table.group(), re.S)
    numbers = [c for c in cells if re.search(r"\d [smMkG]|\d\.\d", re.sub(r"<[^>]+>", "", c))]
    assert len(numbers) >= 5 * 5
    for cell in numbers:
        assert 'href="#' in cell or "timed out" in cell
    index = view.Guide(summary).index
    for row in summary.tables["set3"]:
        if row.tier:
            at = text.index(f'id="c{index[row.contestant]}w3"')
            group = text[at : text.index("</tbody>", at)]
            for run in row.cells["rmse"].runs:
                assert f'id="run-{run}"' in group
    for record in summary.records:
        assert f'id="run-{record["id"]}"' in text


def test_a_number_of_one_run_leads_to_that_run(shapes, tmp_path):
    summary = shapes["one block"]
    text = page(summary, tmp_path)
    run = summary.rows[0].cells["rmse"].runs[0]
    assert f'<a href="#run-{run}">{view.columns(summary, summary.rows)[0].texts[0]}</a>' in text


def test_table_heads_can_be_sorted_and_are_accessible(shapes, tmp_path):
    text = page(shapes["one"], tmp_path)
    board = re.search(r'<table class="board">.*?</table>', text, re.S)
    assert board
    heads = re.findall(r"<th scope=\"col\"[^>]*>", board.group())
    assert all("data-sort=" in head for head in heads)
    widths = set()
    for row in re.findall(r"<tr.*?</tr>", board.group(), re.S)[1:]:
        cells = re.findall(r"<t[dh][^>]*>", row)
        widths.add(len(cells))
        assert all("data-v=" in cell for cell in cells)
    assert widths == {len(heads)}
    parsed = Page(text)
    assert len(parsed.all("caption")) == len(parsed.all("table"))
    assert all("scope" in attrs for attrs in parsed.all("th"))
    assert all(attrs.get("aria-label") for attrs in parsed.all("nav"))
    labels = [attrs["aria-labelledby"] for attrs in parsed.all("section")]
    assert set(labels) <= set(parsed.ids())


def test_hostile_text_stays_text(summary_of, tmp_path):
    base = summary_of(2, 4, 2)
    rows = [replace(row, title=HOSTILE, message=HOSTILE) for row in base.rows]
    records = [{**r, "message": HOSTILE, "log": "log.txt", "contestant": r["contestant"]}
               for r in base.records]  # fmt: skip
    (tmp_path / "log.txt").write_text(HOSTILE + "\x1b[31m\x00 end")
    summary = replace(
        base, question=HOSTILE, verdict=(HOSTILE, HOSTILE), rows=rows, command=HOSTILE,
        records=records, notes=(HOSTILE,), environment={HOSTILE: {HOSTILE: HOSTILE}},
        protocol={HOSTILE: HOSTILE}, study=HOSTILE,
        workloads=[replace(w, title=HOSTILE, id=w.id) for w in base.workloads],
        contestants=[replace(c, title=HOSTILE) for c in base.contestants],
        measures=[replace(m, title=HOSTILE, note=HOSTILE, unit="") for m in base.measures],
        tables={k: [replace(r, title=HOSTILE) for r in v] for k, v in base.tables.items()},
        claims=(ClaimResult(text=HOSTILE, source=HOSTILE, measured=HOSTILE, verdict="holds"),),
        curves=[("m0", "set0", HOSTILE, [1, 2, 3], [1, 2, 3])],
    )  # fmt: skip
    text = page(summary, tmp_path)
    parsed = Page(text)
    assert len(parsed.all("script")) == 1
    assert not parsed.all("img")
    assert all(not key.startswith("on") for _, attrs in parsed.elements for key in attrs)
    assert "alert('x')" in parsed.texts["h1"]
    assert "{{7*7}}" in parsed.texts["h1"]
    assert "\x1b" not in text
    assert "\x00" not in text
    assert "<script>alert" not in markdown(summary).partition("```")[0]


def test_hostile_text_would_be_seen_if_it_were_not_escaped(summary_of, tmp_path):
    text = page(summary_of(1, 3, 2, question="QQQ"), tmp_path).replace("QQQ", HOSTILE)
    with pytest.raises(AssertionError):
        assert len(Page(text).all("script")) == 1


def test_usual_studies_are_small_and_the_largest_fits(summary_of, tmp_path):
    assert len(page(summary_of(1, 16, 10), tmp_path)) < 400_000
    large = summary_of(7, 20, 40)
    assert len(large.records) == 5600
    assert len(page(large, tmp_path)) < 6_000_000


def test_many_records_are_counted_not_listed(summary_of, tmp_path, monkeypatch):
    monkeypatch.setattr(html, "MOST_RECORDS", 10)
    summary = summary_of(2, 4, 5)
    parsed = Page(page(summary, tmp_path))
    assert not [i for i in parsed.ids() if i.startswith("run-")]
    assert all(a["href"][1:] in parsed.ids() for a in parsed.all("a") if a["href"][0] == "#")


def test_pictures_are_inlined_and_cannot_lead_out(summary_of, tmp_path):
    folder = tmp_path / "study"
    folder.mkdir()
    drawing = b"<svg xmlns='http://www.w3.org/2000/svg'><script>1</script></svg>"
    (folder / "a.svg").write_bytes(drawing)
    (tmp_path / "outside.svg").write_bytes(b"outside")
    (folder / "page.html").write_bytes(b"no picture")
    pictures = (("A", "a.svg"), ("B", "../outside.svg"), ("C", "gone.png"), ("D", "page.html"))
    parsed = Page(page(summary_of(1, 3, 2, pictures=pictures), folder))
    (image,) = parsed.all("img")
    assert base64.b64decode(image["src"].partition("base64,")[2]) == drawing
    assert image["alt"] == "A"
    assert image["class"] == "paper"


def test_a_picture_that_knows_the_dark_stands_on_the_card(summary_of, tmp_path):
    (tmp_path / "a.svg").write_text(
        "<svg><style>@media (prefers-color-scheme: dark){}</style></svg>"
    )
    (image,) = Page(page(summary_of(1, 3, 2, pictures=(("A", "a.svg"),)), tmp_path)).all("img")
    assert "class" not in image


def test_a_picture_too_large_is_linked(summary_of, tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(b"x" * 1000)
    monkeypatch.setattr(html, "PICTURE_BYTES", 100)
    parsed = Page(page(summary_of(1, 3, 2, pictures=(("A", "a.png"),)), tmp_path))
    assert not parsed.all("img")
    assert {"href": "a.png"} in parsed.all("a")


def test_failures_show_the_end_of_their_log_only(summary_of, tmp_path):
    summary = summary_of(1, 3, 2)
    name = next(r["log"] for r in summary.records if r["log"])
    (tmp_path / "logs").mkdir()
    (tmp_path / name).write_text("".join(f"line {i} <b>\n" for i in range(1000)))
    text = page(summary, tmp_path)
    (log,) = re.findall(r"<pre>(line.*?)</pre>", text, re.S)
    lines = log.splitlines()
    assert len(lines) == html.LOG_LINES
    assert lines[-1] == "line 999 &lt;b&gt;"


def test_log_outside_the_folder_is_not_read(summary_of, tmp_path):
    (tmp_path / "secret.txt").write_text("secret")
    folder = tmp_path / "study"
    folder.mkdir()
    summary = summary_of(1, 3, 2)
    records = [{**r, "log": "../secret.txt"} for r in summary.records]
    assert "secret</pre>" not in page(replace(summary, records=records), folder)


def test_matrix_is_antisymmetric(shapes, tmp_path):
    text = page(shapes["one"], tmp_path)
    matrix = re.search(r'<table class="matrix">.*?</table>', text, re.S)
    assert matrix
    rows = re.findall(r"<tr><th.*?</tr>", matrix.group(), re.S)
    cells = [re.findall(r'<td class="(\w+)"', row) for row in rows]
    turned = {"win": "loss", "loss": "win", "tie": "tie", "self": "self"}
    for i, row in enumerate(cells):
        assert len(row) == len(cells)
        for j, kind in enumerate(row):
            assert cells[j][i] == turned[kind]
            assert (kind == "self") == (i == j)


def test_rank_diagram_from_six_workloads_on(summary_of, tmp_path):
    assert "Mean ranks" in page(summary_of(6, 4, 2), tmp_path)
    assert "Mean ranks" not in page(summary_of(5, 4, 2), tmp_path)


def test_sweep_marks_the_crossover(summary_of, tmp_path):
    sizes = (64, 256, 1024, 4096)
    places = [Workload(id=f"n{n}", title=f"n = {n}", load="x:y", axis={"length": n}) for n in sizes]
    base = summary_of(1, 3, 2)
    law = {"m0": lambda n: 1e-6 * n**2, "m1": lambda n: 5e-4 * n}
    tables = {
        f"n{n}": [Row(contestant=c, title=c, origin="rival", tier="A",
                      cells={"fit_s": Cell(value=f(n))}) for c, f in law.items()]
        for n in sizes
    }  # fmt: skip
    rows = tables["n64"]
    text = page(replace(base, workloads=places, tables=tables, rows=rows, differences=(),
                        records=(), contestants=base.contestants[:2]), tmp_path)  # fmt: skip
    assert "fit over length" in text
    assert "leads from 500" in text


def test_markdown_has_all_rows_and_breaks_no_table(shapes):
    text = markdown(shapes["seven"])
    assert text.count("| tier |") == 8
    for block in re.findall(r"(?:^\|.*\|$\n?)+", text, re.M):
        counts = {len(re.findall(r"(?<!\\)\|", line)) for line in block.strip().splitlines()}
        assert len(counts) == 1
    assert "paragone decision" not in text
    assert shapes["seven"].command in text


def test_markdown_escapes_the_bar(summary_of):
    summary = summary_of(1, 3, 2)
    rows = [replace(row, title="a|b") for row in summary.rows]
    assert "a\\|b" in markdown(replace(summary, rows=rows))


@pytest.mark.parametrize("name", SHAPES)
def test_json_holds_the_whole_summary(shapes, name):
    read = json.loads(to_json(shapes[name]))
    assert read["verdict"] == [*shapes[name].verdict]
    assert len(read["rows"]) == len(shapes[name].rows)
    assert len(read["records"]) == len(shapes[name].records)


def test_numbers_that_are_not_finite_become_null(summary_of):
    summary = summary_of(1, 3, 2)
    rows = [replace(r, cells={"rmse": Cell(value=float("nan"))}) for r in summary.rows]
    read = json.loads(to_json(replace(summary, rows=rows)))
    assert read["rows"][0]["cells"]["rmse"]["value"] is None


def test_report_is_replaced_at_once(summary_of, tmp_path):
    path = write_html(summary_of(1, 3, 2), tmp_path)
    assert path == tmp_path / "report.html"
    first = path.stat().st_ino
    write_html(summary_of(1, 4, 2), tmp_path)
    assert path.stat().st_ino != first
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


@pytest.mark.parametrize(
    ("format", "words"), [("pdf", "unknown report format"), ("html", "no study")]
)
def test_wrong_requests_are_one_clear_line(tmp_path, format, words):
    with pytest.raises(UsageError, match=words):
        write(tmp_path, format)


def test_flip_is_an_involution(summary_of):
    for diff in summary_of(1, 5, 3).differences:
        back = view.flip(view.flip(diff))
        assert back.word == diff.word
        assert back.estimate == pytest.approx(diff.estimate)
        assert (back.low, back.high) == (pytest.approx(diff.low), pytest.approx(diff.high))


def test_all_differences_of_a_column_have_the_same_decimals(summary_of):
    rows = summary_of(1, 12, 5).rows
    shown = [e for e, _ in view.compared([r.versus_best for r in rows]) if e != "--"]
    assert len(shown) > 5
    assert len({len(text.partition(".")[2]) for text in shown}) == 1


def _palette(dark):
    style = (html.HERE / "style.css").read_text()
    pairs = re.findall(r"--(\w[\w-]*): light-dark\((#\w+), (#\w+)\)", style)
    return {name: (night if dark else day) for name, day, night in pairs}


def _contrast(a, b):
    """WCAG 2.2, relative luminance and contrast ratio."""

    def luminance(colour):
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("dark", [False, True])
def test_text_and_marks_can_be_seen(dark):
    colours = _palette(dark)
    assert _contrast("#000000", "#ffffff") == pytest.approx(21)
    grounds = ("bg", "card", "wash")
    text = [(ink, ground) for ink in ("ink", "soft", "accent") for ground in grounds]
    text += [("good", "good-wash"), ("bad", "bad-wash"), ("good", "card"), ("bad", "card")]
    text += [("accent-ink", "accent"), ("good", "bg"), ("bad", "bg"), ("bad", "wash")]
    for ink, ground in text:
        assert _contrast(colours[ink], colours[ground]) >= 4.5, (ink, ground)
    for k in range(7):
        assert _contrast(colours[f"k{k}"], colours["card"]) >= 3.0, k


def test_a_folder_becomes_each_format(fabricate, tmp_path):
    folder = fabricate(tmp_path / "study", workloads_count=1, contestants_count=5, blocks=3)
    made = {format: write(folder, format) for format in ("html", "md", "json", "parquet")}
    assert all(path.parent == folder and path.stat().st_size for path in made.values())
    read = json.loads(made["json"].read_text())
    verdict = Page(made["html"].read_text()).texts["h1"]
    assert verdict == read["verdict"][0]
    assert f"**{verdict}**" in made["md"].read_text()
    for row in read["rows"]:
        assert row["title"] in made["md"].read_text()
    polars = pytest.importorskip("polars")
    assert polars.read_parquet(made["parquet"]).height == len(read["records"])
    elsewhere = write(folder, "md", tmp_path / "deep" / "x.md")
    assert elsewhere.read_text() == made["md"].read_text()


ODD = st.one_of(
    st.none(), st.floats(), st.sampled_from([0.0, -0.0, 1e-300, 1e300, -1.0, 1.0, float("inf")])
)


@settings(
    max_examples=25, deadline=None, suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate], derandomize=True,
)  # fmt: skip
@given(st.lists(ODD, min_size=40, max_size=40), st.booleans())
def test_no_number_breaks_a_report(summary_of, tmp_path, odd, ratio):
    draw = iter(odd * 20)
    base = summary_of(1, 5, 2)

    def cell():
        return Cell(value=next(draw), low=next(draw), high=next(draw), runs=("r0001",))

    def spoil(diff):
        ends = {"estimate": next(draw), "low": next(draw), "high": next(draw)}
        return replace(diff, ratio=ratio, **ends)

    rows = [
        replace(row, cells={key: cell() for key in row.cells},
                versus_best=spoil(row.versus_best) if row.versus_best else None)
        for row in base.rows
    ]  # fmt: skip
    records = [{**r, "values": {k: v for k in r["values"] if (v := next(draw)) is not None}}
               for r in base.records]  # fmt: skip
    summary = replace(
        base, rows=rows, tables={"set0": rows}, records=records,
        differences=[spoil(diff) for diff in base.differences],
        curves=[("m0", "set0", "loss", [1, 2, 3], [v or 0.0 for v in odd[:3]])],
    )  # fmt: skip
    text = page(summary, tmp_path)
    Page(text)
    for drawing in re.findall(r"<svg .*?</svg>", text, re.S):
        root = ElementTree.fromstring(drawing)
        for element in root.iter():
            for name in ("x", "y", "x1", "x2", "y1", "y2", "cx", "cy", "r", "d", "points", "width"):
                assert not re.search(r"nan|inf", element.get(name, "")), (name, element.attrib)
    markdown(summary)
    print_summary(summary, console=Console(file=io.StringIO()), width=100)
    json.loads(to_json(summary))
