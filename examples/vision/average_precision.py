"""
One detector, three figures
===========================

Digits are written on two photographs, and a simple detector finds and reads them. The three
protocols of average precision give it three figures; the page shows where they part, what the
detector gets wrong, and whether a second one is better or was lucky.
"""

import numpy as np
from scipy import ndimage
from sklearn.datasets import load_digits, load_sample_images
from sklearn.linear_model import LogisticRegression

from paragone.vision import AveragePrecision, average_precision, compare_detectors

rng = np.random.default_rng(0)
digits = load_digits()
photographs = [image.mean(axis=2) / 255 for image in load_sample_images().images]
names = [str(k) for k in range(10)]


def scene():
    """A piece of a photograph, dimmed, with up to six digits on it, and their boxes."""
    photograph = photographs[rng.integers(2)]
    top, left = rng.integers(0, photograph.shape[0] - 160), rng.integers(0, 480)
    picture = 0.6 * photograph[top : top + 160, left : left + 160]
    boxes, labels = [], []
    for cell in rng.permutation(9)[: rng.integers(1, 7)]:
        row = rng.integers(1000, len(digits.images))
        ink = np.kron(digits.images[row] / 16, np.ones((rng.integers(3, 6),) * 2))
        y, x = 53 * (cell // 3) + rng.integers(0, 13), 53 * (cell % 3) + rng.integers(0, 13)
        place = picture[y : y + len(ink), x : x + len(ink)]
        np.maximum(place, ink[: len(place), : place.shape[1]], out=place)
        rows, columns = np.nonzero(ink[: len(place), : place.shape[1]] > 0.3)
        boxes.append([x + columns.min(), y + rows.min(), x + columns.max() + 1, y + rows.max() + 1])
        labels.append(digits.target[row])
    return picture, {"boxes": np.array(boxes, float), "labels": np.array(labels)}


# %%
# The detector takes bright spots as digits and reads each with a logistic regression. With a blur
# before the threshold, strokes that have come apart are joined again.
reader = LogisticRegression(max_iter=400, C=0.05)
reader.fit(digits.data[:1000] / 16, digits.target[:1000])


def detect(picture, blur):
    """Bright spots as boxes, read as digits, scored by the reader's certainty."""
    ink = ndimage.gaussian_filter(picture, blur) if blur else picture
    spots, count = ndimage.label(ink > 0.55)
    boxes, labels, scores = [], [], []
    for area in ndimage.find_objects(spots)[:count]:
        high, wide = (s.stop - s.start for s in area)
        if min(high, wide) < 5 or max(high, wide) > 60:
            continue
        side = max(high, wide)
        square = np.zeros((side, side))
        y, x = (side - high) // 2, (side - wide) // 2
        square[y : y + high, x : x + wide] = picture[area]
        small = ndimage.zoom(square, 8 / side, order=1, grid_mode=True, mode="nearest")
        chances = reader.predict_proba(small.reshape(1, -1))[0]
        boxes.append([area[1].start, area[0].start, area[1].stop, area[0].stop])
        labels.append(chances.argmax())
        scores.append(chances.max())
    return {"boxes": np.array(boxes, float), "labels": labels, "scores": scores}


scenes = [scene() for _ in range(120)]
true = [target for _, target in scenes]
sharp, blurred = ([detect(picture, blur) for picture, _ in scenes] for blur in (0.0, 1.0))
print(f"{len(scenes)} scenes, {sum(len(t['labels']) for t in true)} digits")

# %%
# One threshold of overlap or ten is the large difference; eleven points or the whole curve is the
# small one. A box a few pixels off is right for VOC and wrong for most of COCO's thresholds.
for protocol in ("voc2007", "voc2012", "coco"):
    result = average_precision(true, blurred, protocol, classes=names)
    print(f"{protocol}: {result.ap:.3f}")
coco = average_precision(true, blurred, classes=names)
for t in (0, 4, 8):
    kept = coco.precision[t, :, :, 0, -1]
    print(f"overlap {coco.rules.thresholds[t]:.2f}: {kept.mean():.3f}")
exact = average_precision(true, blurred, "voc2012", classes=names, iou=0.5)
curve = exact.curve("7")
print(f"of the 7s {curve.recall[-1]:.0%} are found, precision is then {curve.precision[-1]:.2f}")

# %%
# What would AP at 0.5 gain if one kind of error were mended?
for kind, error in coco.errors().items():
    print(f"{kind:<15}{error.count:>5}   {error.cost:+.3f}")
matrix = coco.confusion(score=0.0)[:-1, :-1]
off = matrix - np.diag(np.diag(matrix))
a, b = np.unravel_index(off.argmax(), off.shape)
print(f"most often a {a} is read as a {b}: {off[a, b]} times")

# %%
# Is the blur better, or were these images kind to it? Both detectors see the same images.
told = compare_detectors(
    true, sharp, blurred, resamples=500, names=("sharp", "blurred"), classes=names
)
print(told.summary())

# %%
# In a loop over batches, or on several machines, boxes are taken as they come.
parts = [AveragePrecision(classes=names) for _ in range(2)]
for start in range(0, 120, 20):
    batch = slice(start, start + 20)
    parts[start >= 60].update(true[batch], blurred[batch])
parts[0].merge(parts[1])
print(f"two shards together: {parts[0].compute().ap:.3f}, as before")
