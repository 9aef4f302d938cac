"""One Kronecker-sparse factor on the GPU: products with factors of large blocks, and gradients of any factor."""

from __future__ import annotations

from typing import Any

import numpy as np

from sparsefact.backends.cuda.launcher import Launcher, contiguous, empty, zeros

__all__ = ["ks_grad", "multiply", "packed"]

# The tile of the kernel: rows, and bytes of columns.
_ROWS, _COLUMNS = 32, 512
# The side from which BLAS forms the blocks of a gradient.
_LARGE = 32
# Warps that keep a large GPU busy, the fewest columns worth one, and the most parts that are added up at the end.
_BUSY, _STRETCH, _PARTS = 4096, 256, 64


def packed(launcher: Launcher, values: Any, dtype: Any) -> Any:
    """Return the values (a, b, c, d) of a factor as an array (a, d, c, b)."""
    return contiguous(launcher, values.transpose(0, 3, 2, 1).astype(dtype, copy=False))


def multiply(launcher: Launcher, values: Any, x: Any) -> Any:
    """Return the product of a factor with a contiguous matrix; the values as `packed` returns them."""
    a, d, c, b = values.shape
    batch = x.shape[1]
    y = empty(launcher, (a * b * d, batch), x.dtype)
    columns = _COLUMNS // x.dtype.itemsize
    grid = a * d * -(-b // _ROWS) * -(-batch // columns)
    launcher.launch("kronecker", "apply", x.dtype, grid, 256, (values, x, y, b, c, d, batch))
    return y


def ks_grad(launcher: Launcher, pattern: tuple[int, int, int, int], x: Any, gy: Any) -> Any:
    """Return the gradient in the values of a factor."""
    xp, (a, b, c, d), batch, dtype = launcher.xp, pattern, x.shape[1], gy.dtype
    if batch == 0 or 0 in pattern:
        return zeros(launcher, pattern, dtype)
    if min(b, c) >= _LARGE:
        left = gy.reshape(a, b, d, batch).transpose(0, 2, 1, 3)
        right = x.reshape(a, c, d, batch).transpose(0, 2, 3, 1)
        return contiguous(launcher, xp.matmul(left, right.conj()).transpose(0, 2, 3, 1))
    each = a * d * -(-b // 4) * -(-c // 4)
    parts = max(1, min(_PARTS, batch // _STRETCH, _BUSY // each))
    stretch = -(-batch // parts)
    parts = -(-batch // stretch)
    found = empty(launcher, (parts, a, b, c, d), dtype)
    arguments = (contiguous(launcher, x), contiguous(launcher, gy), found, parts * each, a, b, c, d, batch, stretch)
    launcher.launch("kronecker", "gradient", dtype, -(-parts * each // 8), 256, arguments)
    return found[0] if parts == 1 else found.sum(axis=0, dtype=np.dtype(dtype))
