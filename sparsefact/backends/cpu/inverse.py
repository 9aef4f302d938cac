"""The inverse of a Hermitian positive definite matrix by panels: ``G = L L^H``, then ``G^-1 = L^-H L^-1``.

All the work is in matrix products with NumPy's own BLAS; the diagonal blocks are compiled code. SciPy's LAPACK would
bring a second BLAS with threads of its own, and in a loop that alternates between the two their idle threads hold the
cores against each other: potri on a 128 x 128 matrix then takes 100 ms and more instead of 0.2. (Inverting by halves
through Schur complements is faster still, but an explicit inverse inside a Schur complement loses the square of the
condition number, and in float32 fails on the Gram matrix of equal columns with a ridge.)

========  ==================================================
``root``  L^-1, (p, p)
``w``     columns of a panel
========  ==================================================
"""

from __future__ import annotations

from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from sparsefact.backends.cpu.cholesky import cholesky, invert_lower
from sparsefact.errors import ArgumentError, NonFiniteError

__all__ = ["spd_inverse"]

_PANEL = 64
_WIDE = 256


def spd_inverse(g: NDArray[Any], *, overwrite: bool = False) -> NDArray[Any]:
    """Return the inverse of a Hermitian positive definite matrix, full, in the dtype of `g`, or in `g` itself."""
    dtype = g.dtype.newbyteorder("=")
    p = g.shape[0]
    # Of L only what lies below the diagonal blocks is written, where g is not read any more.
    lower = g if overwrite and g.dtype == dtype else np.zeros((p, p), dtype=dtype)
    root = np.zeros((p, p), dtype=dtype)
    for start in range(0, p, _PANEL):
        stop = min(start + _PANEL, p)
        panel = g[start:, start:stop] - lower[start:, :start] @ lower[start:stop, :start].conj().T
        diagonal = _inverse_of_factor(panel[: stop - start], dtype)
        if diagonal is None:
            _explain(g)
        lower[stop:, start:stop] = panel[stop - start :] @ diagonal.conj().T
        root[start:stop, :start] = -diagonal @ (lower[start:stop, :start] @ root[:start, :start])
        root[start:stop, start:stop] = diagonal
    # above a panel's rows its columns of L^-1 are zero, so every product starts there
    result: NDArray[Any] = lower
    for start in range(0, p, _WIDE):
        stop = min(start + _WIDE, p)
        np.matmul(root[start:, start:stop].conj().T, root[start:, :stop], out=result[start:stop, :stop])
    for start in range(0, p, _PANEL):
        stop = min(start + _PANEL, p)
        result[start:stop, stop:] = result[stop:, start:stop].conj().T
        below = np.tril(result[start:stop, start:stop], -1)
        result[start:stop, start:stop] = below + below.conj().T + np.diag(result.diagonal()[start:stop].real)
    return result


def _inverse_of_factor(block: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any] | None:
    """Return ``L^-1`` of a small matrix, or None if it is not positive definite and finite."""
    w = block.shape[0]
    padded = np.eye(-(-w // 4) * 4, dtype=dtype)
    padded[:w, :w] = block
    inv, least = np.zeros((2, len(padded)), dtype=padded.real.dtype)
    cholesky(padded, len(padded), inv, least, dtype.type(0))
    if not (np.isfinite(inv).all() and inv.all()):
        return None
    out = np.zeros((w, w), dtype=dtype)
    invert_lower(padded, inv, out)
    return out


def _explain(g: NDArray[Any]) -> NoReturn:
    bad = np.count_nonzero(~np.isfinite(np.tril(g)))
    if bad:
        raise NonFiniteError(f"g holds {bad} NaN or infinite entries; a matrix to invert must be finite")
    raise ArgumentError(
        f"g must be positive definite to working precision ({g.dtype}), and its Cholesky factorization fails; "
        "add a multiple of the identity"
    )
