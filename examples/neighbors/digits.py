"""
Reading digits by looking up the nearest ones
=============================================

A k-nearest-neighbour model learns nothing: it keeps the images it has seen and answers with the
labels of those nearest to the new one. All the work is the search.
"""

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from paragone.neighbors import KNeighborsClassifier, KNeighborsRegressor

X, y = load_digits(return_X_y=True)
train, test, y_train, y_test = train_test_split(X, y, test_size=0.3, random_state=0)
print(f"{len(train)} images to look up, {len(test)} to read, {X.shape[1]} pixels each")

# %%
# How many neighbours? One follows every odd image, many blur what differs. Leaving each image
# out of its own neighbours (`X=None`) scores every choice without a second set.
for k in (1, 3, 5, 15, 50):
    model = KNeighborsClassifier(k, weights="distance").fit(train, y_train)
    left_out, new = model.score(None, y_train), model.score(test, y_test)
    print(f"k={k:2}: left out {left_out:.3f}, new images {new:.3f}")

# %%
# Which search? All exact ones give the same answers, to the last bit; `auto` takes what is
# quickest and says so. The forest looks at a few of the images only.
for algorithm in ("auto", "kd_tree", "brute", "kd_forest"):
    model = KNeighborsClassifier(3, algorithm=algorithm, checks=100).fit(train, y_train)
    print(f"{algorithm:9} {model.score(test, y_test):.3f}  ({model.search_[:60]})")

# %%
# What did it confuse? The neighbours themselves are the explanation.
model = KNeighborsClassifier(3).fit(train, y_train)
said = model.predict(test)
wrong = np.flatnonzero(said != y_test)
for i, row in zip(wrong[:4], model.kneighbors(test[wrong[:4]])[1], strict=True):
    print(f"a {y_test[i]} was read as {said[i]}: its neighbours are {y_train[row].tolist()}")

# %%
# Regression is the same with numbers: fill in the lower half of an image from the upper half.
upper, lower = train[:, :32], train[:, 32:]
for k in (1, 5, 20):
    guess = KNeighborsRegressor(k, weights="distance").fit(upper, lower).predict(test[:, :32])
    error = np.sqrt(np.mean((guess - test[:, 32:]) ** 2))
    print(f"lower half from {k:2} neighbours: off by {error:.2f} grey levels of 16")
