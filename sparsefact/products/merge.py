"""The product of neighbouring Kronecker-sparse factors as one block per set of rows that they share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsefact.backends.registry import get_backend

__all__ = ["merged_values"]


def merged_values(found: Sequence[NDArray[Any]], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return the values of a product of Kronecker-sparse factors, formed in double precision.

    Parameters
    ----------
    found : sequence of (a, b, c, d) arrays
        Values of the factors, left to right, fitting each other.
    dtype : numpy.dtype
        Of the result.

    Returns
    -------
    (A, P, Q, D) array
        With A and D the greatest common divisors of the factors' a and of their d: entry (i, p, r, q) is that of the
        product at ``((i P + p) D + q, (i Q + r) D + q)``, and there is none elsewhere.

    Examples
    --------
    >>> import numpy as np
    >>> from sparsefact.products.merge import merged_values
    >>> left, right = np.full((1, 2, 2, 2), 3.0), np.full((2, 2, 2, 1), 5.0)
    >>> merged_values([left, right], np.dtype(float)).shape
    (1, 4, 4, 1)
    """
    if len(found) == 1:
        return found[0].astype(dtype, copy=False)
    count, gap = math.gcd(*(v.shape[0] for v in found)), math.gcd(*(v.shape[3] for v in found))
    wide = np.result_type(dtype, np.float64)
    product = _spread(found[-1].astype(wide), count, gap)
    for values in reversed(found[:-1]):
        a, b, c, d = values.shape
        local = values.reshape(count, a // count, b, c, d // gap, gap).astype(wide)
        rows = product.reshape(count, a // count, c, d // gap, product.shape[2], gap)
        product = get_backend(product).xp.zeros((count, a // count, b, d // gap, product.shape[2], gap), wide)
        for r in range(c):
            product += local[:, :, :, r, :, None, :] * rows[:, :, None, r]
        product = product.reshape(count, -1, *product.shape[4:])
    return product.astype(dtype)


def _spread(values: NDArray[Any], count: int, gap: int) -> NDArray[Any]:
    """Return the values of one factor with the zeros that its blocks on sets of rows have."""
    a, b, c, d = values.shape
    inner, step = a // count, d // gap
    local = values.reshape(count, inner, b, c, step, gap)
    spread = get_backend(values).xp.zeros((count, inner, b, step, inner, c, step, gap), values.dtype)
    i, q = np.arange(inner)[:, None], np.arange(step)
    spread[:, i, :, q, i, :, q] = local.transpose(1, 4, 0, 2, 3, 5)
    found: NDArray[Any] = spread.reshape(count, inner * b * step, inner * c * step, gap)
    return found
