"""What the transforms have in common in their arguments: a norm and a type of number."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from sparsefact.errors import ArgumentError, DtypeError

__all__: list[str] = []

COMPLEX = ("complex64", "complex128")
ANY = ("float32", "float64", *COMPLEX)
_NORMS = ("backward", "ortho", "forward")


def check_norm(norm: Any) -> str:
    """Return the name of a normalisation as scipy has them (None is "backward"), or refuse it."""
    if norm is None:
        return "backward"
    if not isinstance(norm, str) or norm not in _NORMS:
        raise ArgumentError(f"norm={norm!r} is unknown; pass None, 'backward', 'ortho' or 'forward'")
    return norm


def norm_scale(norm: str, period: int, *, inverse: bool = False) -> float:
    """Return the factor of a transform of this period: 1, 1/sqrt(period) or 1/period."""
    if norm == "ortho":
        return 1 / math.sqrt(period)
    return 1.0 if (norm == "backward") != inverse else 1 / period


def check_dtype(dtype: Any, allowed: tuple[str, ...], why: str = "") -> np.dtype[Any]:
    """Return `dtype` as a NumPy type, or refuse it with the types that are allowed (and `why`, a short clause)."""
    names = ", ".join(allowed)
    try:
        if dtype is None:  # float64 to NumPy, which a complex transform would have to refuse
            raise TypeError
        found: np.dtype[Any] = np.dtype(dtype)
    except TypeError:
        raise DtypeError(f"dtype={dtype!r} is not a type of number; pass one of {names}") from None
    if found.name not in allowed:
        raise DtypeError(f"dtype is {found}{why}; pass one of {names}")
    return found
