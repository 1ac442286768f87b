"""A model of the contract that learns to name and draw small squares within a few steps."""

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from paragone.multimodal import contract
from paragone.multimodal.captions import Captioned, Captions
from paragone.multimodal.contract import Losses, VisionLanguage
from paragone.multimodal.documents import Document, as_documents, picture

END = 256
LENGTH = 64


def squares(count=40, side=8):
    """Noisy squares, dark and bright, with captions that tell which."""
    draws = np.random.default_rng(0)
    records = []
    for number in range(count):
        bright = number % 2
        pixels = draws.integers(0, 60, (side, side, 1)) + 180 * bright
        word = "bright" if bright else "dark"
        records.append(Captioned(pixels.astype(np.uint8), f"a {word} square", "", f"{number}"))
    return Captions(records, "squares")


class Fake(VisionLanguage):
    """Every byte of a text follows from its place, the byte before it, and what came before."""

    arch = "fake"
    draws = True

    def __init__(self, width=16, draws=True, device=None):
        super().__init__()
        self.config = {"model_type": "fake", "width": width, "draws": draws}
        self.draws = draws
        self.eye = nn.Linear(64, width)
        self.bytes = nn.Embedding(257, width)
        self.places = nn.Embedding(LENGTH + 1, width)
        self.dropout = nn.Dropout(0.1)
        self.language = nn.Linear(width, 257)
        self.pen = nn.Linear(width, 64)
        self.tokenizer, self.steps = "bytes", 0
        self.to(device or "cpu")

    @classmethod
    def from_config(cls, preset="digits", *, tokenizer=None, device=None, **changes):
        if preset not in ("digits", "tiny"):
            raise ValueError(f"{preset!r} is no preset; there are digits")
        model = cls(device=device, **changes)
        model.tokenizer = tokenizer or "bytes"
        return model

    def _seen(self, pixels):
        small = picture(pixels, 1)[:8, :8].reshape(-1) / 255.0 - 0.5
        return self.eye(torch.tensor(small, dtype=torch.float32))

    def _heard(self, text):
        return self.bytes(torch.tensor(list(text.encode()) or [0])).mean(0)

    def _scores(self, before, codes):
        codes = torch.tensor(codes)
        h = self.bytes(codes) + self.places(torch.arange(len(codes)).clamp(max=LENGTH))
        return self.language(self.dropout(torch.tanh(h + before)))

    def losses(self, documents):
        if not documents:
            raise ValueError("no document; at least one is expected")
        text = image = torch.zeros(())
        count = pictures = 0
        for one in documents:
            before = torch.zeros(self.eye.out_features)
            for number, part in enumerate(one.parts):
                if isinstance(part, str):
                    codes = list(part.encode())
                    if one.learns(number):
                        found = self._scores(before, [END, *codes])
                        target = torch.tensor([*codes, END])
                        text = text + nn.functional.cross_entropy(found, target, reduction="sum")
                        count += len(target)
                    before = before + self._heard(part)
                else:
                    if one.learns(number):
                        wanted = torch.tensor(part[:8, :8].reshape(-1) / 255.0).float()
                        image = image + (self.pen(before).sigmoid() - wanted).square().mean()
                        pictures += 1
                    before = before + self._seen(part)
        return Losses(text, count, image, pictures, 5.0, {"z_text": 1e-4 * text})

    @torch.no_grad()
    def generate(self, prompts, *, pictures="none", max_new_tokens=64, seed=0, **options):
        made = []
        for one in as_documents(prompts):
            before = torch.zeros(self.eye.out_features)
            for part in one.parts:
                before = before + (self._heard(part) if isinstance(part, str) else self._seen(part))
            if pictures == "one":
                pixels = (self.pen(before).sigmoid() * 255).round().reshape(8, 8, 1)
                made.append(Document((pixels.numpy().astype(np.uint8),)))
                continue
            codes = [END]
            while len(codes) <= max_new_tokens:
                last = int(self._scores(before, codes)[-1].argmax())
                if last == END:
                    break
                codes.append(last)
            made.append(Document((bytes(codes[1:]).decode(errors="replace"),)))
        return made

    def parts(self):
        return {"vision": ["eye."], "head": ["language.", "pen."], "language": [""]}

    def after_step(self):
        self.steps += 1
        return {}

    def save_pretrained(self, folder):
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        save_file(self.state_dict(), folder / "model.safetensors")
        (folder / "words").mkdir(exist_ok=True)
        (folder / "words" / "tokens.txt").write_text("bytes")
        (folder / "config.json").write_text(json.dumps(self.config))
        return folder

    @classmethod
    def from_pretrained(cls, folder, *, device=None, dtype=None):
        config = json.loads((Path(folder) / "config.json").read_text())
        model = cls(config["width"], config["draws"], device)
        model.load_state_dict(load_file(Path(folder) / "model.safetensors"))
        return model.eval()


class Reader(Fake):
    """The same, without a pen."""

    arch = "reader"

    def __init__(self, width=16, draws=False, device=None):
        super().__init__(width, draws, device)
        self.config["model_type"] = "reader"


def known(monkeypatch):
    """Makes both known to `open_model` and `train_vl`."""
    for kind in (Fake, Reader):
        target = f"{__name__}:{kind.__name__}"
        monkeypatch.setitem(contract.ARCHITECTURES, kind.arch, (kind.arch, target))
