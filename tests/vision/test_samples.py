"""Embedded images: boxes are the bounds of masks, and no pixel is in two splits."""

import numpy as np
import pytest

from paragone.vision import samples
from paragone.vision.samples import digit_images, digit_scenes


def test_boxes_are_the_bounds_of_the_masks():
    data = digit_scenes(12, 96, random_state=3, classes=(8, 1, 4))
    assert data.classes == ("8", "1", "4")
    seen = 0
    for scene in [*data.train, *data.validation]:
        covered = np.zeros(scene.mask.shape, bool)
        for box, label in zip(scene.boxes.astype(int), scene.labels, strict=True):
            left, top, right, bottom = box
            inside = scene.mask[top:bottom, left:right] == label + 1
            assert inside[[0, -1]].any(1).all()
            assert inside[:, [0, -1]].any(0).all()
            assert not covered[top:bottom, left:right].any()
            covered[top:bottom, left:right] = True
            seen += 1
        assert not scene.mask[~covered].any()
    assert seen > 20


def test_the_same_state_gives_the_same_scenes():
    first, again, other = (digit_scenes(3, 32, random_state=s) for s in (5, 5, 6))
    for a, b in zip(first.train, again.train, strict=True):
        assert np.array_equal(a.image, b.image)
        assert np.array_equal(a.boxes, b.boxes)
    assert any((a.image != c.image).any() for a, c in zip(first.train, other.train, strict=True))


def test_nothing_leaks_between_splits(monkeypatch):
    """Photographs whose pixels tell their column, and digits whose ink tells nothing."""
    columns = np.broadcast_to((np.arange(640) * 255 // 639).astype(np.uint8)[None, :, None],
                              (427, 640, 3))  # fmt: skip
    monkeypatch.setattr(samples, "_photographs", lambda: [columns, columns])
    data = digit_scenes(60, 32, validation=0.3, test=0.2, digits=(0, 0))
    values = [np.concatenate([s.image.ravel() for s in split])
              for split in (data.train, data.validation, data.test)]  # fmt: skip
    assert values[0].max() <= values[1].min()
    assert values[1].max() <= values[2].min()


def test_no_digit_is_in_two_splits(monkeypatch):
    used: list[bytes] = []
    plain, scene = samples._enlarged, samples._scene
    by_rows: dict[tuple, set[bytes]] = {}

    def watch(digit, size):
        used.append(digit.tobytes())
        return plain(digit, size)

    def tell(size, rows, *rest):
        used.clear()
        made = scene(size, rows, *rest)
        by_rows.setdefault(tuple(rows), set()).update(used)
        return made

    monkeypatch.setattr(samples, "_enlarged", watch)
    monkeypatch.setattr(samples, "_scene", tell)
    digit_scenes(60, 32, validation=0.5)
    (a, first), (b, second) = by_rows.items()
    assert not set(a) & set(b)
    assert min(len(first), len(second)) > 50
    assert not first & second


def test_digit_images_keep_every_class_in_every_split():
    data = digit_images(16, validation=0.2, test=0.2)
    names = [set(split.names) for split in (data.train, data.validation, data.test)]
    assert sum(map(len, names)) == len(set.union(*names)) == 1797
    for split in (data.train, data.validation, data.test):
        share = np.bincount(split.labels, minlength=10) / len(split)
        assert abs(share - 0.1).max() < 0.01


def test_scenes_for_segments():
    data = digit_scenes(4, 32, classes=(2, 3)).for_task("segment")
    assert data.classes == ("background", "2", "3")
    with pytest.raises(ValueError, match="no labels"):
        data.for_task("classify")


@pytest.mark.parametrize(
    ("options", "message"),
    [({"n": 0}, "n=0"), ({"size": 8}, "size=8"), ({"classes": (1, 1)}, "different digits"),
     ({"classes": (11,)}, "0 to 9"), ({"validation": 1.0}, "some to train"),
     ({"validation": 0.01, "n": 100}, "larger shares"), ({"scale": (0, 1)}, "sides")],
)  # fmt: skip
def test_bad_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        digit_scenes(**{"n": 2, "size": 32, **options})
