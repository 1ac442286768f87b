"""
A loader that goes on where it stopped
======================================

Pictures of digits are loaded in shuffled batches with random shifts. The order and the shifts are
those of one worker, however many there are, so that training can stop in the middle of an epoch and
go on exactly.
"""

import numpy as np
from sklearn.datasets import load_digits

from paragone.runtime import Loader, item_rng

images, labels = load_digits(return_X_y=True)
images = images.reshape(-1, 8, 8).astype(np.float32) / 16.0


class Digits:
    """A map-style dataset: a length, and an item for each index."""

    def __len__(self):
        return len(images)

    def __getitem__(self, i):
        # The generator belongs to the item: no worker and no order of reading changes it.
        shift = item_rng().integers(-1, 2, size=2)
        return {"image": np.roll(images[i], shift, axis=(0, 1)), "label": labels[i]}


def loader(workers):
    """Batches of 64, in one order for any number of workers."""
    return Loader(Digits(), 64, shuffle=True, seed=7, workers=workers, output="numpy")


# %%
# One epoch without workers, and with three threads that read ahead: equal to the last bit.
alone, ahead = list(loader(0)), list(loader(3))
equal = all(np.array_equal(a["image"], b["image"]) for a, b in zip(alone, ahead, strict=True))
print(f"{len(alone)} batches of {alone[0]['image'].shape}, the last of {len(alone[-1]['label'])}")
print(f"equal with 0 and with 3 workers: {equal}")

# %%
# Stopped after ten batches. The state is a few numbers; batches that were read ahead do not count.
first = loader(3)
stream = iter(first)
for _ in range(10):
    next(stream)
state = first.state_dict()
first.close()
print(f"state: epoch {state['epoch']}, batch {state['batch']}, seed {state['seed']}")

second = loader(2)
second.load_state_dict(state)
rest = list(second)
second.close()
equal = all(np.array_equal(a["image"], b["image"]) for a, b in zip(alone[10:], rest, strict=True))
print(f"the other {len(rest)} batches are those of the epoch in one go: {equal}")

# %%
# Two processes that train together share the order: each reads every other item of it.
ranks = [Loader(Digits(), 64, True, seed=7, rank=r, world=2, output="numpy") for r in (0, 1)]
seen = np.concatenate([batch["label"] for rank in ranks for batch in rank])
print(f"two ranks read {len(seen)} items of {len(images)}, padded so that both have as many")
