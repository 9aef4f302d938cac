"""Kernels for products with CSR matrices: a tile of columns, or one vector."""

from __future__ import annotations

from typing import Any

from sparsefact.backends.cpu.jit import jit
from sparsefact.backends.cpu.lane_code import LINE, pointer, sparse_dot, sparse_row

__all__ = ["csr_tile", "csr_vector"]

_sparse_1, _sparse_2, _sparse_4 = (sparse_row(lines) for lines in (1, 2, 4))


@jit()
def csr_tile(t: Any, current: int, half: int, data: Any, indices: Any, indptr: Any, lines: int, planes: int) -> None:
    """Multiply the tile in one half of `t` by a CSR matrix; the product goes to the other half."""
    lanes = LINE // t.itemsize
    chunk = planes * lanes
    pitch = lines * chunk
    tile, values, columns = pointer(t), pointer(data), pointer(indices)
    sink = (1 - current) * half
    for r in range(indptr.size - 1):
        first, last = indptr[r], indptr[r + 1]
        line = 0
        while line < lines:
            to, at = sink + r * pitch + line * chunk, pointer(t[current * half + line * chunk :])
            if planes == 1 and line + 4 <= lines:
                _sparse_4(tile, to, at, pitch, values, columns, first, last)
                line += 4
            elif line + 2 <= lines:
                _sparse_2(tile, to, at, pitch, values, columns, first, last)
                line += 2
            else:
                _sparse_1(tile, to, at, pitch, values, columns, first, last)
                line += 1


@jit()
def csr_vector(y: Any, x: Any, data: Any, indices: Any, indptr: Any, start: int, stop: int) -> None:
    """Multiply a vector by rows ``start .. stop`` of a CSR matrix; indices are unsigned."""
    sink, source, values, columns = pointer(y), pointer(x), pointer(data), pointer(indices)
    for r in range(start, stop):
        sparse_dot(sink, r, source, values, columns, indptr[r], indptr[r + 1])
