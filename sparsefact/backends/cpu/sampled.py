"""The product of two dense matrices at the entries of a CSR support, row by row, in parallel over rows."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsefact.backends.cpu.jit import REASSOCIATE, jit
from sparsefact.backends.cpu.threads import over_ranges

__all__ = ["sddmm"]

# Multiply-adds that are worth a thread.
_GRAIN = 1 << 18


@jit(fastmath=REASSOCIATE)
def _rows(out: Any, indptr: Any, indices: Any, x: Any, y: Any, start: int, stop: int) -> None:
    for i in range(start, stop):
        for e in range(indptr[i], indptr[i + 1]):
            j = indices[e]
            total = out[e]
            for k in range(x.shape[1]):
                total += x[i, k] * y[j, k]
            out[e] = total


def sddmm(indptr: NDArray[Any], indices: NDArray[Any], x: NDArray[Any], y: NDArray[Any]) -> NDArray[Any]:
    """Return the entries of ``x @ y`` on a CSR support."""
    out = np.zeros(indices.size, x.dtype)
    # one type of index, so that a kernel is compiled once
    starts, columns = (np.ascontiguousarray(array, dtype=np.int64) for array in (indptr, indices))
    left, right = np.ascontiguousarray(x), np.ascontiguousarray(y.T)
    each = indices.size * x.shape[1] // max(1, x.shape[0])
    over_ranges(
        lambda start, stop: _rows(out, starts, columns, left, right, start, stop),
        x.shape[0],
        grain=_GRAIN // max(1, each) + 1,
    )
    return out
