"""
One optimizer's memory on two processes
=======================================

A classifier of handwritten digits is trained by two processes that share out what AdamW keeps:
its state (stage 1), the gradients too (stage 2), the parameters too (stage 3). Less is held at each
stage, and the weights stay the same to the last bit as those of one process.
"""

import importlib
import json
import os
import subprocess
import sys
import tempfile
from datetime import timedelta
from pathlib import Path

import numpy as np

RANKS = 2


def work(rank, folder):
    """What each of the processes does; the first one tells what came out."""
    import torch
    import torch.distributed as dist
    from torch import nn

    from paragone.training import Zero

    torch.set_num_threads(1)
    data = np.load(folder / "digits.npz")
    x, y = torch.from_numpy(data["x"]), torch.from_numpy(data["y"])
    options = {"lr": 3e-3, "weight_decay": 0.05, "foreach": False}

    def classifier():
        generator = torch.Generator().manual_seed(0)
        model = nn.Sequential(nn.Linear(64, 200), nn.ReLU(), nn.Linear(200, 10))
        for weight in model.parameters():
            nn.init.normal_(weight, std=0.05, generator=generator)
        return model

    def loss(model, step, part):
        rows = slice(RANKS * step + part, 1200, 60)
        return nn.functional.cross_entropy(model(x[rows]), y[rows])

    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank,
                            world_size=RANKS, timeout=timedelta(seconds=60))  # fmt: skip
    alone, found = classifier(), {}
    optimizer = torch.optim.AdamW(alone.parameters(), **options)
    for step in range(30):
        optimizer.zero_grad()
        for part in range(RANKS):
            loss(alone, step, part).backward()
        for weight in alone.parameters():
            weight.grad.div_(RANKS)
        optimizer.step()
    for stage in (1, 2, 3):
        model = classifier()
        zero = Zero(model, torch.optim.AdamW, stage=stage, **options)
        for step in range(30):
            loss(model, step, rank).backward()
            held = zero.memory()
            zero.step()
        with zero.gathered(), torch.no_grad():
            pairs = list(zip(model.parameters(), alone.parameters(), strict=True))
            gap = max(float((a - b).abs().max()) for a, b in pairs)
            right = float((model(x[1200:]).argmax(1) == y[1200:]).float().mean())
        parts = (held.parameters, held.gradients, held.state)
        found[stage] = {"bytes": parts, "gap": gap, "right": right}
    dist.destroy_process_group()
    if rank == 0:
        print(json.dumps(found))


if "ZERO_FOLDER" in os.environ:
    # The first optimizer imports torch's compiler; here once for both processes.
    importlib.import_module("torch._dynamo")
    child = os.fork()
    work(0 if child else 1, Path(os.environ["ZERO_FOLDER"]))
    raise SystemExit(os.waitpid(child, 0)[1] if child else 0)

# %%
# This page starts the processes itself; in real training `torchrun` does. Each takes its own
# half of a batch, calls `backward` as always and `zero.step()` in place of the optimizer's.
from sklearn.datasets import load_digits  # noqa: E402

digits = load_digits()
with tempfile.TemporaryDirectory() as folder:
    np.savez(
        Path(folder) / "digits.npz",
        x=(digits.data / 16).astype(np.float32), y=digits.target.astype(np.int64),
    )  # fmt: skip
    page = sys._getframe().f_code.co_filename
    told = subprocess.run(
        [sys.executable, page], stdout=subprocess.PIPE, text=True, timeout=120, check=True,
        env={**os.environ, "ZERO_FOLDER": folder, "OMP_NUM_THREADS": "1",
             "OPENBLAS_NUM_THREADS": "1"},
    )  # fmt: skip
results = {int(stage): row for stage, row in json.loads(told.stdout).items()}

# %%
# What the first of two processes holds after a backward pass. AdamW alone would keep 16 bytes a
# parameter: 4 each for the parameter and the gradient, 8 for two moments.
count = 64 * 200 + 200 + 200 * 10 + 10
print(f"{count} parameters, one process: {16 * count / 1e3:.0f} kB")
for stage, row in results.items():
    parts = ", ".join(
        f"{name} {size / 1e3:.0f}"
        for name, size in zip(("parameters", "gradients", "state"), row["bytes"], strict=True)
    )
    print(f"stage {stage}: {sum(row['bytes']) / 1e3:.0f} kB ({parts})")

# %%
# The sum over processes has a fixed order, so nothing is lost by sharing.
for stage, row in results.items():
    print(f"stage {stage}: largest difference {row['gap']:g}, {row['right']:.1%} right")
