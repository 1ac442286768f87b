"""Detection in use: boxes come back to the image's own pixels, are drawn and written."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from paragone.vision import detection
from paragone.vision._data_augment import Augmentation
from paragone.vision._data_sets import ImageData, ImageSet
from paragone.vision._training_use import Inputs, evaluate
from paragone.vision.annotations import read_annotations
from paragone.vision.average_precision import average_precision
from paragone.vision.detection import detect, draw_boxes
from paragone.vision.training import load_model, train


class Bounds(nn.Module):
    """Finds what is red, and what is blue: a detector that is right by construction."""

    num_classes = 2

    def forward(self, images, targets=None):
        found = []
        for image in images:
            boxes, labels = [], []
            for label, channel in enumerate((0, 2)):
                seen = (image[channel] > 0.5) & (image[1] < 0.3)
                rows, columns = seen.any(1).nonzero()[:, 0], seen.any(0).nonzero()[:, 0]
                if len(rows):
                    boxes.append([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
                    labels.append(label)
            scores = torch.linspace(0.9, 0.6, len(boxes)) if boxes else torch.zeros(0)
            places = torch.tensor(boxes).reshape(-1, 4).float()
            kinds = torch.tensor(labels, dtype=torch.int64)
            found.append({"boxes": places, "labels": kinds, "scores": scores})
        return found


def scene(height, width, red=(4, 8, 20, 30), blue=(30, 2, 44, 12)):
    image = np.full((height, width, 3), 128, np.uint8)
    for (left, top, right, bottom), colour in ((red, (255, 0, 0)), (blue, (0, 0, 255))):
        image[top:bottom, left:right] = colour
    return image


@pytest.mark.parametrize("fit", ["stretch", "letterbox"])
@pytest.mark.parametrize("shape", [(40, 50), (97, 61), (64, 64)])
def test_boxes_come_back_to_the_image(shape, fit):
    found = detect(Bounds().eval(), [scene(*shape)], size=128, fit=fit, classes=("red", "blue"))
    assert found[0]["size"] == shape
    assert found[0]["labels"].tolist() == [0, 1]
    assert abs(found[0]["boxes"] - [[4, 8, 20, 30], [30, 2, 44, 12]]).max() < 1.1
    boxes = found[0]["boxes"]
    assert (boxes >= 0).all()
    assert (boxes <= [shape[1], shape[0]] * 2).all()


def test_pictures_and_results_are_written(tmp_path):
    pictures = tmp_path / "in"
    (pictures / "more").mkdir(parents=True)
    for name in ("a.png", "more/a.png", "b.jpg"):
        Image.fromarray(scene(48, 64)).save(pictures / name, quality=95)
    (pictures / "bad.png").write_bytes(b"no")
    Image.fromarray(np.full((20, 30), 128, np.uint8)).save(pictures / "empty.png")
    ticks = []
    found = detect(Bounds().eval(), pictures, tmp_path / "out", size=64, classes=("red", "blue"),
                   progress=lambda done, total: ticks.append((done, total)), batch=2)  # fmt: skip
    assert [one["name"] for one in found] == ["a.png", "b.jpg", "empty.png", "more/a.png"]
    assert ticks[-1] == (5, 5)
    assert len(found.skipped) == 1
    assert "bad.png: expected a picture" in found.skipped[0]
    written = sorted(p.name for p in (tmp_path / "out").iterdir())
    assert written == ["a.png", "b.png", "detections.json", "empty.png", "more-a.png"]
    with Image.open(tmp_path / "out/a.png") as drawn:
        assert drawn.size == (64, 48)
    results = json.loads((tmp_path / "out/detections.json").read_text())
    assert len(results) == 6
    assert results[0]["image_id"] == "a.png"
    assert set(results[0]) == {"image_id", "category_id", "bbox", "score"}

    truth = {"images": [{"id": 7, "file_name": "a.png", "width": 64, "height": 48}],
             "categories": [{"id": 3, "name": "blue"}, {"id": 9, "name": "red"}],
             "annotations": [{"id": i, "image_id": 7, "category_id": c, "bbox": b, "iscrowd": 0,
                              "area": b[2] * b[3]} for i, c, b in
                             ((1, 9, [4, 8, 16, 22]), (2, 3, [30, 2, 14, 10]))]}  # fmt: skip
    (tmp_path / "gt.json").write_text(json.dumps(truth))
    like = read_annotations(tmp_path / "gt.json")
    one = detect(Bounds().eval(), pictures / "a.png", tmp_path / "one", size=64, like=like,
                 classes=("red", "blue"))  # fmt: skip
    assert {r["category_id"] for r in one.results(like)} == {9, 3}
    stats = average_precision(tmp_path / "gt.json", tmp_path / "one/detections.json").stats
    assert stats[1] == pytest.approx(1.0)
    with pytest.raises(ValueError, match="no image of that name"):
        found.results(like)


def test_drawing_leaves_the_rest_alone():
    image = np.full((60, 80, 3), 100, np.uint8)
    drawn = draw_boxes(image, np.array([[10.0, 20, 40, 50]]), np.array([3]), np.array([0.5]))
    assert (image == 100).all()
    changed = (drawn != 100).any(2)
    assert changed[20:50, 10].all()
    assert changed[49, 10:40].all()
    assert not changed[22:48, 12:38].any()
    assert not changed[51:].any()
    assert (draw_boxes(image, np.zeros((0, 4)), np.zeros(0, int)) == 100).all()
    tiny = draw_boxes(image[:3, :2], np.array([[0, 0, 2, 3.0]]), np.array([0]), None, ("x",))
    assert tiny.shape == (3, 2, 3)


def test_what_is_no_detector_or_no_picture(tmp_path):
    with pytest.raises(ValueError, match="is no model"):
        detect(3, [scene(48, 48)])
    with pytest.raises(ValueError, match="folder of a run"):
        detect(tmp_path, [scene(48, 48)])
    with pytest.raises(ValueError, match="no images"):
        detect(Bounds(), [])
    with pytest.raises(ValueError, match="expected pictures"):
        detect(Bounds(), tmp_path)
    with pytest.raises(ValueError, match="threshold=2"):
        detect(Bounds(), [scene(48, 48)], threshold=2)
    (tmp_path / "a.png").write_bytes(b"x")
    with pytest.raises(ValueError, match="no picture could be read"):
        detect(Bounds(), tmp_path)


def squares(count, seed):
    rng = np.random.default_rng(seed)
    images, boxes = [], []
    for _ in range(count):
        left, top = rng.integers(0, 40, 2)
        images.append(scene(64, 64, (left, top, left + 20, top + 20), (0, 0, 0, 0)))
        boxes.append(np.array([[left, top, left + 20, top + 20]], float))
    return ImageSet(images, [f"{seed}-{i}" for i in range(count)], boxes=boxes,
                    box_labels=[np.zeros(1, np.int64)] * count)  # fmt: skip


def test_a_right_detector_has_full_precision():
    data = squares(6, 0)
    inputs = Inputs("detect", 64, "stretch")
    figures = evaluate(Bounds(), data, ("red", "blue"), inputs)
    assert figures["ap"] == pytest.approx(1.0)
    data.boxes = [b + 40 for b in data.boxes]
    assert evaluate(Bounds(), data, ("red", "blue"), inputs)["ap50"] < 0.2


def test_training_a_detector(tmp_path):
    data = ImageData("detect", ("red",), squares(4, 1), squares(2, 2))
    done = train("detect", data, "thundernet_snet49", size=64, batch=2, epochs=1, out=tmp_path,
                 augmentation=Augmentation(expand=2.0, overlap=1.0), multi_scale=(64, 96),
                 model_options={"scales": (16, 32)})  # fmt: skip
    assert set(done.metrics) == {"epoch", "ap", "ap50", "ap75"}
    model = load_model(tmp_path)
    image = data.validation[0].image
    with torch.no_grad():
        one, again = (m.predict([image])[0] for m in (model, done.model))
    assert np.array_equal(one["boxes"], again["boxes"])
    assert isinstance(detect(tmp_path, [image]), detection.Detections)
    classifier = load_model(tmp_path)
    classifier.task = "classify"
    with pytest.raises(ValueError, match="trained to classify"):
        detect(classifier, [image])
