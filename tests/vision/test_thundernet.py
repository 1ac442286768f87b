"""ThunderNet: its parts, its figures, its training; and what both detectors share."""

import pytest
import torch

from paragone.vision import NanoDet, ThunderNet, backbone, box_iou
from paragone.vision._detector_matching import BACKGROUND, BETWEEN, match, sample
from paragone.vision.contract import Backbone
from paragone.vision.counting import macs_by_layer
from paragone.vision.layers import NormAct
from paragone.vision.thundernet import RECIPE

DETECTORS = pytest.mark.parametrize("kind", [ThunderNet, NanoDet])


class Small(Backbone):
    """A trunk of a few thousand parameters."""

    num_classes, in_channels, image_size = 0, 3, (64, 64)

    def __init__(self):
        super().__init__()
        self.channels = {8: 32, 16: 48, 32: 48}
        ends = ((3, 32, 4, 2), (32, 48, 2, 0), (48, 48, 2, 0))
        self.stages = torch.nn.ModuleList(
            torch.nn.Sequential(
                torch.nn.Conv2d(a, b, 2 * s if s == 4 else 3, s, 2 if s == 4 else 1, bias=False),
                NormAct(b),
                *([torch.nn.MaxPool2d(2)] if extra else []),
                torch.nn.Conv2d(b, b, 3, 1, 1, bias=False),
                NormAct(b),
            )
            for a, b, s, extra in ends
        )

    def steps(self):
        return list(zip((8, 16, 32), self.stages, strict=True))

    def head(self, features):
        return features.mean((2, 3))


def made(kind=ThunderNet, num_classes=3, **options):
    if kind is ThunderNet:
        options = {"scales": (16, 32, 64), "generator": torch.Generator().manual_seed(1), **options}
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return kind(options.pop("backbone", None) or Small(), num_classes, **options)


def scenes(count, side=96, seed=0, classes=3):
    """Rectangles of one colour a class on grey; the first scene is empty."""
    g = torch.Generator().manual_seed(seed)
    images, targets = 0.5 + 0.02 * torch.randn(count, 3, side, side, generator=g), []
    for i in range(count):
        boxes, labels = [], []
        for k in range(2 if i else 0):
            size = torch.randint(18, 40, (2,), generator=g)
            x = int(torch.randint(0, side // 2 - 40 + 1, (1,), generator=g)) + k * side // 2
            y = int(torch.randint(0, side - 40, (1,), generator=g))
            label = int(torch.randint(0, classes, (1,), generator=g))
            images[i, :, y : y + size[1], x : x + size[0]] = 0.1
            images[i, label, y : y + size[1], x : x + size[0]] = 0.9
            boxes.append([x, y, x + int(size[0]), y + int(size[1])])
            labels.append(label)
        targets.append({
            "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
            "labels": torch.tensor(labels, dtype=torch.int64),
        })  # fmt: skip
    return images, targets


def found_share(net, images, targets):
    """Share of objects found, and of confident detections that are right."""
    with torch.no_grad():
        detections = net.eval()(images)
    hits = total = right = sure = 0
    for found, target in zip(detections, targets, strict=True):
        keep = found["scores"] > 0.5
        shared = box_iou(target["boxes"], found["boxes"][keep])
        agree = (target["labels"][:, None] == found["labels"][keep]) & (shared >= 0.5)
        hits, total = hits + int(agree.any(1).sum()), total + len(agree)
        right, sure = right + int(agree.any(0).sum()), sure + int(keep.sum())
    return hits / total, right / max(sure, 1)


@pytest.mark.parametrize(("kind", "steps"), [(ThunderNet, 66), (NanoDet, 60)])
def test_learns_a_few_scenes_by_heart(kind, steps):
    images, targets = scenes(5)
    thin = {"region_samples": 64, "proposals": (100, 50), "candidates": (200, 100)}
    net = made(kind, **(thin if kind is ThunderNet else {"channels": 64})).train()
    optimizer = torch.optim.AdamW(net.parameters(), 3e-3)
    for _ in range(steps):
        losses = net(images, targets)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    found, right = found_share(net, images, targets)
    assert found == 1
    assert right >= 0.8


@DETECTORS
def test_every_parameter_learns_and_nothing_global_is_drawn(kind):
    images, targets = scenes(3)
    state = torch.get_rng_state()
    losses = []
    for _ in range(2):
        net = made(kind).train()
        losses.append(net(images, targets))
    assert torch.equal(torch.get_rng_state(), state)
    for name, value in losses[0].items():
        assert torch.equal(value, losses[1][name]), name
    sum(losses[1].values()).backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


@DETECTORS
def test_images_without_objects(kind):
    images, targets = scenes(1)
    losses = made(kind).train()(images, targets)
    sum(losses.values()).backward()
    assert all(value.isfinite() for value in losses.values())
    boxes = {"rpn_box", "roi_box"} if kind is ThunderNet else {"box", "distribution"}
    assert all(losses[name] == 0 for name in boxes)


@DETECTORS
def test_images_of_several_sizes(kind):
    net = made(kind, score_threshold=0.0 if kind is ThunderNet else 1e-4).eval()
    g = torch.Generator().manual_seed(0)
    images = [torch.rand(3, *size, generator=g) for size in ((70, 50), (32, 97), (64, 64))]
    batch, sizes = net.batched(images)
    assert batch.shape == (3, 3, 96, 128)
    assert sizes == [(70, 50), (32, 97), (64, 64)]
    assert (batch[0, :, 70:] == 0).all()
    with torch.no_grad():
        found = net(images)
        one = net.batched([images[2]])[0]
        alone, again = net.raw(one), net.raw(one.expand(2, -1, -1, -1))
    for detections, (height, width) in zip(found, sizes, strict=True):
        boxes, scores = detections["boxes"], detections["scores"]
        assert len(boxes) > 0
        assert (boxes >= 0).all()
        assert (boxes[:, 2] <= width).all()
        assert (boxes[:, 3] <= height).all()
        assert (boxes[:, 2:] > boxes[:, :2]).all()
        assert (scores.diff() <= 0).all()
        assert detections["labels"].dtype == torch.int64
    # Detections of an untrained net hang on ties; what they are made of does not.
    for single, twice in zip(alone, again, strict=True):
        torch.testing.assert_close(twice[1], single[0], rtol=1e-4, atol=1e-5)


@DETECTORS
def test_files_keep_it(kind, tmp_path):
    net = made(kind, backbone="shufflenet_v2_0.5", num_classes=2).eval()
    net.save(tmp_path / "net.safetensors", classes=["a", "b"])
    again = kind.load(tmp_path / "net.safetensors").eval()
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        for first, second in zip(net.raw(image), again.raw(image), strict=True):
            assert torch.equal(first, second)
    assert again.notes == {"classes": ["a", "b"]}
    other = NanoDet if kind is ThunderNet else ThunderNet
    with pytest.raises(ValueError, match=kind.__name__):
        other.load(tmp_path / "net.safetensors")
    with pytest.raises(ValueError, match="name of its backbone"):
        made(kind).save(tmp_path / "own.safetensors")


def test_published_cost():
    # Counted from the published tables; the logits' 2.56 M and the authors' uneven split apart.
    logits = 256 * 25 * 20 * 20
    for name, ours, published in (
        ("snet49", 248_608_240, 251.2e6), ("snet146", 487_434_560, 492.8e6),
    ):  # fmt: skip
        assert ThunderNet(name, 20, device="meta").macs((320, 320)) == ours
        uneven = backbone(name, num_classes=0, wiring="megvii", device="meta")
        net = ThunderNet(uneven, 20, device="meta")
        assert abs(net.macs() + logits - published) < 0.05e6
        more = ThunderNet(name, 80, device="meta").macs() - ours
        assert more == 200 * 1024 * 60
    assert backbone("snet49", device="meta").macs((224, 224)) == 51_205_832
    assert RECIPE["sizes"] == (240, 320, 480)


def test_parts_are_the_published_ones():
    net = made(backbone="snet49", scales=(32, 64, 128, 256, 512)).eval()
    image = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        maps = net.backbone.feature_maps(net.normalised(image), (16, 32))
        fine, coarse = maps[16], maps[32]
        assert (fine.shape[1], coarse.shape[1]) == (120, 512)
        parts = net.context
        near = parts.coarse(coarse).repeat_interleave(2, 2).repeat_interleave(2, 3)
        whole = parts.whole(coarse.mean((2, 3), keepdim=True))
        context = parts.local(fine) + near + whole
        torch.testing.assert_close(parts(maps), context)
        proposal, objectness, deltas = net.proposal(context)
        assert proposal.min() == 0  # behind the 1x1, its norm and its ReLU
        assert objectness.shape == (1, 4 * 6 * 25)
        assert deltas.shape == (1, 4 * 6 * 25, 4)
        sam = net.attention
        assert sam.project.bias is None
        x = sam.project(proposal)
        x = torch.nn.functional.batch_norm(
            x, sam.norm.running_mean, sam.norm.running_var, sam.norm.weight, sam.norm.bias
        )
        weighed = context * x.sigmoid()
        raw = net.raw(image)
        # The regions look at the weighed map, not at the context.
        torch.testing.assert_close(raw[2], weighed)
        assert not torch.allclose(raw[2], context)
    assert net.region.hidden.in_features == 5 * 49
    assert net.region.logits.out_features == 4
    assert made(context=False, attention=False).eval()(torch.rand(1, 3, 64, 64))


def test_anchors_fall_in_with_the_outputs():
    net = made().eval()
    with torch.no_grad():
        objectness, deltas, features = net.raw(torch.rand(1, 3, 96, 64))
    boxes = net.anchors(features)
    assert len(boxes) == objectness.shape[1] == 6 * 4 * 15
    logits = torch.full_like(objectness[0], -9.0)
    row = (3 * 4 + 1) * 15 + 7  # row 3, column 1, second scale, third ratio
    logits[row] = 9
    first = net.regions(logits, torch.zeros_like(deltas[0]), boxes, (96, 64))[0]
    assert first.tolist() == [24 - 16, 56 - 16, 24 + 16, 56 + 16]


def test_matching():
    overlaps = torch.tensor([[0.72, 0.5, 0.2, 0.0], [0.1, 0.4, 0.25, 0.0]])
    assert match(overlaps, 0.7, 0.3, low_quality=True).tolist() == [0, 1, BACKGROUND, BACKGROUND]
    strict = match(overlaps, 0.7, 0.3, low_quality=False).tolist()
    assert strict == [0, BETWEEN, BACKGROUND, BACKGROUND]
    assert match(overlaps, 0.5, 0.5, low_quality=False).tolist()[1] == 0
    assert match(torch.zeros(0, 3), 0.7, 0.3, low_quality=True).tolist() == [BACKGROUND] * 3
    # An object that nothing overlaps does not take every anchor.
    assert match(torch.zeros(1, 3), 0.7, 0.3, low_quality=True).tolist() == [BACKGROUND] * 3


def test_sampling():
    matched = torch.tensor([0] * 50 + [BETWEEN] * 100 + [BACKGROUND] * 300)
    draws = []
    for _ in range(2):
        having, lacking = sample(matched, 128, 0.25, torch.Generator().manual_seed(4))
        assert (len(having), len(lacking)) == (32, 96)
        assert (matched[having] == 0).all()
        assert (matched[lacking] == BACKGROUND).all()
        draws.append(torch.cat([having, lacking]))
    assert torch.equal(*draws)
    having, lacking = sample(matched[:160], 128, 0.5)
    assert (len(having), len(lacking)) == (50, 10)


def test_objects_are_regions_while_training():
    net, (images, targets) = made().train(), scenes(3)
    seen = []
    net.look = lambda features, regions: (
        seen.extend(regions), ThunderNet.look(net, features, regions)
    )[1]  # fmt: skip
    net(images, targets)
    for regions, target in zip(seen, targets, strict=True):
        for box in target["boxes"]:
            assert (regions == box).all(1).any()
        assert len(regions) <= 512


def test_suppression_is_the_one_asked_for():
    image = torch.rand(1, 3, 96, 96)
    soft = made(score_threshold=0.01).eval()
    hard = made(score_threshold=0.01, suppression="hard").eval()
    with torch.no_grad():
        (a,), (b,) = soft(image), hard(image)
    assert len(b["boxes"]) <= len(a["boxes"])
    for label in range(3):
        boxes = b["boxes"][b["labels"] == label]
        shared = box_iou(boxes, boxes).fill_diagonal_(0)
        assert not (shared > 0.5).any()
    assert len(made(score_threshold=0.0, max_detections=5).eval()(image)[0]["boxes"]) == 5


def test_a_trunk_that_keeps_its_statistics():
    net = made(freeze_norm=True).train()
    before = {k: v.clone() for k, v in net.state_dict().items() if "running" in k}
    images, targets = scenes(2)
    net(images[1:], targets[1:])
    changed = {k for k, v in net.state_dict().items() if k in before and not v.equal(before[k])}
    assert changed
    assert not any(k.startswith("backbone") for k in changed)
    assert net.proposal.norm1.training


def test_pretrained_trunk(data_folder):
    file = data_folder / "vision" / "shufflenetv2_0.5x.pth"
    if not file.exists():
        pytest.skip(f"no {file.name} in the folder of real data")
    net = made(backbone="shufflenet_v2_0.5")
    assert net.load_pretrained_backbone(file) == []
    state = torch.load(file, map_location="cpu", weights_only=True)
    assert torch.equal(net.backbone.conv1[0].weight, state["first_conv.0.weight"])
    assert net.get_buffer("std").unique().tolist() == [1]  # its images are x / 255
    with pytest.raises(ValueError, match="another backbone"):
        made(backbone="snet49").load_pretrained_backbone(file)


@DETECTORS
def test_trains_in_channels_last_and_counts_layers(kind):
    net = made(kind).to(memory_format=torch.channels_last).train()
    images, targets = scenes(2)
    losses = net(images.contiguous(memory_format=torch.channels_last), targets)
    plain = made(kind).train()(images, targets)
    for name in losses:
        torch.testing.assert_close(losses[name], plain[name], rtol=1e-3, atol=1e-4)
    assert sum(macs_by_layer(Small(), (3, 64, 64)).values()) < net.macs((64, 64))


@pytest.mark.peers
@DETECTORS
def test_onnx_puts_out_the_same(kind, tmp_path):
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    net = made(kind).train()
    with pytest.raises(ValueError, match="multiples of 32"):
        net.export_onnx(tmp_path / "net.onnx", (64, 50))
    files = net.export_onnx(tmp_path / "net.onnx", (64, 96))
    assert net.training
    image = torch.rand(1, 3, 64, 96)
    net.eval()
    with torch.no_grad():
        wanted, boxes = net.raw(image), net(image)[0]
    sessions = [runtime.InferenceSession(str(file)) for file in files]
    raw = [torch.from_numpy(x) for x in sessions[0].run(net.raw_names, {"images": image.numpy()})]
    for ours, theirs in zip(wanted, raw, strict=True):
        torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-5)
    found = net.detections(*raw, sizes=[(64, 96)])[0]
    torch.testing.assert_close(found["boxes"], boxes["boxes"], rtol=1e-3, atol=1e-2)
    if kind is ThunderNet:
        pooled = torch.rand(7, 5, 7, 7)
        told = sessions[1].run(["logits", "deltas"], {"pooled": pooled.numpy()})
        for ours, theirs in zip(net.region(pooled), told, strict=True):
            torch.testing.assert_close(torch.from_numpy(theirs), ours, rtol=1e-4, atol=1e-5)


@DETECTORS
def test_what_is_refused(kind):
    net, image = made(kind).train(), torch.rand(1, 3, 64, 64)
    box, label = torch.tensor([[4.0, 4, 20, 20]]), torch.tensor([0])
    for problem, images, targets in (
        ("targets are missing", image, None),
        ("1 images but 2", image, [{"boxes": box, "labels": label}] * 2),
        ("no 'labels'", image, [{"boxes": box}]),
        (r"\(N, 4\)", image, [{"boxes": box[0], "labels": label}]),
        ("row 0: label 3 is none of 0 to 2", image, [{"boxes": box, "labels": label + 3}]),
        ("whole numbers", image, [{"boxes": box, "labels": label.float()}]),
        ("has no area", image, [{"boxes": box.flip(1), "labels": label}]),
        ("image 0 is", torch.rand(1, 1, 64, 64), []),
        ("floats", (image * 255).to(torch.uint8), []),
        ("no images", [], []),
        ("a list", image[0, 0], []),
    ):
        with pytest.raises(ValueError, match=problem):
            net(images, targets)
    with pytest.raises(ValueError, match="multiples of 32"):
        net.raw(torch.rand(1, 3, 64, 80))
    with pytest.raises(ValueError, match="a backbone that pads"):
        kind("inception_v3", device="meta").macs()
    for problem, options in (
        ("none of soft, hard|soft or hard", {"suppression": "none"}),
        ("num_classes=0", {"num_classes": 0}),
        ("is none of", {"backbone": "lenet"}),
        ("takes 3 channels", {"in_channels": 1}),
    ):
        with pytest.raises(ValueError, match=problem):
            made(kind, **options)
