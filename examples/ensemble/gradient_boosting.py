"""
Gradient boosting: small steps downhill, under any loss
=======================================================

Each tree is fitted to the negative gradient of the loss, and its leaves then take the step that
is best for that loss. Small steps and many trees beat large steps and few; the loss says what
is meant by a good prediction.
"""

import numpy as np
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.model_selection import train_test_split

from paragone.ensemble import GradientBoostingClassifier, GradientBoostingRegressor

X, y = load_breast_cancer(return_X_y=True)
train, test, y_train, y_test = train_test_split(X, y, test_size=0.4, random_state=0)

# %%
# Shrinkage: the log loss on test rows along the way. With a large step it turns up soon.
print("trees    step 1.0   step 0.1")
curves = []
for step in (1.0, 0.1):
    model = GradientBoostingClassifier(n_estimators=100, learning_rate=step, max_depth=2)
    model.fit(train, y_train)
    curves.append([
        -np.log(np.clip(share[np.arange(len(y_test)), y_test], 1e-12, 1)).mean()
        for share in model.staged_predict_proba(test)
    ])  # fmt: skip
for r in (1, 10, 30, 100):
    print(f"{r:5}    {curves[0][r - 1]:8.3f}   {curves[1][r - 1]:8.3f}")

# %%
# Early stopping holds out a part of the training rows and stops when it no longer gains.
stopped = GradientBoostingClassifier(n_estimators=500, n_iter_no_change=10, random_state=0)
stopped.fit(train, y_train)
print(f"stopped after {stopped.n_estimators_} of 500: {stopped.score(test, y_test):.3f}")

# %%
# The loss is the question. The squared one asks for the mean, the absolute one for the median,
# the quantile one for a bound; Huber is nearly the mean, but deaf to the largest residuals, here a
# fifth of them. Spoil one target in twenty and see who notices.
X, y = load_diabetes(return_X_y=True)
train, test, y_train, y_test = train_test_split(X, y, random_state=0)
rng = np.random.default_rng(0)
spoiled = np.where(rng.random(len(y_train)) < 0.05, 5000.0, y_train)
print("\nloss              mean absolute error: clean   spoiled")
for loss in ("squared_error", "absolute_error", "huber"):
    errors = []
    for target in (y_train, spoiled):
        model = GradientBoostingRegressor(loss=loss, alpha=0.8, n_estimators=60, max_depth=2)
        errors.append(np.abs(model.fit(train, target).predict(test) - y_test).mean())
    print(f"{loss:16}                        {errors[0]:6.1f}   {errors[1]:6.1f}")

# %%
# Two quantiles make an interval.
bounds = [
    GradientBoostingRegressor(loss="quantile", alpha=alpha, n_estimators=60, max_depth=2)
    .fit(train, y_train)
    .predict(test)
    for alpha in (0.1, 0.9)
]
inside = np.mean((bounds[0] <= y_test) & (y_test <= bounds[1]))
print(f"\n10 % to 90 % quantile: {inside:.0%} of the test targets lie between")
