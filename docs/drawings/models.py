"""Pictures of vision, language, multimodal models and agents."""

import numpy as np
import torch
from chart import bars, board, legend, lines
from sklearn.datasets import load_digits, load_sample_images

from paragone import language, multimodal, vision
from paragone.multimodal.agent import smart_resize


def upsampling():
    """An edge, four times larger."""
    edge = torch.tensor([0.0, 0, 0, 1, 1, 1, 0.3, 0.3]).expand(1, 1, 8, 8).contiguous()
    curves = {}
    for method in ("nearest", "bilinear", "bicubic"):
        with torch.no_grad():
            row = vision.Upsample(method, 1, 4)(edge)[0, 0, 16]
        curves[method] = (np.arange(32) + 0.5) / 4, row
    return lines("Edges made four times larger", curves, "place in the small picture", "value")


def efficientnet():
    """Multiply-adds and parameters from B0 to B7."""
    sides = (224, 240, 260, 300, 380, 456, 528, 600)
    nets = [vision.efficientnet(f"b{i}", num_classes=1000, device="meta") for i in range(8)]
    work = [net.macs((s, s)) / 1e9 for net, s in zip(nets, sides, strict=True)]
    size = [sum(p.numel() for p in net.parameters()) / 1e6 for net in nets]
    curves = {
        "billion multiply-adds": (range(8), work),
        "million parameters": (range(8), size),
        "0.39 x 2^phi": (range(8), [0.39 * 2**i for i in range(8)]),
    }
    return lines("EfficientNet B0 to B7", curves, "B0 to B7", "", log="y")


def lightweight_networks():
    """Work of the lineage's blocks."""
    rows = {f"{b.name} ({b.year})": b.multiply_adds / 1e6 for b in vision.lineage(192, (28, 28))}
    unit = "million multiply-adds, 192 channels on 28 x 28"
    return bars("Blocks of the lineage", rows, unit, log=True)


def thundernet():
    """Work of trunks at the detector's size."""
    names = ("snet49", "snet146", "snet535", "mobilenet_v2", "resnet50")
    rows = {name: vision.backbone(name, device="meta").macs((320, 320)) / 1e9 for name in names}
    return bars("Trunks at 320 x 320", rows, "billion multiply-adds at 320 x 320")


def mean_average_precision():
    """Precision over recall, as it is and as it is read."""
    rng = np.random.default_rng(0)
    objects, found = [], []
    for _ in range(40):
        corners = rng.uniform(0, 80, (3, 2))
        boxes = np.hstack([corners, corners + 20])
        moved = boxes + rng.normal(0, 3, boxes.shape)
        wild = rng.uniform(0, 80, (2, 2))
        objects.append({"boxes": boxes, "labels": [0, 0, 0]})
        every = np.vstack([moved, np.hstack([wild, wild + 20])])
        scores = np.concatenate([rng.uniform(0.3, 1, 3), rng.uniform(0, 0.8, 2)])
        found.append({"boxes": every, "labels": [0] * 5, "scores": scores})
    order, hits = [], []
    for truth, guess in zip(objects, found, strict=True):
        overlap = vision.box_iou(torch.tensor(guess["boxes"]), torch.tensor(truth["boxes"]))
        taken = set()
        for row in np.argsort(-guess["scores"]):
            best = int(overlap[row].argmax())
            right = float(overlap[row, best]) >= 0.5 and best not in taken
            taken |= {best} if right else set()
            order.append(guess["scores"][row])
            hits.append(right)
    right = np.cumsum(np.array(hits)[np.argsort(-np.array(order))])
    recall, precision = right / 120, right / np.arange(1, len(right) + 1)
    hull = np.maximum.accumulate(precision[::-1])[::-1]
    points = np.linspace(0, 1, 11)
    read = [hull[recall >= r].max() if (recall >= r).any() else 0.0 for r in points]
    curves = {"as ranked": (recall, precision), "envelope": (recall, hull)}
    return lines(
        "Precision over recall", curves, "recall", "precision", dots={"VOC 2007": (points, read)}
    )


def llama():
    """The cache of a context."""
    tokens, curves = np.geomspace(128, 131072, 30), {}
    shapes = {"7B, 32 heads": (32, 32), "8B, 8 shared": (32, 8), "8B, 1 shared": (32, 1)}
    for name, (layers, groups) in shapes.items():
        curves[name] = tokens, 2 * layers * groups * 128 * 2 * tokens / 1e9
    return lines("Keys and values in 16 bits", curves, "tokens of context", "GB", log="xy")


def alpaca():
    """How near each seed is to its nearest other."""
    from paragone.language._instruct_seeds import SEEDS

    texts = [row["instruction"] for row in SEEDS]
    near = sorted(max(language.rouge_l(a, b).fmeasure for b in texts if b is not a) for a in texts)
    curves = {
        "nearest other seed": (range(1, len(near) + 1), near),
        "limit 0.7": ((1, len(near)), (0.7, 0.7)),
    }
    return lines("ROUGE-L among the seeds", curves, "seed, in order", "ROUGE-L")


def dpo():
    """The loss of a pair by its margin."""
    h = torch.linspace(-4, 4, 81)
    curves = {
        f"beta {beta}": (h, -torch.nn.functional.logsigmoid(beta * h)) for beta in (0.1, 0.5, 2.0)
    }
    return lines("Loss of a pair", curves, "log-ratio, chosen over rejected", "loss")


def yields(chance: float, depth: int) -> float:
    """Tokens of a step when each guess is right with the same chance."""
    return 1 + sum(chance**d for d in range(1, depth + 1))


def medusa():
    """Tokens a step by how often the first guess is right."""
    a = np.linspace(0, 1, 41)
    curves = {f"{n} heads": (a, [yields(c, n) for c in a]) for n in (1, 2, 4)}
    tree = [yields(1 - (1 - c) ** 2, 4) for c in a]
    curves["4 heads, 2 guesses each"] = a, tree
    return lines("Tokens of a step", curves, "chance that a guess is right", "tokens a step")


def multi_token_prediction():
    """What a step gains after its own cost."""
    n, curves = np.arange(0, 9), {}
    for chance in (0.6, 0.8, 0.9):
        gain = [yields(chance, int(k)) / (1 + 0.1 * k) for k in n]
        curves[f"right {chance:.0%}"] = n, gain
    return lines("Gain by length of draft", curves, "tokens drafted", "times faster")


def kimi_vl():
    """Tokens of pictures, packed and padded."""
    photo = load_sample_images().images[0]
    shapes = {"photograph": photo.shape[:2], "its middle": (100, 100), "strip": (20, 1000)}
    processor = multimodal.KimiImageProcessor()
    packed = {name: processor.tokens(*shape) for name, shape in shapes.items()}
    rows = {**packed, "all three, packed": sum(packed.values())}
    rows["all three, padded to the largest"] = 3 * max(packed.values())
    return bars("Tokens of pictures", rows, "tokens")


def tiles(picture, images, left, top, cell):
    """Grey pictures (n, h, w) of 0 to 255 in a row."""
    for number, image in enumerate(images):
        x0 = left + number * (image.shape[1] + 2) * cell
        side = image.shape[1] * cell
        picture.add("rect", x=x0, y=top, width=side, height=side, fill="#000")
        for (r, c), value in np.ndenumerate(image):
            if value > 15:
                picture.add(
                    "rect", x=x0 + c * cell, y=top + r * cell, width=cell, height=cell,
                    fill=f"#{int(value):02x}" + f"{int(value):02x}" * 2,
                )  # fmt: skip


def chameleon():
    """Digits, and what is drawn from their sixteen words."""
    digits = load_digits()
    pictures = np.rint(digits.images * 255 / 16).astype(np.uint8)
    config = multimodal.ImageTokenizerConfig.make("digits", base_channels=8, num_embeddings=64)
    tokenizer = multimodal.ImageTokenizer.fit(
        pictures[300:], config, steps=200, batch=16, lr=8e-3
    ).tokenizer
    shown = pictures[:7]
    drawn = np.asarray(tokenizer.decode(tokenizer.encode(shown)))[..., 0]
    picture = board("Digits before and after the codebook", height=220)
    for row, (name, images) in enumerate((("pixels", shown), ("from 16 words of 64", drawn))):
        picture.text(20, 20 + 100 * row, name)
        tiles(picture, images, 20, 30 + 100 * row, 8)
    return picture.svg()


def lossless_images():
    """Places of text and pictures."""
    segments = [("text", 5), ("image", 4, 6), ("text", 3)]
    places = np.asarray(multimodal.positions("rope-tv", segments=segments))
    picture = board("RoPE-TV: where tokens stand", height=400)
    low, high = places.min(), places.max()
    for number, (row, column) in enumerate(places):
        kind = 0 if number < 5 or number >= 29 else 1
        x = 70 + 500 * (column - low) / (high - low)
        y = 50 + 320 * (row - low) / (high - low)
        picture.add("circle", cls=f"f{kind}", cx=f"{x:.1f}", cy=f"{y:.1f}", r=5)
        if number in (0, 4, 29, 31):
            picture.text(x + 9, y + 4, f"({row:g}, {column:g})")
    legend(picture, ["text", "patches of a picture of 4 x 6"])
    return picture.svg()


def ui_tars():
    """Tokens of screens by the bound on pixels."""
    sizes = {"640 x 480": (480, 640), "1280 x 800": (800, 1280), "1920 x 1080": (1080, 1920)}
    bounds, curves = [100, 200, 400, 800, 1600, 3200], {}
    for name, (height, width) in sizes.items():
        tokens = []
        for bound in bounds:
            h, w = smart_resize(height, width, min_pixels=50 * 28 * 28, max_pixels=bound * 28 * 28)
            tokens.append(h * w / 28**2)
        curves[name] = bounds, tokens
    return lines(
        "Tokens of a screen", curves, "largest number of tokens allowed", "tokens", log="xy"
    )
