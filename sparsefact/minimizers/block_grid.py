"""The grid of blocks of a constraint: what solvers that add and drop whole blocks see of it.

`BlockTopK` is a grid of its blocks, `TopK` one of single entries; a count is of the whole grid, of each of its rows or
of each of its columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsefact.backends.protocol import Backend, Per
from sparsefact.constraints.base import Constraint, Shape
from sparsefact.constraints.block_top_k import BlockTopK
from sparsefact.constraints.top_k import TopK
from sparsefact.errors import ArgumentError
from sparsefact.minimizers.block_norms import block_sums, spread

__all__ = ["BlockGrid", "block_grid", "per_block", "sums_per_block"]


@dataclass(frozen=True)
class BlockGrid:
    """Equal blocks that tile a matrix, and how many of them may be nonzero.

    Attributes
    ----------
    block : (int, int)
        Rows and columns of a block.
    grid : (int, int)
        Blocks along either side.
    each : int
        How many blocks may be nonzero, in each unit.
    per : {"matrix", "row", "column"}
        The unit: the whole grid, a row of it, or a column.
    """

    block: Shape
    grid: Shape
    each: int
    per: Per

    @property
    def count(self) -> int:
        """How many blocks may be nonzero, in all."""
        return self.each * {"matrix": 1, "row": self.grid[0], "column": self.grid[1]}[self.per]

    def sums(self, x: NDArray[Any]) -> NDArray[Any]:
        """Return the sum of the entries of every block of `x`, in float64 (complex128): an array of shape `grid`."""
        return block_sums(x, self.block, np.complex128 if x.dtype.kind == "c" else np.float64)

    def energies(self, x: NDArray[Any]) -> NDArray[Any]:
        """Return the squared Frobenius norm of every block of `x`: a float64 array of shape `grid`."""
        return self.sums(abs(x) ** 2)

    def entries(self, blocks: NDArray[Any], backend: Backend) -> NDArray[Any]:
        """Return the array of shape (m, n) in which every entry of a block has the value of that block."""
        return spread(blocks, self.block, backend.xp)

    def best(self, scores: NDArray[Any], backend: Backend) -> NDArray[np.bool_]:
        """Return which blocks are kept, exactly `count` True: those of largest score; ties go to the first."""
        return backend.topk_mask(scores, self.each, self.per)


def per_block(blocks: NDArray[Any], x: NDArray[Any]) -> NDArray[Any]:
    """Return one number for each block, of shape (rows, cols), in a shape that broadcasts over `x` (rows, r, n)."""
    repeated: NDArray[Any] = blocks.repeat(x.shape[2] // blocks.shape[1], axis=1)[:, None, :]
    return repeated


def sums_per_block(x: NDArray[Any], cols: int) -> NDArray[Any]:
    """Return the sums over the blocks of `x` (rows, r, n), in its type: an array of shape (rows, cols)."""
    # long rows first: blocks are narrow
    sums: NDArray[Any] = x.sum(axis=1).reshape(x.shape[0], cols, -1).sum(axis=2)
    return sums


def block_grid(constraint: Constraint, shape: Shape, who: str) -> BlockGrid:
    """Return the grid of a constraint for matrices of this shape; `who` asks.

    Raises
    ------
    ArgumentError
        If the constraint is not one of blocks or of entries that may be chosen freely.
    ShapeError, BudgetError
        If the blocks do not tile the shape, or more are to be kept than there are.
    """
    if isinstance(constraint, BlockTopK):
        entries = constraint.count(shape)
        (r, c), (m, n) = constraint.block, shape
        return BlockGrid((r, c), (m // r, n // c), entries // (r * c), "matrix")
    if isinstance(constraint, TopK):
        units = {"matrix": 1, "row": shape[0], "column": shape[1]}[constraint.per]
        return BlockGrid((1, 1), shape, constraint.count(shape) // units, constraint.per)
    raise ArgumentError(
        f"{who} chooses blocks or entries, and the constraint is {constraint!r}; pass sparsefact.BlockTopK or "
        "sparsefact.TopK, or use another solver"
    )
