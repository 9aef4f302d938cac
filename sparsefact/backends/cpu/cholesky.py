"""The Cholesky factorization ``G = L L^H`` inside compiled code, as fast as LAPACK's for some hundreds of unknowns.

Left-looking in blocks of four columns: the inner loop is eight dot products at once along contiguous rows, which the
compiler keeps in vector registers. It calls no BLAS, so many threads may run it at once.

=========  ==============================================================
``a``      work: the lower triangle of G, overwritten by L
``inv``    reciprocals of the diagonal of L, zero for a dropped unknown
``least``  the largest pivot that drops an unknown
=========  ==============================================================
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsefact.backends.cpu.jit import REASSOCIATE, jit

__all__ = ["cholesky", "invert_lower", "solve_columns"]


@jit(fastmath=REASSOCIATE, within=True)
def cholesky(a: NDArray[Any], s: int, inv: NDArray[Any], least: NDArray[Any], zero: Any) -> None:
    """Overwrite the lower triangle of `a` by its Cholesky factor, whose diagonal goes to `inv`.

    Parameters
    ----------
    a : array, at least (s, s), C order
        Only the lower triangle is read.
    s : int
        A multiple of four.
    inv : (s,) real array
        Receives the reciprocals of the diagonal of L; zero for an unknown that is dropped, with a zero column of L.
    least : (s,) real array
        An unknown is dropped when its pivot is at most this.
    zero : scalar of the dtype of `a`
    """
    for c in range(0, s, 4):
        b0, b1, b2, b3 = a[c], a[c + 1], a[c + 2], a[c + 3]
        if c > 0:
            for i in range(c, s, 2):
                row, twin = a[i], a[i + 1]
                s0, s1, s2, s3, t0, t1, t2, t3 = _eight_dots(row, twin, b0, b1, b2, b3, c, zero)
                row[c] -= s0
                row[c + 1] -= s1
                row[c + 2] -= s2
                row[c + 3] -= s3
                twin[c] -= t0
                twin[c + 1] -= t1
                twin[c + 2] -= t2
                twin[c + 3] -= t3
        for i in range(c, c + 4):
            row = a[i]
            pivot = row[i].real
            for j in range(c, i):
                other = a[j]
                value = row[j]
                for t in range(c, j):
                    value -= row[t] * np.conj(other[t])
                value *= inv[j]
                row[j] = value
                pivot -= (value * np.conj(value)).real
            if pivot <= least[i]:
                inv[i] = 0
            else:
                inv[i] = 1 / math.sqrt(pivot)
        i0, i1, i2, i3 = inv[c], inv[c + 1], inv[c + 2], inv[c + 3]
        l10 = np.conj(b1[c])
        l20, l21 = np.conj(b2[c]), np.conj(b2[c + 1])
        l30, l31, l32 = np.conj(b3[c]), np.conj(b3[c + 1]), np.conj(b3[c + 2])
        for i in range(c + 4, s):
            row = a[i]
            x0 = row[c] * i0
            x1 = (row[c + 1] - x0 * l10) * i1
            x2 = (row[c + 2] - x0 * l20 - x1 * l21) * i2
            x3 = (row[c + 3] - x0 * l30 - x1 * l31 - x2 * l32) * i3
            row[c] = x0
            row[c + 1] = x1
            row[c + 2] = x2
            row[c + 3] = x3


@jit(fastmath=REASSOCIATE, within=True)
def _eight_dots(
    u: NDArray[Any],
    v: NDArray[Any],
    b0: NDArray[Any],
    b1: NDArray[Any],
    b2: NDArray[Any],
    b3: NDArray[Any],
    length: int,
    zero: Any,
) -> tuple[Any, Any, Any, Any, Any, Any, Any, Any]:
    """Multiply the first `length` entries of two rows with those of four others."""
    # `zero` has the arrays' type: a literal would make float64 sums of float32 products, at half the speed
    s0, s1, s2, s3, t0, t1, t2, t3 = zero, zero, zero, zero, zero, zero, zero, zero
    for t in range(length):
        x, y = u[t], v[t]
        w0, w1, w2, w3 = np.conj(b0[t]), np.conj(b1[t]), np.conj(b2[t]), np.conj(b3[t])
        s0 += x * w0
        s1 += x * w1
        s2 += x * w2
        s3 += x * w3
        t0 += y * w0
        t1 += y * w1
        t2 += y * w2
        t3 += y * w3
    return s0, s1, s2, s3, t0, t1, t2, t3


@jit(fastmath=REASSOCIATE)
def invert_lower(a: NDArray[Any], inv: NDArray[Any], out: NDArray[Any]) -> None:
    """Write ``L^-1`` to `out`, which is zero, for the result of `cholesky` of the same size."""
    for i in range(out.shape[0]):
        row = out[i]
        for t in range(i):
            factor = a[i, t] * inv[i]
            source = out[t]
            for j in range(t + 1):
                row[j] -= factor * source[j]
        row[i] = inv[i]


@jit(fastmath=REASSOCIATE)
def solve_columns(
    g: NDArray[Any],
    rhs: NDArray[Any],
    indices: NDArray[np.intp],
    ends: NDArray[np.intp],
    counts: NDArray[np.intp],
    repeated: NDArray[np.bool_],
    solution: NDArray[Any],
    largest: int,
    zero: Any,
    eps: NDArray[Any],
) -> None:
    """Solve one system per row of `rhs` and write it to the row of `solution`; see `masked_lsq.masked_lsq`.

    Parameters
    ----------
    g : (p, p) array, C order
    rhs, solution : (columns, p) arrays
    indices, ends, counts : int arrays
        The support of a column is ``indices[ends - counts : ends]``.
    repeated : (columns,) bool array
        Whether a column has the support of the one before it, and so its factorization.
    largest : int
        The largest of `counts`.
    zero : scalar of the dtype of `g`
    eps : (1,) real array
        The relative precision.
    """
    # an odd number of half cache lines per row, so that rows do not fall on each other in the cache
    a = np.empty((largest + 3, (largest + 3) // 16 * 16 + 24), g.dtype)
    inv = np.empty(largest + 3, eps.dtype)
    least = np.empty(largest + 3, eps.dtype)
    y = np.empty(largest, g.dtype)
    for column in range(rhs.shape[0]):
        s = counts[column]
        support = indices[ends[column] - s : ends[column]]
        if not repeated[column]:
            for i in range(s):
                source = g[support[i]]
                row = a[i]
                for j in range(i + 1):
                    row[j] = source[support[j]]
                least[i] = row[i].real * eps[0] * s
            padded = (s + 3) // 4 * 4
            for i in range(s, padded):
                a[i, :i] = zero
                a[i, i] = 1
                least[i] = 0
            cholesky(a, padded, inv, least, zero)
        for i in range(s):
            row = a[i]
            total = zero
            for t in range(i):
                total += row[t] * y[t]
            y[i] = (rhs[column, support[i]] - total) * inv[i]
        for i in range(s - 1, -1, -1):
            row = a[i]
            value = y[i] * inv[i]
            solution[column, support[i]] = value
            for t in range(i):
                y[t] -= value * np.conj(row[t])
