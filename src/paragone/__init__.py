"""Which method should I use, for my data, on my machine?

`paragone` (Italian: comparison) holds 36 methods of machine learning, each a component for
real work, and compares rivals fairly, side by side, in one run.

Importing the package loads nothing heavy: families and functions arrive on first use.

Example:
    >>> import paragone
    >>> "ensemble" in dir(paragone)
    True
"""

from paragone._core.lazy import lazy_exports

__version__ = "0.1.0"

_FUNCTIONS = (
    "compare", "run", "list_methods", "show", "report", "diff", "replay", "export", "bench",
    "warmup",
)  # fmt: skip
_PACKAGES = (
    "estimation", "neighbors", "ensemble", "reinforcement", "runtime", "mixers", "training",
    "vision", "language", "multimodal", "kernels", "lab",
)  # fmt: skip

__getattr__, __dir__ = lazy_exports(
    __name__,
    {name: f"paragone.lab.api:{name}" for name in _FUNCTIONS}
    | {name: f"paragone.{name}" for name in _PACKAGES},
)

__all__ = ["__version__", *_FUNCTIONS, *_PACKAGES]  # pyright: ignore[reportUnsupportedDunderAll]
