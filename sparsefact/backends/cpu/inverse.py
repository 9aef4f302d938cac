"""The inverse of a Hermitian positive definite matrix, by halves: matrix products down to small blocks.

The products run in NumPy's own BLAS; the smallest blocks are compiled code. SciPy's LAPACK would
bring a second BLAS with threads of its own, and in a loop that alternates between the two their idle threads hold the
cores against each other: potri on a 128 x 128 matrix then takes 100 ms and more instead of 0.2.
"""

from __future__ import annotations

from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from sparsefact.backends.cpu.cholesky import cholesky, invert_lower
from sparsefact.errors import ArgumentError, NonFiniteError

__all__ = ["spd_inverse"]

_LEAF = 96
_TILE = 64


def spd_inverse(g: NDArray[Any]) -> NDArray[Any]:
    """Return the inverse of a Hermitian positive definite matrix, full, in the dtype of `g`."""
    g = np.asarray(g, dtype=g.dtype.newbyteorder("="))
    p = g.shape[0]
    result = np.empty((p, p), dtype=g.dtype)
    if p:
        try:
            _invert(g, result)
        except np.linalg.LinAlgError:
            _explain(g)
    for start in range(0, p, _TILE):
        stop = min(start + _TILE, p)
        result[start:stop, stop:] = result[stop:, start:stop].conj().T
        below = np.tril(result[start:stop, start:stop], -1)
        result[start:stop, start:stop] = below + below.conj().T + np.diag(result.diagonal()[start:stop].real)
    return result


def _invert(g: NDArray[Any], out: NDArray[Any]) -> None:
    """Write the inverse to `out`, whose upper triangle need not be right to the last bit.

    With blocks ``[[A, B^H], [B, D]]``, ``X = B A^-1`` and the Schur complement ``S = D - X B^H``, it is
    ``[[A^-1 + X^H S^-1 X, .], [-S^-1 X, S^-1]]``.
    """
    p = g.shape[0]
    if p <= _LEAF:
        root = _inverse_of_factor(g)
        np.matmul(root.conj().T, root, out=out)
        return
    half = (p // 2 + 7) // 8 * 8
    first, corner, last = out[:half, :half], out[half:, :half], out[half:, half:]
    _invert(g[:half, :half], first)
    x = g[half:, :half] @ first
    _invert(g[half:, half:] - x @ g[half:, :half].conj().T, last)
    np.matmul(last, x, out=corner)
    np.negative(corner, out=corner)
    first -= x.conj().T @ corner
    # A Schur complement further up reads all of this one.
    out[:half, half:] = corner.conj().T


def _inverse_of_factor(block: NDArray[Any]) -> NDArray[Any]:
    """Return ``L^-1`` of a small matrix ``L L^H``."""
    dtype = block.dtype
    w = block.shape[0]
    padded = np.eye(-(-w // 4) * 4, dtype=dtype)
    padded[:w, :w] = block
    inv, least = np.zeros((2, len(padded)), dtype=padded.real.dtype)
    cholesky(padded, len(padded), inv, least, dtype.type(0))
    if not (np.isfinite(inv).all() and inv.all()):
        raise np.linalg.LinAlgError("not positive definite and finite")
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
