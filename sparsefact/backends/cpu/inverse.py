"""The inverse of a Hermitian positive definite matrix: half the work of a general inverse, through LAPACK's potri."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import lapack

from sparsefact.errors import ArgumentError, NonFiniteError

__all__ = ["spd_inverse"]

_TILE = 64


def spd_inverse(g: NDArray[Any]) -> NDArray[Any]:
    """Return the inverse of a Hermitian positive definite matrix, full, in the dtype of `g`."""
    p = g.shape[0]
    if p == 0:
        return g.copy()
    letter = {"f": "s", "d": "d", "F": "c", "D": "z"}[g.dtype.char]
    potrf, potri = getattr(lapack, f"{letter}potrf"), getattr(lapack, f"{letter}potri")
    # The transpose of a C-ordered copy is what LAPACK wants in place, and its upper triangle is our lower one,
    # conjugated for complex matrices, as is then the result.
    work = np.array(g, dtype=g.dtype.newbyteorder("="), order="C").T
    factor, info = potrf(work, lower=0, clean=0, overwrite_a=1)
    if info == 0:
        inverse, info = potri(factor, lower=0, overwrite_c=1)
    if info != 0:
        _explain(g, info)
    result: NDArray[Any] = inverse.T
    if not np.isfinite(result.diagonal().real).all():
        _explain(g, p)
    for start in range(0, p, _TILE):
        stop = min(start + _TILE, p)
        result[start:stop, stop:] = result[stop:, start:stop].conj().T
        tile = result[start:stop, start:stop]
        tile[...] = np.tril(tile) + np.tril(tile, -1).conj().T
    return result


def _explain(g: NDArray[Any], info: int) -> None:
    bad = np.count_nonzero(~np.isfinite(g))
    if bad:
        raise NonFiniteError(f"g holds {bad} NaN or infinite entries; a matrix to invert must be finite")
    raise ArgumentError(
        f"g must be positive definite to working precision ({g.dtype}), but its leading minor of order {info} is not; "
        "add a multiple of the identity"
    )
