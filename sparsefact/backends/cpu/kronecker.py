"""The gradient of a Kronecker-sparse factor: batched BLAS products on views."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["ks_grad"]


def ks_grad(pattern: tuple[int, int, int, int], x: NDArray[Any], gy: NDArray[Any]) -> NDArray[Any]:
    """Return the gradient in the values of a Kronecker-sparse factor."""
    a, b, c, d = pattern
    batch = x.shape[1]
    if batch == 0 or 0 in pattern:
        return np.zeros(pattern, gy.dtype)
    left = gy.reshape(a, b, d, batch).transpose(0, 2, 1, 3)
    right = x.reshape(a, c, d, batch).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(np.matmul(left, right.conj()).transpose(0, 2, 3, 1))
