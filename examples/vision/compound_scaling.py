"""
A network made larger in the right proportion
=============================================

Half as much arithmetic again may go into more layers, more channels or larger images.
EfficientNet's rule divides it among all three; here it is counted on real networks, and timed on a
photograph.
"""

import time

import torch
from sklearn.datasets import load_sample_image
from torch.nn import functional

from paragone.vision import compound_scaling, efficientnet, ghostnet, mnasnet, mobilenet
from paragone.vision.compound_scaling import Scaling, scale_to, search_scaling

# %%
# What the families cost, counted on shapes alone: no weight is stored, no pixel computed.
families = {
    "EfficientNet-B0": efficientnet("b0", device="meta"),
    "MobileNetV2": mobilenet("v2", device="meta"),
    "MnasNet": mnasnet(device="meta"),
    "GhostNet": ghostnet(device="meta"),
}
for name, net in families.items():
    millions = net.parameter_count() / 1e6, net.macs((224, 224)) / 1e6
    print(f"{name:16}{millions[0]:5.2f} M parameters {millions[1]:6.1f} M multiply-adds")

# %%
# The rule says that one step doubles the cost. Real networks have whole layers: B0 has stages of
# one and two, and they are rounded up.
own = families["EfficientNet-B0"].macs((224, 224))
step = compound_scaling(1)
print(f"formula {step.cost:.2f}, counted {step.macs() / own:.2f} times at {step.side()} pixels")


# %%
# A smaller network, and ways to spend half as much again: to one dimension, or divided.
def small(width: float = 1.0, depth: float = 1.0, device: str | None = None):  # noqa: D103
    return efficientnet("b0", width=0.25 * width, depth=0.34 * depth, device=device)


budget = 1.5 * small(device="meta").macs()
for along in ("depth", "resolution", "compound"):
    found = scale_to(budget, along, network=small)
    off = found.macs(small) / budget - 1
    print(
        f"{along:10} depth {found.depth:.2f} width {found.width:.2f} side {found.side()}: "
        f"{off:+.1%} off the budget"
    )

# %%
# The search asks a function of yours for the score of each proportion. That is accuracy after a
# training, as a rule; here it is speed on a photograph: equal arithmetic is not equal time.
photograph = torch.tensor(load_sample_image("china.jpg")).permute(2, 0, 1)[None] / 255


def evaluate(depth: float, width: float, resolution: float) -> float:  # noqa: D103
    side = Scaling(depth, width, resolution).side()
    image = functional.interpolate(photograph, size=side, mode="bilinear", antialias=True)
    net = small(width, depth).eval().to(memory_format=torch.channels_last)
    image = image.contiguous(memory_format=torch.channels_last)
    seconds = []
    with torch.no_grad():
        for _ in range(3):
            begin = time.perf_counter()
            net(image)
            seconds.append(time.perf_counter() - begin)
    return 1 / min(seconds)


found = search_scaling(evaluate, 1.5, step=0.25, counted=False, network=small)
for trial in found.trials:
    print(
        f"alpha {trial.alpha:.2f} beta {trial.beta:.2f} gamma {trial.gamma:.2f}: "
        f"{trial.macs / found.base_macs:.2f} times the cost, {trial.score:.0f} images a second"
    )
print(f"quickest: alpha {found.alpha}, beta {found.beta}, gamma {found.gamma}")
