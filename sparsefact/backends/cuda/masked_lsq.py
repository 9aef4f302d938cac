"""Least squares with a different support per column on the GPU, by classes of their sizes.

Small systems are factored in shared memory, larger ones in a workspace that holds one per block. The host needs to know
the largest support only where shared memory might not hold it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from sparsefact.backends.cuda.launcher import Launcher, contiguous, empty, zeros

__all__ = ["masked_lsq"]

# Right-hand sides that share a factorization; as in the kernel.
_TOGETHER = 8
# Sizes up to which a warp, or a quarter of a full block, is enough.
_CLASSES = ((24, 32), (64, 128))
# Blocks that work at a time on large systems, and the bytes they may use.
_BLOCKS, _WORKSPACE = 264, 1 << 30


def masked_lsq(launcher: Launcher, g: Any, r: Any, mask: Any) -> Any:
    """Solve a Hermitian positive definite system per column, each on its own support."""
    p, n = r.shape
    dtype = g.dtype
    if p == 0 or n == 0:
        return zeros(launcher, (p, n), dtype)
    gram, rhs = contiguous(launcher, g), contiguous(launcher, r.T.astype(dtype, copy=False))
    supports = contiguous(launcher, mask.T)
    counts, same = empty(launcher, n, np.int64), empty(launcher, n, bool)
    launcher.launch("lsq", "supports", None, n, 64, (supports, p, counts, same))
    solution = zeros(launcher, (n, p), dtype)
    limit = _largest_in(launcher.shared_limit - 1024, dtype)
    low = 0
    for high, threads in (*_CLASSES, (limit, 256)):
        high = min(high, limit, p)
        if high > low:
            arguments = (gram, rhs, supports, counts, same, solution, None, 0, p, n, low, high)
            launcher.launch("lsq", "solve", dtype, n, threads, arguments, shared=_bytes(high, dtype))
            low = high
    if low < p:
        largest = int(counts.max())
        if largest > low:
            each = -(-_bytes(largest, dtype) // 16) * 16
            blocks = max(1, min(_BLOCKS, n, _WORKSPACE // each))
            space = empty(launcher, blocks * each, np.uint8)
            arguments = (gram, rhs, supports, counts, same, solution, space, each, p, n, low, largest)
            launcher.launch("lsq", "solve", dtype, blocks, 256, arguments)
    return contiguous(launcher, solution.T)


def _bytes(size: int, dtype: Any) -> int:
    """Return what one system takes: the factor, the right-hand sides, two real vectors and the support."""
    number, real = int(dtype.itemsize), int(np.finfo(dtype).dtype.itemsize)
    return size * (size | 1) * number + size * _TOGETHER * number + 2 * size * real + 4 * size


def _largest_in(limit: int, dtype: Any) -> int:
    size = int((limit / dtype.itemsize) ** 0.5)
    while _bytes(size, dtype) > limit:
        size -= 1
    return size
