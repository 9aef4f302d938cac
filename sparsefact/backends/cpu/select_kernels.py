"""The compiled passes of selection over contiguous real vectors; `values` may be negative, its magnitudes count."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsefact.backends.cpu.jit import jit

__all__ = ["at_least", "best_of_groups", "bracket", "sample_magnitudes"]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_HALF = np.uint64(32)
_BYTE = np.uint64(8)
_BIT = np.uint64(1)
_TILE = 4096


@jit()
def sample_magnitudes(values: NDArray[Any], sample: NDArray[Any]) -> None:
    """Fill `sample` with magnitudes at scattered, always equal positions: no stride can hide a pattern."""
    size = np.uint64(values.size)
    for i in range(sample.size):
        scattered = (np.uint64(i + 1) * _GOLDEN) >> _HALF
        sample[i] = abs(values[np.int64((scattered * size) >> _HALF)])


@jit()
def bracket(values: NDArray[Any], low: Any, high: Any, buffer: NDArray[Any]) -> tuple[int, int]:
    """Count the magnitudes above `high`, NaN included, and collect those in ``[low, high]`` in `buffer`."""
    tile = np.empty(_TILE, np.bool_)
    words = tile.view(np.uint64)
    above = 0
    count = 0
    for start in range(0, values.size, _TILE):
        part = values[start : min(start + _TILE, values.size)]
        some = np.int32(0)
        for j in range(part.size):
            magnitude = abs(part[j])
            some = np.int32(some + np.int32(not (magnitude <= high)))
            tile[j] = (magnitude >= low) & (magnitude <= high)
        above += int(some)
        tile[part.size :] = False
        # few entries lie in the bracket: eight of them are passed over at a time
        for w in range((part.size + 7) // 8):
            word = words[w]
            j = 8 * w
            while word:
                if word & _BIT:
                    buffer[count] = abs(part[j])
                    count += 1
                word >>= _BYTE
                j += 1
    return above, count


@jit()
def at_least(values: NDArray[Any], threshold: Any, mask: NDArray[np.bool_]) -> None:
    """Set `mask` where the magnitude is not below the threshold, so also at NaN."""
    for i in range(values.size):
        mask[i] = not (abs(values[i]) < threshold)


@jit()
def best_of_groups(groups: NDArray[Any], n: int, mask: NDArray[np.bool_]) -> None:
    """Set `mask` at the `n` largest magnitudes of every row: those that fewer than `n` others come before."""
    rows, m = groups.shape
    for row in range(rows):
        for i in range(m):
            mine = abs(groups[row, i])
            before = 0
            for j in range(m):
                other = abs(groups[row, j])
                if j < i:
                    before += other >= mine or other != other
                elif j > i:
                    before += other > mine or (other != other and mine == mine)
            mask[row, i] = before < n
