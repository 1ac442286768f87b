r"""How well does ThunderNet find blood cells after a few minutes on a CPU?

    python benchmarks/bccd.py BCCD.tar [trunk.pth] [--epochs 12] [--sgd]

292 microscope images to train on, 72 to test on, red and white cells and platelets. With a
pretrained trunk (`shufflenet_v2_0.5`, FastestDet's file) `SMALL_RECIPE` as it stands; without one
the same from scratch, for which more epochs are needed. One line an epoch: seconds of the process
and of the wall, and the losses; average precision at overlap 0.5 every fourth epoch, by class, of
the averaged weights. `--sgd` takes stochastic gradient descent in place of AdamW.
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from typing import Any

import numpy as np
import torch
from torch import Tensor

from paragone.vision import ThunderNet, average_precision, read_images
from paragone.vision._data_augment import still_view
from paragone.vision.thundernet import SMALL_RECIPE

SIDE = SMALL_RECIPE["test_size"]
Scene = tuple[Tensor, Tensor, Tensor]


def scenes(images: Any) -> list[Scene]:
    """Images (3, SIDE, SIDE) in [0, 1] with their boxes and labels."""
    found = []
    for sample in images:
        view = still_view(sample.image.shape[:2], (SIDE, SIDE), "stretch")
        pixels = torch.tensor(view.image(sample.image)).permute(2, 0, 1).float() / 255
        boxes = torch.from_numpy(view.boxes(sample.boxes)).float()
        found.append((pixels, boxes, torch.from_numpy(sample.labels)))
    return found


def varied(scene: Scene, rng: np.random.Generator) -> tuple[Tensor, dict[str, Tensor]]:
    """Mirrored both ways by chance, brightness and contrast changed."""
    pixels, boxes, labels = scene
    for axis in (0, 1):
        if rng.random() < 0.5:
            pixels, boxes = pixels.flip(2 - axis), boxes.clone()
            boxes[:, [axis, axis + 2]] = SIDE - boxes[:, [axis + 2, axis]]
    pixels = (pixels - 0.5) * rng.uniform(0.8, 1.2) + 0.5 + rng.uniform(-0.1, 0.1)
    return pixels.clamp(0, 1), {"boxes": boxes, "labels": labels}


def stacked(images: list[Tensor]) -> Tensor:
    """A batch in channels-last order."""
    return torch.stack(images).contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def precision(net: ThunderNet, test: list[Scene], classes: tuple[str, ...]) -> str:
    """Average precision at overlap 0.5, and that of each class."""
    found: list[Any] = []
    for start in range(0, len(test), 8):
        found += net.eval()(stacked([scene[0] for scene in test[start : start + 8]]))
    dt = [{k: v.numpy() for k, v in each.items()} for each in found]
    gt = [{"boxes": boxes.numpy(), "labels": labels.numpy()} for _, boxes, labels in test]
    result = average_precision(gt, dt, iou=0.5, classes=classes)
    curves = result.precision[0, :, :, 0, -1]
    each = ", ".join(f"{name} {curves[:, k].mean():.3f}" for k, name in enumerate(classes))
    return f"AP50 {curves.mean():.3f} ({each})"


def follow(average: ThunderNet, net: ThunderNet, step: int) -> None:
    """Moves averaged weights and statistics towards those of the step."""
    share = 1 - min(0.99, (1 + step) / (10 + step))
    for kept, new in zip(average.state_dict().values(), net.state_dict().values(), strict=True):
        if kept.is_floating_point():
            kept.lerp_(new, share)
        else:
            kept.copy_(new)


def main() -> None:
    """Trains, and prints what it sees."""
    parser = argparse.ArgumentParser(description="ThunderNet on blood cells")
    parser.add_argument("data")
    parser.add_argument("trunk", nargs="?")
    parser.add_argument("--epochs", type=int, default=SMALL_RECIPE["epochs"])
    parser.add_argument("--sgd", action="store_true")
    asked = parser.parse_args()
    data = read_images(asked.data, "detect", validate_on="test")
    train, test = scenes(data.train), scenes(data.validation)
    torch.manual_seed(0)
    rng, options = np.random.default_rng(0), dict(SMALL_RECIPE["model_options"])
    net = ThunderNet(num_classes=3, generator=torch.Generator().manual_seed(1), **options)
    if asked.trunk:
        net.load_pretrained_backbone(asked.trunk)
    net = net.to(memory_format=torch.channels_last)  # pyright: ignore
    average, trained = copy.deepcopy(net), [p for p in net.parameters() if p.requires_grad]
    peak, batch = 0.02 if asked.sgd else SMALL_RECIPE["lr"], SMALL_RECIPE["batch"]
    optimizer: Any = torch.optim.SGD(trained, peak, momentum=0.9, weight_decay=1e-4)
    if not asked.sgd:
        decay = SMALL_RECIPE["weight_decay"]
        optimizer = torch.optim.AdamW(trained, peak, weight_decay=decay)
    each, step = len(train) // batch, 0
    print(f"{len(train)} images to train on, {len(test)} to test on", flush=True)
    cpu, wall = time.process_time(), time.perf_counter()
    for epoch in range(asked.epochs):
        net.train()
        told: dict[str, float] = {}
        for rows in rng.permutation(len(train))[: each * batch].reshape(each, batch):
            done = step / (each * asked.epochs)
            rise = min(1.0, (step + 1) / SMALL_RECIPE["warmup_steps"])
            for group in optimizer.param_groups:
                group["lr"] = peak * rise * (0.01 + 0.495 * (1 + math.cos(math.pi * done)))
            drawn = [varied(train[row], rng) for row in rows]
            losses: Any = net(stacked([d[0] for d in drawn]), [d[1] for d in drawn])
            optimizer.zero_grad()
            torch.stack(list(losses.values())).sum().backward()
            torch.nn.utils.clip_grad_norm_(trained, SMALL_RECIPE["clip_norm"])
            optimizer.step()
            step += 1
            follow(average, net, step)
            for name, value in losses.items():
                told[name] = told.get(name, 0.0) + value.item() / each
        text = ", ".join(f"{name} {value:.3f}" for name, value in told.items())
        print(f"epoch {epoch + 1}: {time.process_time() - cpu:.0f} s of the process, "
              f"{time.perf_counter() - wall:.0f} s; {text}", flush=True)  # fmt: skip
        if epoch % 4 == 3 or epoch + 1 == asked.epochs:
            print(f"  {precision(average, test, data.classes)}", flush=True)


if __name__ == "__main__":
    main()
