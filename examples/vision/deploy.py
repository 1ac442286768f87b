"""
A network that only answers
===========================

In training a batch norm watches its batch. Afterwards it is a factor and an offset, and the
convolution before it can have both. `deploy` folds them, gives each convolution its activation and
its shortcut, and packs the weights: the same answers in less time, without a compiler.
"""

import time

import numpy as np
import torch
from sklearn.datasets import load_sample_images

from paragone.vision import deploy, mobilenet

torch.set_num_threads(1)
pictures = np.stack(load_sample_images().images)[:, 100:324, 200:424]
images = torch.from_numpy(pictures.copy()).permute(0, 3, 1, 2).float() / 255
net = mobilenet("v3-small", num_classes=10)
print(f"{net.parameter_count():,} parameters, {net.macs() / 1e6:.0f} M multiply-adds an image")

# %%
# A few steps of training move the statistics of the batch norms, so that folding has work to do.
# In channels-last order a batch norm and its activation are one pass, and filters of 5x5 learn by
# a kernel of their own.
net = net.to(memory_format=torch.channels_last).train()
small = torch.nn.functional.interpolate(images, size=64)
small = small.contiguous(memory_format=torch.channels_last)
optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
for _ in range(3):
    optimizer.zero_grad()
    loss = torch.nn.functional.cross_entropy(net(small), torch.tensor([0, 1]))
    loss.backward()
    optimizer.step()
print(f"loss of two pictures after three steps: {loss.item():.2f}")

# %%
# The folded network gives the same logits. It is a copy: the original can go on learning.
net.eval()
one = images[:1]
fast = deploy(net, one)
with torch.no_grad():
    expected = net(one)
print(f"largest difference of a logit: {(fast(one) - expected).abs().max():.1e}")


# %%
# One picture at a time, one thread.
def milliseconds(call):
    """Median of some calls."""
    times = []
    for _ in range(7):
        start = time.perf_counter()
        call(one)
        times.append(time.perf_counter() - start)
    return 1000 * sorted(times)[3]


with torch.inference_mode():
    print(f"as it is {milliseconds(net):.0f} ms, deployed {milliseconds(fast):.0f} ms")
print(f"fused operations: {'yes' if fast.reason is None else fast.reason}")

# %%
# For other programs `paragone.vision.export_onnx(net, "net.onnx", one)` writes a file (packages of
# the extra `onnx`). Each shape of input is prepared once; `fast` keeps what it has prepared.
other = images[:, :, ::2, ::2].contiguous()
with torch.no_grad():
    print(f"two smaller pictures: {(fast(other) - net(other)).abs().max():.1e} apart")
