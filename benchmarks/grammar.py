"""100,000 continuations of random logits: how many leave the grammar of texts and pictures.

    python benchmarks/grammar.py

Rows of all three modes go side by side, with 5 to 24 tokens left, through everything that decoding
does: three readings are mixed, masked, sharpened, cut at a share of 0.9 and drawn from. A twelfth
each of the logits of every second block are NaN, infinities and the largest numbers there are. The
judge is a regular expression over the finished rows.
"""

import re
import time

import numpy as np
import torch

from paragone.multimodal import Grammar
from paragone.multimodal._chameleon_sampling import draw_tokens, guided, uniforms

ROWS, BLOCK, VOCABULARY, LENGTH = 100_000, 20_000, 24, 4
MODES = ("none", "one", "free")
SIGNS = dict.fromkeys(range(4, 14), "t") | dict.fromkeys(range(14, 22), "c") | {2: "B", 3: "E"}
LANGUAGE = {
    "none": re.compile(r"t*\$?"),
    "one": re.compile(r"Bc{4}E"),
    "free": re.compile(r"(t|Bc{4}E)*\$?"),
}
ODD = (torch.nan, torch.inf, -torch.inf, 3e38, -3e38)


def block(grammar, first, wild, noise):
    """Continues rows from `first` on; returns modes, tokens left and what came."""
    rows = np.arange(first, first + BLOCK)
    modes = [MODES[row % 3] for row in rows]
    left = [
        max(5 + row % 20, 6 if mode == "one" else 0) for row, mode in zip(rows, modes, strict=True)
    ]
    state, found, step = grammar.start(modes, left), [], 0
    while not bool(state.done.all()):
        readings = []
        for _ in range(3):
            logits = torch.randn(BLOCK, VOCABULARY, generator=noise) * 8
            if wild:
                kind = torch.randint(0, 12, logits.shape, generator=noise)
                for at, value in enumerate(ODD):
                    logits.masked_fill_(kind == at, value)
            readings.append(logits)
        logits = torch.where(
            state.drawing[:, None], guided(*readings, text_scale=3.0, image_scale=1.2), readings[0]
        )
        draws = torch.from_numpy(uniforms(0, rows, step))
        tokens = draw_tokens(logits, grammar.allowed(state), 0.7, 0.9, draws)
        found.append(torch.where(state.done, -1, tokens))
        state, step = grammar.advance(state, tokens), step + 1
    return modes, left, torch.stack(found, 1).tolist()


def main():
    """Counts what is out of the language, and what came."""
    grammar = Grammar(
        VOCABULARY, text=range(4, 14), image=range(14, 22), begin=2, end=3, stops=[1, 22],
        length=LENGTH,
    )  # fmt: skip
    noise, begun = torch.Generator().manual_seed(0), time.process_time()
    bad = pictures = tokens = 0
    for at, first in enumerate(range(0, ROWS, BLOCK)):
        for mode, room, row in zip(*block(grammar, first, at % 2 == 1, noise), strict=True):
            word = "".join(SIGNS.get(token, "$") for token in row if token >= 0)
            bad += not LANGUAGE[mode].fullmatch(word) or len(word) > room
            pictures, tokens = pictures + word.count("B"), tokens + len(word)
    print(f"{ROWS:,} continuations, {tokens:,} tokens, {pictures:,} pictures: {bad} violations, "
          f"{time.process_time() - begun:.1f} s of CPU")  # fmt: skip


if __name__ == "__main__":
    main()
