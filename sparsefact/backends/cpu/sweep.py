"""The left-to-right sweep of blockwise truncated SVDs at the speed of memory.

The levels are cut into groups. A group reads its stack once and writes what is left after its last level: panels that
fit the second-level cache run through all its levels (see `sparsefact.backends.cpu.sweep_kernels`). For a square dyadic
butterfly of order 4096 that is two groups, and the second one works on a thirty-second part of the matrix.

A block of at most 16 rows is decomposed through the Jacobi eigenvectors U of its Gram matrix. All its rows are rotated
by U^H, so that what is left out is measured on the rows that are left out. An eigenvalue below 1e-2 of the largest has
lost digits in the Gram matrix; then one-sided Jacobi (Hestenes 1958; Demmel and Veselic 1992) on the rotated rows,
which are nearly orthogonal already, restores the accuracy of an SVD. For one vector there is nothing to restore: what
its error costs is of the order of rounding in B itself. Taller blocks go through `rank_r`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsefact.backends.cpu.leftover import leftover
from sparsefact.backends.cpu.low_rank import gather, rank_r
from sparsefact.backends.cpu.panels import CHUNK, Level, lies_across, run_panels
from sparsefact.backends.cpu.sweep_kernels import SIDE

__all__ = ["sweep"]

# A panel of a group of levels, in bytes: half of a usual second-level cache.
_PANEL = 1 << 18
# Bytes of tall blocks that are gathered at once.
_PART = 1 << 23


def sweep(
    x: NDArray[Any], levels: Sequence[Level]
) -> tuple[list[NDArray[Any]], NDArray[Any], NDArray[np.float64], np.float64]:
    """Peel factors off a stack of matrices from the left, by truncated SVDs of interleaved blocks."""
    dtype = x.dtype.newbyteorder("=")
    stack = x if x.dtype == dtype else x.astype(dtype)
    lefts: list[NDArray[Any]] = []
    missed = np.zeros(len(levels))
    energy: np.float64 | None = None
    done = 0
    while done < len(levels):
        count = _group(levels[done:], stack)
        if count:
            more, stack, lost, squares = _run(stack, levels[done : done + count])
        else:
            count = 1
            more, stack, lost, squares = _tall(stack, levels[done])
        lefts += more
        missed[done : done + count] = lost
        energy = squares if energy is None else energy
        done += count
    if energy is None:
        wide = np.complex128 if dtype.kind == "c" else np.float64
        stack = np.array(stack, order="C")
        energy = np.float64(np.linalg.norm(stack.astype(wide)) ** 2)
    return lefts, stack, missed, energy


def _group(levels: Sequence[Level], stack: NDArray[Any]) -> int:
    """Return how many of the first levels share a panel: none if the first needs other means."""
    b, p, _, d = levels[0]
    row = stack.shape[2] // p * stack.itemsize
    most = 2 * _PANEL // CHUNK if lies_across(stack) else _PANEL
    count = 0
    for level in levels:
        if level[0] > SIDE or (count and levels[count - 1][3] % level[3]):
            break
        if count and b * (d // level[3]) * row > most:
            break
        count += 1
    return count


def _run(
    stack: NDArray[Any], levels: Sequence[Level]
) -> tuple[list[NDArray[Any]], NDArray[Any], NDArray[np.float64], np.float64]:
    """Run one group of levels of low blocks."""
    entries, _, width = stack.shape
    shapes = []
    for b, p, r, d in levels:
        shapes.append((entries, b, p * r, d))
        entries, width = entries * p, width // p
    _, _, r, apart = levels[-1]
    rest = np.empty((entries, r * apart, width), stack.dtype)
    sizes = [math.prod(shape) for shape in shapes]
    starts = np.concatenate(([0], np.cumsum(sizes)))
    flat = np.empty(starts[-1], stack.dtype)
    grid = stack.reshape(stack.shape[0], -1, apart, stack.shape[2])
    lost, squares = run_panels(grid, levels, flat, starts, rest)
    lefts = [
        flat[start : start + size].reshape(shape) for start, size, shape in zip(starts, sizes, shapes, strict=False)
    ]
    return lefts, rest, lost.sum(axis=0), squares.sum()


def _tall(
    stack: NDArray[Any], level: Level
) -> tuple[list[NDArray[Any]], NDArray[Any], NDArray[np.float64], np.float64]:
    """Run one level of tall blocks, some intervals of one matrix at a time."""
    b, p, r, d = level
    k, _, w = stack.shape
    blocks = stack.reshape(k, b, d, p, w // p).transpose(0, 3, 2, 1, 4)
    left = np.empty((k, b, p, r, d), stack.dtype)
    rest = np.empty((k, p, r, d, w // p), stack.dtype)
    energy = lost = np.float64(0)
    step = max(1, _PART // max(1, d * b * (w // p) * stack.itemsize))
    for i in range(k):
        for first in range(0, p, step):
            part = slice(first, first + step)
            some = gather(blocks[i, part])
            if np.isfinite(some.sum()) or np.isfinite(some).all():
                u, s, v = rank_r(some, r)
            else:
                u, s, v = np.zeros((len(some), b, r)), np.full((len(some), r), np.nan), np.zeros((len(some), r, w // p))
            kept = s[:, :, None] * v
            squares, missed = leftover(some, u.astype(some.dtype, copy=False), kept.astype(some.dtype, copy=False))
            energy, lost = energy + squares, lost + missed
            left[i, :, part] = u.reshape(-1, d, b, r).transpose(2, 0, 3, 1)
            rest[i, part] = kept.reshape(-1, d, r, w // p).transpose(0, 2, 1, 3)
    return [left.reshape(k, b, p * r, d)], rest.reshape(k * p, r * d, w // p), np.array([lost]), energy
