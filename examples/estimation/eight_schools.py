"""
Eight schools: what pooling does, by every engine
=================================================

Eight schools coached pupils for a test; each effect is measured with a known, large error. Should
one believe the 28 points of the first school? A hierarchical model lets the schools tell how alike
they are. The data are those of Rubin (1981), Journal of Educational Statistics 6.
"""

import numpy as np

from paragone.estimation import Model, builtin

effects = np.array([28, 8, -3, 7, -1, 1, 18, 12])
errors = np.array([15, 10, 16, 11, 9, 11, 10, 18])
model = Model(builtin.eight_schools(effects, errors))
draws = model.sample(random_state=1, target=0.95)
print(draws.summary())

# %%
# Each school moves towards the common mean, the more so the larger its error.
theta = draws["theta"].mean(axis=(0, 1))
for school, (seen, error, mean) in enumerate(zip(effects, errors, theta, strict=True)):
    print(f"school {school}: measured {seen:3d} +- {error:2d}, estimated {mean:5.1f}")
first_is_best = (draws["theta"].argmax(axis=-1) == 0).mean()
print(f"the first school is the best one with probability {first_is_best:.2f}")

# %%
# The other engines answer sooner, and less well. The peak of this posterior lies far from its mass
# (tau is 29 there): the mode and the normal around it mislead. The variational fit looks at the
# whole, and the Pareto k of its weights says how far to trust it.
table = model.compare(random_state=1, nuts={"target": 0.95})
for name in ("mu", "tau", "theta[0]"):
    row = table.moments()[name]
    print(name, {method: round(row[method], 1) for method in table.results})
print(table.costs())

# %%
# Do the schools differ at all? Leave-one-out cross-validation compares with a model in which they
# may not: a prior that holds tau near zero. The difference is none to speak of.
from paragone.estimation import diagnostics  # noqa: E402

pooled = Model(builtin.eight_schools(effects, errors, tau_scale=0.01))
scores = {
    "partial": draws.loo(),
    "pooled": pooled.sample(random_state=2, target=0.95).loo(),
}
for row in diagnostics.compare(scores):
    print(f"{row['model']:8} elpd {row['elpd']:.2f}, behind by {row['difference']:.2f} "
          f"(se {row['difference_se']:.2f})")  # fmt: skip
