"""An agent of six weights for `agent_learning`'s small world, and how it imitates."""

import json
import re
from pathlib import Path

import numpy as np
import torch
from tests.multimodal.agent_learning import CELL, COLOURS, box_of, cell_of
from torch import nn

from paragone.language.fitting import Loop, Loss, Recipe


class Same:
    """Coordinates of a policy that sees the screenshot as it is."""

    def to_screenshot(self, x, y):
        return x, y


class TinyAgent(nn.Module):
    """Scores the four squares by what it sees of them: named, ticked, and where they are.

    The logarithms of its probabilities are linear in its six weights but for the normalisation, so
    gradients have a closed form.
    """

    dialect = "ui-tars-1.5"
    screenshots = 2

    def __init__(self, weights=(0.0,) * 6, thought="I look.", **ignored):
        super().__init__()
        self.weights = nn.Parameter(torch.tensor(weights, dtype=torch.float64))
        self.thought, self.asked = thought, []

    def coordinates(self, screen):
        return Same()

    def features(self, context):
        """(4, 6): of each square."""
        pixels = context.screens[-1].pixels
        rows = []
        for at in range(4):
            top, left = CELL * (at // 2), CELL * (at % 2)
            colour = tuple(int(x) for x in pixels[top + 3, left + 3])
            name = next((n for n, c in COLOURS.items() if c == colour), "")
            ticked = float(pixels[top + 8, left + 8].sum() == 0)
            named = float(re.search(rf"\b{name}\b", context.instruction) is not None)
            place = [float(at == k) for k in range(3)]
            rows.append([named, ticked, named * ticked, *place])
        return torch.tensor(rows, dtype=torch.float64)

    def log_probability(self, samples, actions=None):
        found = []
        for at, sample in enumerate(samples):
            scores = torch.log_softmax(self.features(sample.context) @ self.weights, 0)
            action = sample.wanted.action if actions is None else actions[at]
            if action.name != "click":
                found.append(scores.sum() * 0 - torch.inf)
            else:
                found.append(scores[cell_of(action.point)])
        return torch.stack(found) if found else self.weights.new_zeros(0)

    def propose_many(self, contexts, *, temperature=0.0, seed=0):
        self.asked += list(contexts)
        texts = []
        for number, context in enumerate(contexts):
            scores = self.features(context) @ self.weights
            if temperature:
                draws = np.random.default_rng([seed, number, len(context.history)])
                scores = scores / temperature + torch.from_numpy(draws.gumbel(size=4))
            box = box_of(int(scores.argmax()))
            x, y = round((box[0] + box[2]) / 2), round((box[1] + box[3]) / 2)
            texts.append(f"Thought: {self.thought}\nAction: click(start_box='({x},{y})')")
        return texts

    def propose(self, context):
        return self.propose_many([context])[0]

    def save_pretrained(self, folder):
        state = {"weights": self.weights.tolist(), "model_type": "tiny_agent"}
        (Path(folder) / "model.safetensors").write_bytes(b"")
        (Path(folder) / "config.json").write_text(json.dumps(state))

    @classmethod
    def from_pretrained(cls, folder, **ignored):
        return cls(json.loads((Path(folder) / "config.json").read_text())["weights"])


PERFECT = (8.0, 0.0, -16.0, 0.0, 0.0, 0.0)
"""Ticks what is named and not ticked; it does not mend."""


def build(samples, **options):
    """A new agent; what it was asked for is kept beside it."""
    return TinyAgent((0.0, 0.0, 0.0, 2.0, 1.0, 0.5))


def imitate(model, samples, *, seconds, seed, out, progress, lr=0.2, steps=6):
    """Imitation as a run of a few steps, whatever the seconds are."""

    def batch(step):
        draws = np.random.default_rng([seed, step])
        return [[samples[int(at)] for at in draws.integers(len(samples), size=4)]]

    def loss(some):
        return Loss(-model.log_probability(some).sum(), len(some))

    recipe = Recipe(steps, lr, seed=seed, evaluate_every=4)
    identity = {"samples": len(samples), "seconds_asked": seconds}
    Loop(model, recipe, batch, loss, out, progress, dict, identity=identity).run()
