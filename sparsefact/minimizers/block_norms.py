"""Norms of the blocks of a regular grid over a matrix, and back."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from sparsefact.constraints.base import Shape, check_int
from sparsefact.errors import ArgumentError, ShapeError

__all__ = ["block_sums", "check_blocks", "fit_blocks", "spread"]


def check_blocks(blocks: Any) -> tuple[int, int] | None:
    """Return a block shape as a pair of integers, None for none, or refuse it."""
    if blocks is None:
        return None
    try:
        rows, columns = blocks
    except (TypeError, ValueError):
        raise ArgumentError(
            f"blocks={blocks!r} is not a block shape; pass two integers, (rows, columns), or None for single entries"
        ) from None
    return check_int("blocks[0]", rows), check_int("blocks[1]", columns)


def fit_blocks(blocks: tuple[int, int] | None, objective: Any) -> tuple[int, int]:
    """Return the block shape for an objective, (1, 1) for none, or refuse one that does not divide its matrix."""
    if blocks is None:
        return 1, 1
    if getattr(objective, "shapes", None) is not None:
        raise ArgumentError(f"blocks={blocks} are of one matrix, but the objective has several; pass blocks=None")
    shape = objective.shape
    if shape[0] % blocks[0] or shape[1] % blocks[1]:
        raise ShapeError(
            f"blocks={blocks} do not divide the shape {tuple(shape)} of the unknown; pass one that does, or pad"
        )
    return blocks


def block_sums(x: NDArray[Any], block: Shape, dtype: Any = None) -> NDArray[Any]:
    """Return the sum of every block, (m / rows, n / columns), added up in `dtype` if given."""
    if block == (1, 1):
        return x if dtype is None else x.astype(dtype, copy=False)
    (m, n), (rows, columns) = x.shape, block
    sums: NDArray[Any] = x.reshape(m // rows, rows, n // columns, columns).sum(axis=(1, 3), dtype=dtype)
    return sums


def spread(x: NDArray[Any], block: Shape, xp: Any) -> NDArray[Any]:
    """Return the matrix that has each number in all entries of its block."""
    if block == (1, 1):
        return x
    wide: NDArray[Any] = xp.repeat(xp.repeat(x, block[0], axis=0), block[1], axis=1)
    return wide
