"""
Training from files: larger than memory, stopped and resumed
============================================================

A boosted model looks at a value once, to find its bin. The table may therefore stay on disk: it is
read a few columns at a time, and what training needs of it are bytes in a memory-mapped file.
The model is the one that `fit` makes of the same table in memory, bit for bit.
"""

import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.datasets import load_breast_cancer

from paragone.ensemble import NewtonBoostingClassifier

folder = tempfile.TemporaryDirectory()
home = Path(folder.name)

# %%
# A bundled table as two Parquet files, in row groups of 100 rows. A column of text and some holes
# make it more like a table of the world.
data = load_breast_cancer(as_frame=True)
table = data.frame.rename(columns={"target": "benign"})
table["ward"] = np.where(table["mean radius"] > 14, "north", "south")
table.loc[::7, "mean texture"] = np.nan
(home / "train").mkdir()
table[:300].to_parquet(home / "train" / "1.parquet", row_group_size=100)
table[300:].to_parquet(home / "train" / "2.parquet", row_group_size=100)

# %%
# Train from the folder. `cache` keeps the bins for the next fit, `checkpoint` the finished rounds.
settings = {"max_depth": 3, "learning_rate": 0.2, "random_state": 0}
where = {"target": "benign", "cache": home / "bins", "checkpoint": home / "rounds.jsonl"}
short = NewtonBoostingClassifier(n_estimators=5, **settings).fit_files(home / "train", **where)
print(f"{short.n_estimators_} rounds, {(home / 'rounds.jsonl').stat().st_size / 1e3:.0f} kB")

# %%
# Was it interrupted, or are more rounds wanted? The same call goes on from the file.
model = NewtonBoostingClassifier(n_estimators=30, **settings).fit_files(home / "train", **where)

X = pd.read_parquet(home / "train")
y = X.pop("benign")
memory = NewtonBoostingClassifier(n_estimators=30, **settings).fit(X, y)
same = np.array_equal(model.predict_proba(X), memory.predict_proba(X))
print(f"{model.n_estimators_} rounds, the same bits as in memory: {same}")

# %%
# What is on disk: a byte a value, twice, and what the columns' bins are.
for path in sorted((home / "bins").rglob("*.*")):
    print(f"{path.name:18} {path.stat().st_size / 1e3:6.1f} kB")
folder.cleanup()
