"""Every error class of the package; each sentence says what came, what is allowed and what to do.

All of them derive from `SparsefactError`, and from the builtin exception a Python user would expect
(`ValueError`, `TypeError`, `OSError`), so either can be caught.
"""

from __future__ import annotations

__all__ = [
    "ArgumentError",
    "BudgetError",
    "DeviceError",
    "DtypeError",
    "FormatError",
    "NonFiniteError",
    "ShapeError",
    "SparsefactError",
    "StorageError",
]


class SparsefactError(Exception):
    """Base of every error raised on purpose by sparsefact."""


class ArgumentError(SparsefactError, ValueError):
    """An argument has a value outside what is allowed."""


class ShapeError(SparsefactError, ValueError):
    """An array, a constraint or a factor has a shape that does not fit."""


class DtypeError(SparsefactError, TypeError):
    """An array has a type that is not computed with, or an argument is of the wrong kind."""


class NonFiniteError(SparsefactError, ValueError):
    """NaN or infinity where only finite numbers are allowed."""


class BudgetError(SparsefactError, ValueError):
    """A density or a count of nonzeros that cannot be met."""


class DeviceError(SparsefactError, ValueError):
    """A device that does not exist here, or the package that drives it is not installed."""


class FormatError(SparsefactError, ValueError):
    """A file whose bytes are not what its format promises."""


class StorageError(SparsefactError, OSError):
    """Reading or writing failed: a missing file, a full disk, a path that may not be written."""
