"""
AdaBoost: weak learners that look where the others failed
=========================================================

AdaBoost adds stumps, trees with one split, each on rows reweighted towards those that were
wrong so far. Each is hardly better than guessing; together they are accurate, and they go on
improving on new rows after the last training error is gone.
"""

import numpy as np
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.model_selection import train_test_split

from paragone.ensemble import AdaBoostClassifier, AdaBoostRegressor

X, y = load_breast_cancer(return_X_y=True)
train, test, y_train, y_test = train_test_split(X, y, test_size=0.4, random_state=1)
model = AdaBoostClassifier(n_estimators=200, random_state=0).fit(train, y_train)

# %%
# Error after each round. The training error reaches zero early.
train_error = [np.mean(p != y_train) for p in model.staged_predict(train)]
test_error = [np.mean(p != y_test) for p in model.staged_predict(test)]
print("round   training   test")
for r in (1, 5, 20, 50, 100, 200):
    if r <= len(train_error):
        print(f"{r:5}   {train_error[r - 1]:8.3f}   {test_error[r - 1]:.3f}")

# %%
# Why more rounds still help: the margin, the weighted share of right votes minus that of wrong
# ones, keeps growing where it is smallest (Schapire et al., 1998). The decision function is the
# difference of two such shares, hence the half.
for size in (5, 20, 200):
    part = AdaBoostClassifier(n_estimators=size, random_state=0).fit(train, y_train)
    margin = part.decision_function(train) / 2 * np.where(y_train == 1, 1, -1)
    print(f"{size:3} rounds: smallest margin {margin.min():+.3f}, mean {margin.mean():+.3f}")

# %%
# Ten classes need deeper members than stumps; the multi-class form (SAMME) asks only that each
# is better than one guess in ten.
digits, label = load_digits(return_X_y=True)
train, test, y_train, y_test = train_test_split(digits, label, random_state=0)
for depth in (1, 3, 6):
    model = AdaBoostClassifier(n_estimators=60, max_depth=depth, random_state=0)
    print(f"digits, depth {depth}: accuracy {model.fit(train, y_train).score(test, y_test):.3f}")

# %%
# For numbers (AdaBoost.R2) the prediction is the weighted median of the members, which a few
# wild ones cannot move.
x = np.linspace(0, 6, 300)[:, None]
target = np.sin(x[:, 0]) + np.sin(6 * x[:, 0])
for size in (1, 10, 100):
    fit = AdaBoostRegressor(n_estimators=size, max_depth=4, random_state=0).fit(x, target)
    print(f"{size:3} members: R2 on the curve {fit.score(x, target):.3f}")
