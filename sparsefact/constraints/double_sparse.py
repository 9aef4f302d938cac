"""Two sparse factors under one budget: the constraint of double sparse factorization, A ~ F1 @ F2.

A is m x n, F1 is m x inner and F2 is inner x n; together they hold at most ``floor(density * m * n)`` nonzeros. The
split between them is left to the solver, which sees the data, unless it is fixed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sparsefact.backends.registry import get_backend
from sparsefact.constraints.base import (
    Shape,
    as_matrix,
    check_density,
    check_int,
    check_same_shape,
    check_scores,
    check_shape,
    density_of,
    kept,
    nonzeros,
)
from sparsefact.constraints.top_k import TopK
from sparsefact.errors import ArgumentError, BudgetError, ShapeError

__all__ = ["DoubleSparse", "double_sparse"]

Pair = tuple[NDArray[Any], NDArray[Any]]

# The width that `inner="auto"` chooses for matrices so oblong, from some density on.
_WIDER, _OBLONG, _SPARSE = 1.25, 2, 0.15


@dataclass(frozen=True)
class DoubleSparse:
    """Pairs of matrices (F1, F2) with a joint budget of nonzeros; made by `double_sparse`.

    Attributes
    ----------
    shape : (int, int)
        Of the product, (m, n).
    density : float
        The budget is ``floor(density * m * n)``.
    inner : int
        Columns of F1 and rows of F2.
    left_density : float or None
        Fixes the split: F1 has ``floor(left_density * m * inner)`` nonzeros. Two constraints are equal when these
        counts are, whatever the fractions.
    left_nnz : int or None
        That count; None leaves the split to the solver.

    Examples
    --------
    >>> import sparsefact as sf
    >>> E = sf.double_sparse((6, 10), density=0.5)
    >>> E.budget, E.left_shape, E.right_shape
    (30, (6, 6), (6, 10))
    >>> E.split(12)
    (TopK(density=None, nnz=12, per='matrix'), TopK(density=None, nnz=18, per='matrix'))
    """

    shape: Shape
    density: float
    left_density: float | None = field(default=None, compare=False)
    inner: int | None = None
    left_nnz: int | None = field(init=False, repr=False)

    def __post_init__(self) -> None:
        m, n = check_shape(self.shape)
        if m == 0 or n == 0:
            raise ShapeError(f"shape={(m, n)} is empty; a double sparse product needs at least one row and one column")
        density = check_density("density", self.density)
        inner = min(m, n) if self.inner is None else check_int("inner", self.inner)
        budget, entries = joint_budget(density, (m, n)), inner * (m + n)
        if budget > entries:
            raise BudgetError(
                f"density={density} of shape {(m, n)} is a budget of {budget}, but two factors of inner size "
                f"{inner} have only {entries} entries; pass at most {density_of(entries, m * n)} or a larger inner"
            )
        if budget < 2:
            raise BudgetError(
                f"density={density} of shape {(m, n)} is a budget of {budget}, and each of the two factors needs "
                f"at least one; " + _least_density(2, m * n)
            )
        left_density, left_nnz = self.left_density, None
        if left_density is not None:
            left_density = check_density("left_density", left_density)
            left_nnz = math.floor(left_density * (m * inner))
            least, most = _left_bounds(m, n, inner, budget)
            if not least <= left_nnz <= most:
                raise BudgetError(
                    f"left_density={left_density} gives the left factor {left_nnz} of {budget} nonzeros, but it must "
                    f"have from {least} to {most}; pass one from {density_of(least, m * inner)} to "
                    f"{density_of(most, m * inner)}"
                )
        for name, value in (
            ("shape", (m, n)),
            ("density", density),
            ("left_density", left_density),
            ("inner", inner),
            ("left_nnz", left_nnz),
        ):
            object.__setattr__(self, name, value)

    @property
    def budget(self) -> int:
        """The largest number of nonzeros of both factors together, ``floor(density * m * n)``."""
        return joint_budget(self.density, self.shape)

    @property
    def left_shape(self) -> Shape:
        """The shape of F1, (m, inner)."""
        return self.shape[0], self._inner

    @property
    def right_shape(self) -> Shape:
        """The shape of F2, (inner, n)."""
        return self._inner, self.shape[1]

    @property
    def _inner(self) -> int:
        assert self.inner is not None  # set by __post_init__
        return self.inner

    @property
    def left_bounds(self) -> tuple[int, int]:
        """The fewest and the most nonzeros F1 may get for both factors to have some, and none more than entries."""
        return _left_bounds(*self.shape, self._inner, self.budget)

    @property
    def T(self) -> DoubleSparse:
        """The constraint of the transposed pair (F2.T, F1.T): the shape reversed, a fixed split carried over.

        ``E.T.T == E``. The fixed split is kept as a count; its fraction is that of the factor that is now the left one.
        """
        left_density = None
        if self.left_nnz is not None:
            left_density = density_of(self.budget - self.left_nnz, self._inner * self.shape[1])
        return DoubleSparse((self.shape[1], self.shape[0]), self.density, left_density, self._inner)

    def split(self, left_nnz: int) -> tuple[TopK, TopK]:
        """Return the two constraints that give the left factor `left_nnz` nonzeros and the right one the rest.

        Parameters
        ----------
        left_nnz : int

        Returns
        -------
        (TopK, TopK)

        Raises
        ------
        BudgetError
            If `left_nnz` is outside `left_bounds`.
        """
        left_nnz = check_int("left_nnz", left_nnz, 0)
        least, most = self.left_bounds
        if not least <= left_nnz <= most:
            raise BudgetError(
                f"left_nnz={left_nnz} of a budget of {self.budget} is not possible for factors of shapes "
                f"{self.left_shape} and {self.right_shape}; pass a count from {least} to {most}"
            )
        return TopK(nnz=left_nnz), TopK(nnz=self.budget - left_nnz)

    def count(self, shape: Shape | None = None) -> int:
        """Return the budget: how many entries of both factors together may be nonzero.

        Parameters
        ----------
        shape : (int, int), optional
            Checked against the shape of the product.

        Returns
        -------
        int
        """
        if shape is not None:
            check_same_shape(shape, self.shape, "constraint")
        return self.budget

    def mask(self, scores: Pair) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Return which entries of the two factors are kept: the jointly largest, or the largest of each.

        Parameters
        ----------
        scores : pair of arrays, (m, inner) and (inner, n)
            Not checked for NaN, which counts as the largest.

        Returns
        -------
        pair of bool arrays
            Exactly `budget` True together; ties go to the first factor, then to the lowest flat index.
        """
        left, right = scores
        if self.left_nnz is not None:
            first, second = self.split(self.left_nnz)
            return first.mask(left), second.mask(right)
        backend = get_backend(left, right)
        both = backend.xp.concatenate([abs(left).reshape(-1), abs(right).reshape(-1)])
        mask = backend.topk_mask(both[None, :], self.budget)[0]
        return mask[: left.size].reshape(left.shape), mask[left.size :].reshape(right.shape)

    def project(self, x: Pair, scores: Pair | None = None) -> Pair:
        """Return the nearest pair of the set: smallest sum of the two squared Frobenius distances.

        Parameters
        ----------
        x : pair of arrays, (m, inner) and (inner, n)
            Finite; not modified.
        scores : pair of arrays, optional
            Keep the entries of largest score (>= 0) instead of largest magnitude.

        Returns
        -------
        pair of arrays
            New arrays of the dtypes of `x`; ties go to the first factor, then to the lowest flat index.

        Raises
        ------
        NonFiniteError, DtypeError, ShapeError
            If `x` is not a pair of finite, floating arrays of the factors' shapes, or `scores` do not fit it.
        """
        left, right = (as_matrix(f"x[{i}]", each) for i, each in enumerate(self._pair("x", x)))
        self._check_shapes("x", left, right)
        if scores is None:
            wide = tuple(each if each.dtype.itemsize >= 4 else each.astype(np.float32) for each in (left, right))
        else:
            given = self._pair("scores", scores)
            shapes = (self.left_shape, self.right_shape)
            wide = tuple(check_scores(f"scores[{i}]", given[i], shapes[i]) for i in range(2))
        masks = self.mask((wide[0], wide[1]))
        return kept(left, masks[0]), kept(right, masks[1])

    def contains(self, x: Any) -> bool:
        """Return whether the pair `x` of dense or scipy.sparse matrices has no more nonzeros than allowed."""
        left, right = self._pair("x", x)
        self._check_shapes("x", left, right)
        first, second = int(nonzeros(left)), int(nonzeros(right))
        if self.left_nnz is not None:
            return first <= self.left_nnz and second <= self.budget - self.left_nnz
        return first + second <= self.budget

    def _pair(self, name: str, x: Any) -> tuple[Any, Any]:
        if not isinstance(x, (tuple, list)) or len(x) != 2:
            raise ArgumentError(
                f"{name} is no pair of factors; pass two, of shapes {self.left_shape} and {self.right_shape}"
            )
        return x[0], x[1]

    def _check_shapes(self, name: str, left: Any, right: Any) -> None:
        for i, (each, shape) in enumerate(((left, self.left_shape), (right, self.right_shape))):
            if tuple(np.shape(each)) != shape:
                raise ShapeError(
                    f"{name}[{i}] has shape {tuple(np.shape(each))}; this constraint's factor has shape {shape}"
                )


def _left_bounds(m: int, n: int, inner: int, budget: int) -> tuple[int, int]:
    return max(1, budget - inner * n), min(m * inner, budget - 1)


def _least_density(count: int, entries: int) -> str:
    if count > entries:
        return "no density is enough for this shape"
    return f"pass a density of at least {density_of(count, entries)}"


def joint_budget(density: float, shape: Shape) -> int:
    """Return ``floor(density * m * n)`` in whichever order of the products rounds lowest.

    So ``nnz <= density * m * n`` holds however it is written, and the transposed problem has the same budget.
    """
    m, n = shape
    return min(math.floor(density * (m * n)), math.floor(density * m * n), math.floor(density * n * m))


def _wide_inner(shape: Shape, density: float) -> int:
    """Return the inner dimension that reached the lowest error in equal time, as far as was measured."""
    m, n = shape
    if density < _SPARSE or max(m, n) < _OBLONG * min(m, n):
        return min(m, n)
    # each row of both factors needs an entry
    most = joint_budget(density, (m, n)) - max(m, n)
    return max(min(m, n), min(round(_WIDER * min(m, n)), most))


def double_sparse(
    shape: Shape,
    density: float,
    left_density: float | None = None,
    inner: int | Literal["auto"] | None = None,
) -> DoubleSparse:
    """Return the constraint of a double sparse factorization A ~ F1 @ F2.

    Parameters
    ----------
    shape : (int, int)
        Of A, (m, n).
    density : float
        In (0, 1]: F1 and F2 together hold at most ``floor(density * m * n)`` nonzeros.
    left_density : float, optional
        Fixes the split: F1 holds ``floor(left_density * m * inner)`` of them. Without it the solver chooses.
    inner : int or "auto", optional
        Columns of F1 and rows of F2; ``min(m, n)`` unless given. "auto" makes it wider where that was measured to pay
        (docs/double_sparse.md): by a quarter for a matrix at least twice as long as wide, unless the density is below
        0.15. An outer iteration takes time about in proportion to its square.

    Returns
    -------
    DoubleSparse

    Raises
    ------
    BudgetError
        If the density is outside (0, 1], too small to give every row of both factors an entry, or larger than what the
        factors hold; or if the fixed split leaves a factor fewer entries than rows.
    ShapeError
        If the shape is not that of a non-empty matrix.

    Examples
    --------
    >>> import sparsefact as sf
    >>> sf.double_sparse((512, 2048), density=0.3).budget
    314572
    >>> sf.double_sparse((512, 2048), density=0.3, inner="auto").inner
    640
    """
    if isinstance(inner, str):
        if inner != "auto":
            raise ArgumentError(f"inner={inner!r} is not known; pass a number, 'auto', or leave it out for min(m, n)")
        inner = _wide_inner(check_shape(shape), check_density("density", density))
    constraint = DoubleSparse(shape, density, left_density, inner)
    (m, n), rows = constraint.shape, constraint.left_shape[0] + constraint.right_shape[0]
    if constraint.budget < rows:
        raise BudgetError(
            f"density={constraint.density} of shape {(m, n)} is a budget of {constraint.budget}, fewer than the "
            f"{rows} rows of the two factors, of which each needs one; " + _least_density(rows, m * n)
        )
    if constraint.left_nnz is not None:
        right_nnz = constraint.budget - constraint.left_nnz
        if constraint.left_nnz < m or right_nnz < constraint.right_shape[0]:
            raise BudgetError(
                f"left_density={constraint.left_density} splits the budget of {constraint.budget} nonzeros into "
                f"{constraint.left_nnz} and {right_nnz}, but the factors have {m} and {constraint.right_shape[0]} "
                "rows, of which each needs one; change left_density or raise density"
            )
    return constraint
