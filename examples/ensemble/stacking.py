"""
Stacking: a model that learns whom to believe
=============================================

Members of different kinds make different mistakes. Voting averages them; stacking fits a last
model on their out-of-fold predictions, so that it learns how far to trust each. No member has
seen the row about which it is asked.
"""

import numpy as np
from sklearn.datasets import load_diabetes, load_digits
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.metrics import log_loss
from sklearn.model_selection import train_test_split
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from paragone.ensemble import (
    NewtonBoostingClassifier,
    RandomForestClassifier,
    RandomForestRegressor,
    StackingClassifier,
    StackingRegressor,
    VotingClassifier,
    VotingRegressor,
)

X, y = load_digits(return_X_y=True)
train, test, y_train, y_test = train_test_split(X, y, test_size=0.4, random_state=0)
members = [
    ("forest", RandomForestClassifier(40, random_state=0)),
    ("boosting", NewtonBoostingClassifier(n_estimators=15, random_state=0)),
    ("linear", make_pipeline(StandardScaler(), LogisticRegression(C=0.1))),
    ("bayes", GaussianNB(var_smoothing=0.01)),
]

# %%
# Each alone, then together. Naive Bayes is sure of itself even where it is wrong: its log loss
# is the worst, and a plain average inherits some of that.
print("                 accuracy   log loss")


def show(title, model):
    """One line of the table; returns the fitted model."""
    model.fit(train, y_train)
    loss = log_loss(y_test, np.clip(model.predict_proba(test), 1e-9, 1))
    print(f"{title:15}   {model.score(test, y_test):.3f}      {loss:.3f}")
    return model


for name, member in members:
    show(name, member)
show("voting", VotingClassifier(members))
stack = show("stacking", StackingClassifier(members, cv=3, random_state=0))

# %%
# Whom does the last model believe? The coefficients it puts on each member's probability of a
# class, averaged over the classes, tell.
size = len(stack.classes_)
weight = stack.final_estimator_.coef_
for position, (name, _) in enumerate(members):
    block = weight[:, position * size : (position + 1) * size]
    print(f"{name:9} {np.mean(np.diag(block)):+.2f}")

# %%
# Numbers: a line and a forest see different things in a table, and the last model weighs them.
X, y = load_diabetes(return_X_y=True)
train, test, y_train, y_test = train_test_split(X, y, random_state=0)
pair = [("line", RidgeCV()), ("forest", RandomForestRegressor(30, random_state=0))]
for name, model in (
    *pair,
    ("voting", VotingRegressor(pair)),
    ("stacking", StackingRegressor(pair, cv=3, random_state=0)),
):
    print(f"{name:9} R2 {model.fit(train, y_train).score(test, y_test):.3f}")
