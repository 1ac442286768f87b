"""
Outliers and normals of a cloud of points
=========================================

A photograph as points in space (column, row, brightness), with a few stray points thrown in. Stray
points have far neighbours; the plane through a point's neighbours gives its normal. Both are
questions to a k-d tree.
"""

import numpy as np
from sklearn.datasets import load_sample_image

from paragone.neighbors import KDTree

gray = load_sample_image("flower.jpg").mean(axis=2)[::2, ::2]
rows, columns = np.mgrid[: gray.shape[0], : gray.shape[1]]
surface = np.stack([columns.ravel(), rows.ravel(), gray.ravel() / 4], axis=1)
rng = np.random.default_rng(0)
strays = rng.uniform(surface.min(axis=0), surface.max(axis=0), (400, 3))
points = np.concatenate([surface, strays])
stray = np.arange(len(points)) >= len(surface)
print(f"{len(surface)} points of a surface and {len(strays)} stray ones")

# %%
# The distance to the sixth neighbour is about the same all over the surface, and larger off it.
tree = KDTree(points)
distances, neighbours = tree.query(points, k=7)  # the first neighbour is the point itself
far = distances[:, -1]
limit = np.quantile(far, 0.985)
caught, false = np.mean(far[stray] > limit), np.mean(far[~stray] > limit)
print(f"sixth neighbour: median {np.median(far):.2f}, strays {np.median(far[stray]):.2f}")
print(f"a limit of {limit:.2f} catches {caught:.0%} of the strays and {false:.1%} of the surface")

# %%
# Without those, the neighbours of a point lie near a plane; its normal is the direction in which
# they vary least. Flat parts look up, edges of petals look sideways.
clean = points[far <= limit]
_, around = KDTree(clean).query(clean, k=12)
patch = clean[around] - clean[around].mean(axis=1, keepdims=True)
variances, directions = np.linalg.eigh(np.einsum("nki,nkj->nij", patch, patch))
slope = np.degrees(np.arccos(np.abs(directions[:, 2, 0]).clip(0, 1)))
flat, steep = np.mean(slope < 15), np.mean(slope > 60)
print(f"{flat:.0%} of the points are flat, {steep:.0%} are steep")
print(
    f"neighbours leave their plane by {np.sqrt(np.median(variances[:, 0]) / 12):.2f} on the median"
)

# %%
# How crowded is it? Counting within a radius needs no list of neighbours.
for radius in (1.5, 3.0, 6.0):
    counts = KDTree(clean).count(clean[::50], radius)
    print(f"within {radius}: {np.median(counts):.0f} points on the median, {counts.max()} at most")
