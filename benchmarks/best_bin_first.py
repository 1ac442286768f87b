"""Recall against time of approximate search, and what the automatic choice takes.

    python benchmarks/best_bin_first.py recall      # ours, brute force, FLANN, hnswlib
    python benchmarks/best_bin_first.py choice      # auto against brute force over (n, d)

`recall` needs opencv-python-headless (SIFT and FLANN) and hnswlib. The base are SIFT descriptors
of scikit-learn's two photographs and their mirror images, the queries those of the photographs
turned by 20 degrees, scaled by 0.9, darkened and with noise. One thread, CPU time, the best of
five interleaved rounds.
"""

import sys
import time

import numpy as np

K = 3


def sift(count=10_000, queries=2_000):
    """SIFT descriptors as bytes: (count, 128) and (queries, 128)."""
    import cv2
    from sklearn.datasets import load_sample_images

    detector = cv2.SIFT_create(contrastThreshold=0.0, edgeThreshold=1000)
    base, asked = [], []
    for picture in load_sample_images().images:
        for view in (picture, picture[:, ::-1].copy(), picture[::-1].copy()):
            gray = cv2.cvtColor(view, cv2.COLOR_RGB2GRAY)
            base.append(detector.detectAndCompute(gray, None)[1])
            h, w = gray.shape
            turn = cv2.getRotationMatrix2D((w / 2, h / 2), 20, 0.9)
            noise = np.random.default_rng(0).normal(0, 4, gray.shape)
            other = np.clip(cv2.warpAffine(gray, turn, (w, h)) * 0.9 + noise, 0, 255)
            asked.append(detector.detectAndCompute(other.astype(np.uint8), None)[1])
    rng = np.random.default_rng(0)
    base, asked = np.vstack(base).astype(np.uint8), np.vstack(asked).astype(np.uint8)
    return base[rng.permutation(len(base))[:count]], asked[rng.permutation(len(asked))[:queries]]


def contestants(points, x):
    """Name to a function that returns indices (m, K); all on one thread."""
    import cv2
    import hnswlib

    from paragone.neighbors._forest import Forest
    from paragone.neighbors.brute import BruteForce

    cv2.setNumThreads(1)
    floats, queries = points.astype(np.float32), x.astype(np.float32)
    made = {}
    brute = BruteForce(points)
    made["brute force"] = lambda: brute.query(x, K, workers=1)[1]
    for trees in (4, 8):
        start = time.process_time()
        forest = Forest(points, trees, workers=1)
        print(f"build: forest of {trees} trees {time.process_time() - start:.3f} s")
        for checks in (32, 64, 128, 256, 512, 1024):
            made[f"forest, {trees} trees, {checks} checks"] = lambda forest=forest, checks=checks: (
                forest.query(x, K, checks, workers=1)[1]
            )
    for trees in (4, 8):
        start = time.process_time()
        flann = cv2.flann_Index(floats, {"algorithm": 1, "trees": trees})
        print(f"build: FLANN, {trees} trees {time.process_time() - start:.3f} s")
        for checks in (32, 64, 128, 256, 512, 1024):
            made[f"FLANN, {trees} trees, {checks} checks"] = lambda flann=flann, checks=checks: (
                flann.knnSearch(queries, K, params={"checks": checks})[0]
            )
    graph = hnswlib.Index("l2", points.shape[1])
    graph.init_index(len(points), M=16, ef_construction=200)
    start = time.process_time()
    graph.add_items(floats, num_threads=1)
    print(f"build: hnswlib {time.process_time() - start:.3f} s")

    def walk(ef):
        graph.set_ef(ef)
        return graph.knn_query(queries, K, num_threads=1)[0]

    for ef in (5, 10, 20, 40, 80):
        made[f"hnswlib, ef {ef}"] = lambda ef=ef: walk(ef)
    return made


def recall():
    """Prints time and precision of every contestant."""
    points, x = sift()
    made = contestants(points, x)
    for run in made.values():
        run()
    taken = {name: [] for name in made}
    for _ in range(5):
        for name, run in made.items():
            start = time.process_time()
            run()
            taken[name].append(time.process_time() - start)
    true = made["brute force"]()
    print(f"{len(points)} points, {len(x)} queries, k = {K}")
    for name, run in made.items():
        share = np.mean([len(set(a) & set(b)) / K for a, b in zip(run(), true, strict=True)])
        print(f"{name:28} {min(taken[name]) / len(x) * 1e6:7.1f} us a query, precision {share:.3f}")


def cloud(kind, n, m, d, rng):
    """Points that vary in all d ways, or in three only."""
    if kind == "uniform":
        return rng.random((n, d)), rng.random((m, d))
    plane = rng.normal(size=(3, d))
    noise = 0.01 * rng.normal(size=(n, d))
    return rng.normal(size=(n, 3)) @ plane + noise, rng.normal(size=(m, 3)) @ plane


def choice():
    """Prints what auto takes over (n, d), and its time as a share of brute force's."""
    from paragone.neighbors import KDForest
    from paragone.neighbors.brute import BruteForce

    def cpu(run):
        start = time.process_time()
        run()
        return time.process_time() - start

    rng = np.random.default_rng(0)
    warm = rng.random((20_000, 4))
    for method in ("tree", "forest", "brute"):
        KDForest(warm, workers=1).query(warm[:200], 5, 100, method=method, workers=1)
    KDForest(warm, workers=1).query(warm, 5, workers=1)
    for kind in ("uniform", "three ways"):
        for n in (1_000, 10_000, 100_000):
            for d in (2, 4, 8, 16, 32, 128):
                points, x = cloud(kind, n, 2_000, d, rng)
                for checks in (None, 256):
                    ratios, took = [], set()
                    for _ in range(3):
                        brute = cpu(lambda: BruteForce(points).query(x, 5, workers=1))  # noqa: B023
                        index = KDForest(points, workers=1)
                        auto = cpu(lambda: index.query(x, 5, checks, workers=1))  # noqa: B023
                        ratios.append(auto / brute)
                        took.add(index.method)
                    print(
                        f"{kind:10} n={n:6} d={d:3} checks={checks!s:4} "
                        f"took {'/'.join(sorted(took)):6} "
                        f"auto / brute force {np.median(ratios):.2f}, build included"
                    )


if __name__ == "__main__":
    {"recall": recall, "choice": choice}[sys.argv[1]]()
