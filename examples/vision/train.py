"""
A classifier for a folder of one's own pictures
===============================================

Handwritten digits are written out as picture files, one folder for each class, as pictures of one's
own would lie; one of them is damaged. Reading tells what it left out, training is interrupted and
goes on to exactly the weights that an undisturbed run has.
"""

import tempfile
from pathlib import Path

import torch
from PIL import Image
from torch import nn

from paragone.vision import load_model, read_images, train
from paragone.vision.samples import digit_images
from paragone.vision.training import Augmentation

home = Path(tempfile.mkdtemp())
digits = digit_images(16)
for sample in [digits.train[i] for i in range(600)]:
    folder = home / "pictures" / digits.classes[sample.label]
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(sample.image).save(folder / f"{sample.name}.png")
(home / "pictures" / "7" / "damaged.png").write_bytes(b"\x89PNG, cut off")

# %%
# A folder for each class is a data set; so is a zip or a tar of it. Splits are drawn so that every
# class has its share. Nothing is left out silently.
data = read_images(home / "pictures", validation=0.2)
print(f"{len(data.train)} to train on, {len(data.validation)} to validate, classes {data.classes}")
print("left out:", data.skipped, "-", data.problems[0].replace(str(home), "")[:60])


# %%
# Any function that takes the number of classes is a network, as is any name of `backbones()`.
# Mirror images of digits are no digits, so that is switched off.
def network(num_classes: int) -> nn.Module:
    """Two convolutions and a linear layer."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.AdaptiveAvgPool2d(4),
        nn.Flatten(), nn.Linear(512, num_classes),
    )  # fmt: skip


recipe = {
    "epochs": 4, "lr": 0.01, "size": 16, "batch": 32, "precision": "fp32",
    "augmentation": Augmentation(mirror="none", scale=(0.8, 1.0)),
}  # fmt: skip


def show(event):
    """Prints each validation."""
    if event.kind == "validated":
        accuracy = event.metrics["accuracy"]
        print(f"epoch {event.epoch}: loss {event.loss:.2f}, accuracy {accuracy:.3f}")


whole = train("classify", data, network, out=home / "whole", progress=show, **recipe)


# %%
# The same again, stopped after two epochs as Ctrl-C would. The same call goes on, and the
# weights are equal to the last bit: each step depends on the seed and its number alone.
def stop(event):
    """Leaves after the second epoch."""
    if event.kind == "validated" and event.epoch == 2:
        raise KeyboardInterrupt


try:
    train("classify", data, network, out=home / "stopped", progress=stop, **recipe)
except KeyboardInterrupt:
    print("interrupted")
again = train("classify", data, network, out=home / "stopped", **recipe)
pairs = zip(whole.model.parameters(), again.model.parameters(), strict=True)
print("the same weights:", all(torch.equal(a, b) for a, b in pairs))

# %%
# The run's folder is a model: with its classes, and with the way that pictures become its input.
model = load_model(home / "stopped", network(len(data.classes)))
fresh = [digits.validation[i] for i in range(200)]
answers = model.predict([sample.image for sample in fresh])
right = sum(a["class"] == digits.classes[s.label] for a, s in zip(answers, fresh, strict=True))
print(f"{right} of {len(fresh)} digits that were in no folder")

# %%
# In the shell: `paragone train-vision classify pictures --budget 5m`, and for boxes
# `paragone train-vision detect scenes` followed by `paragone detect runs/detect-scenes PICTURES`.
