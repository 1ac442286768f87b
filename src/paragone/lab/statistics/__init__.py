"""Statistics of paired comparisons: effect and interval first, p second.

Each module holds one method with its equation and paper; all are pure functions of NumPy
arrays. SciPy's special functions are imported where they are needed; `scipy.stats`, which
takes 1.6 s to import, is not used.

| question | module |
|---|---|
| one split, stored losses | `bootstrap`, `mcnemar` |
| repeated splits of one data set | `resampled` |
| many data sets | `wilcoxon`, `ranks`, `multiplicity`, `bayes` |
| times and memory over blocks | `timing` |
| few runs on several tasks | `aggregate` |
| looking again after every block | `sequential` |
| the word for what was found | `effect` |
"""

__all__: list[str] = []
