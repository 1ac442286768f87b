"""
Fit a distribution, and know how sure it is
===========================================

The sizes of 569 cell nuclei (breast cancer table of scikit-learn, mean area in square
micrometres): which law do they follow, how sure are its parameters, and what changes when the
instrument cuts off part of them?
"""

# %%
# One call fits a family; standard errors come with it.
import numpy as np
from sklearn.datasets import load_breast_cancer

from paragone.estimation import fit

table = load_breast_cancer()
area = table.data[:, list(table.feature_names).index("mean area")]
result = fit(area, "lognormal")
print(result.summary())

# %%
# Several candidates side by side. The lower the AIC the better; the last one has a threshold, whose
# likelihood is unbounded, so that what is returned is told.
for name in ("normal", "gamma", "weibull", "lognormal", "inverse_weibull", "lognormal_3p"):
    candidate = fit(area, name)
    print(f"{name:16} aic {candidate.aic:9.1f}   {candidate.rule}")

# %%
# Intervals in three ways. The profile is not symmetric, and does not depend on how the law is
# written.
for kind in ("wald", "transformed", "profile"):
    low, high = fit(area, "gamma").interval(0.95, kind)["shape"]
    print(f"{kind:12} shape in [{low:.3f}, {high:.3f}]")

# %%
# Suppose the instrument stops at 1,000: what it shows as 1,000 is only known to be larger. Taken
# as exact the fit is wrong; told that they are censored, it finds nearly what all data gave.
seen = np.minimum(area, 1000.0)
print("all data ", fit(area, "lognormal"))
print("as exact ", fit(seen, "lognormal"))
print("censored ", fit(seen, "lognormal", censoring=area > 1000.0))

# %%
# Truncation is another thing: here nuclei above 1,000 were never recorded at all.
print("truncated", fit(area[area <= 1000.0], "lognormal", truncation=(None, 1000.0)))

# %%
# A table of counts instead of rows: the weight of a row is how often it stands there.
bins, counts = np.unique(np.round(area, -1), return_counts=True)
print("rounded  ", fit((bins - 5.0, bins + 5.0), "lognormal", weights=counts))

# %%
# What the fitted law says of the next nucleus, with its uncertainty.
upper = result.predict("quantile", [0.5, 0.95, 0.99])
for p, value, low, high in zip(
    (0.5, 0.95, 0.99), upper.value, upper.lower, upper.upper, strict=True
):
    print(f"{p:.0%} are below {value:7.1f}   [{low:.1f}, {high:.1f}]")
