"""Boxes: against loops in plain Python, against torchvision, and far from the origin."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from paragone.vision.boxes import (
    CLAMP,
    anchors,
    box_iou,
    clip,
    decode_boxes,
    encode_boxes,
    nms,
    soft_nms,
)  # fmt: skip
from paragone.vision.ops.nms.reference import nms_reference, soft_nms_reference


def some(count, seed=0, side=300.0, classes=4, dtype=torch.float32):
    g = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=g) * side
    boxes = torch.cat([corner, corner + torch.rand(count, 2, generator=g) * 80], 1).to(dtype)
    scores = (torch.rand(count, generator=g) * 40).round() / 40  # with ties
    return boxes, scores.to(dtype), torch.randint(0, classes, (count,), generator=g)


def one_overlap(a, b):
    wide = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    high = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - wide * high
    return wide * high / union if union > 0 else 0.0


def test_overlap_of_each_pair():
    first, second = some(7, dtype=torch.float64)[0], some(5, seed=1, dtype=torch.float64)[0]
    second[0] = first[3]
    second[1, 2:] = second[1, :2]  # no area
    wanted = [[one_overlap(a, b) for b in second.tolist()] for a in first.tolist()]
    torch.testing.assert_close(box_iou(first, second), torch.tensor(wanted, dtype=torch.float64))
    assert box_iou(second[1:2], second[1:2]).item() == 0
    assert box_iou(first[:0], second).shape == (0, 5)
    assert box_iou(torch.tensor([[0, 0, 2, 2]]), torch.tensor([[0, 0, 2, 2]])).item() == 1


@pytest.mark.parametrize("count", [0, 1, 63, 65, 131])
def test_suppression_is_its_definition(count):
    for dtype in (torch.float32, torch.float64):
        boxes, scores, classes = some(count, seed=count, side=120.0, dtype=dtype)
        order = torch.sort(scores, descending=True, stable=True).indices
        wanted = nms_reference(boxes, order, classes, 0.4)
        assert nms(boxes, scores, 0.4, classes).tolist() == wanted
        assert nms(boxes, scores, 0.4, classes, limit=7).tolist() == wanted[:7]
        one = nms_reference(boxes, order, torch.zeros_like(classes), 0.4)
        assert nms(boxes, scores, 0.4).tolist() == one
        if count > 60:
            wrong = nms_reference(boxes, order.flip(0), classes, 0.4)
            assert sorted(wrong) != sorted(wanted)  # a planted bug: the worst first


@pytest.mark.parametrize("method", ["linear", "gaussian"])
def test_soft_suppression_is_its_definition(method):
    boxes, scores, classes = some(97, side=100.0, dtype=torch.float64)
    scores = scores + torch.arange(97) * 1e-6
    rows, values = soft_nms(boxes, scores, classes, method=method, least=0.05)
    wanted, told = soft_nms_reference(boxes, scores, classes, method, 0.5, 0.5, 0.05)
    assert rows.tolist() == wanted
    torch.testing.assert_close(values, torch.tensor(told, dtype=torch.float64))
    assert (values.diff() <= 0).all()
    assert values.min() >= 0.05
    assert len(soft_nms(boxes[:0], scores[:0])[0]) == 0


def test_a_threshold_that_is_met_keeps_both():
    boxes = torch.tensor([[0.0, 0, 2, 2], [0, 0, 2, 1]])
    assert nms(boxes, torch.tensor([0.9, 0.8]), 0.5).tolist() == [0, 1]
    assert nms(boxes, torch.tensor([0.9, 0.8]), 0.499).tolist() == [0]


def test_classes_are_kept_apart_far_from_the_origin():
    # Shifted apart by class in float32, these boxes lose their pixels; here they do not.
    boxes, scores, classes = some(200, side=60.0, classes=40)
    boxes = boxes.round()
    near = nms(boxes, scores, 0.5, classes)
    far = boxes + 2.0**20
    assert nms(far, scores, 0.5, classes).tolist() == near.tolist()
    shifted = far + (classes * (far.max() + 1))[:, None]
    assert nms(shifted, scores, 0.5).tolist() != near.tolist()


@pytest.mark.peers
def test_equals_torchvision():
    from paragone.lab.torchvision_cpu import import_torchvision, why_no_operators

    if why_no_operators():
        pytest.skip(why_no_operators())
    import_torchvision()
    from torchvision.ops import boxes as theirs

    for count in (1, 64, 700):
        for dtype in (torch.float32, torch.float64):
            boxes, scores, classes = some(count, seed=count, dtype=dtype)
            for threshold in (0.3, 0.7):
                assert torch.equal(
                    nms(boxes, scores, threshold), theirs.nms(boxes, scores, threshold)
                )
                each = theirs._batched_nms_vanilla(boxes, scores, classes, threshold)
                ours = nms(boxes, scores, threshold, classes)
                assert sorted(ours.tolist()) == sorted(each.tolist())
        torch.testing.assert_close(box_iou(boxes, boxes), theirs.box_iou(boxes, boxes))


@given(st.integers(0, 10**6), st.sampled_from([(1.0,) * 4, (0.1, 0.1, 0.2, 0.2)]))
def test_deltas_are_undone(seed, std):
    boxes, _, _ = some(5, seed=seed, dtype=torch.float64)
    start, _, _ = some(5, seed=seed + 1, dtype=torch.float64)
    boxes[:, 2:] += 1
    start[:, 2:] += 3
    back = decode_boxes(encode_boxes(boxes, start, std), start, std)
    torch.testing.assert_close(back, boxes, rtol=1e-9, atol=1e-7)


def test_deltas_by_hand_and_their_limit():
    anchor, box = torch.tensor([[0.0, 0, 10, 20]]), torch.tensor([[5.0, 0, 25, 20]])
    wanted = torch.tensor([[1.0 / 0.1, 0, math.log(2) / 0.2, 0]])
    torch.testing.assert_close(encode_boxes(box, anchor, (0.1, 0.1, 0.2, 0.2)), wanted)
    assert math.log(1000 / 16) == CLAMP
    huge = decode_boxes(torch.tensor([[0.0, 0, 99, 0]]), anchor)
    assert (huge[0, 2] - huge[0, 0]).item() == pytest.approx(10 * 1000 / 16)


def test_anchors_have_their_areas_ratios_and_centres():
    scales, ratios = (32, 64, 128, 256, 512), (0.5, 0.75, 1.0, 4 / 3, 2.0)
    found = anchors((3, 4), 16, scales, ratios, dtype=torch.float64).view(3, 4, 25, 4)
    size = found[..., 2:] - found[..., :2]
    areas = size.prod(-1).sqrt()[2, 3].view(5, 5)
    shapes = (size[..., 1] / size[..., 0])[0, 1].view(5, 5)
    torch.testing.assert_close(areas, torch.tensor(scales).double()[:, None].expand(5, 5))
    torch.testing.assert_close(shapes, torch.tensor(ratios).double().expand(5, 5))
    middle = (found[..., :2] + found[..., 2:])[2, 1] / 2
    torch.testing.assert_close(middle, torch.tensor([24.0, 40.0]).double().expand(25, 2))


def test_clip_and_what_is_refused():
    boxes = torch.tensor([[-5.0, 2, 30, 40]])
    assert clip(boxes, (20, 10)).tolist() == [[0, 2, 10, 20]]
    with pytest.raises(ValueError, match=r"\(N, 4\)"):
        box_iou(torch.zeros(3), boxes)
    with pytest.raises(ValueError, match="one score"):
        nms(boxes, torch.zeros(2), 0.5)
    with pytest.raises(ValueError, match="NaN"):
        nms(boxes, torch.tensor([math.nan]), 0.5)
    with pytest.raises(ValueError, match="float32 or float64"):
        nms(boxes.half(), torch.zeros(1), 0.5)
    with pytest.raises(ValueError, match="linear, gaussian"):
        soft_nms(boxes, torch.zeros(1), method="hard")
