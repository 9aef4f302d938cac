"""Two neighbours of a chain of Kronecker supports: when they are chainable, their rank, and how to undo a merge.

Symbols: left is (a_l, b_l, c_l, d_l), right is (a_{l+1}, ...); p = a_{l+1} / a_l, q = d_l / d_{l+1}; r is the rank of
the split between them. The product of a chainable pair has p q blocks of size b_l x c_{l+1} in each of its a_l d_{l+1}
parts, and each is a product of b_l x r and r x c_{l+1}.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsefact.constraints.kronecker_support import KroneckerSupport
from sparsefact.constraints.kronecker_values import blocks_at

__all__ = ["broken_condition", "is_redundant", "merge", "pattern", "rank", "unmerge"]


def pattern(support: KroneckerSupport) -> tuple[int, int, int, int]:
    """Return (a, b, c, d), the shape of the values."""
    return support.a, support.b, support.c, support.d


def broken_condition(left: KroneckerSupport, right: KroneckerSupport, s: int) -> str | None:
    """Return which condition of chainability factors `s` and `s` + 1, whose sizes fit, break; None for none."""
    if right.a % left.a:
        return f"a_{s}={left.a} does not divide a_{s + 1}={right.a}"
    if left.d % right.d:
        return f"d_{s + 1}={right.d} does not divide d_{s}={left.d}"
    if left.a * left.c % right.a:
        return f"the rank a_{s}*c_{s}/a_{s + 1} = {left.a * left.c}/{right.a} of their split is not an integer"
    return None


def rank(left: KroneckerSupport, right: KroneckerSupport) -> int:
    """Return the rank of the split of a chainable pair, ``a_l c_l / a_{l+1} = b_{l+1} d_{l+1} / d_l``."""
    return left.a * left.c // right.a


def is_redundant(left: KroneckerSupport, right: KroneckerSupport) -> bool:
    """Return whether the products of a chainable pair are all matrices on the merged support."""
    return rank(left, right) >= min(left.b, right.c)


def merge(left: KroneckerSupport, right: KroneckerSupport) -> KroneckerSupport:
    """Return the support of the products of a chainable pair, or of all factors from `left` to `right`."""
    return KroneckerSupport(left.a, left.b * left.d // right.d, right.a * right.c // left.a, right.d)


def unmerge(x: NDArray[Any], left: KroneckerSupport, right: KroneckerSupport) -> list[NDArray[Any]]:
    """Return values of a redundant pair with the product `x`: on every block, [I 0] [X; 0] or [X 0] [I; 0].

    Block (i, j, t, h) has the columns t r, ..., t r + r - 1 of the left factor's block i and the rows j, q + j, ...,
    (r - 1) q + j of the right factor's block i p + t.
    """
    p, q, r = right.a // left.a, left.d // right.d, rank(left, right)
    blocks = blocks_at(x, right.a, left.d)
    first = np.zeros_like(x, order="C", shape=(left.a, left.b, p, r, q, right.d))
    second = np.zeros_like(x, order="C", shape=(left.a, p, r, q, right.c, right.d))
    if left.b <= right.c:
        for k in range(left.b):
            first[:, k, :, k] = 1
        second[:, :, : left.b] = blocks.transpose(0, 1, 4, 2, 5, 3)
    else:
        first[:, :, :, : right.c] = blocks.transpose(0, 4, 1, 5, 2, 3)
        for k in range(right.c):
            second[:, :, k, :, k] = 1
    return [first.reshape(pattern(left)), second.reshape(pattern(right))]
