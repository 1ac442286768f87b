"""Statistics of paired comparisons: effect and interval first, p second.

Each module holds one method with its equation and paper; all are pure functions of NumPy
arrays. SciPy's special functions are imported where they are needed: `scipy.stats` takes
1.6 s to import and is not used.
"""

__all__: list[str] = []
