"""
Matching two views of a photograph
==================================

Where is this corner of the roof in the other picture? Describe small patches of both by their
gradients, find for each the nearest description in the other picture, and keep the pairs that are
clearly the nearest. Since one view is the other one turned by hand, we know which pairs are right.
"""

import numpy as np
from scipy import ndimage
from sklearn.datasets import load_sample_image

from paragone.neighbors import KDForest, match


def describe(gray, count=3000, cell=4):
    """Histograms of 8 gradient directions on 4 x 4 cells: (count, 128) bytes, and their places."""
    dy, dx = np.gradient(ndimage.gaussian_filter(gray, 1.0))
    length, angle = np.hypot(dy, dx), np.mod(np.arctan2(dy, dx) / (np.pi / 4), 8.0)
    gaps = [np.abs(angle - b) for b in range(8)]
    shares = [length * np.maximum(0.0, 1.0 - np.minimum(gap, 8.0 - gap)) for gap in gaps]
    maps = np.stack([ndimage.uniform_filter(share, cell) for share in shares])
    texture = ndimage.uniform_filter(maps.sum(axis=0), 4 * cell)
    rows, columns = np.mgrid[12 : gray.shape[0] - 12 : 3, 12 : gray.shape[1] - 12 : 3]
    places = np.stack([rows.ravel(), columns.ravel()], axis=1)
    places = places[np.argsort(-texture[places[:, 0], places[:, 1]])[:count]]
    grid = (np.arange(4) * cell - 1.5 * cell).astype(int)
    y = places[:, 0, None, None] + grid[:, None]
    x = places[:, 1, None, None] + grid
    found = maps[:, y, x].transpose(1, 2, 3, 0).reshape(count, 128)
    for limit in (0.2, np.inf):  # no single gradient may dominate
        found /= np.linalg.norm(found, axis=1, keepdims=True)
        found = np.minimum(found, limit)
    return np.minimum(found * 512, 255).astype(np.uint8), places


photo = load_sample_image("china.jpg").mean(axis=2)
turned = ndimage.rotate(photo, 8.0, reshape=False, mode="reflect")
turned += np.random.default_rng(0).normal(0, 4, photo.shape)
(a, at_a), (b, at_b) = describe(photo), describe(turned)
print(f"{len(a)} and {len(b)} descriptors of {a.shape[1]} bytes")


def share_right(pairs):
    """How many pairs lie within 4 pixels of where the rotation puts them."""
    c, s = np.cos(np.deg2rad(8.0)), np.sin(np.deg2rad(8.0))
    middle = (np.array(photo.shape) - 1) / 2
    moved = (at_a[pairs[:, 0]] - middle) @ np.array([[c, s], [-s, c]]) + middle
    return np.mean(np.linalg.norm(moved - at_b[pairs[:, 1]], axis=1) < 4.0)


# %%
# The nearest descriptor alone is often wrong: many points of one picture are not among those of
# the other. Each test throws out more of the wrong pairs.
for title, options in (
    ("nearest", {"ratio": None, "cross_check": False}),
    ("and nearest in return", {"ratio": None}),
    ("and clearly nearest, 0.9", {"ratio": 0.9}),
    ("and clearly nearest, 0.8", {"ratio": 0.8}),
):
    pairs, distances = match(a, b, **options)
    print(f"{title:26} {len(pairs):5} pairs, {share_right(pairs):6.1%} right")

# %%
# The search behind it. In 128 dimensions a tree cannot exclude anything, so an exact search
# computes all distances; best-bin-first looks at a few hundred descriptors and misses some.
exact = KDForest(a)
_, true = exact.query(b, k=3, checks=None)
print(exact.explain())
forest = KDForest(a)
for checks in (32, 128, 512):
    _, found = forest.query(b, k=3, checks=checks, method="forest")
    share = np.mean([len(set(f) & set(t)) / 3 for f, t in zip(found, true, strict=True)])
    print(f"checks={checks:4}: finds {share:.1%} of the three nearest")

# %%
# How near is right? Distances of right pairs and of wrong ones overlap, which is why the ratio
# to the second nearest decides better than any fixed distance.
pairs, distances = match(a, b, ratio=None, cross_check=False)
right = np.array([share_right(pair[None]) for pair in pairs]) > 0
for title, mask in (("right", right), ("wrong", ~right)):
    low, middle, high = np.quantile(distances[mask], [0.1, 0.5, 0.9])
    print(f"{title} pairs: distance {low:.0f} to {high:.0f}, median {middle:.0f}")
