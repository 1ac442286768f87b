"""Reading and writing boxes: four forms, the byte parser, and everything that can be wrong."""

import json
import tarfile

import numpy as np
import pytest

from paragone.vision import _precision_coco as coco
from paragone.vision import read_annotations
from paragone.vision.annotations import write_annotations
from paragone.vision.ops.precision import json_numbers, json_records

SET = {
    "info": {"note": "a \"quoted\" } , { text", "n": [1, {"x": None}]},
    "images": [{"id": 7, "width": 100, "height": 80, "file_name": "seven.jpg"},
               {"id": 3, "width": 60, "height": 50, "file_name": "three.jpg"}],
    "categories": [{"id": 18, "name": "dog"}, {"id": 17, "name": "cat"}],
    "annotations": [
        {"id": 5, "image_id": 7, "category_id": 18, "bbox": [1.5, 2, 30.25, 40], "area": 700.5,
         "iscrowd": 0, "segmentation": [[1, 2, 3, 4]]},
        {"id": 0, "image_id": 3, "category_id": 17, "bbox": [0.1, 0.2, 1 / 3, 9], "iscrowd": 1},
        {"id": 9, "image_id": 3, "category_id": 18, "bbox": [10, 10, 5, 6], "ignore": 1,
         "area": 30},
    ],
}  # fmt: skip
RESULTS = [{"image_id": 3, "category_id": 17, "bbox": [0.1, 0.2, 0.3, 0.4], "score": 1 / 3},
           {"image_id": 7, "category_id": 18, "bbox": [1, 2, 3, 4], "score": 1e-07}]  # fmt: skip


def changed(record, **fields):
    """The data set with other fields in one annotation; None removes a field."""
    made = json.loads(json.dumps(SET))
    one = made["annotations"][record] | fields
    made["annotations"][record] = {k: v for k, v in one.items() if v is not None}
    return made


@pytest.fixture(params=["parser", "library"])
def way(request, monkeypatch):
    """Files of any size by the byte parser, or by the standard library."""
    monkeypatch.setattr(coco, "_LARGE", 0 if request.param == "parser" else 1 << 60)
    return request.param


def test_a_coco_data_set(tmp_path, way):
    path = tmp_path / "gt.json"
    path.write_text(json.dumps(SET, indent=1 if way == "parser" else None))
    found = read_annotations(path)
    assert [i.id for i in found.images] == [7, 3]
    assert (found.classes, found.class_ids) == (("cat", "dog"), (17, 18))
    assert found.label.tolist() == [1, 0, 1]
    assert found.image.tolist() == [0, 1, 1]
    assert found.boxes[0].tolist() == [1.5, 2.0, 31.75, 42.0]
    assert found.xywh()[1].tolist() == [0.1, 0.2, 1 / 3, 9.0]
    assert found.area.tolist() == [700.5, 1 / 3 * 9, 30.0]
    assert found.crowd.tolist() == [False, True, False]
    assert found.difficult.tolist() == [False, False, True]
    assert found.extra["ids"].tolist() == [5, 0, 9]
    assert read_annotations(SET).boxes.tolist() == found.boxes.tolist()
    assert read_annotations(path, classes=["dog", "cat"]).label.tolist() == [0, 1, 0]


def test_coco_results(tmp_path, way):
    path = tmp_path / "dt.json"
    path.write_text(json.dumps(RESULTS))
    like = read_annotations(SET)
    found = read_annotations(path, like=like)
    assert found.score.tolist() == [1 / 3, 1e-07]
    assert found.image.tolist() == [1, 0]
    alone = read_annotations(path)
    assert [i.id for i in alone.images] == [3, 7]
    assert alone.classes == ("17", "18")
    same = read_annotations(alone, like=like)
    assert same.image.tolist() == found.image.tolist()
    assert same.label.tolist() == found.label.tolist()
    rows = np.array([[r["image_id"], *r["bbox"], r["score"], r["category_id"]] for r in RESULTS])
    assert read_annotations(rows, like=like).xywh().tolist() == found.xywh().tolist()


BROKEN = [
    (changed(1, bbox=[1, 2, -3, 4]), r"annotation 1 \(id 0\).*width -3.*sizes of at least 0"),
    (changed(0, bbox=[500, 2, 3, 4]), r"annotation 0 \(id 5\).*outside of its image of 100 x 80"),
    (changed(2, image_id=8), r"annotation 2 \(id 9\).*image 8 is none of the images: 7, 3"),
    (changed(0, category_id=1), r"class 1 is none of the classes: 17, 18 \(cat, dog\)"),
    (changed(2, id=5), r"annotation 2 \(id 5\): id 5 has been given"),
    (changed(2, bbox=[1, 2, 3]), r"annotation 2: bbox \[1, 2, 3\]: expected \[x, y, width"),
    (changed(1, category_id=None), "annotation 1: lacks category_id"),
    (changed(1, bbox=[1, float("nan"), 3, 4]), "four finite numbers are expected"),
]


@pytest.mark.parametrize("case", range(len(BROKEN)))
def test_a_bad_record_is_named_or_counted(tmp_path, case):
    made, told = BROKEN[case]
    path = tmp_path / "gt.json"
    path.write_text(json.dumps(made))
    with pytest.raises(ValueError, match=told) as error:
        read_annotations(path)
    assert str(path) in str(error.value)
    with pytest.warns(UserWarning, match="1 records left out"):
        kept = read_annotations(path, problems="skip")
    assert len(kept) == 2
    assert sum(kept.skipped.values()) == 1


def test_broken_json_is_named_by_its_byte(tmp_path, way):
    path = tmp_path / "cut.json"
    text = json.dumps(SET, ensure_ascii=False).replace("quoted", "ü")
    path.write_bytes(text.encode()[:-90])
    with pytest.raises(ValueError, match=r"byte 530 \(line 1\): .*is it cut short"):
        read_annotations(path)
    path.write_text('[{"image_id": 1 "bbox": []}]')
    with pytest.raises(ValueError, match=r"byte 16 \(line 1\): broken JSON"):
        read_annotations(path)
    path.write_bytes(b'[{"image_id": "\xff"}]')
    with pytest.raises(ValueError, match="byte 15: no UTF-8"):
        read_annotations(path)
    path.write_text('{"boxes": 1}')
    with pytest.raises(ValueError, match="expected images, annotations and categories"):
        read_annotations(path)
    path.write_text("3")
    with pytest.raises(ValueError, match="expected an object with annotations or a list"):
        read_annotations(path)


def test_ids_that_come_twice_stop_the_reading():
    for part, told in (("images", "image 2: id 7"), ("categories", "category 2: id 18")):
        made = json.loads(json.dumps(SET))
        made[part].append(made[part][0])
        with pytest.raises(ValueError, match=told):
            read_annotations(made, problems="skip")


def test_boxes_without_area_or_beyond_the_image_are_kept_and_noted():
    made = changed(0, bbox=[90, 2, 30, 4])
    assert read_annotations(made).notes == {"boxes that reach beyond their image": 1}
    assert read_annotations(changed(0, bbox=[9, 2, 0, 4])).notes == {"boxes without area": 1}


def number(text):
    data = np.frombuffer(text.encode() + bytes(64), np.uint8)
    return json_numbers.number(data, 0, json_numbers.TENS, json_numbers.POWERS)


def test_numbers_are_the_nearest_doubles():
    rng = np.random.default_rng(0)
    texts = [repr(float(x)) for x in rng.uniform(size=300) * 10.0 ** rng.integers(-30, 30, 300)]
    texts += [f"{x:.6f}" for x in rng.normal(size=200) * 1e4]
    texts += [f"{rng.integers(10**17, 10**18)}e{q}" for q in rng.integers(-60, 42, 200)]
    texts += [f"{float(np.float32(x))!r}" for x in rng.uniform(size=200)]
    # Half-way between two doubles, to even and to odd; and the ends of the exact range.
    texts += ["9007199254740993", "9007199254740995", "1e22", "1e23", "0.0", "-0.0", "-1.5E+3",
              "0.000123", "123456789.0625", "8.5e-05", "2.2250738585072014e-308"]  # fmt: skip
    refused = 0
    for text in texts:
        value, end = number(text)
        refused += end < 0
        assert end < 0 or (value, end) == (float(text), len(text)), text
    assert refused <= 2
    for odd in ("", "-", ".5", "1.", "01", "+1", "1e", "1e+", "NaN", "12345678901234567890123"):
        assert number(odd)[1] == -1, odd


def test_parts_of_a_file_are_joined_and_false_borders_are_seen(monkeypatch):
    monkeypatch.setattr(json_records, "_PART", 64)
    rng = np.random.default_rng(1)
    rows = [{"image_id": int(i), "category_id": 1, "bbox": rng.uniform(size=4).tolist(),
             "score": float(rng.uniform())} for i in range(50)]  # fmt: skip
    for trap in (None, "}, {", [{"a": 1}, {"a": 2}], {"image_id": [{}, {}]}):
        text = json.dumps([r if trap is None else {**r, "note": trap} for r in rows]).encode()
        padded = np.frombuffer(text + bytes(json_records.PADDING), np.uint8)
        for threads in (1, 3):
            columns, end = json_records.records(padded, 0, results=True, threads=threads)
            assert end == len(text)
            assert columns["bbox"].tolist() == [r["bbox"] for r in rows]
            assert columns["image_id"].tolist() == list(range(50))
    full = '{"image_id": 1, "category_id": 2, "bbox": [1, 2, 3, 4], "score": 1}'
    odd_ones = ['{"image_id": "1"}', "1", "{}", '{"im\\u0061ge_id": 1}', '{"image_id": 1,}',
                full + ",", full.replace("4]", "4, 5]"), full.replace("1}", "null}")]  # fmt: skip
    for odd in (f"[{one}]" for one in odd_ones):
        padded = np.frombuffer(odd.encode() + bytes(json_records.PADDING), np.uint8)
        assert json_records.records(padded, 0, results=True) is None
    empty = np.frombuffer(b"[ ] " + bytes(json_records.PADDING), np.uint8)
    assert json_records.records(empty, 0, results=True)[1] == 3


XML = """<annotation><filename>{name}.jpg</filename><size><width>{w}</width><height>40</height>
<depth>3</depth></size>{objects}</annotation>"""
OBJECT = """<object><name>{name}</name><difficult>{hard}</difficult><bndbox><xmin>{box[0]}</xmin>
<ymin>{box[1]}</ymin><xmax>{box[2]}</xmax><ymax>{box[3]}</ymax></bndbox></object>"""


def voc(folder, first=1):
    folder.mkdir()
    for name, objects in (("b", [("cat", 0, (first, 1, 20, 30)), ("ant", 1, (5, 6, 5, 6))]),
                          ("a", [])):  # fmt: skip
        text = "".join(OBJECT.format(name=n, hard=h, box=b) for n, h, b in objects)
        (folder / f"{name}.xml").write_text(XML.format(name=name, w=50, objects=text))
    return folder


def test_voc_pixels_count_from_1_and_both_ends_belong(tmp_path):
    found = read_annotations(voc(tmp_path / "Annotations"))
    assert [i.id for i in found.images] == ["a", "b"]
    assert found.classes == ("ant", "cat")
    assert found.boxes.tolist() == [[0, 0, 20, 30], [4, 5, 5, 6]]
    assert found.difficult.tolist() == [False, True]
    from_zero = read_annotations(voc(tmp_path / "zero", first=0))
    assert from_zero.boxes[0].tolist() == [0, 1, 20, 30]
    assert read_annotations(tmp_path / "zero", first_pixel=1).boxes[0].tolist() == [-1, 0, 20, 30]
    main = tmp_path / "ImageSets" / "Main"
    main.mkdir(parents=True)
    (main / "val.txt").write_text("b\n")
    assert [i.id for i in read_annotations(tmp_path, split="val").images] == ["b"]
    (main / "val.txt").write_text("b\nzz\n")
    with pytest.raises(ValueError, match=r"val.txt, line 2: there is no .*zz.xml"):
        read_annotations(tmp_path, split="val")
    with pytest.raises(ValueError, match=r"there is no .*test\.txt"):
        read_annotations(tmp_path, split="test")


def test_voc_files_that_are_broken(tmp_path):
    folder = voc(tmp_path / "xml")
    (folder / "c.xml").write_text("<annotation><object>")
    with pytest.raises(ValueError, match=r"c.xml: broken XML: .*line 1"):
        read_annotations(folder)
    (folder / "c.xml").write_text(XML.format(name="c", w=50, objects=OBJECT.format(
        name="cat", hard=0, box=("x", 1, 2, 3))))  # fmt: skip
    with pytest.raises(ValueError, match=r"c.xml, object 0: bndbox \['x', '1', '2', '3'\]"):
        read_annotations(folder)
    (folder / "c.xml").write_text(XML.format(name="c", w=50, objects=OBJECT.format(
        name="cow", hard=0, box=(9, 1, 2, 3))))  # fmt: skip
    with pytest.raises(ValueError, match=r"c.xml, object 0: box \[8.0.* has width -6"):
        read_annotations(folder)
    with pytest.raises(ValueError, match=r"class 'cow' is none of the classes"):
        read_annotations(folder, classes=["ant", "cat"])
    with pytest.warns(UserWarning, match="negative box: 1"):
        assert len(read_annotations(folder, problems="skip")) == 2


def test_yolo_shares_become_pixels(tmp_path):
    from PIL import Image

    labels, images = tmp_path / "labels", tmp_path / "images"
    labels.mkdir()
    images.mkdir()
    for name in ("x", "y"):
        Image.new("RGB", (40, 20)).save(images / f"{name}.png")
    (labels / "x.txt").write_text("1 0.5 0.5 0.5 0.5\n\n0 0.25 0.25 0.5 0.5\n")
    (tmp_path / "data.yaml").write_text("nc: 2\nnames:\n  0: cat\n  1: 'dog'\n")
    found = read_annotations(tmp_path)
    assert found.classes == ("cat", "dog")
    assert found.boxes.tolist() == [[10, 5, 30, 15], [0, 0, 20, 10]]
    assert [(i.id, i.file, i.width) for i in found.images] == [
        ("x", "images/x.png", 40), ("y", "images/y.png", 40)]  # fmt: skip
    (tmp_path / "classes.txt").write_text("one\n")
    with pytest.raises(ValueError, match=r"x.txt, line 1: class 1 is none of the classes: 0 \(one"):
        read_annotations(tmp_path)
    (tmp_path / "classes.txt").unlink()
    (labels / "x.txt").write_text("1 0.5 0.5\n")
    with pytest.raises(ValueError, match=r"x\.txt, line 1: '1 0.5 0.5': expected class cx cy"):
        read_annotations(tmp_path)
    (labels / "x.txt").write_text("1 0.5 0.5 0.5 0.5 0.9\n")
    assert read_annotations(labels, like=found).score.tolist() == [0.9]
    (images / "x.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"x.png: no image that can be read"):
        read_annotations(tmp_path)
    (images / "x.png").unlink()
    with pytest.raises(ValueError, match=r"x.txt: no image of that name"):
        read_annotations(tmp_path)


def test_plain_boxes_and_what_they_lack():
    one = {"boxes": np.array([[0, 0, 2, 3]]), "labels": [1]}
    none = {"boxes": [], "labels": []}
    found = read_annotations([one, none])
    assert len(found.images) == 2
    assert found.classes == ("0", "1")
    assert found.targets()[1]["boxes"].shape == (0, 4)
    assert found.of_images([1, 0]).image.tolist() == [1]
    bad = [
        ({"boxes": [[0, 0, 1]], "labels": [0]}, "image 0: boxes of shape"),
        ({"boxes": [[0, 0, 1, 1]]}, "expected boxes and labels"),
        ({"boxes": [[0, 0, 1, 1]], "labels": [0], "area": [1, 2]}, "2 area for 1 labels"),
        ({"boxes": [[3, 0, 1, 1]], "labels": [0]}, "image 0, box 0: box .* width -2"),
        ({"boxes": [[0, 0, 1, 1]], "labels": [-1]}, "class -1"),
        (7, "expected a path, a list of"), (np.zeros((2, 3)), "shape .2, 3."),
    ]  # fmt: skip
    for given, told in bad:
        with pytest.raises(ValueError, match=told):
            read_annotations(given)
    with pytest.raises(ValueError, match="image 1: no scores"):
        read_annotations([{**one, "scores": [1]}, none])
    with pytest.raises(ValueError, match="boxes of 1 images for a data set of 2"):
        read_annotations([one], like=found)
    with pytest.raises(ValueError, match=r"score nan: a finite number"):
        read_annotations([{**one, "scores": [float("nan")]}])


def test_paths_that_say_nothing(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_annotations(tmp_path / "none.json")
    with pytest.raises(ValueError, match="neither XML files"):
        read_annotations(tmp_path)
    (tmp_path / "x.csv").write_text("")
    with pytest.raises(ValueError, match=r"expected \.json"):
        read_annotations(tmp_path / "x.csv")
    with pytest.raises(ValueError, match="format='tf'"):
        read_annotations(SET, "tf")


def test_what_is_written_is_read_again(tmp_path):
    whole = read_annotations(SET)
    again = read_annotations(write_annotations(whole, tmp_path / "a.json"))
    assert again.xywh().tolist() == whole.xywh().tolist()
    for name in ("area", "crowd", "difficult", "label", "image"):
        assert getattr(again, name).tolist() == getattr(whole, name).tolist()
    found = read_annotations(RESULTS, like=whole)
    back = read_annotations(write_annotations(found, tmp_path / "r.json"), like=whole)
    assert (back.score.tolist(), back.boxes.tolist()) == (
        found.score.tolist(),
        found.boxes.tolist(),
    )
    boxes = read_annotations(voc(tmp_path / "xml"))
    write_annotations(boxes, tmp_path / "voc", "voc")
    assert read_annotations(tmp_path / "voc").boxes.tolist() == boxes.boxes.tolist()
    write_annotations(boxes, tmp_path / "yolo", "yolo")
    yolo = read_annotations(tmp_path / "yolo", like=boxes)
    np.testing.assert_allclose(yolo.boxes, boxes.boxes, rtol=1e-12)
    with pytest.raises(ValueError, match="no place for scores"):
        write_annotations(found, tmp_path / "no", "voc")
    with pytest.raises(ValueError, match="is none of coco"):
        write_annotations(found, tmp_path / "no", "tf")


def test_real_voc_files(data_folder, tmp_path):
    archive = data_folder / "vision" / "BCCD.tar"
    if not archive.is_file():
        pytest.skip("no BCCD.tar among the real data")
    with tarfile.open(archive) as tar:
        wanted = [m for m in tar.getmembers() if m.name.endswith(".xml")][:40]
        tar.extractall(tmp_path, members=wanted, filter="data")
    found = read_annotations(tmp_path / "BCCD")
    assert found.classes == ("Platelets", "RBC", "WBC")
    assert len(found.images) == 40
    assert (found.boxes[:, 2:] > found.boxes[:, :2]).all()
