"""NanoDet's own parts; what it shares with ThunderNet is asked in `test_thundernet`."""

import math

import pytest
import torch
from torch.nn import functional

from paragone.vision import NanoDet, anchors
from paragone.vision._detector_matching import BACKGROUND, select
from paragone.vision.nanodet import _overlaps, _quality

SIDE, STRIDES = 96, (8, 16, 32)


def squares():
    found = [anchors((SIDE // s, SIDE // s), s, (5 * s,), (1.0,)) for s in STRIDES]
    return torch.cat(found), [len(f) for f in found]


def overlap(a, b):
    wide = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    high = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    return (
        wide * high / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - wide * high)
    )


def select_by_loops(objects, cells, levels, nearest):
    """Algorithm 1 of ATSS, one object after the other."""
    best = {}
    for row, box in enumerate(objects):
        candidates, start = [], 0
        centre = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
        for count in levels:
            away = [
                (math.dist(centre, ((c[0] + c[2]) / 2, (c[1] + c[3]) / 2)), start + i)
                for i, c in enumerate(cells[start : start + count])
            ]
            candidates += [i for _, i in sorted(away)[:nearest]]
            start += count
        shared = [overlap(box, cells[i]) for i in candidates]
        mean = sum(shared) / len(shared)
        spread = math.sqrt(sum((s - mean) ** 2 for s in shared) / (len(shared) - 1))
        for i, s in zip(candidates, shared, strict=True):
            x, y = (cells[i][0] + cells[i][2]) / 2, (cells[i][1] + cells[i][3]) / 2
            inside = box[0] < x < box[2] and box[1] < y < box[3]
            if s >= mean + spread and inside and s > best.get(i, (-1, 0))[0]:
                best[i] = (s, row)
    return [best[i][1] if i in best else BACKGROUND for i in range(len(cells))]


def test_cells_are_selected_by_the_algorithm():
    cells, levels = squares()
    # Odd corners, so that no two cells are equally near.
    objects = torch.tensor([
        [3.3, 5.1, 30.7, 41.9], [21.3, 13.7, 90.9, 88.1], [50.3, 50.9, 61.7, 60.1],
        [20.1, 20.3, 48.3, 52.7],
    ])  # fmt: skip
    found = select(objects, cells, levels)
    assert found.tolist() == select_by_loops(objects.tolist(), cells.tolist(), levels, 9)
    assert set(found.tolist()) >= {0, 1, BACKGROUND}
    assert select(objects[:0], cells, levels).unique().tolist() == [BACKGROUND]
    few = select(objects[:1], cells, levels, nearest=3)
    assert few.tolist() == select_by_loops(objects[:1].tolist(), cells.tolist(), levels, 3)


def made(**options):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return NanoDet("shufflenet_v2_0.5", 2, channels=32, **options)


def test_distances_are_means_of_distributions():
    net, (cells, _) = made(), squares()
    logits = torch.full((len(cells), 4, 8), -50.0)
    logits[:, 0, 1] = 50  # one cell to the left, exactly
    logits[:, 1, [2, 3]] = 50  # two and a half up
    logits[:, 2:, 0] = 50
    boxes = net.decoded(logits, cells)
    middle, stride = (cells[:, :2] + cells[:, 2:]) / 2, (cells[:, 2] - cells[:, 0]) / 5
    torch.testing.assert_close(boxes[:, 0], middle[:, 0] - stride)
    torch.testing.assert_close(boxes[:, 1], middle[:, 1] - 2.5 * stride)
    torch.testing.assert_close(boxes[:, 2:], middle)
    assert stride.unique().tolist() == [8, 16, 32]


def test_distribution_loss_is_least_at_the_truth():
    net, (cells, _) = made(), squares()
    cell = cells[40:41]
    middle, stride = (cell[:, :2] + cell[:, 2:]) / 2, 8.0
    away = torch.tensor([[1.25, 2.0, 0.5, 9.0]])  # the last one is out of reach: n - 0.01
    aim = torch.cat([middle - away[:, :2] * stride, middle + away[:, 2:] * stride], 1)
    wanted = torch.zeros(1, 4, 8)
    for side, value in enumerate((1.25, 2.0, 0.5, 6.99)):
        low = int(value)
        wanted[0, side, low] += 1 - (value - low)
        wanted[0, side, low + 1] += value - low
    best = net._told((wanted + 1e-12).log(), aim, cell)
    entropy = -(wanted * (wanted + 1e-12).log()).sum(-1).mean(1)
    torch.testing.assert_close(best, entropy, rtol=1e-4, atol=1e-5)
    for seed in range(3):
        g = torch.Generator().manual_seed(seed)
        assert net._told(torch.randn(1, 4, 8, generator=g), aim, cell) > best


def test_quality_loss_by_hand():
    logits, wanted = torch.tensor([[0.3, -2.0]]), torch.tensor([[0.7, 0.0]])
    s = logits.sigmoid()
    told = (wanted - s) ** 2 * -(wanted * s.log() + (1 - wanted) * (1 - s).log())
    torch.testing.assert_close(_quality(logits, wanted), told.sum())
    assert _quality(torch.tensor([[0.0]]), torch.tensor([[0.5]])) == 0


@pytest.mark.peers
def test_overlaps_equal_torchvision():
    from paragone.lab.torchvision_cpu import import_torchvision, why_no_operators

    if why_no_operators():
        pytest.skip(why_no_operators())
    import_torchvision()
    from torchvision.ops import box_iou, generalized_box_iou

    g = torch.Generator().manual_seed(1)
    corner = torch.rand(2, 50, 2, generator=g) * 60
    first, second = torch.cat([corner, corner + 1 + torch.rand(2, 50, 2, generator=g) * 50], 2)
    shared, whole = _overlaps(first, second)
    torch.testing.assert_close(shared, box_iou(first, second).diagonal())
    torch.testing.assert_close(whole, generalized_box_iou(first, second).diagonal())


def test_neck_mixes_all_levels():
    net = made().eval()
    image = torch.rand(1, 3, SIDE, SIDE)
    maps = net.backbone.feature_maps(net.normalised(image), STRIDES)
    base = net.neck([maps[s] for s in STRIDES])
    for changed in STRIDES:
        other = {s: m + (s == changed) for s, m in maps.items()}
        for before, after in zip(base, net.neck([other[s] for s in STRIDES]), strict=True):
            assert not torch.equal(before, after)
    heads = net.raw(image)
    assert [x.shape for x in heads] == [(1, 2 + 32, SIDE // s, SIDE // s) for s in STRIDES]
    assert functional.sigmoid(heads[0][:, :2]).mean() < 0.05


@pytest.mark.parametrize("suppression", ["soft", "hard"])
def test_detections_are_what_raw_says(suppression):
    net = made(suppression=suppression)
    raw = [torch.full((1, 2 + 32, SIDE // s, SIDE // s), -20.0) for s in STRIDES]
    raw[1][0, 1, 2, 3] = 3.0
    raw[1][0, 2:, 2, 3] = torch.eye(8)[[1, 0, 2, 1]].flatten() * 100
    (found,) = net.detections(*raw, sizes=[(SIDE, SIDE)])
    x, y = 3.5 * 16, 2.5 * 16
    torch.testing.assert_close(found["boxes"], torch.tensor([[x - 16, y, x + 32, y + 16]]))
    assert found["labels"].tolist() == [1]
    torch.testing.assert_close(found["scores"], torch.tensor([3.0]).sigmoid())
