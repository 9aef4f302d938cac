"""The transposes of a stack of matrices with rows and columns in another order, in one pass over memory.

Reading along rows and writing along columns of the result, in any orders: a square of entries is collected in the
first-level cache and written from there, so that lines of memory are read and written whole and once, however far apart
they lie.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsefact.backends.cpu.jit import jit
from sparsefact.backends.cpu.lane_code import pointer
from sparsefact.backends.cpu.panels import memory_of
from sparsefact.backends.cpu.threads import over_ranges

__all__ = ["mirrored"]

# Bytes of a square's side.
_SIDE = 512
# Entries that are worth a thread.
_GRAIN = 1 << 16


@jit()
def _columns(x: Any, place: Any, out: Any, rows: Any, columns: Any, side: int, start: int, stop: int) -> None:
    """Write the result's rows of the groups ``start .. stop``, `side` columns of x each.

    `place` holds where x begins and its strides; column c of x becomes row ``columns[c]`` of the result.
    """
    first, entry, down, right = place
    high, wide = rows.size, columns.size
    groups = (wide + side - 1) // side
    # a row more or less than a power of two, or the square's columns would share a few sets of the cache
    pitch = side + 4
    room = np.empty(side * pitch, x.dtype)
    source, sink, square, order, whereto = pointer(x), pointer(out), pointer(room), pointer(rows), pointer(columns)
    for task in range(start, stop):
        i, left = task // groups, task % groups * side
        base, count = first + i * entry, min(side, wide - left)
        if abs(down) < abs(right):
            for c in range(left, left + count):
                to, at = (i * wide + whereto[c]) * high, base + c * right
                for r in range(high):
                    sink[to + r] = source[at + order[r] * down]
            continue
        for top in range(0, high, side):
            tall = min(side, high - top)
            for r in range(tall):
                at = base + order[top + r] * down + left * right
                if right == 1:
                    for c in range(count):
                        square[r * pitch + c] = source[at + c]
                else:
                    for c in range(count):
                        square[r * pitch + c] = source[at + c * right]
            for c in range(count):
                to = (i * wide + whereto[left + c]) * high + top
                for r in range(tall):
                    sink[to + r] = square[r * pitch + c]


def mirrored(x: NDArray[Any], rows: NDArray[np.intp], columns: NDArray[np.intp]) -> NDArray[Any]:
    """Return the transposes of a stack of matrices, their rows and columns taken in another order first."""
    dtype = x.dtype.newbyteorder("=")
    x = x if x.dtype == dtype else x.astype(dtype)
    entries, high, wide = x.shape
    out = np.empty((entries, wide, high), dtype)
    memory, offset, strides = memory_of(x, dtype)
    side = _SIDE // dtype.itemsize
    whereto = np.empty(wide, np.int64)
    whereto[columns] = np.arange(wide)
    order, flat, place = np.ascontiguousarray(rows, np.int64), out.reshape(-1), (offset, *strides)

    def work(start: int, stop: int) -> None:
        _columns(memory, place, flat, order, whereto, side, start, stop)

    if x.size:
        over_ranges(work, entries * -(-wide // side), grain=1 + _GRAIN // (side * high))
    return out
