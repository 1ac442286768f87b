"""
Numbers that arrive once
========================

The pixels of a photograph, read one block at a time as if they would never come back: mean,
spread and quantiles from a few kilobytes; a median by one number that moves; a linear model by
single rows, with an interval that says how sure it is.
"""

# %%
# The stream: brightness of the pixels of a photograph that ships with scikit-learn, line by line.
import numpy as np
from sklearn.datasets import load_sample_image

from paragone.estimation import (
    KieferWolfowitz,
    RobbinsMonro,
    RunningMean,
    RunningQuantile,
    sgd,
    steps,
)

picture = load_sample_image("china.jpg").astype(float)
brightness = picture.mean(axis=2)
print(f"{brightness.shape[0]} lines of {brightness.shape[1]} pixels")

# %%
# Moments and quantiles from one pass. Two halves could have been read on two machines: their
# states are joined by +, and a state is a few bytes.
top, bottom = RunningMean(), RunningMean()
sketch = RunningQuantile("histogram", relative_error=0.002)
ranks = RunningQuantile("kll")
for number, line in enumerate(brightness):
    (top if number < 200 else bottom).update(line)
    sketch.update(line)
    ranks.update(line)
whole = top + bottom
print(f"mean {whole.mean:.3f}, deviation {whole.std:.3f}, skewness {whole.skewness:.3f}")
print(f"NumPy, all at once: {brightness.mean():.3f}, {brightness.std(ddof=1):.3f}")
for q in (0.05, 0.5, 0.95):
    print(
        f"quantile {q}: {sketch.quantile(q):.1f} (histogram), {ranks.quantile(q):.1f} (KLL), "
        f"{np.quantile(brightness, q):.1f} (sorted array)"
    )
print(f"{len(whole.to_bytes())}, {len(sketch.to_bytes()):,} and {len(ranks.to_bytes()):,} bytes")

# %%
# A median in the memory of one number: up by a_k q if a pixel is brighter, down by a_k (1 - q)
# if it is not. Neighbouring pixels are alike, and the theorems ask for independent ones, so the
# pixels are drawn in a random order.
order = np.random.default_rng(0).permutation(brightness.size)[:20_000]
pixels = brightness.ravel()[order]
policy = steps.Power(60.0, 0.0, 0.6)
median = RobbinsMonro(lambda w, x: (x <= w) - 0.5, start=128.0, steps=policy, burn_in=1000)
median.run(pixels)
low, high = median.interval(0.95)
print(f"median {float(median.average):.1f}, 95 % from {low:.1f} to {high:.1f}")
print(median.check())

# %%
# What a constant step would have meant:
print(steps.check(steps.Constant(5.0)))

# %%
# How bright is a pixel, given its left and its upper neighbour? One pass over single rows.
left, above, here = brightness[1:, :-1], brightness[:-1, 1:], brightness[1:, 1:]
rows = np.stack([np.ones(here.size), left.ravel() / 255 - 0.5, above.ravel() / 255 - 0.5], axis=1)
found = sgd(
    "linear", (rows, here.ravel() / 255 - 0.5), steps=steps.Power(2.0, 10.0, 0.51),
    burn_in=10_000, covariance=True,
)  # fmt: skip
exact = np.linalg.lstsq(rows, here.ravel() / 255 - 0.5, rcond=None)[0]
low, high = found.interval(0.95, kind="plugin")
for name, w, a, b, e in zip(
    ("constant", "left", "above"), found.average, low, high, exact, strict=True
):
    print(f"{name:8s} {w:.3f} [{a:.3f}, {b:.3f}]; all rows at once {e:.3f}")

# %%
# Without a gradient: at which threshold do a pixel and its neighbour fall on different sides most
# often? Each question gets a yes or a no about one random pair; the noisy answers at two thresholds
# are all that is seen.
pairs = np.random.default_rng(1)


def apart(threshold):
    """Minus the share of 64 random pairs that lie on both sides; in units of 100 grey levels."""
    at = pairs.integers(left.size, size=64)
    dark = left.ravel()[at] < 100 * threshold
    return -float(np.mean(dark != (here.ravel()[at] < 100 * threshold)))


search = KieferWolfowitz(0.6, steps=steps.Power(20.0, 20.0, 1.0)).run(apart, 1500)
told = round(100 * float(search.w))
shares = [np.mean((left < t) != (here < t)) for t in range(256)]
print(f"threshold {told}, share {shares[told]:.3f}; ", end="")
print(f"the best of all is {int(np.argmax(shares))}, share {max(shares):.3f}")
