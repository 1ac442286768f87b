"""The lab: compares rivals fairly, side by side, in one run.

*input -> study -> contestants, each run alone in a fresh process -> records -> statistics
-> verdict -> report*. Each arrow is one module: `data`, `studies`, `runner` and `worker`,
`store`, `statistics`, `summary`, `report`.
"""

from paragone._core.lazy import lazy_exports

_NAMES = {
    "compare": "api", "run": "api", "list_methods": "api", "show": "api", "bench": "api",
    "doctor": "api",
    "Contestant": "spec", "Workload": "spec", "Measure": "spec", "Study": "spec", "Claim": "spec",
    "Picture": "spec", "Request": "spec",
}  # fmt: skip

__getattr__, __dir__ = lazy_exports(
    __name__, {name: f"paragone.lab.{module}:{name}" for name, module in _NAMES.items()}
)

__all__ = [*_NAMES]  # pyright: ignore[reportUnsupportedDunderAll]
