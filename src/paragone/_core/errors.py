"""Errors that a user can act on.

`UsageError` is for what was typed or given: a file, a column, an option. The command line
prints it as one line and exits with code 2. Methods raise plain `ValueError`; both name the
value, what was expected, and the remedy.
"""

__all__ = ["MissingPackageError", "UsageError"]


class UsageError(ValueError):
    """A request that cannot be carried out as given; the message is one line."""


class MissingPackageError(ImportError):
    """A library that the request needs is not installed; the message holds the pip line."""
