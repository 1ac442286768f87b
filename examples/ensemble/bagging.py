"""
Bagging: what an average of unstable trees gains
================================================

A fully grown tree follows every accident of its training rows. Bagging grows many of them, each
on a bootstrap sample, and averages: the accidents differ from tree to tree and cancel, what the
rows have in common stays. The rows that a sample left out judge each tree for nothing.
"""

import numpy as np
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.model_selection import train_test_split
from sklearn.neighbors import KNeighborsClassifier

from paragone.ensemble import (
    BaggingClassifier,
    BaggingRegressor,
    DecisionTreeClassifier,
    DecisionTreeRegressor,
)

X, y = load_breast_cancer(return_X_y=True)
train, test, y_train, y_test = train_test_split(X, y, random_state=0)

# %%
# One tree, and averages of more and more of them. The out-of-bag accuracy, which needs no
# held-out rows, is close to the accuracy on the test rows.
tree = DecisionTreeClassifier(random_state=0).fit(train, y_train)
print(f"one tree                test {tree.score(test, y_test):.3f}")
for size in (5, 20, 80):
    bag = BaggingClassifier(n_estimators=size, oob_score=size > 5, random_state=0)
    bag.fit(train, y_train)
    left_out = f"out of bag {bag.oob_score_:.3f}" if size > 5 else ""
    print(f"{size:3} bagged trees        test {bag.score(test, y_test):.3f}  {left_out}")

# %%
# How unstable is a tree? Train two on two bootstrap samples and count where they disagree; then
# the same for two bags.
rng = np.random.default_rng(0)
samples = [rng.integers(0, len(train), len(train)) for _ in range(2)]
for title, model in (
    ("single trees", DecisionTreeClassifier(random_state=0)),
    ("bags of 40  ", BaggingClassifier(n_estimators=40, random_state=0)),
):
    first, second = (model.fit(train[rows], y_train[rows]).predict(test) for rows in samples)
    print(f"{title}: two of them disagree on {np.mean(first != second):.1%} of the test rows")

# %%
# Any estimator can be bagged. Nearest neighbours are stable, so bootstrap alone does little for
# them; drawing the columns too (random subspaces) makes the members differ.
knn = KNeighborsClassifier()
plain = knn.fit(train, y_train).score(test, y_test)
subspaces = BaggingClassifier(
    knn, n_estimators=30, max_features=0.3, bootstrap=False, random_state=0
).fit(train, y_train)
print(f"neighbours {plain:.3f}, in random subspaces {subspaces.score(test, y_test):.3f}")

# %%
# Numbers are averaged likewise: what a year does to a patient, by one tree and by thirty.
X, y = load_diabetes(return_X_y=True)
train, test, y_train, y_test = train_test_split(X, y, random_state=0)
tree = DecisionTreeRegressor(random_state=0).fit(train, y_train)
trees = BaggingRegressor(DecisionTreeRegressor(), n_estimators=30, random_state=0)
print(f"R2 of one tree {tree.score(test, y_test):.2f}, ", end="")
print(f"of thirty {trees.fit(train, y_train).score(test, y_test):.2f}")
