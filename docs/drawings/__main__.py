"""Draws the pictures of the families' pages: `python docs/drawings [METHOD ...]`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import models
import sequence
import tabular
import torch

from paragone._core import catalog

FOLDER = Path(__file__).resolve().parents[1] / "families" / "figures"


def main(chosen: list[str]) -> None:
    """Draws the chosen methods' pictures, or all."""
    torch.set_num_threads(1)
    FOLDER.mkdir(exist_ok=True)
    for name in chosen or [method.id for method in catalog.methods()]:
        places = (tabular, sequence, models)
        # `memory` is the module there.
        key = "memory_figure" if name == "memory" else name
        draw = next(getattr(place, key) for place in places if callable(getattr(place, key, None)))
        torch.random.default_generator.manual_seed(0)
        (FOLDER / f"{name}.svg").write_text(draw() + "\n", encoding="utf-8")
        print(name, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
