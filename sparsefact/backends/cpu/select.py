"""Selecting the largest magnitudes, exactly, in about two passes over the data.

A matrix: a sorted sample brackets the threshold, one pass counts what lies above the bracket and collects what lies in
it (some percent), a partition of those few gives the threshold, and one comparison makes the mask. Wherever the data
fool the sample, and for rows, columns and small matrices, ``np.partition`` does it all; it sorts NaN last, that is as
the largest, which is the rule of the protocol.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsefact.backends.cpu import select_kernels as kernels
from sparsefact.backends.cpu.threads import over_ranges
from sparsefact.backends.protocol import Per

__all__ = ["block_mask", "kth_largest_abs", "nm_mask", "topk_mask"]

_SMALL = 1 << 14
_GRAIN = 1 << 20
_LARGEST_GROUP = 32


def kth_largest_abs(x: NDArray[Any], k: int, axis: int | None = None) -> tuple[Any, Any]:
    """Return the k-th largest magnitude and the number of entries equal to it that are kept."""
    if axis is None:
        threshold, ties, _ = _select(_real(x).reshape(-1), k)
        return threshold, ties
    units = _magnitudes(x if axis == 1 else x.T)
    if k == 0 or units.size == 0:
        return np.full(len(units), np.nan, dtype=units.dtype), np.zeros(len(units), dtype=np.intp)
    units.partition(units.shape[1] - k, axis=1)
    top = units[:, units.shape[1] - k :]
    threshold = top[:, 0].copy()
    above = np.count_nonzero(~(top <= threshold[:, None]), axis=1)
    return threshold, np.where(np.isnan(threshold), k, k - above)


def topk_mask(x: NDArray[Any], k: int, per: Per = "matrix") -> NDArray[np.bool_]:
    """Return the mask of the `k` largest magnitudes per matrix, row or column."""
    if per == "column":
        return np.ascontiguousarray(topk_mask(x.T, k, "row").T)
    if per == "row":
        return _top_of_rows(_magnitudes(x), k)
    values = _real(x).reshape(-1)
    if k == 0 or k == values.size:
        return np.full(x.shape, k > 0)
    threshold, ties, equal = _select(values, k)
    mask = np.empty(values.size, dtype=bool)
    over_ranges(
        lambda start, stop: kernels.at_least(values[start:stop], threshold, mask[start:stop]), values.size, grain=_GRAIN
    )
    if ties != equal or np.isnan(threshold):
        _drop_last_ties(mask, np.abs(values), threshold, k)
    return mask.reshape(x.shape)


def nm_mask(x: NDArray[Any], n: int, m: int, axis: int = 1) -> NDArray[np.bool_]:
    """Return the mask of the `n` largest magnitudes of every `m` consecutive entries along `axis`."""
    if axis == 0:
        return np.ascontiguousarray(nm_mask(x.T, n, m, 1).T)
    groups = _real(x).reshape(-1, m)
    if m > _LARGEST_GROUP:
        return _top_of_rows(np.abs(groups), n).reshape(x.shape)
    mask = np.empty(groups.shape, dtype=bool)
    over_ranges(
        lambda start, stop: kernels.best_of_groups(groups[start:stop], n, mask[start:stop]),
        len(groups),
        grain=_GRAIN // (4 * m),
    )
    return mask.reshape(x.shape)


def block_mask(x: NDArray[Any], block: tuple[int, int], count: int) -> NDArray[np.bool_]:
    """Return the mask of the `count` whole blocks of largest Frobenius norm."""
    rows, cols = block
    grid = (x.shape[0] // rows, x.shape[1] // cols)
    values = _magnitudes(x).astype(np.float64, copy=False)
    largest = values.max(initial=0.0)
    if not np.isfinite(largest):
        largest = np.max(values, initial=0.0, where=np.isfinite(values))
    # a power of two, so that squares neither overflow nor vanish and no rounding is added
    values = np.ldexp(values, -np.frexp(largest)[1]).reshape(grid[0], rows, grid[1], cols)
    squares = np.einsum("irjc,irjc->ij", values, values)
    kept = _top_of_rows(squares.reshape(1, -1), count).reshape(grid[0], 1, grid[1], 1)
    return np.array(np.broadcast_to(kept, values.shape)).reshape(x.shape)


def _magnitudes(x: NDArray[Any]) -> NDArray[Any]:
    """Return a new C-contiguous array of ``|x|``, native, in float32 or float64."""
    wide = x if x.dtype.itemsize >= 4 and x.dtype.kind in "fc" else x.astype(np.float32)
    # NumPy's complex magnitude differs in the last bit between contiguous and strided input
    result: NDArray[Any] = np.abs(np.ascontiguousarray(wide))
    return result.astype(result.dtype.newbyteorder("="), copy=False)


def _real(x: NDArray[Any]) -> NDArray[Any]:
    """Return a C-contiguous native float array of the magnitudes of `x` up to sign: `x` itself where it is one."""
    if x.dtype in (np.float32, np.float64) and x.dtype.isnative and x.flags.c_contiguous:
        return x
    return _magnitudes(x)


def _select(values: NDArray[Any], k: int) -> tuple[Any, int, int]:
    """Return the k-th largest magnitude of a vector, how many of its equals are kept, and how many equals there are."""
    if k == 0:
        return values.dtype.type(np.nan), 0, 0
    found = _select_by_sample(values, k) if values.size > _SMALL else None
    if found is not None:
        return found
    units = np.abs(values)
    units.partition(units.size - k)
    threshold = units[units.size - k]
    if np.isnan(threshold):
        return threshold, k, int(np.count_nonzero(np.isnan(units)))
    above = np.count_nonzero(~(units <= threshold))
    return threshold, int(k - above), int(np.count_nonzero(units == threshold))


def _select_by_sample(values: NDArray[Any], k: int) -> tuple[Any, int, int] | None:
    """Do the work of `_select` through a sample, or return None where the sample misleads."""
    size = values.size
    sample = np.empty(int(min(max(1024.0, size ** (2 / 3)), 32768.0)), dtype=values.dtype)
    kernels.sample_magnitudes(values, sample)
    sample.sort()
    share = k / size
    centre = sample.size * (1 - share)
    width = 2 + 4 * math.sqrt(sample.size * share * (1 - share))
    first, last = int(centre - width), int(centre + width)
    low = sample[first] if first >= 0 else values.dtype.type(0)
    high = sample[last] if last < sample.size else values.dtype.type(np.inf)
    if np.isnan(low) or np.isnan(high):
        return None
    buffer = np.empty_like(values)
    parts = over_ranges(
        lambda start, stop: (start, *kernels.bracket(values[start:stop], low, high, buffer[start:stop])),
        size,
        grain=_GRAIN,
    )
    above = sum(part[1] for part in parts)
    among = np.concatenate([buffer[start : start + count] for start, _, count in parts])
    wanted = k - above
    if not 0 < wanted <= among.size:
        return None
    among.partition(among.size - wanted)
    threshold = among[among.size - wanted]
    ties = wanted - int(np.count_nonzero(among > threshold))
    return threshold, ties, int(np.count_nonzero(among == threshold))


def _top_of_rows(units: NDArray[Any], k: int) -> NDArray[np.bool_]:
    """Return the mask of the `k` largest entries of every row of a matrix of magnitudes."""
    rows, length = units.shape
    if k == 0 or k == length or rows == 0:
        return np.full(units.shape, k > 0)
    mask = np.empty(units.shape, dtype=bool)

    def work(start: int, stop: int) -> None:
        threshold = np.partition(units[start:stop], length - k, axis=1)[:, length - k]
        np.less(units[start:stop], threshold[:, None], out=mask[start:stop])
        np.logical_not(mask[start:stop], out=mask[start:stop])  # so that NaN stays in
        for row in np.flatnonzero(np.count_nonzero(mask[start:stop], axis=1) != k):
            _drop_last_ties(mask[start + row], units[start + row], threshold[row], k)

    over_ranges(work, rows, grain=max(1, _GRAIN // (4 * length)))
    return mask


def _drop_last_ties(mask: NDArray[np.bool_], units: NDArray[Any], threshold: Any, k: int) -> None:
    """Correct a mask of all that is not below the threshold: of its equals only the first ones stay."""
    if np.isnan(threshold):
        np.isnan(units, out=mask)
        equal = mask
    else:
        equal = units == threshold
    excess = int(np.count_nonzero(mask)) - k
    indices = np.flatnonzero(equal)
    mask[indices[indices.size - excess :]] = False
