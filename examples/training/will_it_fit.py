"""
Will it fit?
============

Before a run is started, its memory can be counted: model states from the shapes of the weights,
activations from what the backward pass reads again. A model of one's own is run once on tensors
that hold no numbers; the count is then checked against a real step.
"""

import torch
from torch import nn

from paragone.training import memory

# %%
# Seven billion parameters in 16 bits, with AdamW: weights and gradients take two bytes each, the
# master copy and two moments in fp32 twelve more. Nothing of that depends on the batch.
plan = memory.plan("llama-7b", optimizer="adamw", precision="fp16")
print(plan.table())

# %%
# "16 bytes a parameter" is one recipe of many.
print(memory.recipes("llama-7b", ("adamw", "adamw8bit", "muon", "adafactor", "sgd")))

# %%
# On eight GPUs each ZeRO stage shares more of the states. With a batch the plan holds all that
# will be alive at once, and says at which moment.
run = {"gpus": 8, "batch": 2, "sequence": 4096, "precision": "autocast"}
for stage, each in memory.stages("llama-7b", **run, checkpointing="selective").items():
    word = "fits" if each.fits("80GB") else "too large"
    print(f"{stage:<30}{each.total_gb:7.1f} GB at the {each.phase:<6} {word} for 80 GB")

# %%
# The inverse question: the largest batch, and the longest sequence, that fit.
sharded = memory.plan("llama-7b", **run, zero=3, checkpointing="full")
for device in ("24GB", "40GB", "80GB"):
    batch, length = (sharded.largest(vary, device) for vary in ("batch", "sequence"))
    print(f"{device}: batch {batch} of 4096 tokens, or 2 sequences of {length:,} tokens")


# %%
# Any module can be planned, also one that was never given memory. Here a classifier of images of
# digits; the real step is recorded by torch's profiler, allocation by allocation.
def classifier() -> nn.Module:
    """A small convolutional net."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(32, 64, 3),
        nn.ReLU(), nn.Flatten(), nn.Linear(64 * 4, 10),
    )  # fmt: skip


with torch.device("meta"):
    unmade = classifier()
images = torch.zeros(256, 1, 8, 8)
found = memory.plan(unmade, inputs=images, loss=lambda out: out.logsumexp(1).mean())
print(found.table())

# %%
model = classifier()
with torch.profiler.profile(profile_memory=True) as record:
    model(images).logsumexp(1).mean().backward()
alive = most = 0
for event in sorted(record.profiler.kineto_results.events(), key=lambda each: each.start_ns()):
    if event.name() == "[memory]":
        alive += event.nbytes()
        most = max(most, alive)
planned = sum(part.peak for part in found.parts if part.name in ("activations", "gradients"))
planned += sum(part.peak for part in found.parts if part.name == "one layer's backward")
print(f"planned {planned:,} bytes beside weights and states; a real step took {most:,}")
