"""Average precision: the definition, the official tool, and every trap of the three protocols."""

import contextlib
import copy
import dataclasses
import io

import numpy as np
import pytest

from paragone.vision import AveragePrecision, average_precision, read_annotations
from paragone.vision.average_precision import AveragePrecisionResult
from paragone.vision.ops.precision import matching, reference


def made(seed, images=12, classes=4, dets=14, objects=3, crowd=0.1, round_to=None, first_id=1,
         ignore=0.0):  # fmt: skip
    """A COCO data set and results: near misses, confusions, duplicates, crowds, ties."""
    rng, size = np.random.default_rng(seed), 300
    listed = [{"id": int(i), "width": size, "height": size} for i in
              rng.permutation(images * 3)[:images]]  # fmt: skip

    def number(value):
        return float(value if round_to is None else round(float(value), round_to))

    def box():
        drawn = [*rng.uniform(0, 180, 2), *np.exp(rng.uniform(1.6, 5.5, 2))]
        return [number(v) for v in drawn]

    true, found, n = [], [], first_id
    for image in listed:
        mine = []
        for _ in range(rng.poisson(objects)):
            b = box()
            mine.append({"id": n, "image_id": image["id"], "bbox": b,
                         "category_id": 3 * int(rng.integers(1, classes + 1)),
                         "area": b[2] * b[3] * float(rng.uniform(0.5, 1)),
                         "iscrowd": int(rng.random() < crowd),
                         "ignore": int(rng.random() < ignore)})  # fmt: skip
            n += 1
        for _ in range(rng.poisson(dets)):
            label, b = 3 * int(rng.integers(1, classes + 1)), box()
            if mine and rng.random() < 0.7:
                near = mine[rng.integers(len(mine))]
                moved = np.array(near["bbox"]) + rng.normal(0, 3, 4) * (rng.random() < 0.7)
                b = [number(v) for v in (*moved[:2], *np.maximum(moved[2:], 1))]
                label = near["category_id"] if rng.random() < 0.8 else label
            score = float(rng.random()) if round_to is None else round(float(rng.random()), 1)
            found.append({"image_id": image["id"], "category_id": label, "bbox": b,
                          "score": score})  # fmt: skip
        true += mine
    named = [{"id": 3 * k, "name": f"c{k}"} for k in range(1, classes + 2)]
    return {"images": listed, "annotations": true, "categories": named}, found


CASES = {
    "plain": {"seed": 0}, "ties": {"seed": 1, "round_to": 0}, "id 0": {"seed": 2, "first_id": 0},
    "crowds": {"seed": 3, "crowd": 0.5, "round_to": 0},
    "few objects": {"seed": 4, "objects": 0.2}, "few detections": {"seed": 5, "dets": 0.3},
    "one class, more than 100": {"seed": 6, "images": 2, "classes": 1, "dets": 140, "objects": 60},
    "ignore": {"seed": 7, "ignore": 0.3}, "none at all": {"seed": 8, "dets": 0},
    "no object": {"seed": 9, "objects": 0},
}  # fmt: skip


def theirs(gt, dt, **params):
    """pycocotools' evaluation."""
    coco = pytest.importorskip("pycocotools.coco")
    evaluation = pytest.importorskip("pycocotools.cocoeval")
    with contextlib.redirect_stdout(io.StringIO()):
        true = coco.COCO()
        true.dataset = copy.deepcopy(gt)
        true.createIndex()
        found = true.loadRes(copy.deepcopy(dt)) if dt else coco.COCO()
        if not dt:
            found.dataset = {**copy.deepcopy(gt), "annotations": []}
            found.createIndex()
        judge = evaluation.COCOeval(true, found, "bbox")
        for name, value in params.items():
            setattr(judge.params, name, value)
        judge.evaluate()
        judge.accumulate()
        if len(judge.params.maxDets) == 3:
            judge.summarize()
    return judge


@pytest.mark.peers
@pytest.mark.parametrize("case", CASES)
def test_pycocotools_bit_for_bit(case):
    gt, dt = made(**CASES[case])
    judge = theirs(gt, dt)
    ours = average_precision(gt, dt, mode="pycocotools")
    for name in ("precision", "recall", "scores"):
        assert np.array_equal(getattr(ours, name), judge.eval[name]), name
    assert np.array_equal(ours.stats, judge.stats)


@pytest.mark.peers
def test_pycocotools_with_other_parameters():
    gt, dt = made(10, images=6)
    ours = average_precision(
        gt, dt, mode="pycocotools", max_dets=(2, 5, 7), iou_thresholds=(0.3, 0.5, 1.0),
        recall_thresholds=(0.0, 0.29, 0.5, 1.0), areas={"all": (0, 1e10), "odd": (50, 700)},
    )  # fmt: skip
    judge = theirs(gt, dt, maxDets=[2, 5, 7], iouThrs=np.array([0.3, 0.5, 1.0]),
                   recThrs=np.array([0.0, 0.29, 0.5, 1.0]), areaRng=[[0, 1e10], [50, 700]],
                   areaRngLbl=["all", "odd"])  # fmt: skip
    for name in ("precision", "recall", "scores"):
        assert np.array_equal(getattr(ours, name), judge.eval[name])
    # Trap l: AP is that of 100 detections or nothing there; natively that of the last limit.
    assert ours.stats[0] == judge.stats[0] == -1
    native = average_precision(gt, dt, max_dets=(2, 5, 7))
    assert native.stats[0] == pytest.approx(native.precision[..., 0, -1][native.precision[
        ..., 0, -1] > -1].mean())  # fmt: skip
    judge = theirs(gt, dt, useCats=0)
    one = average_precision(gt, dt, mode="pycocotools", class_agnostic=True)
    assert np.array_equal(one.precision, judge.eval["precision"])


def plain(result, voc=False):
    """All curves by the reference: (T, R, K, A, M) and the exact area (T, K, A, M)."""
    p, rules = result.problem, result.rules
    precision, area = np.full_like(result.precision, -1), np.full_like(result.recall, -1)
    aside = p.crowd | p.difficult if rules.ignore else p.crowd
    for k in range(p.classes):
        for a, (low, high) in enumerate(rules.ranges):
            hidden = aside | (p.true_area < low) | (p.true_area > high)
            positives = int((~hidden & (p.true_label == k)).sum())
            if not positives:
                continue
            for t, threshold in enumerate(rules.thresholds):
                rows = []
                for image in range(p.images):
                    d = np.flatnonzero((p.label == k) & (p.image == image))
                    d = d[np.argsort(-p.score[d], kind="stable")][: rules.limits[-1]]
                    g = np.flatnonzero((p.true_label == k) & (p.true_image == image))
                    told = reference.match(
                        list(p.boxes[d]), list(p.true_boxes[g]), list(p.crowd[g]), list(hidden[g]),
                        threshold, voc=rules.voc, strict=rules.strict, offset=rules.offset,
                    )  # fmt: skip
                    for place, (row, (takes, ignored)) in enumerate(zip(d, told, strict=True)):
                        out = not low <= p.area[row] <= high
                        if not (ignored or (not takes and out)):
                            rows.append((-p.score[row], image, place, takes))
                        elif place < rules.limits[-1]:
                            rows.append((-p.score[row], image, place, None))
                rows.sort(key=lambda row: row[:3])
                for m, limit in enumerate(rules.limits):
                    kept = [r for r in rows if r[2] < limit and r[3] is not None]
                    read, _, _, under = reference.curve(
                        [r[3] for r in kept], [-r[0] for r in kept], positives, rules.recalls,
                        0.0 if rules.voc else np.spacing(1),
                    )  # fmt: skip
                    precision[t, :, k, a, m], area[t, k, a, m] = read, under
    return precision, area


@pytest.mark.parametrize("protocol", ["coco", "voc2007", "voc2012"])
def test_the_definition(protocol):
    gt, dt = made(11, images=5, ignore=0.2, round_to=0)
    extra = {} if protocol == "coco" else {"iou_thresholds": (0.4, 0.6), "strict": True,
                                           "pixel_offset": 1.0}  # fmt: skip
    result = average_precision(gt, dt, protocol, **extra)
    precision, area = plain(result)
    np.testing.assert_allclose(result.precision, precision, rtol=1e-12)
    np.testing.assert_allclose(result.evaluation.area, area, rtol=1e-12)


def test_a_planted_bug_is_seen(monkeypatch):
    gt, dt = made(12, images=5, crowd=0.5)
    result = average_precision(gt, dt)
    problem = dataclasses.replace(result.problem, crowd=np.zeros_like(result.problem.crowd))
    wrong, _ = plain(dataclasses.replace(result, problem=problem))
    assert not np.allclose(result.precision, wrong)


# --- The traps of COCO, by their letters in the module's tests. ---


def scene(objects, found, protocol="coco", **options) -> AveragePrecisionResult:
    """One image, one class: objects (box, extras), detections (box, score), as x, y, w, h."""
    gt = {
        "images": [{"id": 1, "width": 10**4, "height": 10**4}],
        "categories": [{"id": 1, "name": "a"}],
        "annotations": [
            {"id": n + 1, "image_id": 1, "category_id": 1, "bbox": b, "area": b[2] * b[3], **more}
            for n, (b, more) in enumerate(objects)
        ],
    }
    dt = [{"image_id": 1, "category_id": 1, "bbox": b, "score": s} for b, s in found]
    return average_precision(gt, dt, protocol, **options)


A, B = [0, 0, 10, 10], [0, 20, 10, 10]
WHOLE = pytest.approx(1.0)


def test_limits_are_per_class_and_image_and_the_sort_is_stable():
    r = scene([(A, {}), (B, {})], [(A, 0.5), (B, 0.5)], max_dets=(1, 2))
    assert r.recall[0, 0, 0].tolist() == [0.5, 1.0]
    wrong_first = scene([(A, {})], [(B, 0.5), (A, 0.5)], iou=0.5)
    assert wrong_first.ap == pytest.approx(0.5)


def test_an_object_that_counts_goes_before_a_better_one_that_does_not():
    r = scene([(A, {"iscrowd": 1}), ([0, 0, 10, 8], {})], [(A, 0.9)], iou=0.5)
    assert r.ap == WHOLE


def test_equal_overlap_goes_to_the_later_object():
    left, right = [0, 0, 10, 10], [10, 0, 10, 10]
    middle, second = [5, 0, 10, 10], [-1, 0, 10, 10]
    r = scene([(left, {}), (right, {})], [(middle, 0.9), (second, 0.8)], iou=0.3)
    assert r.recall[0, 0, 0, -1] == 1.0
    r = scene([(right, {}), (left, {})], [(middle, 0.9), (second, 0.8)], iou=0.3)
    assert r.recall[0, 0, 0, -1] == 0.5


def test_threshold_of_one_is_reached_by_equal_boxes():
    assert scene([([0.1, 0.2, 7.3, 9.7], {})], [([0.1, 0.2, 7.3, 9.7], 0.5)], iou=1.0).ap == WHOLE


def test_a_crowd_is_matched_many_times_over_the_detection_s_own_area():
    crowd = [0, 0, 100, 100]
    inside = [([5, 5, 9, 9], 0.9), ([50, 50, 9, 9], 0.8), ([200, 0, 10, 10], 0.1)]
    r = scene([(crowd, {"iscrowd": 1}), ([200, 0, 10, 10], {})], inside, iou=0.5)
    assert r.ap == WHOLE


def test_areas_are_the_file_s_own_and_bounds_belong_to_both_ranges():
    r = scene([([0, 0, 32, 32], {"area": 1024.0})], [([0, 0, 32, 32], 0.9)])
    small, medium = r.rules.range_names.index("small"), r.rules.range_names.index("medium")
    assert (r.recall[:, 0, [small, medium], -1] == 1).all()
    r = scene([([0, 0, 200, 200], {"area": 100.0})], [([0, 0, 200, 200], 0.9)])
    assert r.stats[3] == WHOLE
    assert r.stats[5] == -1


def test_a_detection_outside_of_the_range_is_set_aside_not_wrong():
    r = scene([(A, {})], [([500, 500, 300, 300], 0.9), (A, 0.8)], iou=0.5)
    assert r.stats[3] == WHOLE
    assert r.stats[0] == pytest.approx(0.5)


def test_images_are_merged_in_the_order_of_their_ids():
    gt = {
        "images": [{"id": 9}, {"id": 2}],
        "categories": [{"id": 1, "name": "a"}],
        "annotations": [{"id": 1, "image_id": 2, "category_id": 1, "bbox": A, "area": 100}],
    }
    dt = [{"image_id": i, "category_id": 1, "bbox": A, "score": 0.5} for i in (9, 2)]
    assert average_precision(gt, dt, iou=0.5).ap == WHOLE


def test_recalls_are_reached_from_the_left_and_the_envelope_is_from_the_right():
    r = scene([(A, {}), (B, {})], [([90, 90, 5, 5], 0.9), (A, 0.8), (B, 0.7)], iou=0.5)
    read = r.precision[0, :, 0, 0, -1]
    assert read == pytest.approx(np.full(101, 2 / 3))
    r = scene([(A, {}), (B, {})], [(A, 0.8)], iou=0.5)
    read = r.precision[0, :, 0, 0, -1]
    assert read[:51] == pytest.approx(np.ones(51))
    assert (read[51:] == 0).all()


def test_the_score_at_recall_0_is_the_first_detection_s_though_it_is_wrong():
    r = scene([(A, {})], [([90, 90, 5, 5], 0.9), (A, 0.8)], iou=0.5)
    assert r.scores[0, 0, 0, 0, -1] == 0.9
    assert r.scores[0, 1, 0, 0, -1] == 0.8


def test_a_class_without_objects_is_left_out_and_named():
    gt, dt = made(13)
    result = average_precision(gt, dt)
    assert np.isnan(result.per_class["c5"])
    assert (result.precision[:, :, 4] == -1).all()
    assert any("c5" in note for note in result.notes)
    assert "c5" in result.summary()
    gt["annotations"] = []
    nothing = average_precision(gt, dt)
    assert (nothing.stats == -1).all()


def test_object_0_can_be_found_but_not_by_pycocotools():
    objects = [(A, {"id": 0})]
    assert scene(objects, [(A, 0.9)]).ap == WHOLE
    assert scene(objects, [(A, 0.9)], mode="pycocotools").stats[0] == 0.0


def test_detections_count_in_images_without_objects_and_unknown_images_are_errors():
    gt = {
        "images": [{"id": 1}, {"id": 2}],
        "categories": [{"id": 1, "name": "a"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": A, "area": 100}],
    }
    dt = [{"image_id": 2, "category_id": 1, "bbox": A, "score": 0.9},
          {"image_id": 1, "category_id": 1, "bbox": A, "score": 0.8}]  # fmt: skip
    assert average_precision(gt, dt, iou=0.5).ap == pytest.approx(0.5)
    dt[0]["image_id"] = 7
    for mode in ("native", "pycocotools"):
        with pytest.raises(ValueError, match=r"result 0: image 7 is none of the images: 1, 2"):
            average_precision(gt, dt, mode=mode)
    with pytest.warns(UserWarning, match="1 records left out .unknown image: 1"):
        kept = average_precision(gt, dt, problems="skip")
    assert kept.skipped == {"detections: unknown image": 1}
    dt[0] |= {"image_id": 2, "category_id": 5}
    with pytest.raises(ValueError, match=r"class 5 is none of the classes: 1 \(a\)"):
        average_precision(gt, dt)
    assert average_precision(gt, dt, mode="pycocotools").skipped == {"detections: unknown class": 1}


def test_ignore_is_kept_and_overwritten_in_pycocotools_mode():
    objects = [(A, {"ignore": 1, "iscrowd": 0}), (B, {})]
    found = [(A, 0.9), (B, 0.8)]
    assert scene(objects, found[:1], iou=0.5).recall[0, 0, 0, -1] == 0.0
    assert scene(objects, found, iou=0.5).ap == WHOLE
    assert scene(objects, found[1:], iou=0.5, difficult="count").recall[0, 0, 0, -1] == 0.5
    assert scene(objects, found[1:], mode="pycocotools").recall[0, 0, 0, -1] == 0.5


def test_doubles_are_kept():
    third = [0.1, 0.1, 1 / 3, 1 / 3]
    r = scene([(third, {})], [(third, 0.1 + 0.2)])
    assert r.detections.xywh()[0].tolist() == third
    assert r.scores.max() == 0.1 + 0.2


# --- The traps of VOC. ---


def test_voc_a_second_detection_of_the_best_object_is_wrong_though_another_is_near():
    objects = [([0, 0, 10, 10], {}), ([4, 0, 10, 10], {})]
    found = [([0, 0, 10, 10], 0.9), ([1, 0, 10, 10], 0.8)]
    assert scene(objects, found, "voc2012", iou=0.4).recall[0, 0, 0, 0] == 0.5
    assert scene(objects, found, "coco", iou=0.4).recall[0, 0, 0, -1] == 1.0


def test_voc_difficult_objects_are_neither_found_nor_missed():
    objects = [(A, {"ignore": 1}), (B, {})]
    found = [(A, 0.9), (A, 0.85), (B, 0.8)]
    assert scene(objects, found, "voc2007").ap == 1.0
    deleted = scene(objects[1:], found, "voc2007").ap
    assert deleted == pytest.approx(1 / 3)
    assert scene(objects, found, "voc2012", difficult="count").ap == pytest.approx(0.5 + 1 / 3)


def test_voc_threshold_is_reached_or_exceeded():
    half = [([0, 0, 10, 5], 0.9)]
    assert scene([(A, {})], half, "voc2007").ap == 1.0
    assert scene([(A, {})], half, "voc2007", strict=True).ap == 0.0


def test_voc_pixels_are_counted_on_both_ends():
    # 1..10 and 1..6 inclusive: 6 / 10 of the area; without the pixel 5 / 9.
    objects, found = [([1, 1, 9, 9], {})], [([1, 1, 9, 5], 0.9)]
    assert scene(objects, found, "voc2007", iou=0.58, pixel_offset=1).ap == 1.0
    assert scene(objects, found, "voc2007", iou=0.58).ap == 0.0


def test_voc_pixels_as_indices_and_as_intervals_are_the_same_figures():
    rng = np.random.default_rng(21)
    corner = rng.integers(1, 30, (2, 9, 2))
    boxes = np.concatenate([corner, corner + rng.integers(4, 12, (2, 9, 2))], axis=2)
    figures = []
    for left, offset in ((0, 1.0), (1, 0.0)):
        true, found = boxes - [left, left, 0, 0]
        figures.append(average_precision(
            [{"boxes": true, "labels": [0] * 9}],
            [{"boxes": found, "labels": [0] * 9, "scores": np.arange(9) / 9}],
            "voc2012", iou_thresholds=(0.2, 0.3, 0.5), pixel_offset=offset,
        ).precision)  # fmt: skip
    assert np.array_equal(*figures)
    assert figures[0].max() > 0


def test_voc_eleven_points_and_the_exact_area():
    found = [(A, 0.9), ([90, 90, 5, 5], 0.8), (B, 0.7)]
    objects = [(A, {}), (B, {}), ([0, 40, 10, 10], {})]
    # Recall 1/3 at precision 1, 2/3 at 2/3: four points at 1 (0 to 0.3), three at 2/3.
    eleven = scene(objects, found, "voc2007")
    assert eleven.ap == pytest.approx((4 + 3 * 2 / 3) / 11)
    assert eleven.precision.shape == (1, 11, 1, 1, 1)
    assert scene(objects, found, "voc2012").ap == pytest.approx(1 / 3 + 2 / 9)
    assert scene(objects, found, "voc2010").ap == scene(objects, found, "voc2012").ap
    # Three of ten reach the recall 0.3 (three times 0.1 is a little more).
    ten = [([0, 20 * i, 10, 10], {}) for i in range(10)]
    three = scene(ten, [(b, 0.5) for b, _ in ten[:3]], "voc2007")
    assert three.precision[0, :4, 0, 0, 0].tolist() == [1.0] * 4


def test_voc_class_without_objects():
    true = [{"boxes": [[0, 0, 9, 9]], "labels": [0]}]
    found = [{"boxes": [[0, 0, 9, 9]] * 2, "labels": [0, 1], "scores": [0.9, 0.8]}]
    result = average_precision(true, found, "voc2007", classes=["a", "b"], iou=0.5)
    assert result.per_class["a"] == 1.0
    assert np.isnan(result.per_class["b"])
    assert result.stats.tolist() == [1.0]
    assert any("1 detections of them" in note for note in result.notes)


# --- Everything else. ---


def test_threads_and_blocks_of_thresholds_change_nothing():
    gt, dt = made(14, images=30)
    one, three = (average_precision(gt, dt, threads=n) for n in (1, 3))
    assert np.array_equal(one.precision, three.precision)
    fine = np.linspace(0.1, 0.95, 70)
    many = average_precision(gt, dt, iou_thresholds=fine)
    assert len(many.evaluation.blocks) > 1
    for t in (0, 33, 69):
        single = average_precision(gt, dt, iou=fine[t])
        assert np.array_equal(many.precision[t], single.precision[0])
        assert np.array_equal(many.recall[t], single.recall[0])


def test_batches_and_shards_are_the_whole_exactly():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(15)
    targets, found = [], []
    for _ in range(9):
        n, m = rng.integers(0, 4), rng.integers(0, 9)
        corner = rng.integers(0, 9, (n, 2))
        targets.append(
            {
                "boxes": torch.tensor(np.concatenate([corner, corner + 6], 1)).float(),
                "labels": torch.tensor(rng.integers(0, 3, n)),
                "iscrowd": torch.tensor(rng.integers(0, 2, n) * (rng.random() < 0.3)),
            }
        )
        corner = rng.integers(0, 9, (m, 2))
        found.append(
            {
                "boxes": np.concatenate([corner, corner + 6], 1),
                "labels": rng.integers(0, 3, m),
                "scores": rng.integers(0, 5, m) / 5,
            }
        )
    whole = average_precision(targets, found, classes=["a", "b", "c"])
    metric, shard = (AveragePrecision(classes=["a", "b", "c"]) for _ in range(2))
    metric.update(targets[:2], found[:2])
    metric.update(targets[2:5], found[2:5])
    shard.update(targets[5:], found[5:])
    metric.merge(shard)
    assert np.array_equal(metric.compute().precision, whole.precision)
    assert np.array_equal(metric.compute().scores, whole.scores)
    named = [AveragePrecision(classes=["a", "b", "c"]) for _ in range(2)]
    named[0].update(targets[5:], found[5:], image_ids=range(5, 9))
    named[1].update(targets[:5], found[:5], image_ids=range(5))
    named[0].merge(named[1])
    assert np.array_equal(named[0].compute().precision, whole.precision)
    named[0].update(targets[:1], found[:1], image_ids=[3])
    with pytest.raises(ValueError, match="image id 3 came twice"):
        named[0].compute()
    with pytest.raises(ValueError, match="other rules"):
        metric.merge(AveragePrecision(iou=0.5, classes=["a", "b", "c"]))
    metric.reset()
    with pytest.raises(ValueError, match="no batch"):
        metric.compute()


def test_curve_ends_where_recall_does():
    gt, dt = made(16)
    result = average_precision(gt, dt)
    for t, iou in enumerate(result.rules.thresholds[::4]):
        c = result.curve("c1", iou)
        assert c.recall[-1] == result.recall[4 * t, 0, 0, -1]
        assert c.envelope[0] == pytest.approx(result.precision[4 * t, 0, 0, 0, -1])
        assert (np.diff(c.score) <= 0).all()
    with pytest.raises(ValueError, match="evaluated are overlaps"):
        result.curve("c1", 0.123)
    with pytest.raises(ValueError, match="none of c1"):
        result.curve("zebra")


def test_confusion_counts_every_object_and_detection_once():
    true = [{"boxes": [A, [30, 0, 40, 10], [60, 0, 70, 10]], "labels": [0, 1, 1]}]
    found = [{"boxes": [A, [30, 0, 40, 9], [90, 90, 99, 99], [0, 0, 10, 9]],
              "labels": [0, 0, 1, 0], "scores": [0.9, 0.8, 0.7, 0.1]}]  # fmt: skip
    result = average_precision(true, found, classes=["a", "b"])
    assert result.confusion().tolist() == [[1, 0, 0], [1, 0, 1], [0, 1, 0]]
    assert result.confusion(score=0.0).tolist()[2] == [1, 1, 0]
    gt, dt = made(17, crowd=0.0)
    matrix = average_precision(gt, dt).confusion(score=0.0)
    assert matrix.sum(axis=1)[:-1].sum() == len(gt["annotations"])
    assert matrix.sum(axis=0)[:-1].sum() == len(dt)


def test_each_kind_of_error_is_told_and_costs_what_its_absence_brings():
    objects = {"boxes": [[0, 0, 10, 10], [50, 0, 60, 10], [0, 50, 10, 60], [80, 80, 90, 90]],
               "labels": [0, 1, 0, 1]}  # fmt: skip
    found = {
        "boxes": [[0, 0, 10, 10], [0, 0, 10, 9], [50, 0, 60, 10], [0, 57, 10, 67], [200, 0, 210, 9],
                  [57, 0, 67, 10]],
        "labels": [0, 0, 0, 0, 0, 0],
        "scores": [0.95, 0.9, 0.85, 0.8, 0.75, 0.7],
    }  # fmt: skip
    result = average_precision([objects], [found], "voc2012", classes=["a", "b"])
    told = result.errors()
    assert {k: e.count for k, e in told.items()} == {
        "classification": 1, "localisation": 1, "both": 1, "duplicate": 1, "background": 1,
        "missed": 1}  # fmt: skip
    # Class a has 2 objects, one found at once: AP 1/2; b has 2, none found.
    assert result.ap == pytest.approx(0.25)
    # Moved to class b the third is its only detection: b reads 1/2.
    assert told["classification"].cost == pytest.approx(0.25)
    # The fourth box, right now, comes after two wrong ones: 1/2 + 1/2 * 2/4.
    assert told["localisation"].cost == pytest.approx(0.125)
    assert told["background"].cost == 0.0
    assert all(e.cost >= -1e-12 for e in told.values())


def test_classes_without_names_reach_as_far_as_the_detections():
    true = [{"boxes": [A], "labels": [0]}]
    found = [{"boxes": [A, A], "labels": [0, 2], "scores": [0.9, 0.8]}]
    assert list(average_precision(true, found).per_class) == ["0", "1", "2"]
    with pytest.raises(ValueError, match="image 0, box 1: class 2 is none of the classes: 0"):
        average_precision(true, found, classes=["a"])


def test_arrays_that_point_nowhere_are_refused():
    gt, dt = made(20, images=3)
    objects = read_annotations(gt)
    found = read_annotations(dt, like=objects)
    for column, value in (("image", 3), ("label", -1)):
        wrong = getattr(found, column).copy()
        wrong[1] = value
        with pytest.raises(ValueError, match=f"detections: record 1: {column} {value} is no row"):
            average_precision(objects, dataclasses.replace(found, **{column: wrong}))
    with pytest.raises(ValueError, match="not finite"):
        average_precision(objects, dataclasses.replace(found, score=found.score * np.nan))


def test_bad_arguments_name_value_and_remedy():
    gt, dt = made(18, images=2)
    bad = [
        ({"protocol": "voc"}, "none of coco, voc2007"), ({"iou": 1.5}, r"\(0, 1\]"),
        ({"iou": 0.5, "iou_thresholds": [0.5]}, "give one"), ({"max_dets": 0}, "at least 1"),
        ({"iou_type": "segm"}, "only boxes are evaluated here"), ({"strict": True}, "VOC"),
        ({"mode": "compat"}, "native"), ({"mode": "pycocotools", "max_dets": 5}, "takes three"),
        ({"protocol": "voc2007", "mode": "pycocotools"}, "coco"), ({"threads": 0}, "threads=0"),
        ({"difficult": "drop"}, "count"), ({"recall_thresholds": [1, 0]}, "rising"),
        ({"areas": {"x": (5, 1)}}, "least, most"), ({"problems": "hide"}, "skip"),
    ]  # fmt: skip
    for options, told in bad:
        with pytest.raises(ValueError, match=told):
            average_precision(gt, dt, **options)
    with pytest.raises(ValueError, match="no scores"):
        average_precision(gt, gt)
    with pytest.raises(TypeError, match="speed"):
        AveragePrecision(speed=3)
    with pytest.raises(ValueError, match="only boxes are evaluated here"):
        average_precision(gt, [{"image_id": gt["images"][0]["id"], "category_id": 3, "score": 1.0,
                                "segmentation": {"size": [1, 1], "counts": "0"}}])  # fmt: skip


def test_overlap_of_the_kernel_is_the_reference_s():
    rng = np.random.default_rng(19)
    for _ in range(50):
        d, g = rng.integers(0, 9, (2, 4)).astype(float)
        for crowd, offset in ((False, 0.0), (True, 0.0), (False, 1.0)):
            assert matching.overlap.py_func(d, g, crowd, offset) == reference.overlap(
                d, g, crowd, offset
            )
