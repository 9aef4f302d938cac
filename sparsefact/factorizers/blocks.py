"""The right-hand sides of alternating least squares, from the blocks of the matrix that the rank-one supports select.

The half-step for one factor needs ``conj(Y) V`` only where the factor may be nonzero, and there it involves only the
rectangle of the term: for a class of terms with rows R and columns C

    left   conj(Y[P, C]) A[R, C]^T          right   conj(X[P, R]) A[R, C]

The blocks A[R, C] never change, so they are gathered once; a half-step then costs the sum of the areas of the
rectangles, not inner x m x n.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsefact.factorizers.starts import TermClass

__all__ = ["Blocks"]

# The blocks may hold this many times the entries of the matrix.
_MOST = 4
# A block costs as much as this many multiplications of a large product, however small it is.
_CALL = 1 << 16


class Blocks:
    """The blocks of a matrix on the rectangles of the classes.

    Parameters
    ----------
    matrix : (m, n) array
    groups : list of TermClass
    masks : pair of (k, m) and (k, n) bool arrays
        The supports of both factors, terms along the rows.
    """

    def __init__(
        self, matrix: NDArray[Any], groups: list[TermClass], masks: tuple[NDArray[np.bool_], NDArray[np.bool_]]
    ) -> None:
        self.groups, self.masks = groups, masks
        self.blocks = [matrix[np.ix_(group.rows, group.cols)] for group in groups]
        self.ends = tuple(np.concatenate([[0], np.cumsum(np.count_nonzero(mask, axis=1))]) for mask in masks)

    @staticmethod
    def worth_it(shape: tuple[int, int], groups: list[TermClass]) -> bool:
        """Return whether the blocks are small enough to be kept, and cost less than the whole product."""
        held = sum(group.rows.size * group.cols.size for group in groups)
        terms = sum(group.members.size for group in groups)
        return held <= _MOST * shape[0] * shape[1] and _CALL * len(groups) <= shape[0] * shape[1] * terms

    def cross(self, side: int, other: NDArray[Any]) -> NDArray[Any]:
        """Return the right-hand sides for the left (0) or right (1) factor, zero off its support.

        Parameters
        ----------
        side : int
        other : (k, n) or (k, m) array
            The fixed factor; zero off its support.

        Returns
        -------
        (k, m) or (k, n) array
        """
        own, fixed = self.masks[side], self.masks[1 - side]
        values = other[fixed].conj()
        into, source = self.ends[side], self.ends[1 - side]
        found = np.empty(int(into[-1]), dtype=other.dtype)
        for group, block in zip(self.groups, self.blocks, strict=True):
            if side == 0:
                block = block.T
            if group.members.size == 1:
                k = group.members[0]
                found[into[k] : into[k + 1]] = values[source[k] : source[k + 1]] @ block
                continue
            terms = group.members[:, None]
            found[into[terms] + np.arange(block.shape[1])] = values[source[terms] + np.arange(block.shape[0])] @ block
        cross = np.zeros(own.shape, dtype=other.dtype)
        cross[own] = found
        return cross
