"""Resampling by weights is evaluating copies; intervals and the test behave on known cases."""

import numpy as np
import pytest

from paragone.vision import average_precision, compare_detectors
from paragone.vision.paired_precision import weighted_precision

OPTIONS = {"coco": {}, "voc2007": {}, "voc2012": {"iou_thresholds": (0.5, 0.7)},
           "recalls": {"recall_thresholds": (0.0, 0.29, 0.3, 0.9)}}  # fmt: skip


def boxes(seed, images=12, noise=2.0, ids=None):
    rng = np.random.default_rng(seed)
    true, found = [], []
    for _ in range(images):
        n, m = rng.integers(0, 5), rng.integers(0, 4)
        corner = rng.uniform(0, 80, (n, 2))
        mine = np.concatenate([corner, corner + rng.uniform(10, 20, (n, 2))], axis=1)
        label = rng.integers(0, 3, n)
        true.append({"boxes": mine, "labels": label, "iscrowd": rng.random(n) < 0.15})
        stray = rng.uniform(0, 80, (m, 2))
        both = np.concatenate([mine, np.concatenate([stray, stray + 15], axis=1)])
        moved = both + rng.normal(0, noise, both.shape)
        found.append({"boxes": np.concatenate([moved[:, :2], np.maximum(moved[:, 2:],
                                                                        moved[:, :2] + 1)], axis=1),
                      "labels": np.concatenate([label, rng.integers(0, 3, m)]),
                      "scores": rng.uniform(size=n + m)})  # fmt: skip
    return true, found


@pytest.mark.parametrize("case", OPTIONS)
def test_weights_are_copies(case):
    true, found = boxes(0)
    protocol = case if case in ("voc2007", "voc2012") else "coco"
    result = average_precision(true, found, protocol, classes="abc", **OPTIONS[case])
    weights = np.random.default_rng(1).integers(0, 4, (20, len(true)))
    weights[0], weights[1] = 1, 0
    read = weighted_precision(result, weights)
    assert np.array_equal(read, weighted_precision(result, weights, threads=3))
    own = result._by_class()[:, :, 0, -1].T
    np.testing.assert_allclose(read[0], own, rtol=1e-12)
    assert (read[1] == -1).all()
    for row in range(2, 20, 3):
        copies = np.repeat(np.arange(len(true)), weights[row])
        whole = average_precision([true[i] for i in copies], [found[i] for i in copies], protocol,
                                  classes="abc", **OPTIONS[case])  # fmt: skip
        np.testing.assert_allclose(read[row], whole._by_class()[:, :, 0, -1].T, rtol=1e-12)


def test_weights_follow_the_images_as_given():
    true, found = boxes(2)
    ids = np.random.default_rng(3).permutation(len(true)).tolist()
    named = [{"id": k, "name": f"{k}"} for k in range(3)]
    gt = {"images": [{"id": i} for i in ids], "categories": named, "annotations": []}
    dt = []
    for i, one, other in zip(ids, true, found, strict=True):
        for b, k, c in zip(one["boxes"], one["labels"], one["iscrowd"], strict=True):
            wide = (b[2:] - b[:2]).tolist()
            gt["annotations"].append({"id": len(gt["annotations"]) + 1, "image_id": i,
                                      "category_id": int(k), "iscrowd": int(c),
                                      "bbox": [*b[:2].tolist(), *wide]})  # fmt: skip
        for b, k, s in zip(other["boxes"], other["labels"], other["scores"], strict=True):
            dt.append({"image_id": i, "category_id": int(k), "score": float(s),
                       "bbox": [*b[:2].tolist(), *(b[2:] - b[:2]).tolist()]})  # fmt: skip
    only = np.zeros((1, len(ids)), int)
    only[0, 4] = 1
    a = weighted_precision(average_precision(gt, dt), only)
    b = weighted_precision(average_precision(true, found, classes="012"), only)
    np.testing.assert_allclose(a, b, rtol=1e-9)


def test_a_clear_difference_and_none():
    true, near = boxes(4, images=40, noise=1.0)
    far = [{**f, "boxes": f["boxes"] + 2.0} for f in near]
    told = compare_detectors(true, far, near, resamples=200, names=("far", "near"), classes="abc")
    assert told.difference.estimate == pytest.approx(float(told.b.ap - told.a.ap))
    assert 0 < told.difference.low <= told.difference.estimate <= told.difference.high
    assert told.p_value == pytest.approx(1 / 201)
    assert set(told.per_class) == {"a", "b", "c"}
    assert told.difference_50 is not None
    assert "near is better" in told.summary()
    again = compare_detectors(true, far, near, resamples=200, classes="abc", threads=2)
    assert again.difference == told.difference
    assert again.p_value == told.p_value
    same = compare_detectors(true, near, near, resamples=50, classes="abc")
    assert same.difference.low == same.difference.high == 0.0
    assert same.p_value == 1.0
    assert "no difference beyond chance" in same.summary()


def test_swapping_is_evaluating_swapped_detections():
    true, one = boxes(5, images=8)
    _, other = boxes(6, images=8)
    other = [{**o, **{k: v[: len(o["labels"])] for k, v in o.items()}} for o in other]
    seen = compare_detectors(true, one, other, resamples=60, classes="abc", random_state=7)
    rng = np.random.default_rng(7)
    rng.integers(0, 8, (60, 8))
    large = 0
    for swap in rng.integers(0, 2, (60, 8)):
        pair = [[(b if s == way else a) for a, b, s in zip(other, one, swap, strict=True)]
                for way in (1, 0)]  # fmt: skip
        aps = [average_precision(true, found, classes="abc").ap for found in pair]
        large += abs(aps[0] - aps[1]) >= abs(seen.difference.estimate) - 1e-12
    assert seen.p_value == pytest.approx((1 + large) / 61)


def test_bad_arguments():
    true, found = boxes(8, images=3)
    with pytest.raises(ValueError, match="resamples=0"):
        compare_detectors(true, found, found, resamples=0, classes="abc")
    nothing = [{"boxes": [], "labels": []}] * 3
    with pytest.raises(ValueError, match="no object that counts"):
        compare_detectors(nothing, found, found, classes="abc")
    result = average_precision(true, found, classes="abc")
    with pytest.raises(ValueError, match=r"expected \(resamples, 3\)"):
        weighted_precision(result, np.ones((2, 4)))
    with pytest.raises(ValueError, match="are added exactly"):
        weighted_precision(result, np.full((1, 3), 1 << 24))
    many = average_precision(true, found, classes="abc", iou_thresholds=np.linspace(0.1, 0.9, 65))
    with pytest.raises(ValueError, match="at most 64"):
        weighted_precision(many, np.ones((1, 3), int))
