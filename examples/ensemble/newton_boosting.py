"""
Newton boosting: second derivatives, missing values, constraints, explanations
==============================================================================

The method of XGBoost: each tree minimises a quadratic model of the regularised loss, so that
splits, leaf values and penalties come from one formula. This page goes through what daily work
asks of it, up to exchanging a model with XGBoost itself.
"""

import tempfile
from pathlib import Path

import numpy as np
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.model_selection import train_test_split

from paragone.ensemble import NewtonBoostingClassifier, NewtonBoostingRegressor, load_model

X, y = load_breast_cancer(return_X_y=True)
train, test, y_train, y_test = train_test_split(X, y, random_state=0)

# %%
# Early stopping watches a part of the rows and keeps the best rounds.
model = NewtonBoostingClassifier(
    n_estimators=400, learning_rate=0.1, early_stopping_rounds=15, random_state=0
).fit(train, y_train)
print(f"best round {model.best_iteration_}, test accuracy {model.score(test, y_test):.3f}")

# %%
# Missing values take, at each split, the side that they gained from in training. Here the fact
# that a cell is missing tells something, and is used.
rng = np.random.default_rng(0)
holes = X.copy()
holes[(y == 0) & (rng.random(len(y)) < 0.6), 0] = np.nan
alone = holes[:, [0]]
plain = NewtonBoostingClassifier(n_estimators=20).fit(X[::2, [0]], y[::2])
told = NewtonBoostingClassifier(n_estimators=20).fit(alone[::2], y[::2])
print(f"mean radius only: {plain.score(X[1::2, [0]], y[1::2]):.3f}", end=", ")
print(f"with telling holes: {told.score(alone[1::2], y[1::2]):.3f}")

# %%
# A constraint puts knowledge in: with the body-mass index (column 2) the expected progress of
# diabetes may only rise. The unconstrained model is not monotone along that column.
diabetes = load_diabetes()
train, test, y_train, y_test = train_test_split(diabetes.data, diabetes.target, random_state=0)
free = NewtonBoostingRegressor(n_estimators=60, learning_rate=0.1, max_depth=3)
bound = NewtonBoostingRegressor(
    n_estimators=60, learning_rate=0.1, max_depth=3, monotone_constraints={2: 1}
)
for title, fitted in (("free", free.fit(train, y_train)), ("bound", bound.fit(train, y_train))):
    grid = np.repeat(test[:20], 50, axis=0)
    grid[:, 2] = np.tile(np.linspace(-0.1, 0.17, 50), 20)
    falls = np.diff(fitted.predict(grid).reshape(20, 50), axis=1) < -1e-9
    print(f"{title:5}: R2 {fitted.score(test, y_test):.3f}, falls along the index: {falls.sum()}")

# %%
# Shapley values split one prediction into what each column contributed; with the expected value
# they sum to the prediction, exactly.
values = bound.shap_values(test)
patient = int(np.argmax(bound.predict(test)))
print(f"\npatient {patient}: predicted {bound.predict(test)[patient]:.0f}")
print(f"expected value {values[patient, -1]:.0f}", end="")
for j in np.argsort(-np.abs(values[patient, :-1]))[:4]:
    print(f", {diabetes.feature_names[j]} {values[patient, j]:+.0f}", end="")
print(f"; all columns sum to {values[patient].sum():.0f}")

# %%
# Models are files: plain JSON of our own, which comes back bit for bit, or XGBoost's.
with tempfile.TemporaryDirectory() as folder:
    own, peer = Path(folder) / "own.json", Path(folder) / "peer.json"
    bound.save_model(own)
    bound.save_xgboost(peer)
    same = np.array_equal(load_model(own).predict(test), bound.predict(test))
    ratio = NewtonBoostingRegressor.load_xgboost(peer).predict(test) / bound.predict(test)
    print(f"\nown file: same bits {same}", end="; ")
    print(f"XGBoost's float32 file: off by {np.abs(ratio - 1).max():.0e} of the prediction")
