"""Least squares with a different support per column: many small Cholesky factorizations, shared out over threads.

For column j with support S (s entries): gather ``G = g[S, S]``, factor ``G = L L^H``, solve ``L y = r``, then
``L^H z = y``. Neighbouring columns with one support share the factorization.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsefact.backends.cpu.cholesky import solve_columns
from sparsefact.backends.cpu.threads import over_ranges

__all__ = ["masked_lsq"]


# Columns that are handled together: their transposes and index lists are all that is held beside the result.
_PANEL = 128


def masked_lsq(g: NDArray[Any], r: NDArray[Any], mask: NDArray[np.bool_]) -> NDArray[Any]:
    """Solve a Hermitian positive definite system per column, each on its own support."""
    dtype = g.dtype.newbyteorder("=")
    gram = np.ascontiguousarray(g, dtype=dtype)
    solution = np.zeros(r.shape, dtype=dtype)
    for start in range(0, r.shape[1], _PANEL):
        columns = slice(start, start + _PANEL)
        _solve_panel(gram, r[:, columns], mask[:, columns], solution[:, columns])
    return solution


def _solve_panel(gram: NDArray[Any], r: NDArray[Any], mask: NDArray[np.bool_], solution: NDArray[Any]) -> None:
    """Write the solution of some columns."""
    rhs = np.ascontiguousarray(r.T, dtype=gram.dtype)
    supports = np.ascontiguousarray(mask.T)
    solved = np.zeros(rhs.shape, dtype=gram.dtype)
    counts = np.count_nonzero(supports, axis=1)
    largest = int(counts.max(initial=0))
    if largest == 0:
        return
    indices = np.flatnonzero(supports)
    indices %= supports.shape[1]
    ends = np.cumsum(counts)
    repeated = np.zeros(len(counts), dtype=bool)
    np.all(supports[1:] == supports[:-1], axis=1, out=repeated[1:])
    zero, eps = gram.dtype.type(0), np.array([np.finfo(gram.dtype).eps])

    def work(start: int, stop: int) -> None:
        part = slice(start, stop)
        again = repeated[part].copy()
        again[0] = False
        solve_columns(gram, rhs[part], indices, ends[part], counts[part], again, solved[part], largest, zero, eps)

    over_ranges(work, len(counts), grain=1 + (1 << 19) // largest**2)
    solution[...] = solved.T
