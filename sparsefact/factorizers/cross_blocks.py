"""Cross approximation of all blocks of one split at once: few rows and columns, with pivots that blocks share.

The blocks of a split are a grid: the rows of one residue class meet the columns of one interval. A block of rank r is
known from r of its columns and r of its rows, if they are well chosen. Here the blocks in one row of the grid share
their rows, and those in one column of it their columns, so that few calls read what all blocks need; the pivots are the
greedy ones (those of a QR factorization with column pivoting) for all of these blocks together.

With M the columns read, of a block B, and Q an orthonormal basis of them, ``B ~ Q X`` where X solves
``Q[rows] X = B[rows]``: it is exact for a block of rank r whose samples have rank r, and errors of B are amplified by
the inverse of the smallest singular value of Q[rows].

References: E. Tyrtyshnikov, "Incomplete cross approximation in the mosaic-skeleton method", Computing 64 (2000);
M. Bebendorf, "Approximation of boundary element matrices", Numer. Math. 86 (2000). That rows and columns are shared
along the grid of blocks, and how pivots are chosen for many blocks, is ours.

Symbols: blocks (g, ..) of g groups, each with n blocks; b rows, w columns, k samples.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsefact.backends.protocol import Backend

__all__ = ["basis", "coefficients", "mean_squares", "pivots", "truncate"]

Values = NDArray[Any]
Index = NDArray[np.intp]

# Directions of the sampled columns below this share of the largest one, in units of eps, are rounding.
_ROUNDING = 30.0
# Smaller singular values of Q[rows] are not inverted: the checks will say that the rows were not enough.
_LEAST = 1e-6
# What a row that is worthless for one block counts there, relative to the best row: it may be good for the others.
_FLOOR = 1e-6


def basis(backend: Backend, columns: Values) -> Values:
    """Return orthonormal bases of sampled columns (.., b, k), with zeros in place of directions that are rounding."""
    b, k = columns.shape[-2:]
    eps = _ROUNDING * float(np.finfo(columns.dtype).eps)
    if k == 1:
        sizes = np.linalg.norm(columns, axis=-2, keepdims=True)
        found: Values = columns / np.where(sizes == 0, 1, sizes).astype(columns.dtype)
        return found
    u, s, _ = backend.rank_r(columns.reshape(-1, b, k), min(b, k))
    u = u * (s > eps * s[:, :1])[:, None, :]
    return u.reshape(*columns.shape[:-1], -1)


def pivots(bases: Values, count: int) -> Index:
    """Choose `count` rows for each group of blocks, good for all blocks of the group.

    Parameters
    ----------
    bases : (g, n, b, k) array
        Orthonormal or zero columns.
    count : int
        At most b.

    Returns
    -------
    (g, count) integer array
        Without repetition; the first k are those of a greedy choice, the next k those of another one without them, ...
    """
    groups, _, b, k = bases.shape
    chosen = np.empty((groups, count), dtype=np.intp)
    free = np.ones((groups, b), dtype=bool)
    every = np.arange(groups)
    left = bases
    for step in range(count):
        if step % k == 0:
            left = bases.copy() if k > 1 else bases
        sizes = (abs(left) ** 2).sum(axis=-1)
        best = sizes.max(axis=-1, keepdims=True)
        share = np.log(_FLOOR + sizes / np.where(best == 0, 1, best)).sum(axis=1)
        row = np.where(free, share, -np.inf).argmax(axis=1)
        chosen[:, step] = row
        free[every, row] = False
        if k > 1:
            v = left[every, :, row]
            size = np.linalg.norm(v, axis=-1, keepdims=True)
            v = v / np.where(size == 0, 1, size).astype(v.dtype)
            left -= (left @ v.conj()[..., None]) * v[:, :, None, :]
    return chosen


def coefficients(rows_of_basis: Values, rows: Values) -> Values:
    """Return the least squares solutions X (.., k, w) of ``Q[rows] X = B[rows]``, from (.., t, k) and (.., t, w)."""
    adjoint = rows_of_basis.conj().swapaxes(-1, -2)
    if adjoint.shape[-2] == 1:
        sizes = (abs(rows_of_basis) ** 2).sum(axis=-2, keepdims=True)
        found: Values = (adjoint / np.where(sizes > _LEAST**2, sizes, np.inf).astype(adjoint.dtype)) @ rows
        return found
    u, s, v = np.linalg.svd(rows_of_basis, full_matrices=False)
    inverse = np.where(s > _LEAST, 1 / np.where(s > _LEAST, s, 1), 0).astype(s.dtype)
    solved: Values = v.conj().swapaxes(-1, -2) @ (inverse[..., None] * (u.conj().swapaxes(-1, -2) @ rows))
    return solved


def truncate(backend: Backend, q: Values, x: Values, rank: int) -> tuple[Values, Values]:
    """Return the best ``L @ R`` of inner size `rank` for products ``q @ x``, with q (.., b, k) orthonormal or zero."""
    k, w = x.shape[-2:]
    if k < rank:
        wider = [(0, 0)] * (q.ndim - 1)
        return (
            np.pad(q, [*wider, (0, rank - k)]),
            np.pad(x, [*wider[:-1], (0, rank - k), (0, 0)]),
        )
    if k == rank:
        return q, x
    u, s, v = backend.rank_r(x.reshape(-1, k, w), rank)
    return q @ u.reshape(*x.shape[:-1], rank), (s[:, :, None] * v).reshape(*x.shape[:-2], rank, w)


def mean_squares(blocks: Values) -> NDArray[np.float64]:
    """Return the mean of squared magnitudes over the last two axes, in float64."""
    wide = blocks.astype(np.complex128 if blocks.dtype.kind == "c" else np.float64, copy=False)
    found: NDArray[np.float64] = (wide.real**2 + wide.imag**2).mean(axis=(-1, -2))
    return found
