"""CSR supports on the GPU: products with sparse matrices, and dense products at the entries of a support."""

from __future__ import annotations

from typing import Any

import numpy as np

from sparsefact.backends.cuda.launcher import Launcher, contiguous, empty, zeros
from sparsefact.errors import DeviceError

__all__ = ["indices_of", "multiply", "sddmm"]

# Columns up to which the lanes of a warp share the entries of a row rather than its columns.
_FEW = 4


def indices_of(launcher: Launcher, indices: Any, indptr: Any, shape: tuple[int, int]) -> tuple[Any, Any]:
    """Return the whole numbers that address a CSR matrix as the kernels read them.

    Raises
    ------
    DeviceError
        If there are more entries, rows or columns than 32 bits count.
    """
    if max(indices.size, *shape) >= 1 << 31:
        raise DeviceError(
            f"a CSR matrix of shape {shape} with {indices.size} entries is too large for the GPU's kernels, which take "
            "up to 2147483647 of each; use device='cpu'"
        )
    found = (launcher.xp.asarray(array).astype(np.int32, copy=False) for array in (indices, indptr))
    return next(found), next(found)


def multiply(launcher: Launcher, data: Any, indices: Any, indptr: Any, x: Any) -> Any:
    """Return the product of a CSR matrix with a contiguous matrix."""
    rows, batch = indptr.size - 1, x.shape[1]
    y = empty(launcher, (rows, batch), x.dtype)
    few = batch <= _FEW
    items = 32 * rows * batch if few else rows * -(-batch * x.dtype.itemsize // 16)
    arguments = (data, indices, indptr, x, y, rows, batch)
    launcher.launch("csr", "multiply_few" if few else "multiply", x.dtype, -(-items // 256), 256, arguments)
    return y


def sddmm(launcher: Launcher, indptr: Any, indices: Any, x: Any, y: Any) -> Any:
    """Return the entries of ``x @ y`` on a CSR support."""
    rows, depth = x.shape
    if indices.size == 0 or depth == 0:
        return zeros(launcher, indices.size, x.dtype)
    columns, starts = indices_of(launcher, indices, indptr, (rows, y.shape[1]))
    out = empty(launcher, indices.size, x.dtype)
    arguments = (starts, columns, contiguous(launcher, x), contiguous(launcher, y.T), out, out.size, rows, depth)
    launcher.launch("csr", "sampled", x.dtype, -(-out.size // 8), 256, arguments)
    return out
