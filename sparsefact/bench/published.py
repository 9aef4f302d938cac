"""The published double sparse factorization over any array library, to measure beside.

V. Boza, V. Macko, "Two sparse matrices are better than one: sparsifying neural networks with double sparse
factorization", ICLR 2025: outer iterations of two ADMM half-steps with 5 inner iterations each, without calibration
data. Nothing is tuned: the library's own inverse and selection, float32. `benchmarks/published_double_sparse.py` is the
same in NumPy alone, and a test compares the two.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["published_double_sparse"]

Array = Any


def published_double_sparse(
    xp: Any, matrix: Array, density: float, outer: int, top: Callable[[Array, int], Array]
) -> tuple[Array, Array]:
    """Return F1, F2 with at most ``int(density * m * n)`` nonzeros together; a square one has 16 % of its entries.

    Parameters
    ----------
    xp : module
        ``numpy``, ``cupy`` or ``torch``: only names that all three have are used.
    matrix : (m, n) array of that library, m < n or square
    density : float
    outer : int
        Outer iterations, at least 4.
    top : callable
        Takes an array and a count, and returns the mask of as many largest magnitudes.
    """
    transposed = matrix.shape[0] >= matrix.shape[1]
    target = matrix.T if transposed else matrix
    m, n = target.shape
    left_nnz = int((0.16 if m == n else 0.25) * m * m)
    right_nnz = int(density * m * n) - left_nnz
    zero = 0 * target[:, :1]
    left, left_dual = _unit(xp, target), (zero + 0 * zero.T)
    right = target * top(target, max(1, right_nnz // 2))
    right_dual = 0 * right
    for iteration in range(outer):
        first_rho = min(1.0, iteration / (outer - 3)) ** 3
        z, u = _half_step(xp, right.T, target.T, left_nnz, left.T, left_dual.T, first_rho, top)
        left, left_dual = z.T, u.T
        right, right_dual = _half_step(xp, left, target, right_nnz, right, right_dual, first_rho, top)
    return (right.T, left.T) if transposed else (left, right)


def _unit(xp: Any, like: Array) -> Array:
    """Return the identity of as many rows as `like`, of its type and in its place."""
    return xp.diag(0 * like[:, 0] + 1)


def _half_step(
    xp: Any,
    fixed: Array,
    target: Array,
    k: int,
    z: Array,
    u: Array,
    first_rho: float,
    top: Callable[[Array, int], Array],
) -> tuple[Array, Array]:
    """Improve B in ||target - fixed B|| with k nonzeros: 5 rounds of ADMM, the mask chosen in the first two."""
    norms = xp.sqrt((fixed * fixed).sum(0)) + 1e-8
    scaled = fixed / norms
    gram = scaled.T @ scaled
    eye = _unit(xp, gram)
    gram = gram + 0.01 * xp.diag(gram).mean() * eye
    cross = scaled.T @ target
    inverse, first = xp.linalg.inv(gram + eye), xp.linalg.inv(gram + first_rho * eye)
    u, z = u * norms[:, None], z * norms[:, None]
    b = first @ (cross + first_rho * (z - u))
    mask = top(b + u, k)
    for iteration in range(5):
        if iteration == 1:
            mask = top(b + u, k)
        z = (b + u) * mask
        u = u + (b - z)
        if iteration < 4:
            b = inverse @ (cross + (z - u))
    return z / norms[:, None], u / norms[:, None]
