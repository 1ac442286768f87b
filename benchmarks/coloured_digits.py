r"""Real digits in colour at 64 pixels: three models of 10 M weights read and draw them.

    python benchmarks/coloured_digits.py [--arch kimi chameleon lossless] [--seconds 120]
        [--size 64] [--device cuda] [--out FILE.json]

Each digit of scikit-learn stands in several colours before black, with captions such as "a red
handwritten seven". What is drawn is judged by what real digits look like: a support vector
machine of the real ones (8 x 8, grey) names the digit, the pixels' mean direction the colour. A
fifth of the digits is held out. For a GPU; on a CPU take --size 32 and patience.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from typing import Any

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.svm import SVC

from paragone.multimodal import train_vl
from paragone.multimodal.captions import NUMBERS

COLOURS = {
    "red": (255, 40, 40), "green": (40, 220, 60), "blue": (60, 90, 255),
    "yellow": (240, 220, 30), "white": (250, 250, 250), "purple": (190, 60, 220),
}  # fmt: skip
HUES = np.array([np.array(c) / np.linalg.norm(c) for c in COLOURS.values()])


def enlarged(digit: np.ndarray, size: int) -> np.ndarray:
    """(8, 8) from 0 to 16 to (size, size) from 0 to 1."""
    grey = Image.fromarray(np.uint8(np.round(digit * 255 / 16)))
    return np.asarray(grey.resize((size, size), Image.Resampling.BICUBIC)) / 255


def records(size: int, some: np.ndarray, times: int) -> list[dict[str, Any]]:
    """Digits in `times` colours each, with captions."""
    images, labels = load_digits(return_X_y=True)
    found, names = [], list(COLOURS)
    for number in some:
        grey = enlarged(images[number].reshape(8, 8), size)
        for turn in range(times):
            name = names[(number + turn) % len(names)]
            pixels = np.uint8(np.round(grey[..., None] * np.array(COLOURS[name])))
            caption = f"a {name} handwritten {NUMBERS[labels[number]]}"
            found.append({"image": pixels, "caption": caption})
    return found


class Judge:
    """Names the digit and the colour of a picture."""

    def __init__(self, some: np.ndarray) -> None:
        images, labels = load_digits(return_X_y=True)
        self.model = SVC(C=10).fit(images[some], labels[some])

    def __call__(self, pixels: np.ndarray) -> str:
        light = pixels.reshape(-1, 3).astype(float)
        mean = light.mean(0)
        colour = list(COLOURS)[int((HUES @ mean).argmax())]
        grey = np.clip(light @ HUES[list(COLOURS).index(colour)], 0, None)
        side = Image.fromarray(grey.reshape(pixels.shape[:2]).astype(np.float32))
        small = np.asarray(side.resize((8, 8), Image.Resampling.BOX))
        small = small / max(float(small.max()), 1e-9) * 16
        digit = NUMBERS[int(self.model.predict(small.reshape(1, 64))[0])]
        return f"a {colour} handwritten {digit}"


def sizes(arch: str, size: int, seconds: float) -> dict[str, Any]:
    """Options of `train_vl` for about 10 M weights at this size."""
    wide = {"hidden_size": 384, "num_attention_heads": 6, "num_hidden_layers": 6,
            "intermediate_size": 1024}  # fmt: skip
    if arch == "lossless":
        return {"model": {**wide, "image_size": (size, size), "patch_size": size // 8}}
    if arch == "chameleon":
        vq = {"resolution": size, "base_channels": 32, "channel_multiplier": (1, 2, 2, 4),
              "num_res_blocks": 1, "latent_channels": 64, "embed_dim": 32,
              "num_embeddings": 512, "norm_groups": 8}  # fmt: skip
        first = {"seconds": seconds / 2, "batch": 64}
        return {"model": {**wide, "vq_config": vq}, "image_tokenizer": first}
    text, vision = {"hidden_size": 384, "num_hidden_layers": 6}, {"hidden_size": 256}
    return {"model": {"text_config": text, "vision_config": vision}}


def run(arch: str, options: argparse.Namespace) -> dict[str, Any]:
    """Trains one and judges it."""
    order = np.random.default_rng(0).permutation(1797)
    held, learned = order[:360], order[360:]
    train = records(options.size, learned, options.times)
    test = records(options.size, held, 1)
    began = time.perf_counter()
    done = train_vl(
        train, arch=arch, preset="tiny", seconds=options.seconds, batch=options.batch,
        validation=test, judged=0, device=options.device, precision=options.precision,
        lr=options.lr, progress=lambda e: print(arch, e.text or f"{e.step} {e.loss:.3f}")
        if e.kind != "step" else None, **sizes(arch, options.size, options.seconds),
    )  # fmt: skip
    took, model = time.perf_counter() - began, done.model
    told = model.describe([one["image"] for one in test])
    right = np.mean([a.strip() == one["caption"] for a, one in zip(told, test, strict=True)])
    row = {
        "arch": arch, "weights": sum(p.numel() for p in model.parameters()), "seconds": took,
        "steps": done.history[-1]["step"], "captions": float(right), **done.metrics,
    }  # fmt: skip
    if model.draws:
        rng, judge = np.random.default_rng(1), Judge(learned)
        asked = [
            f"a {rng.choice(list(COLOURS))} handwritten {rng.choice(NUMBERS)}" for _ in range(500)
        ]
        drawn: list[np.ndarray] = []
        for at in range(0, 500, 100):
            drawn += model.draw(asked[at : at + 100], seed=at)
        row["drawn"] = float(np.mean([judge(p) == a for p, a in zip(drawn, asked, strict=True)]))
        row["judge"] = float(np.mean([judge(one["image"]) == one["caption"] for one in test]))
        if options.pictures:
            from paragone.multimodal._pictures_out import grid, save_png

            save_png(grid(drawn[:48]), f"{options.pictures}.{arch}.png")
    return row


def main() -> None:
    """Prints a line a model, and writes what --out names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", nargs="+", default=["kimi", "chameleon", "lossless"])
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--times", type=int, default=6)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--pictures")
    parser.add_argument("--out")
    options = parser.parse_args()
    card = torch.cuda.get_device_name() if options.device == "cuda" else platform.processor()
    found: dict[str, Any] = {"device": card, "torch": torch.__version__, "rows": []}
    for arch in options.arch:
        row = run(arch, options)
        found["rows"].append(row)
        print(json.dumps(row))
        if options.out:
            with open(options.out, "w", encoding="utf-8") as file:
                json.dump(found, file, indent=1)


if __name__ == "__main__":
    main()
