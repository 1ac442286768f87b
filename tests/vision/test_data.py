"""Reading data sets: every layout, every kind of picture, and what is wrong is told."""

import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from paragone.vision._data_files import BrokenImageError, decode_image, decode_mask
from paragone.vision._data_sets import split_rows
from paragone.vision.annotations import Annotations, write_annotations
from paragone.vision.annotations import Image as Record
from paragone.vision.data import read_images


def encoded(array, kind="PNG", **options):
    data = io.BytesIO()
    image = array if isinstance(array, Image.Image) else Image.fromarray(array)
    image.save(data, kind, **options)
    return data.getvalue()


def picture(seed, height=12, width=16):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def write(folder, files):
    for name, data in files.items():
        path = Path(folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return Path(folder)


def archive(folder, path):
    files = [f for f in sorted(folder.rglob("*")) if f.is_file()]
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as packed:
            for file in files:
                packed.write(file, file.relative_to(folder))
    else:
        with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as packed:
            for file in files:
                packed.add(file, file.relative_to(folder))
    return path


@pytest.fixture
def classes(tmp_path):
    files = {f"all/{c}/{i}.png": encoded(picture(10 * c + i)) for c in (2, 10) for i in range(10)}
    return write(tmp_path / "set", files)


def test_class_folders_zip_and_tar_are_the_same(classes, tmp_path):
    data = read_images(classes)
    assert (data.task, data.classes) == ("classify", ("2", "10"))
    assert (len(data.train), len(data.validation), data.test) == (16, 4, None)
    assert not set(data.train.names) & set(data.validation.names)
    assert np.bincount(data.validation.labels).tolist() == [2, 2]
    for sample in data.train:
        c, i = sample.name.split("/")[1:]
        assert sample.label == (c == "10")
        assert np.array_equal(sample.image, picture(10 * int(c) + int(i[0])))
    for name in ("a.zip", "a.tar", "a.tar.gz"):
        packed = read_images(archive(classes, tmp_path / name))
        assert packed.fingerprint() == data.fingerprint()
        assert np.array_equal(packed.train[3].image, data.train[3].image)
    lean = read_images(classes, cache=0)
    assert np.array_equal(lean.train[3].image, data.train[3].image)
    other = read_images(classes, random_state=1, test=0.2, classes=("two", "ten"))
    assert (len(other.test), other.classes) == (4, ("two", "ten"))
    assert other.fingerprint() != data.fingerprint()


def test_splits_that_are_there_are_kept(tmp_path):
    files = {f"{s}/{c}/{i}.png": encoded(picture(i))
             for s, n in (("train", 4), ("val", 2), ("Testing", 1))
             for c in "ab" for i in range(n)}  # fmt: skip
    files["val/c/0.png"] = encoded(picture(0))
    files["train/readme.txt"] = b"no picture"
    folder = write(tmp_path, files)
    data = read_images(folder)
    assert (len(data.train), len(data.validation), len(data.test)) == (8, 4, 2)
    assert data.skipped == {"class without training images": 1}
    assert "val/c/0.png" in data.problems[0]
    swapped = read_images(folder, validate_on="test")
    assert (len(swapped.train), len(swapped.validation), swapped.test) == (12, 2, None)


def test_what_is_broken_is_counted_and_named(classes):
    whole = encoded(picture(0))
    write(classes, {"all/2/cut.png": whole[: len(whole) // 2], "all/2/text.jpg": b"hello",
                    "all/10/empty.png": b"", "all/lone.png": whole,
                    "all/2/.hidden.png": b""})  # fmt: skip
    data = read_images(classes)
    assert data.skipped == {"broken image": 3, "outside of a class folder": 1}
    text = "\n".join(data.problems)
    for name in ("cut.png", "text.jpg", "empty.png", "lone.png"):
        assert name in text
    assert "found 5 bytes" in text
    assert "expected a picture" in text
    assert len(data.train) + len(data.validation) == 20
    with pytest.raises(ValueError, match=r"lone\.png: expected CLASS"):
        read_images(classes, strict=True)


@pytest.mark.parametrize(
    ("files", "options", "message"),
    [({}, {}, "found nothing at all"), ({"notes.txt": b""}, {}, r"found notes\.txt"),
     ({"a/1.png": 0, "a/2.png": 0}, {}, "one class, 'a'"),
     ({"x/a/1.png": 0, "x/2.png": 0}, {}, "at least two classes"),
     ({"a/1.png": 0, "b/1.png": 0}, {"task": "segment"}, "images/NAME and masks/NAME"),
     ({"a/1.png": 0, "b/1.png": 0}, {"task": "detect"}, "expected annotations"),
     ({"a/1.png": 0, "b/1.png": 0}, {"task": "guess"}, "none of 'classify'"),
     ({"a/1.png": 0, "b/1.png": 0}, {"validation": 1.0}, "some to train"),
     ({"a/1.png": 0, "b/1.png": 0}, {"classes": ("x",)}, "1 names for 2 classes"),
     ({"a/1.png": b"", "b/1.png": b""}, {}, "every picture was left out")],
)  # fmt: skip
def test_nothing_to_train_on_is_an_error(tmp_path, files, options, message):
    folder = write(tmp_path, {n: encoded(picture(1)) if d == 0 else d for n, d in files.items()})
    with pytest.raises(ValueError, match=message):
        read_images(folder, **options)


def test_no_folder_and_no_archive(tmp_path):
    with pytest.raises(ValueError, match="no such file or folder"):
        read_images(tmp_path / "none")
    file = write(tmp_path, {"a.bin": b"abc"}) / "a.bin"
    with pytest.raises(ValueError, match="a folder, a zip or a tar"):
        read_images(file)


def test_every_kind_of_picture_becomes_rgb():
    grey = np.array([[0, 100, 255]], np.uint8)
    rgb = np.repeat(grey[:, :, None], 3, 2)
    assert np.array_equal(decode_image(encoded(grey)), rgb)
    assert np.array_equal(decode_image(encoded(grey.astype(np.uint16) * 257)), rgb)
    half = decode_image(encoded(np.array([[0, 32768, 65535]], np.uint16)))
    assert half[0, :, 0].tolist() == [0, 128, 255]
    assert np.array_equal(decode_image(encoded(Image.fromarray(grey).convert("P"))), rgb)
    assert decode_image(encoded(Image.fromarray(grey > 50)))[0, :, 0].tolist() == [0, 255, 255]
    clear = np.array([[[10, 20, 30, 0], [10, 20, 30, 255], [0, 0, 0, 128]]], np.uint8)
    assert decode_image(encoded(clear))[0].tolist() == [[255] * 3, [10, 20, 30], [127] * 3]
    cmyk = Image.fromarray(np.full((8, 8, 3), 200, np.uint8)).convert("CMYK")
    assert abs(decode_image(encoded(cmyk, "JPEG")).astype(int) - 200).max() < 3
    floats = encoded(Image.fromarray(np.zeros((2, 2), np.float32)), "TIFF")
    with pytest.raises(BrokenImageError, match="whole numbers, found floats"):
        decode_image(floats)
    pages = [Image.fromarray(grey)] * 2
    stack = encoded(pages[0], "TIFF", save_all=True, append_images=pages[1:])
    with pytest.raises(BrokenImageError, match="one picture, found 2 pages"):
        decode_image(stack)


def test_a_camera_held_upright_is_turned():
    stored = np.zeros((4, 6, 3), np.uint8)
    stored[0, :, 0] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(stored, exif=exif)
    upright = decode_image(data)
    assert upright.shape == (6, 4, 3)
    assert upright[:, -1, 0].all()
    # Boxes of the stored picture say its size: then it stays as it is.
    assert decode_image(data, size=(4, 6)).shape == (4, 6, 3)
    assert decode_image(data, size=(6, 4)).shape == (6, 4, 3)
    with pytest.raises(BrokenImageError, match="expected 9 x 9 pixels, found 4 x 6"):
        decode_image(data, size=(9, 9))


def test_masks(tmp_path):
    values = np.array([[0, 1, 2, 255]], np.uint8)
    assert np.array_equal(decode_mask(encoded(values)), values)
    palette = Image.fromarray(values, "L").convert("L")
    palette.putpalette(list(range(256)) * 3)
    assert np.array_equal(decode_mask(encoded(palette)), values)
    assert np.array_equal(decode_mask(encoded(np.repeat(values[:, :, None], 3, 2))), values)
    with pytest.raises(BrokenImageError, match="found colours"):
        decode_mask(encoded(picture(0)))


def test_images_with_masks(tmp_path):
    files = {}
    for i in range(6):
        files[f"data/train/images/{i}.jpg"] = encoded(picture(i), "JPEG")
        files[f"data/train/masks/{i}_mask.png"] = encoded(
            (np.random.default_rng(i).random((12, 16)) > 0.5).astype(np.uint8) * 255
        )
    files["data/train/images/6.jpg"] = encoded(picture(6), "JPEG")
    files["data/train/masks/7_mask.png"] = encoded(np.zeros((12, 16), np.uint8))
    files["data/train/masks/5_mask.png"] = encoded(np.zeros((5, 16), np.uint8))
    data = read_images(write(tmp_path / "set", files), validation=0.2)
    assert (data.task, data.classes) == ("segment", ("background", "foreground"))
    assert data.skipped == {
        "image without mask": 1, "mask without image": 1, "mask of another size": 1
    }  # fmt: skip
    assert len(data.train) + len(data.validation) == 5
    assert set(np.unique(data.train[0].mask)) == {0, 1}
    assert "expected 16 x 12 pixels as its image, found 16 x 5" in "\n".join(data.problems)


@pytest.mark.parametrize(
    ("values", "classes", "numbers"),
    [([0, 1, 3, 255], 4, [0, 1, 3, 255]), ([0, 100, 200], 3, [0, 1, 2]), ([7, 255], 2, [0, 1])],
)
def test_values_of_masks_become_classes(tmp_path, values, classes, numbers):
    mask = np.array([values] * 4, np.uint8)
    files = {f"images/{i}.png": encoded(np.zeros((*mask.shape, 3), np.uint8)) for i in range(3)}
    files |= {f"masks/{i}.png": encoded(mask) for i in range(3)}
    data = read_images(write(tmp_path, files))
    assert len(data.classes) == classes
    assert data.train[0].mask[0].tolist() == numbers
    if classes == 4:
        with pytest.raises(ValueError, match="2 names for masks of 3 values"):
            read_images(tmp_path, classes=("a", "b"))


def test_pictures_are_no_masks(tmp_path):
    ramp = np.arange(200, dtype=np.uint8)[None].repeat(3, 0)
    files = {"images/0.png": encoded(np.zeros((3, 200, 3), np.uint8)), "masks/0.png": encoded(ramp)}
    with pytest.raises(ValueError, match="2 to 64 classes, found 200 values"):
        read_images(write(tmp_path, files))


def boxed(folder):
    """Eight pictures with boxes, the last of them difficult, as COCO, VOC and YOLO."""
    rng = np.random.default_rng(0)
    lower = rng.integers(0, 8, (8, 2))
    boxes = np.concatenate([lower, lower + rng.integers(2, 5, (8, 2))], 1).astype(float)
    images = tuple(Record(i + 1, f"{i}.png", 12, 16) for i in range(8))
    truth = Annotations(
        images, ("cat", "dog"), (1, 2), image=np.arange(8), label=np.arange(8) % 2, boxes=boxes,
        difficult=np.arange(8) == 7, crowd=np.zeros(8, bool),
        area=(boxes[:, 2:] - boxes[:, :2]).prod(1),
    )  # fmt: skip
    pictures = {f"{i}.png": encoded(picture(i)) for i in range(8)}
    coco = write(folder / "coco", {f"images/{n}": d for n, d in pictures.items()})
    write_annotations(truth, coco / "instances.json", "coco")
    voc = write(folder / "voc", {f"JPEGImages/{n}": d for n, d in pictures.items()})
    write_annotations(truth, voc / "Annotations", "voc")
    lists = {"train": range(5), "val": (5, 6), "test": (7,)}
    named = {p.stem for p in (voc / "Annotations").glob("*.xml")}
    start = 0 if "0" in named else 1
    write(voc, {f"ImageSets/Main/{k}.txt": "\n".join(str(i + start) for i in v).encode()
                for k, v in lists.items()})  # fmt: skip
    yolo = write(folder / "yolo", {f"images/{n}": d for n, d in pictures.items()})
    write_annotations(truth, yolo / "labels", "yolo")
    return boxes, coco, voc, yolo


def test_boxes_of_coco_voc_and_yolo(tmp_path):
    boxes, coco, voc, yolo = boxed(tmp_path)
    packed = archive(voc, tmp_path / "voc.tar")
    flat = archive(yolo, tmp_path / "yolo.zip")
    for path in (coco, coco / "instances.json", voc, packed, yolo, flat):
        data = read_images(path)
        assert (data.task, data.classes) == ("detect", ("cat", "dog")), path
        found = 0
        for split in filter(None, (data.train, data.validation, data.test)):
            assert len(split.truth.images) == len(split)
            for row, sample in enumerate(split):
                i = int(Path(sample.name).stem)
                assert np.allclose(sample.boxes, boxes[[i]], atol=1e-4), path
                assert sample.labels.tolist() == [i % 2]
                assert np.array_equal(sample.image, picture(i))
                assert np.allclose(split.truth.boxes[split.truth.image == row], sample.boxes)
                if path in (voc, packed):
                    assert sample.ignored.tolist() == [i == 7]
                found += 1
        assert found == 8
    data = read_images(voc)
    assert [len(s) for s in (data.train, data.validation, data.test)] == [5, 2, 1]
    assert len(read_images(voc, validate_on="test").train) == 7


def test_pictures_and_records_that_do_not_meet(tmp_path):
    _, coco, voc, _ = boxed(tmp_path)
    (coco / "images/3.png").unlink()
    write(coco, {"images/extra.png": encoded(picture(3)),
                 "images/4.png": encoded(picture(4, 20, 20))})  # fmt: skip
    data = read_images(coco)
    assert data.skipped == {
        "annotated image missing": 1, "image without annotations": 1, "broken image": 1
    }  # fmt: skip
    text = "\n".join(data.problems)
    assert "3.png: expected this picture" in text
    assert "expected 16 x 12 pixels, found 20 x 20" in text
    for file in (voc / "Annotations").glob("*.xml"):
        file.write_text("<annotation>")
    with pytest.raises(ValueError, match="annotations name no picture"):
        read_images(voc)


def test_rows_are_split_by_class():
    labels = np.repeat([0, 1, 2], [50, 10, 1])
    parts = split_rows(labels, [0.6, 0.2, 0.2], np.random.default_rng(0))
    assert sorted(np.concatenate(parts)) == list(range(61))
    assert [np.bincount(labels[p], minlength=3).tolist() for p in parts] == [
        [30, 6, 1], [10, 2, 0], [10, 2, 0]
    ]  # fmt: skip


def test_blood_cells(data_folder):
    file = data_folder / "vision" / "BCCD.tar"
    if not file.exists():
        pytest.skip("no BCCD.tar")
    data = read_images(file, validate_on="test", cache=0)
    assert (len(data.train), len(data.validation)) == (292, 72)
    assert data.classes == ("Platelets", "RBC", "WBC")
    assert not set(data.train.names) & set(data.validation.names)
    assert sum(len(b) for b in data.train.boxes) + len(data.validation.truth) > 4800
