"""Estimation: maximum likelihood, maximum a posteriori, full Bayes, stochastic approximation."""

__all__: list[str] = []
