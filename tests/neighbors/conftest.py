"""Real descriptors: gradient histograms of photographs that ship with scikit-learn, as Lowe's.

Around each point a 4 x 4 grid of cells, 8 orientations a cell, weighed by gradient length; scaled
to unit length, clipped at 0.2, scaled again, times 512, in bytes (Lowe 2004, section 6).
"""

import numpy as np
import pytest
from scipy import ndimage
from sklearn.datasets import load_sample_images


def orientation_maps(gray, cell):
    """Gradient length by orientation, averaged over a cell around each pixel: (8, h, w)."""
    smooth = ndimage.gaussian_filter(gray, cell / 4)
    dy, dx = np.gradient(smooth)
    length, angle = np.hypot(dy, dx), np.mod(np.arctan2(dy, dx) / (np.pi / 4), 8.0)
    maps = []
    for bin_ in range(8):
        gap = np.abs(angle - bin_)
        share = np.maximum(0.0, 1.0 - np.minimum(gap, 8.0 - gap))
        maps.append(ndimage.uniform_filter(length * share, cell))
    return np.stack(maps)


def descriptors(gray, count, cell=4):
    """The `count` most textured places of a picture: descriptors (count, 128) uint8, places."""
    maps = orientation_maps(gray, cell)
    energy = ndimage.uniform_filter(maps.sum(axis=0), 4 * cell)
    edge = 2 * cell + 1
    rows, columns = np.mgrid[edge : gray.shape[0] - edge : 3, edge : gray.shape[1] - edge : 3]
    places = np.stack([rows.ravel(), columns.ravel()], axis=1)
    strongest = np.argsort(-energy[places[:, 0], places[:, 1]], kind="stable")[:count]
    places = places[strongest]
    steps = (np.arange(4) - 1.5) * cell
    dy, dx = (grid.ravel() for grid in np.meshgrid(steps, steps, indexing="ij"))
    y = np.round(places[:, :1] + dy).astype(int)
    x = np.round(places[:, 1:] + dx).astype(int)
    found = maps[:, y, x].transpose(1, 2, 0).reshape(len(places), 128)
    for limit in (0.2, np.inf):
        found /= np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-9)
        found = np.minimum(found, limit)
    return np.minimum(found * 512.0, 255.0).astype(np.uint8), places


@pytest.fixture(scope="session")
def photographs():
    """Two photographs in grey, (427, 640) each."""
    return [image.mean(axis=2) for image in load_sample_images().images]


@pytest.fixture(scope="session")
def sift_like(photographs):
    """9,000 descriptors of two photographs, and 500 of the same, noisy and a little turned."""
    rng = np.random.default_rng(0)
    base, queries = [], []
    for gray in photographs:
        for cell in (4, 5):
            base.append(descriptors(gray, 2250, cell)[0])
        turned = ndimage.rotate(gray, 5.0, reshape=False, mode="reflect")
        queries.append(descriptors(turned + rng.normal(0, 3, gray.shape), 2000)[0][::8])
    return np.concatenate(base), np.concatenate(queries)
