"""The k largest magnitudes: of the matrix, of each row or of each column."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsefact.backends.protocol import Per
from sparsefact.backends.registry import get_backend
from sparsefact.constraints.base import (
    Projection,
    Shape,
    check_count,
    check_density,
    check_shape,
    kept_of,
    nonzeros,
    two_dimensional,
)
from sparsefact.errors import ArgumentError

__all__ = ["TopK"]

_OTHER: dict[Per, Per] = {"matrix": "matrix", "row": "column", "column": "row"}


@dataclass(frozen=True)
class TopK(Projection):
    """At most k nonzeros in the matrix, in each row or in each column.

    Parameters
    ----------
    density : float, optional
        Fraction of the entries that may be nonzero, in (0, 1]; the count is ``floor(density * length)``, where length
        is the number of entries of the matrix, of a row or of a column. Exactly one of `density` and `nnz` is given.
    nnz : int, optional
        How many may be nonzero: in the whole matrix, or in *each* row or column.
    per : {"matrix", "row", "column"}
        What the count is of.

    Raises
    ------
    BudgetError
        If the density is outside (0, 1] or the count is not a positive integer; by the methods, if a density allows no
        entry at all for a shape, or the count is larger than the number of entries.
    ArgumentError
        If both or neither of `density` and `nnz` are given, or `per` is unknown.

    Examples
    --------
    >>> import numpy as np
    >>> import sparsefact as sf
    >>> x = np.array([[3.0, -1.0, 2.0], [0.5, -4.0, 0.0]])
    >>> sf.TopK(nnz=2).project(x)
    array([[ 3.,  0.,  0.],
           [ 0., -4.,  0.]])
    >>> sf.TopK(nnz=1, per="column").count(x.shape)
    3
    """

    density: float | None = None
    nnz: int | None = None
    per: Per = "matrix"

    def __post_init__(self) -> None:
        if (self.density is None) == (self.nnz is None):
            raise ArgumentError(
                f"TopK takes exactly one of density and nnz, and received density={self.density!r}, nnz={self.nnz!r}; "
                "pass one of them"
            )
        if self.per not in ("matrix", "row", "column"):
            raise ArgumentError(f"per={self.per!r} is not allowed; pass 'matrix', 'row' or 'column'")
        if self.density is not None:
            object.__setattr__(self, "density", check_density("density", self.density))
        else:
            object.__setattr__(self, "nnz", check_count("nnz", self.nnz))

    @property
    def T(self) -> TopK:
        """The set of the transposed matrices: per row becomes per column."""
        return TopK(self.density, self.nnz, _OTHER[self.per])

    def count(self, shape: Shape) -> int:
        """Return how many entries of a matrix of this shape may be nonzero, in all.

        Parameters
        ----------
        shape : (int, int)

        Returns
        -------
        int
        """
        m, n = check_shape(shape)
        return self._each((m, n)) * {"matrix": 1, "row": m, "column": n}[self.per]

    def _each(self, shape: Shape) -> int:
        """Return the count of the matrix, of one row or of one column."""
        length = {"matrix": shape[0] * shape[1], "row": shape[1], "column": shape[0]}[self.per]
        where = f"entries of a {self.per} of shape {tuple(shape)}"
        return kept_of(length, where, "nonzero", self.density, nnz=self.nnz)

    def mask(self, scores: NDArray[Any]) -> NDArray[np.bool_]:
        """Return which entries are kept, exactly ``count(scores.shape)`` True: those of largest magnitude.

        Parameters
        ----------
        scores : (m, n) array
            Not checked for NaN, which counts as the largest.

        Returns
        -------
        (m, n) bool array
            Ties go to the lowest flat (C-order) index.
        """
        return get_backend(scores).topk_mask(scores, self._each(scores.shape), self.per)

    def contains(self, x: Any) -> bool:
        """Return whether the matrix `x`, dense or scipy.sparse, has no more nonzeros than allowed."""
        axis = {"matrix": None, "row": 1, "column": 0}[self.per]
        x = two_dimensional(x)
        return bool(np.all(nonzeros(x, axis) <= self._each(x.shape)))
