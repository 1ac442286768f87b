"""
MLE, MAP and full Bayes on the same data
========================================

Blood sugar of 442 patients ships with scikit-learn. How much does one know of its mean and spread
after five patients, after fifty, after all? Three answers, side by side, with a prior that is
reasonable and one that is wrong.
"""

import numpy as np
from sklearn.datasets import load_diabetes

from paragone.estimation import Posterior, conjugate, families, fit

glucose = load_diabetes(scaled=False).data[:, 9]
order = np.random.default_rng(3).permutation(len(glucose))
glucose = glucose[order]
print(f"{len(glucose)} patients, mean {glucose.mean():.1f}, deviation {glucose.std():.1f}")

# %%
# The same samples by maximum likelihood, maximum a posteriori and full Bayes. A normal law with a
# normal-inverse-gamma prior is a conjugate pair: the posterior comes in closed form.
prior = {"loc": ("normal", 100, 20), "scale": ("half_normal", 20)}
pair = conjugate.prior("normal", mean=100, count=0.3, shape=2, scale=200)
for n in (5, 50, 442):
    seen = glucose[:n]
    mle = fit(seen, "normal")
    peak = fit(seen, "normal", method="map", prior=prior)
    bayes = fit(seen, "normal", method="bayes", prior=pair)
    print(f"n = {n}")
    for name, found in (("MLE", mle), ("MAP", peak), ("Bayes", bayes)):
        low, high = found.interval(0.95)["loc"]
        print(f"  {name:6} mean {found.params['loc']:6.2f} in [{low:6.2f}, {high:6.2f}]"
              f"  deviation {found.params['scale']:5.2f}")  # fmt: skip

# %%
# Which predicts better? Log density of the patients not seen, averaged over many samples of five:
# the law with the estimate plugged in is too sure of itself, the posterior predictive is not.
plugged, whole = [], []
for seed in range(100):
    rows = np.random.default_rng(seed).permutation(len(glucose))
    seen, fresh = glucose[rows[:5]], glucose[rows[5:]]
    mle = fit(seen, "normal")
    plugged.append(mle.family.logpdf(fresh, mle.params).mean())
    whole.append(pair.update(seen).predictive().logpdf(fresh).mean())
print(f"log density after five patients: MLE {np.mean(plugged):.2f}, Bayes {np.mean(whole):.2f}")

# %%
# A wrong prior does harm until the data overwhelm it.
wrong = conjugate.prior("normal", mean=60, count=10, shape=2, scale=200)
for n in (5, 50, 442):
    mean = wrong.update(glucose[:n]).mean["mean"]
    print(f"prior at 60, worth ten patients; after {n:3}: {mean:.1f}")

# %%
# Evidence compares priors before any data are held back: the better one made the data likelier.
for name, each in (("reasonable", pair), ("wrong", wrong)):
    print(f"log evidence of the {name} prior: {each.update(glucose[:20]).log_evidence:.1f}")

# %%
# Other priors have no closed form. The same call then draws by NUTS; what comes back answers the
# same questions.
drawn = fit(glucose[:30], "gamma", method="bayes",
            prior={"shape": ("lognormal", 3, 2), "scale": ("half_t", 3, 10)})  # fmt: skip
print(drawn.summary())
names = [parameter.name for parameter in families.get("gamma").parameters]
print(f"a posterior of {names}: {isinstance(drawn, Posterior)}")
low, high = drawn.predictive.interval(0.9)
print(f"the next patient: {low:.0f} to {high:.0f} with probability 0.9")
print(f"chance of more than 110: {float(drawn.predict('sf', at=110.0).value):.2f}")
