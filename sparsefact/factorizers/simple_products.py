"""Two products that need no search: what a double sparse factorization must at least reach with its budget.

Factors are matrices of `inner` rows, as in `alternating`: the left one transposed (k, m), the right one (k, n). Under a
Gram matrix the columns of the matrix are already scaled by the root of its diagonal.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsefact.backends.protocol import Backend
from sparsefact.constraints.double_sparse import DoubleSparse

__all__ = ["SIMPLE_PRODUCTS"]

Factors = list[NDArray[Any]]
Make = Callable[[NDArray[Any], DoubleSparse, Backend, int], Factors | None]


def _pruned(matrix: NDArray[Any], joint: DoubleSparse, backend: Backend, seed: int) -> Factors | None:
    """Return an identity and the matrix pruned by magnitude, or None where the identity does not fit."""
    (m, k), (_, n) = joint.left_shape, joint.right_shape
    identity, room = min(m, n), _room(joint)
    left_identity = m <= n
    if room is None:
        kept = joint.budget - identity
    else:
        kept = room[1 if left_identity else 0] if room[0 if left_identity else 1] >= identity else 0
    if kept < 1 or k < identity:
        return None
    pruned = matrix * backend.topk_mask(matrix, min(kept, matrix.size), "matrix")
    factors = [backend.xp.zeros((k, length), dtype=matrix.dtype) for length in (m, n)]
    factors[0 if left_identity else 1][:identity] = backend.xp.eye(identity, dtype=matrix.dtype)
    factors[1 if left_identity else 0][:identity] = pruned if left_identity else pruned.T
    return factors


def _low_rank(matrix: NDArray[Any], joint: DoubleSparse, backend: Backend, seed: int) -> Factors | None:
    """Return two dense factors of the highest rank that fits, by a randomised range finder.

    Reference: N. Halko, P.-G. Martinsson, J. Tropp, "Finding structure with randomness", SIAM Review 53 (2011).
    """
    xp, room = backend.xp, _room(joint)
    (m, k), (_, n) = joint.left_shape, joint.right_shape
    rank = min(k, m, n, joint.budget // (m + n) if room is None else min(room[0] // m, room[1] // n))
    if rank < 1:
        return None
    sketch = xp.asarray(np.random.default_rng(seed).standard_normal((n, rank)).astype(matrix.real.dtype))
    basis = xp.linalg.qr(matrix @ sketch)[0]
    factors = [xp.zeros((k, length), dtype=matrix.dtype) for length in (m, n)]
    factors[0][:rank], factors[1][:rank] = basis.T, basis.conj().T @ matrix
    return factors


def _room(joint: DoubleSparse) -> tuple[int, int] | None:
    """Return how many entries each factor may have, or None if only their sum is fixed."""
    return None if joint.left_nnz is None else (joint.left_nnz, joint.budget - joint.left_nnz)


SIMPLE_PRODUCTS: tuple[tuple[str, Make], ...] = (
    (" The matrix itself, pruned by magnitude, beside an identity was better, and was taken.", _pruned),
    (" Two dense factors of low rank were better, and were taken.", _low_rank),
)
"""What the explanation says when one of them is taken, and how it is made."""
