"""
Random forest: accuracy without tuning, and what it says of the columns
=======================================================================

A random forest bags trees that see only a few columns at each node, so that no two trees make
the same mistakes. It needs no tuning, estimates its own accuracy, and ranks the columns, with
two traps that this page shows.
"""

import numpy as np
from sklearn.datasets import load_diabetes, load_wine
from sklearn.model_selection import train_test_split

from paragone.ensemble import (
    RandomForestClassifier,
    RandomForestRegressor,
    permutation_importance,
)

wine = load_wine()
train, test, y_train, y_test = train_test_split(wine.data, wine.target, random_state=0)
forest = RandomForestClassifier(100, oob_score=True, random_state=0).fit(train, y_train)
print(f"wine: out-of-bag accuracy {forest.oob_score_:.3f}, test {forest.score(test, y_test):.3f}")

# %%
# Missing values need no imputation: each split learned where they go. Take away a third of all
# cells and little is lost.
rng = np.random.default_rng(0)
holes = np.where(rng.random(train.shape) < 0.33, np.nan, train)
patchy = RandomForestClassifier(100, random_state=0).fit(holes, y_train)
print(f"a third of the cells missing in training: test {patchy.score(test, y_test):.3f}")

# %%
# First trap: a column of pure noise with many distinct values gets importance from the training
# rows. Permutation importance on held-out rows does not fall for it.
diabetes = load_diabetes()
X = np.c_[diabetes.data, rng.normal(size=len(diabetes.data))]
names = [*diabetes.feature_names, "noise"]
train, test, y_train, y_test = train_test_split(X, diabetes.target, random_state=0)
forest = RandomForestRegressor(60, keep_leaves=True, random_state=0).fit(train, y_train)
held_out = permutation_importance(forest, test, y_test, num_repeats=5, random_state=0)
print("\ncolumn   by splits   by shuffling held-out rows")
for j in np.argsort(-forest.feature_importances_):
    mean, spread = held_out.importances_mean[j], held_out.importances_std[j]
    print(f"{names[j]:7}  {forest.feature_importances_[j]:8.3f}    {mean:+.3f} +- {spread:.3f}")

# %%
# A forest knows more than its mean: the training targets that share a leaf with a row are a
# sample of what may happen, so quantiles cost nothing extra.
low, middle, high = forest.predict_quantiles(test, (0.1, 0.5, 0.9)).T
inside = np.mean((low <= y_test) & (y_test <= high))
print(f"\n80 % interval: {inside:.0%} of the test targets inside, width {np.mean(high - low):.0f}")
for row in range(3):
    print(f"patient {row}: {middle[row]:.0f}, between {low[row]:.0f} and {high[row]:.0f}")
