"""The entries of a matrix on a Kronecker support as an array (a, b, c, d), and the blocks that a split cuts it into."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsefact.constraints.kronecker_support import KroneckerSupport

__all__ = ["blocks_at", "clear", "values_on"]


def values_on(matrix: NDArray[Any], support: KroneckerSupport) -> NDArray[Any]:
    """Return the entries of a matrix on a Kronecker support, an array (a, b, c, d); a view where a = d = 1."""
    if support.a == support.d == 1:
        return matrix[None, :, :, None]
    grid, i, q = _grid(matrix, support)
    values: NDArray[Any] = grid[i, :, q, i, :, q].transpose(0, 2, 3, 1)
    return values


def clear(matrix: NDArray[Any], support: KroneckerSupport) -> None:
    """Set the entries of a contiguous matrix on a Kronecker support to zero."""
    grid, i, q = _grid(matrix, support)
    grid[i, :, q, i, :, q] = 0


def _grid(matrix: NDArray[Any], support: KroneckerSupport) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    a, b, c, d = support.a, support.b, support.c, support.d
    # indices where the matrix is, which may be a GPU
    i, q = np.arange(a, like=matrix), np.arange(d, like=matrix)
    return matrix.reshape(a, b, d, a, c, d), i[:, None], q[None, :]


def blocks_at(values: NDArray[Any], intervals: int, residues: int) -> NDArray[Any]:
    """Return the view (a, p, t, d, b / t, c / p) of the blocks of a split s, with a_{s+1} intervals, d_s residues.

    Here p = a_{s+1} / a and t = d_s / d, and ``block[i, k1, j0, l][j1, k0] = values[i, j1 t + j0, k1 c / p + k0, l]``.
    """
    a, b, c, d = values.shape
    p, t = intervals // a, residues // d
    return values.reshape(a, b // t, t, p, c // p, d).transpose(0, 3, 2, 5, 1, 4)
