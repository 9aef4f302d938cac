"""Matrices of low rank: the one constraint that is no choice of entries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsefact.backends.registry import get_backend
from sparsefact.constraints.base import Shape, as_matrix, check_int, check_shape, is_sparse, two_dimensional
from sparsefact.errors import ArgumentError, BudgetError

__all__ = ["LowRank", "rank_of"]


@dataclass(frozen=True)
class LowRank:
    """The matrices of rank at most `r`.

    Parameters
    ----------
    r : int
        At least 1, and at most the shorter side of a matrix.

    Raises
    ------
    ArgumentError
        If `r` is not a positive integer; by `mask`, always: a solver that chooses entries cannot take this constraint.
    BudgetError
        By the other methods, if `r` is more than the shorter side of the shape.

    Examples
    --------
    >>> import numpy as np
    >>> import sparsefact as sf
    >>> x = np.diag([3.0, 2.0, 1.0])
    >>> LowRank(1).project(x).diagonal().round(12)
    array([3., 0., 0.])
    >>> LowRank(2).contains(x)
    False
    """

    r: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "r", check_int("r", self.r))

    @property
    def T(self) -> LowRank:
        """The set of the transposed matrices, which has the same description."""
        return self

    def _check(self, shape: Shape) -> None:
        if self.r > min(shape):
            raise BudgetError(
                f"r={self.r} is more than the rank that a matrix of shape {tuple(shape)} can have; "
                + (f"pass at most {min(shape)}" if min(shape) else "the shape must not be empty")
            )

    def count(self, shape: Shape) -> int:
        """Return the number of entries of a matrix of this shape, all of which may be nonzero.

        Parameters
        ----------
        shape : (int, int)

        Returns
        -------
        int
        """
        m, n = check_shape(shape)
        self._check((m, n))
        return m * n

    def mask(self, scores: NDArray[Any]) -> NDArray[np.bool_]:
        """Refuse: no entries are kept or dropped."""
        raise ArgumentError(
            f"{self!r} is no choice of entries, which this solver makes; use sparsefact.PALM() for products, or "
            "sparsefact.minimize with ReducedRank() for one matrix"
        )

    def project(self, x: NDArray[Any], scores: NDArray[Any] | None = None) -> NDArray[Any]:
        """Return the nearest matrix of the set in the Frobenius norm: the truncated singular value decomposition.

        Parameters
        ----------
        x : (m, n) array
            Finite; not modified.
        scores : None
            There is no choice of entries that scores could make.

        Returns
        -------
        (m, n) array
            A new array of the dtype of `x`. Among equal singular values, which directions are kept is not specified.

        Raises
        ------
        NonFiniteError, DtypeError, ShapeError
            If `x` is not a finite, floating, 2-D array.
        ArgumentError
            If `scores` are given.
        """
        if scores is not None:
            raise ArgumentError(f"{self!r} keeps directions, not entries, so scores cannot be used; leave them out")
        array = as_matrix("x", x)
        self._check(array.shape)
        wide = array if array.dtype.itemsize >= 4 else array.astype(np.float32)
        u, s, v = get_backend(wide).rank_r(wide[None], self.r)
        nearest: NDArray[Any] = ((u[0] * s[0]) @ v[0]).astype(array.dtype, copy=False)
        return nearest

    def contains(self, x: Any) -> bool:
        """Return whether the matrix `x`, dense or scipy.sparse, has rank at most `r` up to the rounding of its type.

        Singular values count when they exceed ``4 max(m, n) eps`` times the largest; NaN is in no set.
        """
        matrix = two_dimensional(x)
        self._check((int(matrix.shape[0]), int(matrix.shape[1])))
        found = rank_of(matrix)
        return found is not None and found <= self.r


def rank_of(x: Any) -> int | None:
    """Return the rank of a dense or scipy.sparse matrix up to the rounding of its type; None where it is not finite."""
    matrix = two_dimensional(x)
    array = np.asarray(matrix.toarray() if is_sparse(matrix) else matrix)
    if array.dtype.kind not in "fc":
        array = array.astype(np.float64)
    eps = 2.0**-7 if array.dtype.itemsize == 2 else float(np.finfo(array.dtype).eps)
    wide = array.astype(np.complex128 if array.dtype.kind == "c" else np.float64)
    if not np.isfinite(wide).all():
        return None
    values = np.linalg.svd(wide, compute_uv=False)
    return int(np.count_nonzero(values > 4 * max(array.shape) * eps * values[0]))
