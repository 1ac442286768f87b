"""`paragone map`: text, data, the page, and errors in one line with exit code 2."""

import json

import pytest

from paragone.cli import main

OBJECTS = {
    "images": [{"id": i, "width": 99, "height": 99} for i in (1, 2, 3)],
    "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "<dog>"}, {"id": 3, "name": "ox"}],
    "annotations": [{"id": i, "image_id": i, "category_id": 1 + i % 2, "bbox": [i, i, 20, 20],
                     "area": 400} for i in (1, 2, 3)],
}  # fmt: skip
FOUND = [{"image_id": i, "category_id": k, "bbox": [i, i + 1, 20, 20], "score": 0.9 - 0.1 * i}
         for i in (1, 2, 3) for k in (1, 2)]  # fmt: skip


def call(capsys, *words):
    with pytest.raises(SystemExit) as ended:
        main(["map", *map(str, words)])
    shown = capsys.readouterr()
    return ended.value.code, shown.out, shown.err


@pytest.fixture
def files(tmp_path):
    paths = tmp_path / "gt.json", tmp_path / "one.json", tmp_path / "two.json"
    moved = [{**f, "bbox": [f["bbox"][0] + 4, *f["bbox"][1:]]} for f in FOUND]
    for path, content in zip(paths, (OBJECTS, FOUND, moved), strict=True):
        path.write_text(json.dumps(content))
    return paths


def test_protocols_and_classes(capsys, files):
    code, out, _ = call(capsys, *files[:2], "--classes")
    assert code == 0
    assert "coco: 3 images, 3 classes, 3 objects, 6 detections" in out
    assert "ox     no objects" in out
    code, out, _ = call(capsys, *files[:2], "--protocol", "voc2007", "--iou", "0.6")
    assert code == 0
    assert "overlap 0.60" in out


def test_data(capsys, files):
    code, out, _ = call(capsys, *files, "--compare", files[2], "--json")
    assert code != 0
    code, out, _ = call(capsys, *files[:2], "--compare", files[2], "--resamples", "20", "--json")
    told = json.loads(out)
    assert code == 0
    assert len(told["stats"]) == 12
    assert told["per_class"]["ox"] is None
    assert told["comparison"]["difference"]["estimate"] < 0


def test_the_page(capsys, files, tmp_path):
    folder = tmp_path / "page"
    code, out, _ = call(
        capsys, *files[:2], "--compare", files[2], "--resamples", "20", "--out", folder
    )
    assert code == 0
    assert "two minus one, 20 resamples of 3 images" in out
    page = (folder / "report.html").read_text()
    assert "<svg" in page
    assert "&lt;dog&gt;" in page
    assert "<dog>" not in page
    for name, lines in (("per_class", 4), ("confusion", 5), ("errors", 7)):
        assert len((folder / f"{name}.csv").read_text().splitlines()) == lines
    assert (folder / "curves.csv").read_text().startswith("class,score,recall,precision")


def test_errors_end_with_2_and_name_file_and_record(capsys, files, tmp_path):
    bad = tmp_path / "bad.json"
    bad.write_text(json.dumps([*FOUND, {**FOUND[0], "category_id": 9}]))
    code, _, err = call(capsys, files[0], bad)
    assert code == 2
    assert f"{bad}: result 6: class 9 is none of the classes" in err
    code, out, _ = call(capsys, files[0], bad, "--problems", "skip")
    assert code == 0
    assert "1 records left out (unknown class: 1)" in out
    bad.write_text(json.dumps(FOUND)[:-20])
    assert "cut short" in call(capsys, files[0], bad)[2]
    for words in ((tmp_path / "none.json", bad), (*files[:2], "--iou", "7"),
                  (*files[:2], "--protocol", "x"), (*files[:2], "--out", files[0])):  # fmt: skip
        assert call(capsys, *words)[0] == 2
