"""
Heads of patches: a mean, codes, and a denoiser
===============================================

What comes next in a picture is not one patch but a distribution of patches. Here the "state" is
merely which digit it is, and the patch a whole picture of that digit, 64 numbers: of the three
heads, the one trained by squared error draws the mean of all sevens, the second picks the nearest
of a few codes, and the denoiser draws new ones.
"""

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.svm import SVC

from paragone.multimodal.patch_heads import make_head

digits = load_digits()
labels = torch.from_numpy(digits.target)
patches = torch.from_numpy(digits.data / 8 - 1).float()
states = torch.eye(10)[labels]
generator = torch.Generator().manual_seed(0)
heads = {
    "mse": make_head("mse", 10, 64, {"hidden": 128}),
    "vq": make_head("vq", 10, 64, {"codes": 64}),
    "mar": make_head("mar", 10, 64, {"hidden": 96, "prediction": "x0", "repeats": 2}),
}
print(f"64 codes leave {heads['vq'].fit(patches) / patches.var():.0%} of the variance out")

# %%
# Each learns what follows a state: squared errors, nats of codes, or squared errors of what a
# patch is found to be under noise.
for name, head in heads.items():
    rate, steps = {"mse": (2e-3, 100), "vq": (0.1, 100), "mar": (3e-3, 220)}[name]
    optimizer = torch.optim.AdamW(head.parameters(), rate)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = rate * (1 - step / steps)
        rows = torch.randint(len(patches), (128,), generator=generator)
        loss = head.loss(states[rows], patches[rows], generator).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    print(f"{name}: {float(loss.detach()):.3f}")

# %%
# Twenty of each digit. A classifier of the real ones says what they look like, and how much the
# drawings of a digit differ among themselves is compared with how much the real ones do.
judge = SVC(gamma=0.001).fit(digits.data, digits.target)
asked = torch.arange(10).repeat_interleave(20)


def spread(x: torch.Tensor, which: torch.Tensor) -> float:
    """Variance within digits."""
    return float(np.mean([x[which == digit].var(0).sum() for digit in range(10)]))


drawn = {name: head.sample(torch.eye(10)[asked], generator) for name, head in heads.items()}
for name, x in drawn.items():
    right = (judge.predict((8 * (x + 1)).clamp(0, 16).numpy()) == asked.numpy()).mean()
    print(
        f"{name}: {right:.0%} as asked, {spread(x, asked) / spread(patches, labels):.0%} as varied"
    )

# %%
# Four sevens of each.
for name, x in drawn.items():
    print(name)
    rows = x[140:144].view(4, 8, 8).clamp(-1, 1).permute(1, 0, 2).flatten(1)
    for row in rows[::2].tolist():
        print("   ", "".join(" .:-=+*#%@"[int(4.99 * (level + 1))] for level in row))
