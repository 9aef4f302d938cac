"""Selection by magnitude on the GPU: thresholds and exact masks, without the host in between.

A whole matrix is selected from by many blocks, pass by pass; rows by a block each; columns are rows of the transpose.
Magnitudes of complex entries are formed first, by CuPy, so that one rounding decides everywhere.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from sparsefact.backends.cuda.launcher import Launcher, contiguous, empty, zeros
from sparsefact.backends.protocol import Per

__all__ = ["block_mask", "kth_largest_abs", "nm_mask", "topk_mask"]

_THREADS = 256
_BINS = 2048
_PASSES = {"float32": 3, "float64": 6}
# Blocks that read a whole matrix: some for each processor of a large GPU; what a block reads is at least this long.
_MOST_BLOCKS, _STRETCH = 1024, 4096


def kth_largest_abs(launcher: Launcher, x: Any, k: int, axis: int | None = None) -> tuple[Any, Any]:
    """Return the k-th largest magnitude and the number of entries equal to it that are kept, on the device."""
    xp = launcher.xp
    if axis is None:
        values = _magnitudes(launcher, x).reshape(-1)
        if k == 0:
            return xp.full((), np.nan, dtype=values.dtype), xp.zeros((), dtype=np.int64)
        _, threshold, ties = _select(launcher, values, k)
        return threshold, ties
    rows = _magnitudes(launcher, x if axis == 1 else x.T)
    count, length = rows.shape
    threshold, ties = xp.full(count, np.nan, dtype=rows.dtype), zeros(launcher, count, np.int64)
    if k and count:
        launcher.launch(
            "select", "kth_of_rows", rows.dtype, count, _threads(length), (rows, length, k, threshold, ties)
        )
    return threshold, ties


def topk_mask(launcher: Launcher, x: Any, k: int, per: Per = "matrix") -> Any:
    """Return the mask of the `k` largest magnitudes per matrix, row or column."""
    if per == "column":
        return contiguous(launcher, topk_mask(launcher, x.T, k, "row").T)
    length = x.shape[1] if per == "row" else x.size
    if k == 0 or k == length or x.size == 0:
        return launcher.xp.full(x.shape, k > 0)
    if per == "row":
        return _top_of_rows(launcher, _magnitudes(launcher, x), k)
    values = _magnitudes(launcher, x).reshape(-1)
    state, _, _ = _select(launcher, values, k)
    blocks, stretch = _stretches(values.size)
    counts, mask = empty(launcher, blocks, np.uint64), empty(launcher, x.shape, bool)
    for entry, grid, arguments in (
        ("count_ties", blocks, (values, values.size, stretch, state, counts)),
        ("scan", 1, (counts, blocks, state)),
        ("top", blocks, (values, values.size, stretch, state, counts, mask)),
    ):
        launcher.launch("select", entry, values.dtype, grid, _THREADS, arguments)
    return mask


def nm_mask(launcher: Launcher, x: Any, n: int, m: int, axis: int = 1) -> Any:
    """Return the mask of the `n` largest magnitudes of every `m` consecutive entries along `axis`."""
    if x.size == 0:
        return launcher.xp.zeros(x.shape, dtype=bool)
    if m > 32:
        groups = _magnitudes(launcher, x if axis == 1 else x.T).reshape(-1, m)
        kept = topk_mask(launcher, groups, n, "row")
        return kept.reshape(x.shape) if axis == 1 else contiguous(launcher, kept.reshape(x.shape[::-1]).T)
    values = _magnitudes(launcher, x)
    mask = empty(launcher, x.shape, bool)
    inner = 1 if axis == 1 else x.shape[1]
    grid = min(-(-values.size // _THREADS), 1 << 20)
    launcher.launch("pattern", "best_of_groups", values.dtype, grid, _THREADS, (values, values.size, n, m, inner, mask))
    return mask


def block_mask(launcher: Launcher, x: Any, block: tuple[int, int], count: int) -> Any:
    """Return the mask of the `count` whole blocks of largest Frobenius norm."""
    xp, (rows, cols) = launcher.xp, block
    down, across = x.shape[0] // rows, x.shape[1] // cols
    if count == 0 or count == down * across:
        return xp.full(x.shape, count > 0)
    values, lanes = contiguous(launcher, x), 1
    if values.dtype.kind == "c":
        values, lanes = values.view(values.real.dtype), 2
    bits, squares = zeros(launcher, 1, np.uint64), empty(launcher, (down, across), np.float64)
    blocks, _ = _stretches(values.size)
    launcher.launch("pattern", "largest_finite", values.dtype, blocks, _THREADS, (values, values.size, bits))
    launcher.launch(
        "pattern",
        "block_squares",
        values.dtype,
        down * across,
        _threads(rows * cols * lanes),
        (values, bits, rows, cols * lanes, across, squares),
    )
    kept = topk_mask(launcher, squares, count, "matrix")
    return xp.repeat(xp.repeat(kept, rows, axis=0), cols, axis=1)


def _magnitudes(launcher: Launcher, x: Any) -> Any:
    """Return a C-contiguous float array of the magnitudes of `x` up to sign: `x` itself where it is one."""
    if x.dtype.kind not in "fc" or x.dtype.itemsize < 4:
        x = x.astype(np.float32)
    x = contiguous(launcher, x)
    return launcher.xp.abs(x) if x.dtype.kind == "c" else x


def _select(launcher: Launcher, values: Any, k: int) -> tuple[Any, Any, Any]:
    """Find the k-th largest magnitude of a vector: the state of the kernels, the threshold, the ties to keep."""
    dtype = values.dtype
    state, bins = empty(launcher, 3, np.uint64), zeros(launcher, _BINS, np.uint64)
    threshold, ties = empty(launcher, (), dtype), empty(launcher, (), np.int64)
    blocks, _ = _stretches(values.size)
    for number in range(_PASSES[dtype.name]):
        launcher.launch("select", "histogram", dtype, blocks, _THREADS, (values, values.size, state, bins, number))
        launcher.launch("select", "pick", dtype, 1, _THREADS, (state, bins, number, k, threshold, ties))
    return state, threshold, ties


def _top_of_rows(launcher: Launcher, rows: Any, k: int) -> Any:
    count, length = rows.shape
    mask = empty(launcher, rows.shape, bool)
    launcher.launch("select", "top_of_rows", rows.dtype, count, _threads(length), (rows, length, k, mask))
    return mask


def _stretches(size: int) -> tuple[int, int]:
    """Return over how many blocks a vector is shared out, and how many entries each gets."""
    stretch = max(_STRETCH, -(-size // _MOST_BLOCKS))
    return -(-size // stretch), stretch


def _threads(length: int) -> int:
    """Return the threads of a block that works on a row: whole warps, a power of two of them."""
    return 64 if length <= 256 else 128 if length <= 1024 else 256
