"""Charts: well-formed, to scale, and readable where points crowd."""

import itertools
import math
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paragone.lab.report import charts, trends
from paragone.lab.report.html import standalone
from paragone.lab.report.svg import SHAPES, Board, Scale, glyph, place_labels, text_width

NUMBERS = st.floats(-1e9, 1e9, allow_subnormal=False)


def _parse(text: str) -> ElementTree.Element:
    return ElementTree.fromstring(text)


@given(NUMBERS, st.floats(1e-6, 1e9), st.integers(2, 12))
def test_ticks_are_round_and_on_the_axis(low, span, most):
    scale = Scale(low=low, high=low + span, start=0, stop=100)
    if not scale.high > scale.low + 1e-9 * abs(low):
        return
    ticks = scale.ticks(most)
    assert len(ticks) <= most + 1
    for a, b in itertools.pairwise(ticks):
        step = (b - a) / 10 ** math.floor(math.log10(b - a) + 1e-6)
        assert min(abs(step - m) for m in (1, 2, 5, 10)) < 0.02
    assert all(low - span * 1e-6 <= t <= low + span * (1 + 1e-6) for t in ticks)


@given(st.floats(1e-9, 1e9), st.floats(1.01, 1e9), st.integers(2, 9))
def test_log_ticks_are_on_the_axis(low, factor, most):
    ticks = Scale(low=low, high=low * factor, start=0, stop=100, log=True).ticks(most)
    assert len(ticks) <= most
    assert all(low * 0.999 <= t <= low * factor * 1.001 for t in ticks)
    assert ticks == sorted(ticks)


@given(st.lists(NUMBERS, min_size=1, max_size=20), st.booleans())
def test_scale_shows_every_value(values, log):
    scale = Scale.around(values, 10, 90, log=log)
    for value in values:
        if value > 1e-100 or not log:
            assert 10 <= scale(value) <= 90


def test_scale_is_the_closed_form():
    scale = Scale(low=2, high=6, start=100, stop=20)
    assert [scale(v) for v in (2, 3, 6)] == [100, 80, 20]
    assert Scale(low=0.1, high=10, start=0, stop=60, log=True)(1) == pytest.approx(30)


@pytest.mark.parametrize("index", range(60))
def test_every_mark_is_drawn_and_told_apart(index):
    root = _parse(glyph(index))
    assert len(root) == 1
    assert index == 0 or index >= 56 or glyph(index) != glyph(index - 1)


def test_colour_and_shape_pairs_repeat_late():
    assert len({glyph(i) for i in range(7 * len(SHAPES))}) == 7 * len(SHAPES)


def test_board_escapes_what_users_write():
    board = Board(width=10, height=10, title='<b>"&', note="</desc><script>")
    board.text(1, 1, "</text><script>alert(1)</script>", href='#a"><script>')
    board.mark(1, 1, 3, tip="<i>&", href="#x")
    root = _parse(board.svg())
    assert not [e for e in root.iter() if e.tag.endswith(("script", "b", "i"))]
    assert "alert(1)" in "".join(root.itertext())


def _boxes(anchors, sizes, places):
    return [(x, y, x + w, y + h) for (x, y), (w, h) in zip(places, sizes, strict=True)]


def _overlap(a, b):
    wide, high = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return max(wide, 0) * max(high, 0)


def test_twenty_crowded_labels_do_not_overlap():
    anchors = [(300 + 37 * math.cos(i * 2.4) * i**0.5, 200 + 30 * math.sin(i * 2.4) * i**0.5, 7)
               for i in range(20)]  # fmt: skip
    sizes = [(text_width(f"paragone method {i}", 12), 14) for i in range(20)]
    frame = (0, 0, 880, 430)
    boxes = _boxes(anchors, sizes, place_labels(anchors, sizes, frame))
    for a, b in itertools.combinations(boxes, 2):
        assert _overlap(a, b) == 0
    for x, y, r in anchors:
        covered = sum(_overlap(box, (x - r, y - r, x + r, y + r)) for box in boxes)
        assert covered < 0.4 * (2 * r) ** 2
    # The plain way, each label right of its mark, would not do: the test can fail.
    naive = [(x + 10, y - 7) for x, y, _ in anchors]
    pairs = itertools.combinations(_boxes(anchors, sizes, naive), 2)
    assert sum(_overlap(a, b) > 0 for a, b in pairs) > 5


@given(st.lists(st.tuples(st.floats(0, 400), st.floats(0, 300)), min_size=1, max_size=8))
def test_labels_stay_in_the_frame(points):
    anchors = [(x, y, 5.0) for x, y in points]
    sizes = [(60.0, 14.0)] * len(points)
    for x, y in place_labels(anchors, sizes, (0, 0, 400, 300)):
        assert -1e-9 <= x <= 340 + 1e-9
        assert -1e-9 <= y <= 286 + 1e-9


def _lines(count, **more):
    return [charts.Line(name=f"m{i}", index=i, estimate=0.1 * i, low=0.1 * i - 0.05,
                        high=0.1 * i + 0.05, text=f"+{0.1 * i:.1f}", **more)
            for i in range(count)]  # fmt: skip


def test_forest_has_a_row_for_each_and_points_off_the_axis():
    far = charts.Line(name="far", index=9, estimate=50.0, low=49, high=51, text="+50")
    root = _parse(charts.forest([*_lines(8), far], title="t", label="x", band=(-0.05, 0.05)))
    texts = list(root.itertext())
    assert {f"m{i}" for i in range(8)} <= set(texts)
    assert "+50" in texts
    assert len([e for e in root.iter() if e.get("class") == "off"]) == 1
    assert len([e for e in root.iter() if e.get("class") == "band"]) == 1


def test_forest_of_ratios_is_symmetric_in_the_logarithm():
    lines = [charts.Line(name=n, index=i, estimate=e, low=e / 1.1, high=e * 1.1)
             for i, (n, e) in enumerate((("half", 0.5), ("double", 2.0)))]  # fmt: skip
    root = _parse(charts.forest(lines, title="t", label="x", zero=1.0))
    zero = next(float(e.get("x1", "")) for e in root.iter() if e.get("class") == "zero")
    whiskers = [e for e in root.iter() if "whisker" in e.get("class", "")]
    middles = [(float(e.get("x1", "")) + float(e.get("x2", ""))) / 2 for e in whiskers]
    assert zero - middles[0] == pytest.approx(middles[1] - zero, abs=0.2)


def test_front_joins_exactly_those_that_nobody_beats():
    points = [
        charts.Point(name=name, index=i, x=x, y=y)
        for i, (name, x, y) in enumerate(
            [("a", 1, 5), ("b", 2, 3), ("c", 3, 4), ("d", 4, 1), ("e", 1, 6), ("f", 9, 1)]
        )
    ]
    for lower, expected in ((True, {"a", "b", "d"}), (False, {"e"})):
        root = _parse(charts.front(points, title="t", x_label="x", y_label="y", lower=lower,
                                   show_x=str))  # fmt: skip
        lead = {e.text for e in root.iter() if e.get("class") == "tag lead"}
        assert lead == expected


def test_crossing_of_power_laws_is_found_where_it_is():
    grid = [2.0**k for k in range(4, 14)]
    a = trends.Series(name="quadratic", index=0, points=[(x, x**2) for x in grid])
    b = trends.Series(name="linear", index=1, points=[(x, 700 * x) for x in grid])
    assert trends.crossings([a, b]) == [(pytest.approx(700), "quadratic", "linear")]
    assert trends.crossings([a]) == []
    svg = trends.curves([a, b], title="t", x_label="n", y_label="ops", marks=[(700, "here")])
    assert "here" in list(_parse(svg).itertext())


@pytest.mark.parametrize("values", [[], [math.nan], [1.0], [0.0, 0.0], [-3.0, -3.0, math.nan]])
def test_degenerate_input_draws_nothing_wrong(values):
    line = charts.Line(name="m", index=0, values=values)
    svg = charts.strip([line], title="t", label="x")
    assert "nan" not in svg
    if svg:
        _parse(svg)
    assert charts.forest([line], title="t", label="x") == ""
    points = [(float(i), v) for i, v in enumerate(values)]
    series = [trends.Series(name="m", index=0, points=points)]
    curve = trends.curves(series, title="t", x_label="x", y_label="y")
    assert "nan" not in curve


def test_ranks_show_each_name_once_and_each_clique():
    names = [(f"m{i}", i, 1.5 + i) for i in range(7)]
    root = _parse(trends.ranks(names, [(1.5, 3.5), (4.5, 7.5)], title="ranks"))
    text = " ".join(root.itertext())
    assert all(text.count(f"m{i}") == 1 for i in range(7))
    assert len([e for e in root.iter() if e.get("class") == "clique"]) == 2


def test_drawing_of_its_own_brings_its_style():
    drawing = standalone(charts.forest(_lines(4), title="t", label="x", band=(-0.05, 0.05)))
    root = _parse(drawing)
    (style,) = [e.text or "" for e in root.iter() if e.tag.endswith("style")]
    assert root.get("class") == "chart"
    for name in {"band", "whisker", "zero", "grid"} | {f"c{i}" for i in range(4)}:
        assert f".{name} {{" in style
    assert "--k0" in style
    assert "http" not in drawing.replace("http://www.w3.org/2000/svg", "")
