"""Whole blocks: the ones of largest Frobenius norm are kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsefact.backends.registry import get_backend
from sparsefact.constraints.base import (
    Projection,
    Shape,
    check_count,
    check_density,
    check_int,
    check_shape,
    kept_of,
    nonzero_indices,
    two_dimensional,
)
from sparsefact.errors import ArgumentError, ShapeError

__all__ = ["BlockTopK"]


@dataclass(frozen=True, init=False, repr=False)
class BlockTopK(Projection):
    """At most a given number of nonzero blocks of a regular grid.

    Parameters
    ----------
    block : (int, int)
        Rows and columns of a block; the shape of a matrix must be a multiple.
    density : float, optional
        Fraction of the blocks that may be nonzero, in (0, 1], rounded down to whole blocks. Exactly one of `density`
        and `count` is given.
    count : int, optional
        How many blocks may be nonzero.

    Attributes
    ----------
    block : (int, int)
    density : float or None
    blocks : int or None
        The argument `count`; the method of that name counts entries.

    Raises
    ------
    BudgetError
        If the density is outside (0, 1] or the count is not a positive integer; by the methods, if a density allows no
        block at all for a shape, or the count is larger than the number of blocks.
    ArgumentError
        If both or neither of `density` and `count` are given, or `block` is not a pair of positive integers.
    ShapeError
        By the methods, for a shape that is not a whole number of blocks.

    Examples
    --------
    >>> import numpy as np
    >>> import sparsefact as sf
    >>> x = np.array([[1.0, 1.0, 0.0, 9.0], [2.0, 2.0, 0.0, 0.0]])
    >>> sf.BlockTopK(block=(1, 2), count=2).project(x)
    array([[0., 0., 0., 9.],
           [2., 2., 0., 0.]])
    """

    block: Shape
    density: float | None
    blocks: int | None

    def __init__(self, block: Shape = (16, 16), density: float | None = None, count: int | None = None) -> None:
        try:
            rows, cols = block
        except (TypeError, ValueError):
            raise ArgumentError(f"block={block!r} is not a block shape; pass two integers, (rows, columns)") from None
        if (density is None) == (count is None):
            raise ArgumentError(
                f"BlockTopK takes exactly one of density and count, and received density={density!r}, count={count!r}; "
                "pass one of them"
            )
        object.__setattr__(self, "block", (check_int("block[0]", rows), check_int("block[1]", cols)))
        object.__setattr__(self, "density", None if density is None else check_density("density", density))
        object.__setattr__(self, "blocks", None if count is None else check_count("count", count))

    def __repr__(self) -> str:
        return f"BlockTopK(block={self.block}, density={self.density}, count={self.blocks})"

    @property
    def T(self) -> BlockTopK:
        """The set of the transposed matrices: the block transposed."""
        return BlockTopK(self.block[::-1], self.density, self.blocks)

    def _grid(self, shape: Shape) -> Shape:
        if shape[0] % self.block[0] or shape[1] % self.block[1]:
            raise ShapeError(
                f"shape {tuple(shape)} is not a whole number of blocks of shape {self.block}; pad the matrix or choose "
                "another block"
            )
        return shape[0] // self.block[0], shape[1] // self.block[1]

    def _kept(self, shape: Shape) -> int:
        """Return how many blocks of a matrix of this shape are kept."""
        grid = self._grid(shape)
        where = f"blocks of a matrix of shape {tuple(shape)}"
        return kept_of(grid[0] * grid[1], where, "block", self.density, count=self.blocks)

    def count(self, shape: Shape) -> int:
        """Return how many entries of a matrix of this shape may be nonzero.

        Parameters
        ----------
        shape : (int, int)

        Returns
        -------
        int
        """
        return self._kept(check_shape(shape)) * self.block[0] * self.block[1]

    def mask(self, scores: NDArray[Any]) -> NDArray[np.bool_]:
        """Return which entries are kept, exactly ``count(scores.shape)``: the blocks of largest Frobenius norm.

        Parameters
        ----------
        scores : (m, n) array
            Not checked for NaN, which counts as the largest.

        Returns
        -------
        (m, n) bool array
            Among equal norms the block that comes first in C order wins.
        """
        return get_backend(scores).block_mask(scores, self.block, self._kept(scores.shape))

    def contains(self, x: Any) -> bool:
        """Return whether the matrix `x`, dense or scipy.sparse, has no more nonzero blocks than allowed."""
        x = two_dimensional(x)
        allowed = self._kept(x.shape)
        rows, cols = nonzero_indices(x)
        used = np.unique(rows // self.block[0] * (x.shape[1] // self.block[1]) + cols // self.block[1])
        return bool(used.size <= allowed)
