"""Views and augmentation: pixels, masks and boxes go the same way, by their own numbers."""

import numpy as np
import pytest

from paragone.vision import _data_augment as augment
from paragone.vision._data_augment import Augmentation, generator
from paragone.vision._data_sets import Sample
from paragone.vision._data_views import View, cover, letterbox, stretch, window

LOUD = Augmentation(mirror="horizontal", colour=0, hue=0, expand=2.0, overlap=1.0)


def scene(seed, height=61, width=83, count=3):
    """Objects in colours of their own, so that they can be found again."""
    rng = np.random.default_rng(seed)
    image = np.zeros((height, width, 3), np.uint8)
    boxes = []
    for i in range(count):
        left = 3 + i * (width // count)
        top = int(rng.integers(2, height // 2))
        right, bottom = left + int(rng.integers(8, 18)), top + int(rng.integers(8, 25))
        image[top:bottom, left:right, i] = 255
        boxes.append((left, top, right, bottom))
    boxes = np.array(boxes, float)
    labels = np.arange(count)
    return Sample(image, -1, image.argmax(2).astype(np.uint8), boxes, labels,
                  np.zeros(count, bool), "scene")  # fmt: skip


def bounds(mask):
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], float)


def furthest(pairs):
    return max(abs(box - bounds(mask)).max() for box, mask in pairs)


def seen_objects(seed, fit, how=LOUD):
    """Boxes that a view tells, and the pixels of that colour in it."""
    sample = scene(seed)
    rng = generator(0, 0, seed)
    image, boxes, labels = augment.detect_view(sample, 96, how, rng, fit)
    return [(b, image[..., k] > 127) for b, k in zip(boxes, labels, strict=True)
            if (image[..., k] > 127).any()]  # fmt: skip


@pytest.mark.parametrize("fit", ["stretch", "letterbox"])
def test_boxes_follow_the_pixels(fit, monkeypatch):
    monkeypatch.setattr(View.image, "__defaults__", ((0, 0, 0),))
    pairs = [pair for seed in range(60) for pair in seen_objects(seed, fit)]
    assert len(pairs) > 60
    assert furthest(pairs) <= 1.5

    # The same, had the boxes not been mirrored.
    monkeypatch.setattr("paragone.vision._data_views._mirrored", lambda boxes, width: boxes)
    assert furthest([pair for seed in range(60) for pair in seen_objects(seed, fit)]) > 10


@pytest.mark.parametrize("turns", range(4))
def test_turned_views_against_each_pixel(turns):
    """A view at whole numbers moves single pixels: where each lands is counted by hand."""
    source = np.arange(5 * 7, dtype=np.uint8).reshape(5, 7)
    view = View((1, 0, 7, 4), (2, 1, 8, 5), (6, 9), mirror=turns % 2 == 1, turns=turns)
    wanted = np.full((6, 9), 255, np.uint8)
    wanted[1:5, 2:8] = source[0:4, 1:7]
    wanted = wanted[:, ::-1] if turns % 2 else wanted
    wanted = np.rot90(wanted, turns)
    assert np.array_equal(view.mask(source), wanted)
    for y, x in ((0, 1), (3, 6), (2, 3)):
        box = view.boxes(np.array([[x, y, x + 1, y + 1]]))[0]
        assert np.array_equal(box, bounds(wanted == source[y, x]))


def test_back_undoes_what_boxes_did():
    rng = np.random.default_rng(0)
    boxes = rng.uniform(0, 40, (5, 4))
    for view in (stretch((50, 43), (32, 64)), letterbox((50, 43), (31, 64)),
                 window((50, 43), (-9.5, 3.2, 60.1, 20.7), (40, 17), mirror=True)):  # fmt: skip
        assert np.allclose(view.back(view.boxes(boxes)), boxes, atol=1e-9)


def test_still_views_by_hand():
    assert letterbox((20, 40), (40, 40)).target == (0, 10, 40, 30)
    assert cover((20, 40), (10, 10)).source == (10, 0, 30, 20)
    assert stretch((20, 40), (10, 10)).source == (0, 0, 40, 20)
    with pytest.raises(ValueError, match="none of stretch"):
        augment.still_view((4, 4), (2, 2), "native")
    for shape in ((1, 1), (1, 63), (64, 1), (65, 127)):
        image = np.full((*shape, 3), 7, np.uint8)
        assert letterbox(shape, (33, 32)).image(image).shape == (33, 32, 3)
        assert (cover(shape, (33, 32)).image(image) == 7).all()


def test_masks_keep_their_values_and_go_with_the_image():
    sample = scene(1)
    how = Augmentation(mirror="all", scale=(0.4, 2.0), colour=0, hue=0)
    for seed in range(20):
        image, mask = augment.segment_view(sample, 48, how, generator(1, 0, seed))
        assert set(np.unique(mask)) <= {0, 1, 2, 255}
        agree = [(image[..., k] > 200) == (mask == k) for k in (1, 2)]
        assert np.mean(agree) > 0.97
        assert (mask == 255).any() or not (image == (124, 116, 104)).all(2).any()


def test_colours_against_one_step_after_the_other():
    rng = np.random.default_rng(0)
    image = rng.uniform(0, 255, (40, 3))
    bright, contrast, saturation = 1.2, 0.7, 1.3
    weights = np.array([0.299, 0.587, 0.114])
    grey = (image @ weights).mean()
    step = saturation * image + (1 - saturation) * (image @ weights)[:, None]
    step = contrast * step + (1 - contrast) * grey
    wanted = bright * step
    matrix = augment.colour_matrix(bright, contrast, saturation, 0.0, grey)
    assert np.allclose(image @ matrix[:, :3].T + matrix[:, 3], wanted)
    third = augment.colour_matrix(1, 1, 1, 1 / 3, grey)[:, :3]
    assert np.allclose(third @ [1, 0, 0], [0, 1, 0])
    same = augment.recoloured(np.full((4, 5, 3), 90, np.uint8), 0.0, 0.0, rng)
    assert (same == 90).all()


def test_crops_overlap_as_much_as_is_drawn(monkeypatch):
    boxes = np.array([[10.0, 10, 30, 40], [50, 5, 70, 30]])
    canvas = (-20.0, -10.0, 100.0, 60.0)
    crops = {augment.crop_by_overlap(canvas, boxes, generator(0, 0, i)) for i in range(80)}
    assert len(crops) > 20
    for left, top, right, bottom in crops - {canvas}:
        assert canvas[0] <= left < right <= canvas[2]
        assert canvas[1] <= top < bottom <= canvas[3]
        assert 0.5 <= (right - left) / (bottom - top) <= 2
        middle = (boxes[:, :2] + boxes[:, 2:]) / 2
        assert ((middle > (left, top)) & (middle < (right, bottom))).all(1).any()
    assert augment.crop_by_overlap(canvas, boxes[:0], generator(0, 0, 0)) == canvas
    monkeypatch.setattr(augment, "_OVERLAPS", (0.3,))
    for i in range(20):
        crop = np.array(augment.crop_by_overlap(canvas, boxes, generator(0, 0, i)))
        inner = np.minimum(boxes[:, 2:], crop[2:]) - np.maximum(boxes[:, :2], crop[:2])
        common = inner.clip(0).prod(1)
        area = (crop[2:] - crop[:2]).prod() + (boxes[:, 2:] - boxes[:, :2]).prod(1)
        assert tuple(crop) == canvas or (common / (area - common)).max() >= 0.3


def test_expansion_holds_the_image():
    for i in range(20):
        left, top, right, bottom = augment.expanded((30, 50), 4, generator(0, 0, i))
        assert left <= 0 <= 50 <= right + 1e-9
        assert top <= 0 <= 30 <= bottom + 1e-9
        assert np.isclose((right - left) / 50, (bottom - top) / 30)
        assert 1 <= (right - left) / 50 <= 4


def test_what_is_not_trained_on_is_left_out():
    sample = scene(2)
    ignored = Sample(sample.image, -1, None, sample.boxes, sample.labels,
                     np.array([True, False, True]), "")  # fmt: skip
    how = Augmentation(mirror="none", colour=0, hue=0)
    _, boxes, labels = augment.detect_view(ignored, 83, how, generator(0, 0, 0))
    assert labels.tolist() == [1]
    assert np.allclose(boxes[:, [0, 2]], sample.boxes[1:2, [0, 2]])
    thin = Sample(sample.image, -1, None, np.array([[4.0, 4, 4.5, 30]]), np.array([0]),
                  np.zeros(1, bool), "")  # fmt: skip
    assert len(augment.detect_view(thin, 40, how, generator(0, 0, 0))[1]) == 0


def test_the_same_numbers_give_the_same_view():
    sample = scene(3)
    how = Augmentation(erase=1.0)
    first, again = (augment.classify_view(sample, 32, how, generator(1, 2, 3)) for _ in range(2))
    others = [augment.classify_view(sample, 32, how, generator(*k)) for k in
              ((1, 2, 4), (1, 3, 3), (2, 2, 3))]  # fmt: skip
    assert np.array_equal(first, again)
    assert all((first != other).any() for other in others)


def test_mirrors_are_those_that_are_asked_for():
    image = np.arange(4, dtype=np.uint8).reshape(2, 2)
    wanted = {"none": 1, "horizontal": 2, "both": 4, "all": 8}
    for how, count in wanted.items():
        seen = set()
        for i in range(60):
            mirror, turns = augment._mirrors(how, generator(0, 0, i))
            view = window((2, 2), (0, 0, 2, 2), (2, 2), mirror, turns)
            seen.add(view.mask(image).tobytes())
        assert len(seen) == count
        assert how == "all" or all(abs(int(s[0]) - int(s[1])) == 1 for s in seen)


def test_erased_rectangle_has_its_share_of_the_area():
    image = np.zeros((60, 60, 3), np.uint8)
    for i in range(20):
        gone = augment.erased(image, generator(0, 0, i)).any(2)
        left, top, right, bottom = bounds(gone)
        assert 0.01 < (right - left) * (bottom - top) / 3600 < 0.4
    assert not image.any()


@pytest.mark.parametrize(
    "options",
    [{"mirror": "vertical"}, {"scale": (0, 1)}, {"ratio": (2, 1)}, {"colour": 1.5}, {"erase": -0.1},
     {"expand": 0.5}, {"mixup": -1}],
)  # fmt: skip
def test_bad_options_are_named(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        Augmentation(**options)
