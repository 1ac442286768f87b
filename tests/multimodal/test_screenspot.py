"""ScreenSpot: hand-computed scores, the published rule at random, files as published, refusals."""

import json
import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.stats import binomtest

from paragone.multimodal.agent.coordinates import smart_resize
from paragone.multimodal.agent.screenspot import Rate, score_screenspot, wilson

OLD = [
    {"img_filename": "mobile_1.png", "bbox": [10, 20, 30, 40], "data_type": "text",
     "data_source": "ios", "instruction": "a"},
    {"img_filename": "mobile_1.png", "bbox": [50, 60, 10, 10], "data_type": "icon",
     "data_source": "android", "instruction": "b"},
    {"img_filename": "pc_1.png", "bbox": [0, 0, 5, 5], "data_type": "icon",
     "data_source": "windows", "instruction": "c"},
    {"img_filename": "web_1.png", "bbox": [100, 0, 20, 10], "data_type": "text",
     "data_source": "shop", "instruction": "d"},
]  # fmt: skip
PRO = [
    {"id": "cad_1", "img_filename": "a.png", "img_size": [200, 100], "bbox": [10, 20, 30, 40],
     "ui_type": "text", "group": "CAD", "platform": "windows", "application": "autocad"},
    {"id": "cad_2", "img_filename": "a.png", "img_size": [200, 100], "bbox": [50, 60, 70, 80],
     "ui_type": "icon", "group": "CAD", "platform": "macos", "application": "blender"},
    {"id": "os_1", "img_filename": "b.png", "img_size": [400, 300], "bbox": [0, 0, 1, 3],
     "ui_type": "icon", "group": "OS", "platform": "macos", "application": "macos_common"},
]  # fmt: skip


def test_scores_computed_by_hand():
    predictions = [
        "Thought: t\nAction: click(start_box='(40,60)')",
        (49.9, 65),
        "Action: click(start_box='(0,5,10,5)')",
        "no idea",
    ]
    found = score_screenspot(OLD, predictions, space="pixels")
    assert found.right == (True, False, True, False)
    assert found.accuracy == 0.5
    assert found.interval == wilson(2, 4)
    assert (found.unparsable, found.missing) == (1, 0)
    assert found.by_group == {
        "desktop": {"text": Rate(0, 0), "icon": Rate(1, 1), "all": Rate(1, 1)},
        "mobile": {"text": Rate(1, 1), "icon": Rate(0, 1), "all": Rate(1, 2)},
        "web": {"text": Rate(0, 1), "icon": Rate(0, 0), "all": Rate(0, 1)},
    }
    assert [*found.by_platform] == ["android", "ios", "shop", "windows"]
    assert found.by_application == {}
    assert found.mean_of_groups == pytest.approx((1 + 1 + 0 + 0) / 4)


def test_scores_of_pro_by_ids():
    predictions = {
        "os_1": "Action: click(point='<point>2 9</point>')",
        "cad_1": {"text": "Action: click(point='<point>150 400</point>')"},
    }
    found = score_screenspot(PRO, predictions, "screenspot-pro", dialect="doubao")
    assert found.right == (True, False, True)
    assert (found.unparsable, found.missing) == (0, 1)
    assert found.by_group["CAD"]["all"] == Rate(1, 2)
    assert found.by_platform["macos"]["icon"] == Rate(1, 2)
    assert [*found.by_application] == ["autocad", "blender", "macos_common"]


def test_the_two_forms_of_boxes():
    """(10, 20, 30, 40) is 30 by 40 pixels in ScreenSpot and 20 by 20 in ScreenSpot-Pro."""
    point = [[35, 55]]
    assert score_screenspot(OLD[:1], point).accuracy == 1
    assert score_screenspot(OLD[:1], point, "screenspot-v2").accuracy == 1
    assert score_screenspot(PRO[:1], point, "screenspot-pro").accuracy == 0
    with pytest.raises(ValueError, match="data_type None"):
        score_screenspot(PRO[:1], point)


@pytest.mark.parametrize(
    ("point", "right"),
    [((10, 20), True), ((40, 60), True), ((9.99, 20), False), ((40, 60.01), False)],
    ids=str,
)
def test_edges_belong_to_the_box(point, right):
    assert score_screenspot(OLD[:1], [point]).right == (right,)


@given(
    st.tuples(*[st.integers(0, 900)] * 4), st.tuples(*[st.integers(900, 4000)] * 2),
    st.tuples(st.floats(0, 1), st.floats(0, 1)), st.booleans(),
)  # fmt: skip
def test_the_published_rule(corners, size, point, on_the_edge):
    """As both published scorers: fractions of the image, four comparisons, edges included."""
    left, right = sorted(corners[:2])
    top, bottom = sorted(corners[2:])
    if on_the_edge:
        point = (right / size[0], top / size[1])
    published = (
        left / size[0] <= point[0] <= right / size[0]
        and top / size[1] <= point[1] <= bottom / size[1]
    )
    sample = {**PRO[0], "bbox": [left, top, max(right, 2), bottom], "img_size": size}
    if right < 2:
        return
    found = score_screenspot([sample], [point], "screenspot-pro", space="relative-1")
    assert found.right == (published,)
    box = [left, top, right - left, bottom - top]
    old = {**OLD[0], "bbox": box, "img_size": size}
    assert score_screenspot([old], [point], space="relative-1").right == (published,)


def test_a_planted_bug_is_caught():
    """Strict comparisons, as some scorers have them, would lose the edges."""
    sample, point = PRO[0], (30, 40)
    left, top, right, bottom = sample["bbox"]
    strict = left < point[0] < right and top < point[1] < bottom
    assert score_screenspot([sample], [point], "screenspot-pro").right != (strict,)


def test_spaces():
    """One place, (20, 30) of 200 x 100 pixels, in all of its forms."""
    rows, columns = smart_resize(100, 200)
    resized = f"Action: click(start_box='({20 * columns / 200},{30 * rows / 100})')"
    forms = [
        (resized, {}),
        ("click(start_box='<|box_start|>(100,300)<|box_end|>')", {"dialect": "ui-tars-1.0"}),
        ("<function=click><parameter=point>100 300</parameter></function>",
         {"dialect": "ui-tars-2"}),
        ((0.1, 0.3), {"space": "relative-1"}),
        ([0.05, 0.25, 0.15, 0.35], {"space": "relative-1"}),
        ("(0.1, 0.3)", {"space": "relative-1"}),
        ({"point": [0.1, 0.3], "space": "relative-1"}, {"space": "pixels"}),
        ({"pred": [100, 300]}, {"space": "relative-1000"}),
        ("(10, 15)", {"space": "resized", "resize": lambda rows, columns: (50, 100)}),
        ((20, 30), {}),
    ]  # fmt: skip
    for prediction, options in forms:
        sample = {**PRO[0], "bbox": [19.9, 29.9, 20.1, 30.1]}
        found = score_screenspot([sample], [prediction], "screenspot-pro", **options)
        assert found.right == (True,), prediction


@pytest.mark.parametrize(
    "prediction",
    ["", "the blue one", "Action: wait()", "Action: type(content='(20,30)')", "(20)", "(1,2,3)",
     "Action: click(start_box='(1e999,2)')", [1], [1, 2, 3], [math.nan, 2], [True, 2], ["1", "2"],
     7, {"point": []}],
    ids=repr,
)  # fmt: skip
def test_what_holds_no_point_is_wrong_and_counted(prediction):
    found = score_screenspot(PRO, [(20, 30), prediction, (0, 0)], "screenspot-pro", space="pixels")
    assert (found.overall, found.unparsable, found.missing) == (Rate(2, 3), 1, 0)
    assert sum(found.reasons.values()) == 1
    assert "1 without a point" in str(found)


def test_what_is_missing_is_wrong_and_counted():
    found = score_screenspot(PRO, [None, {"text": None}, {}], "screenspot-pro")
    assert (found.overall, found.missing, found.unparsable) == (Rate(0, 3), 3, 0)


def test_files(tmp_path):
    folder = tmp_path / "annotations"
    folder.mkdir()
    for group in ("mobile", "web"):
        rows = [{**row, "img_filename": f"{group}.png"} for row in OLD[:2]]
        (folder / f"screenspot_{group}_v2.json").write_text(json.dumps(rows))
        Image.new("RGB", (100, 200)).save(tmp_path / f"{group}.png")
    lines = "\n".join(json.dumps({"text": text}) for text in ["(0.25, 0.2)", "(0,0)", "", "(1,1)"])
    (tmp_path / "answers.jsonl").write_text(lines + "\n\n")
    found = score_screenspot(
        folder, tmp_path / "answers.jsonl", "screenspot-v2", space="relative-1", images=tmp_path
    )
    assert found.right == (True, False, False, False)
    assert [*found.by_group] == ["mobile", "web"]
    (tmp_path / "pro.json").write_text(json.dumps(PRO))
    (tmp_path / "answers.json").write_text(json.dumps({"cad_1": [20, 30]}))
    found = score_screenspot(
        tmp_path / "pro.json", str(tmp_path / "answers.json"), "screenspot-pro"
    )
    assert (found.right, found.missing) == ((True, False, False), 2)


def test_the_table():
    text = str(score_screenspot(OLD, [(10, 20)] * 4))
    assert text.splitlines()[0] == "screenspot: 25.0 [4.6, 69.9] of 4 (percent, 95 % interval)"
    assert re.search(r"mobile +100\.0 \[20\.7, 100\.0\] of 1 +0\.0 \[0\.0, 79\.3\] of 1", text)
    assert "counted as wrong: 0 without a point, 0 missing" in text


@pytest.mark.parametrize(
    ("annotations", "predictions", "options", "said"),
    [
        (OLD, [], {}, "0 predictions for 4 annotations"),
        ([], [], {}, "no annotations"),
        (OLD, [None] * 4, {"benchmark": "screenspot-3"}, "benchmark='screenspot-3'"),
        (OLD, [None] * 4, {"dialect": "klingon"}, "dialect='klingon'"),
        (OLD, [(1, 2)] * 4, {"space": "percent"}, "space='percent'"),
        (OLD, [(0.1, 0.2)] * 4, {"space": "relative-1"}, "images="),
        (OLD, {"nobody": (1, 2)}, {}, "'nobody' belongs to no annotation"),
        (OLD, [{"id": 1}, {"text": ""}, None, None], {}, "all or none"),
        (PRO, [{"id": "os_1", "point": [1, 2]}] * 2, {"benchmark": "screenspot-pro"}, "'os_1'"),
        ([PRO[0]] * 2, {"cad_1": (1, 2)}, {"benchmark": "screenspot-pro"}, "two annotations"),
        ([{**OLD[0], "bbox": [1, 2, 3]}], [None], {}, "x, y, width, height"),
        ([{**OLD[0], "bbox": [0.1, 0.2, 0.1, 0.1]}], [None], {}, "in fractions"),
        ([{**PRO[0], "bbox": [10, 20, 5, 40]}], [None], {"benchmark": "screenspot-pro"}, "empty"),
        ([{**PRO[0], "gt_type": "negative"}], [None], {"benchmark": "screenspot-pro"}, "gt_type"),
        ([[1, 2]], [None], {}, "expected an object"),
        ("nowhere.json", [None], {}, "no file nowhere.json"),
    ],
    ids=["too few", "none", "benchmark", "dialect", "space", "size", "unknown id", "some ids",
         "id twice", "annotation twice", "short box", "fractions", "empty box", "negative", "row",
         "no file"],
)  # fmt: skip
def test_what_is_refused(annotations, predictions, options, said):
    with pytest.raises(ValueError, match=said):
        score_screenspot(annotations, predictions, **options)


def test_a_file_that_is_no_json(tmp_path):
    (tmp_path / "bad.json").write_text("[")
    with pytest.raises(ValueError, match="is no JSON"):
        score_screenspot(tmp_path / "bad.json", [])


def test_wilson_against_scipy():
    generator = np.random.default_rng(0)
    for total in (1, 2, 7, 63, 1581):
        for correct in {0, total, int(generator.integers(total + 1))}:
            for level in (0.5, 0.95, 0.99):
                expected = binomtest(correct, total).proportion_ci(level, method="wilson")
                assert wilson(correct, total, level) == pytest.approx(tuple(expected), abs=1e-12)
    assert wilson(0, 0) == (0, 1)
    for given_, said in (((3, 2), "3 of 2"), ((1, 2, 1.0), "level=1.0")):
        with pytest.raises(ValueError, match=said):
            wilson(*given_)
