"""
Which growth curve, and how sure
================================

Nine cuts of a pasture (Ratkowsky 1983; NIST's reference data Rat42): the yield follows an
S-shaped curve. We fit the logistic and the Gompertz curve and ask for the final yield.
"""

# %%
# A model is a function of parameters and x, in plain NumPy; derivatives are taken exactly.
import numpy as np

from paragone.estimation import nonlinear_least_squares

time = np.array([9, 14, 21, 28, 42, 57, 63, 70, 79], dtype=float)
crop = np.array([8.93, 10.8, 18.59, 22.33, 39.35, 56.11, 61.73, 64.62, 67.08])


def logistic(p, t):
    """Symmetric about its inflection."""
    return p["top"] / (1 + np.exp(p["delay"] - p["rate"] * t))


def gompertz(p, t):
    """Rises early, levels off late."""
    return p["top"] * np.exp(-np.exp(p["delay"] - p["rate"] * t))


fits = {
    model.__name__: nonlinear_least_squares(
        model, {"top": 80.0, "delay": 2.0, "rate": 0.05}, time, crop
    )
    for model in (logistic, gompertz)
}
for name, fit in fits.items():
    print(f"{name}\n{fit.summary()}\n")

# %%
# The smaller sum of squares wins at equal numbers of parameters. The profile interval does not
# assume that the model is straight around its minimum: for the final yield it is wider upwards.
best = min(fits, key=lambda name: fits[name].rss)
low, high = fits[best].interval(0.95, kind="profile")[0]
wald = fits[best].interval(0.95)[0]
print(f"{best}: final yield in [{low:.1f}, {high:.1f}] by profile, "
      f"[{wald[0]:.1f}, {wald[1]:.1f}] by Wald")  # fmt: skip

# %%
# Where the curve goes from here, with a band for the curve and one for a new cut.
later = np.array([90.0, 120.0])
for band in ("mean", "new"):
    value, below, above = fits[best].predict(later, level=0.95, band=band)
    print(band, np.column_stack([later, value, below, above]).round(2).tolist())
assert fits["logistic"].converged
