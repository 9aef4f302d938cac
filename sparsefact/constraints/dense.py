"""No constraint at all: every entry may be nonzero."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsefact.constraints.base import Projection, Shape, check_shape, two_dimensional

__all__ = ["Dense"]


@dataclass(frozen=True)
class Dense(Projection):
    """The set of all matrices.

    Examples
    --------
    >>> import sparsefact as sf
    >>> sf.Dense().count((3, 4))
    12
    """

    @property
    def T(self) -> Dense:
        """The set of the transposed matrices, which is the same."""
        return self

    def count(self, shape: Shape) -> int:
        """Return the number of entries of a matrix of this shape.

        Parameters
        ----------
        shape : (int, int)

        Returns
        -------
        int
        """
        m, n = check_shape(shape)
        return m * n

    def mask(self, scores: NDArray[Any]) -> NDArray[np.bool_]:
        """Return a mask of the shape of `scores` that keeps every entry."""
        return np.ones(scores.shape, dtype=bool)

    def contains(self, x: Any) -> bool:
        """Return True for every matrix, dense or scipy.sparse."""
        two_dimensional(x)
        return True
