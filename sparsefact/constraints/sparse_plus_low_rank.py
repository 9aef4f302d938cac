"""A sparse matrix plus one of low rank, under one budget: A ~ S + U V.

The sum is stored as a product of two sparse factors, with an identity of the shorter side beside the sparse matrix,

    [I | U] @ [S ; V]   where m <= n,        [S | U] @ [I ; V]   where m > n,

so it multiplies, transposes and is saved like every product, and everything it stores counts: ``nnz(S) + rank (m + n) +
min(m, n)``. One of the two terms alone needs no identity, and has none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsefact.backends.registry import get_backend
from sparsefact.constraints.base import (
    Shape,
    as_matrix,
    check_density,
    check_int,
    check_same_shape,
    check_shape,
    nonzeros,
)
from sparsefact.constraints.double_sparse import joint_budget
from sparsefact.constraints.low_rank import LowRank, rank_of
from sparsefact.constraints.top_k import TopK
from sparsefact.errors import ArgumentError, BudgetError, ShapeError

__all__ = ["SparsePlusLowRank", "sparse_plus_low_rank"]

Pair = tuple[NDArray[Any], NDArray[Any]]


@dataclass(frozen=True)
class SparsePlusLowRank:
    """Pairs of matrices (S, L), one sparse and one of low rank, whose sum is stored within a budget.

    Attributes
    ----------
    shape : (int, int)
        Of both, (m, n).
    density : float
        The budget is ``floor(density * m * n)``.
    rank : int or None
        Of L at most; None leaves it to the solver, which sees the data.

    Examples
    --------
    >>> import sparsefact as sf
    >>> E = sf.sparse_plus_low_rank((60, 100), density=0.2, rank=3)
    >>> E.budget, E.sparse_nnz(3), E.largest_rank
    (1200, 660, 7)
    >>> E.sparse_nnz(0)
    1200
    """

    shape: Shape
    density: float
    rank: int | None = None

    def __post_init__(self) -> None:
        m, n = check_shape(self.shape)
        if m == 0 or n == 0:
            raise ShapeError(f"shape={(m, n)} is empty; a sum needs at least one row and one column")
        density = check_density("density", self.density)
        budget = joint_budget(density, (m, n))
        if budget < 1:
            raise BudgetError(
                f"density={density} of shape {(m, n)} leaves no entry; pass a density of at least {1 / (m * n):.3g}"
            )
        object.__setattr__(self, "shape", (m, n))
        object.__setattr__(self, "density", density)
        if self.rank is not None:
            rank = check_int("rank", self.rank, 0)
            if rank > self.largest_rank:
                raise BudgetError(
                    f"rank={rank} of shape {(m, n)} takes {rank * (m + n)} entries of a budget of {budget}; pass at "
                    f"most {self.largest_rank}, or a larger density"
                )
            object.__setattr__(self, "rank", rank)

    @property
    def budget(self) -> int:
        """The largest number of stored entries, ``floor(density * m * n)``."""
        return joint_budget(self.density, self.shape)

    @property
    def largest_rank(self) -> int:
        """The largest rank that the budget holds, if nothing is left for the sparse matrix."""
        return min(self.budget // sum(self.shape), *self.shape)

    @property
    def T(self) -> SparsePlusLowRank:
        """The constraint of the transposed pair."""
        return SparsePlusLowRank((self.shape[1], self.shape[0]), self.density, self.rank)

    def sparse_nnz(self, rank: int) -> int:
        """Return how many nonzeros a rank leaves for the sparse matrix: the budget less ``rank (m + n) + min(m, n)``.

        Parameters
        ----------
        rank : int
            From 0, which leaves the whole budget, to `largest_rank`.

        Returns
        -------
        int
            0 where no more than the identity would fit.

        Raises
        ------
        BudgetError
            If the budget does not hold the rank.
        """
        rank = check_int("rank", rank, 0)
        if rank > self.largest_rank:
            raise BudgetError(f"rank={rank} is more than the budget holds; pass at most {self.largest_rank}")
        if rank == 0:
            return self.budget
        return max(0, self.budget - rank * sum(self.shape) - min(self.shape))

    def count(self, shape: Shape | None = None) -> int:
        """Return the budget: how many entries may be stored in all.

        Parameters
        ----------
        shape : (int, int), optional
            Checked against the shape of the sum.

        Returns
        -------
        int
        """
        if shape is not None:
            check_same_shape(shape, self.shape, "constraint")
        return self.budget

    def project(self, x: Pair) -> Pair:
        """Return the nearest pair of the set: smallest sum of the two squared Frobenius distances.

        Parameters
        ----------
        x : pair of (m, n) arrays
            Finite; not modified.

        Returns
        -------
        pair of arrays
            The largest entries of the first, and the truncated singular value decomposition of the second. Where the
            rank is open, the one that keeps most, the lowest of several.

        Raises
        ------
        NonFiniteError, DtypeError, ShapeError
            If `x` is not a pair of finite, floating arrays of this shape.
        """
        sparse, low = (as_matrix(f"x[{i}]", each) for i, each in enumerate(self._pair(x)))
        rank = self.rank
        if rank is None:
            backend = get_backend(sparse, low)
            squares = np.sort(backend.to_host(abs(sparse)).astype(np.float64).ravel() ** 2)[::-1]
            singular = np.linalg.svd(backend.to_host(low), compute_uv=False).astype(np.float64) ** 2
            kept, explained = (np.concatenate([[0.0], np.cumsum(each)]) for each in (squares, singular))
            rank = int(np.argmax([kept[self.sparse_nnz(r)] + explained[r] for r in range(self.largest_rank + 1)]))
        nnz = self.sparse_nnz(rank)
        return (
            TopK(nnz=nnz).project(sparse) if nnz else 0 * sparse,
            LowRank(rank).project(low) if rank else 0 * low,
        )

    def contains(self, x: Any) -> bool:
        """Return whether the pair `x` of matrices lies in the set: few enough nonzeros, and the rank low enough.

        The rank is counted as by `LowRank.contains`.
        """
        sparse, low = self._pair(x)
        found = rank_of(low)
        if found is None or found > (self.largest_rank if self.rank is None else self.rank):
            return False
        return int(nonzeros(sparse)) <= self.sparse_nnz(found if self.rank is None else self.rank)

    def _pair(self, x: Any) -> tuple[Any, Any]:
        if not isinstance(x, (tuple, list)) or len(x) != 2:
            raise ArgumentError(f"x is no pair of matrices; pass two of shape {self.shape}, (sparse, low_rank)")
        for i, each in enumerate(x):
            found = tuple(np.shape(each))
            if found != self.shape:
                raise ShapeError(f"x[{i}] has shape {found}; both matrices of this constraint have shape {self.shape}")
        return x[0], x[1]


def sparse_plus_low_rank(shape: Shape, density: float, rank: int | None = None) -> SparsePlusLowRank:
    """Return the constraint of a sum A ~ S + U V of a sparse matrix and one of low rank.

    Parameters
    ----------
    shape : (int, int)
        Of A, (m, n).
    density : float
        In (0, 1]: all that is stored is at most ``floor(density * m * n)``, the identity beside S included.
    rank : int, optional
        Columns of U. 0 is one sparse matrix. Without it the solver chooses.

    Returns
    -------
    SparsePlusLowRank

    Raises
    ------
    BudgetError
        If the density is outside (0, 1] or leaves no entry, or the budget does not hold the rank.
    ShapeError
        If the shape is not that of a non-empty matrix.

    Examples
    --------
    >>> import numpy as np
    >>> import sparsefact as sf
    >>> rng = np.random.default_rng(0)
    >>> S = sf.TopK(nnz=100).project(rng.standard_normal((50, 40)))
    >>> A = S + rng.standard_normal((50, 2)) @ rng.standard_normal((2, 40))
    >>> F = sf.factorize(A, sf.sparse_plus_low_rank(A.shape, density=0.2, rank=2))
    >>> F.error < 1e-6, F.nnz <= 0.2 * A.size
    (True, True)
    """
    return SparsePlusLowRank(shape, density, rank)
