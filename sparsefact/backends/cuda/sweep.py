"""The sweep that peels factors off a stack of matrices, without the host.

Levels of rank one on blocks of two rows, of which butterflies consist, go through `kernels/sweep.cu`: as many at a
time as a panel of the stack fits in shared memory. For a square dyadic butterfly of order 8192 in float32 the matrix is
read once, and then what is left of it, a quarter and a sixty-fourth. Every other level is one batch of truncated SVDs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from sparsefact.backends.cuda.launcher import Launcher, contiguous, empty, zeros
from sparsefact.backends.cuda.low_rank import rank_r

__all__ = ["sweep"]

Level = tuple[int, int, int, int]

# Bytes of a panel of several levels: three of them fit a processor of a large GPU, so that while one waits for memory
# the others compute.
_PANEL = 72 << 10
# Shared memory that the kernel has beside its panel, and what the device keeps for itself.
_BESIDE = 4 << 10
# What the kernel takes of its inner levels: eight bits each of 64.
_INNER, _PIECES = 7, 255


def sweep(launcher: Launcher, x: Any, levels: Sequence[Level]) -> tuple[list[Any], Any, Any, Any]:
    """Peel factors off a stack of matrices from the left, by truncated SVDs of interleaved blocks."""
    xp, stack = launcher.xp, contiguous(launcher, x)
    lefts: list[Any] = []
    # the energy, and what each level leaves out
    sums = zeros(launcher, len(levels) + 1, np.float64)
    done = 0
    while done < len(levels):
        count = _group(levels[done:], stack, launcher.shared_limit)
        if count:
            more, stack = _peel(launcher, stack, levels[done : done + count], sums[done:], first=done == 0)
        else:
            count = 1
            if done == 0:
                sums[0] = _squares(xp, stack)
            left, stack, sums[done + 1] = _level(launcher, stack, levels[done])
            more = [left]
        lefts += more
        done += count
    if not levels:
        sums[0] = _squares(xp, stack)
        stack = stack.copy()
    return lefts, stack, sums[1:], sums[0]


def _group(levels: Sequence[Level], stack: Any, limit: int) -> int:
    """Return how many of the first levels share a panel: none if the first needs other means."""
    b, p, r, _ = levels[0]
    row = stack.shape[2] // p * stack.dtype.itemsize
    if (b, r) != (2, 1) or stack.size == 0 or 2 * row > limit - _BESIDE:
        return 0
    count, most = 1, min(_PANEL, limit - _BESIDE)
    for b, p, r, _ in levels[1 : 1 + _INNER]:
        if (b, r) != (2, 1) or p > _PIECES or (2 << count) * row > most:
            break
        count += 1
    return count


def _peel(launcher: Launcher, stack: Any, levels: Sequence[Level], sums: Any, *, first: bool) -> tuple[list[Any], Any]:
    """Run a group of levels of blocks of two rows; `sums` begins with the energy, or with what is not ours."""
    (entries, _, width), apart, count = stack.shape, levels[-1][3], len(levels)
    cols, intervals = width // levels[0][1], levels[0][1]
    panels = entries * intervals * apart
    shapes, inner = [], 0
    for level, (_, p, _, d) in enumerate(levels):
        shapes.append((entries, 2, p, d))
        entries, width = entries * p, width // p
        inner |= p << 8 * (level - 1) if level else 0
    sizes = [math.prod(shape) for shape in shapes]
    flat, rest = empty(launcher, sum(sizes), stack.dtype), empty(launcher, (entries, apart, width), stack.dtype)
    partial = empty(launcher, (count + 1, panels), np.float64)
    held = (cols * stack.dtype.itemsize) << count
    threads = 256 if held > 8 << 10 else 128 if held > 2 << 10 else 64
    arguments = (stack, flat, rest, partial, apart, cols, intervals, inner, count)
    launcher.launch("sweep", "peel", stack.dtype, panels, threads, arguments, shared=held)
    skip = 0 if first else 1
    launcher.launch("sweep", "fold", None, count + 1 - skip, 256, (partial[skip:], sums[skip:], panels))
    ends = np.cumsum([0, *sizes]).tolist()
    return [flat[ends[i] : ends[i + 1]].reshape(shape) for i, shape in enumerate(shapes)], rest


def _level(launcher: Launcher, stack: Any, level: Level) -> tuple[Any, Any, Any]:
    """Run one level as a batch of truncated SVDs; return the bases, the next stack and what is left out."""
    b, p, r, d = level
    k, _, w = stack.shape
    blocks = stack.reshape(k, b, d, p, w // p).transpose(0, 3, 2, 1, 4)
    u, s, v = rank_r(launcher, blocks, r)
    kept = s[..., None] * v
    missed = _squares(launcher.xp, blocks - u @ kept) if r < min(b, w // p) else 0.0
    left = contiguous(launcher, u.transpose(0, 3, 1, 4, 2)).reshape(k, b, p * r, d)
    return left, contiguous(launcher, kept.transpose(0, 1, 3, 2, 4)).reshape(k * p, r * d, w // p), missed


def _squares(xp: Any, x: Any) -> Any:
    """Return the sum of squared magnitudes, accumulated in float64."""
    return (xp.abs(x).astype(np.float64) ** 2).sum()
