"""
Ways back up, and the patterns they print
=========================================

Half of a segmenter goes up again. How it does so decides what its edges look like, and whether its
output carries a grid. Here a photograph is enlarged, the grid of each way is measured before any
training, and two segmenters are built that take any of them.
"""

import numpy as np
import torch
from sklearn.datasets import load_sample_image

from paragone.vision import (
    CARAFE,
    ESPCN,
    FCN,
    DySample,
    MaxUnpool,
    PixelShuffle,
    TransposedConv,
    UNet,
    Upsample,
)  # fmt: skip
from paragone.vision.espcn import luma, psnr
from paragone.vision.upsampling import checkerboard, phase_energy

photo = torch.from_numpy(load_sample_image("china.jpg")[100:292, 200:392].copy())
image = luma(photo.permute(2, 0, 1)[None].float() / 255)
small = Upsample("bicubic", scale=1 / 3, antialias=True)(image)
print(f"a photograph of {tuple(image.shape[2:])} pixels, shrunk to {tuple(small.shape[2:])}")

# %%
# Interpolation has conventions, and they are worth more than one expects: places of pixels, and
# the constant of the cubic (torch -0.75, PIL -0.5).
forms = {
    "nearest": Upsample("nearest", scale=3),
    "bilinear": Upsample("bilinear", scale=3),
    "bilinear, corners aligned": Upsample("bilinear", scale=3, align_corners=True),
    "bilinear, asymmetric": Upsample("bilinear", scale=3, half_pixel=False),
    "bicubic, a = -0.75": Upsample("bicubic", scale=3),
    "bicubic, a = -0.5": Upsample("bicubic", scale=3, cubic=-0.5),
}
for name, form in forms.items():
    print(f"{name:26s} {psnr(form(small), image, border=3):.2f} dB")

# %%
# Learned ways before they have learnt: energy of the 3 x 3 grid that each prints on a constant
# image, inside and in a corner. ICNR and the bilinear start print nothing inside; torch's own
# start does. At the edge a transposed convolution always shows.
torch.manual_seed(0)
learned = {
    "pixel shuffle, ICNR": PixelShuffle(8, 8, 3),
    "pixel shuffle, plain": PixelShuffle(8, 8, 3, icnr=False),
    "transposed, bilinear": TransposedConv(8, 8, 3, kernel_size=6),
    "transposed, plain": TransposedConv(8, 8, 3, kernel_size=6, init="default"),
    "CARAFE": CARAFE(8, 3),
    "DySample": DySample(8, 3),
}
for name, module in learned.items():
    inside, corner = (checkerboard(module, 8, scale=3, border=b) for b in (None, 0))
    print(f"{name:22s} inside {inside:.0e}, corner {corner:.0e}")

# %%
# The same on the photograph: the grid that is in the enlarged picture beyond that of bicubic
# interpolation.
plain = phase_energy(forms["bicubic, a = -0.75"](small), 3, 3)
for name in ("pixel shuffle, ICNR", "pixel shuffle, plain", "transposed, plain"):
    with torch.no_grad():
        y = learned[name](small.expand(-1, 8, -1, -1))
    print(f"{name:22s} {phase_energy(y, 3, 3) / plain:.1e} times bicubic's")

# %%
# Unpooling remembers where the largest values were, and needs the size of an odd map.
unpool = MaxUnpool(2)
odd = image[:, :, :191, :191]
values, places = unpool.pool(odd)
back = unpool(values, places, size=(191, 191))
print(f"{np.count_nonzero(back)} of {back.numel()} pixels are back in place, the others are 0")

# %%
# Segmenters and super-resolution take any of them by name; images may have any size.
for name in ("bilinear", "transposed", "carafe", "unpool"):
    model = UNet(2, width=4, depth=3, upsampling=name)
    y = model(torch.rand(1, 3, 61, 83))
    print(f"U-Net, {name:10s} {sum(p.numel() for p in model.parameters()):7,d} parameters, "
          f"output {tuple(y.shape)}")  # fmt: skip
fcn = FCN(21, "resnet18", "8s", upsampling="transposed")
print(f"FCN-8s output {tuple(fcn(torch.rand(1, 3, 65, 97)).shape)}")
print(f"ESPCN output {tuple(ESPCN(scale=3)(small).shape)}")
