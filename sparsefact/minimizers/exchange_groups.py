"""Which entries of a matrix may take each other's place in a support, for every constraint."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsefact.constraints.base import Shape
from sparsefact.constraints.block_top_k import BlockTopK
from sparsefact.constraints.n_of_m import NOfM
from sparsefact.constraints.top_k import TopK
from sparsefact.minimizers.adapted import NamedConstraint

__all__ = ["cells", "exchange_groups"]


def exchange_groups(constraint: Any, shape: Shape) -> NDArray[np.int64] | None:
    """Return a number for each entry such that a kept entry may be replaced by any dropped one of equal number.

    Parameters
    ----------
    constraint : Constraint
    shape : (int, int)

    Returns
    -------
    (m, n) integer array or None
        -1 where the entry is free (no constraint) or fixed; None where no two entries can be exchanged, since the
        support is fixed, of whole blocks, or of a constraint that is not known here.
    """
    m, n = shape
    rows, columns = np.arange(m)[:, None], np.arange(n)[None, :]
    if isinstance(constraint, TopK):
        index = {"matrix": 0 * rows, "row": rows, "column": columns}[constraint.per]
    elif isinstance(constraint, NOfM) and constraint.axis == 1:
        index = rows * (n // constraint.m) + columns // constraint.m
    elif isinstance(constraint, NOfM):
        index = columns * (m // constraint.m) + rows // constraint.m
    elif isinstance(constraint, NamedConstraint):
        return _named(constraint)
    else:
        return None
    return np.broadcast_to(index, shape).astype(np.int64)


def _named(constraint: NamedConstraint) -> NDArray[np.int64] | None:
    parts, start = [], 0
    for name, shape in constraint.shapes.items():
        groups = exchange_groups(constraint.constraints[name], shape)
        if groups is None:
            parts.append(np.full(shape[0] * shape[1], -1, dtype=np.int64))
            continue
        parts.append(np.where(groups < 0, -1, groups + start).reshape(-1))
        start += int(groups.max()) + 1
    return np.concatenate(parts)[None] if start else None


def cells(constraint: Any, shape: Shape) -> tuple[NDArray[np.int64] | None, NDArray[np.int64]] | None:
    """Return for each entry the cell that is kept or dropped as a whole, and for each cell its exchange group.

    Cells are the blocks of a `BlockTopK`, or single entries: None for the first part. None where nothing can be
    exchanged.
    """
    if isinstance(constraint, BlockTopK):
        rows, columns = np.arange(shape[0])[:, None], np.arange(shape[1])[None, :]
        (height, width), across = constraint.block, shape[1] // constraint.block[1]
        index = rows // height * across + columns // width
        return index.astype(np.int64), np.zeros(int(index.max()) + 1, dtype=np.int64)
    groups = exchange_groups(constraint, shape)
    if groups is None:
        return None
    return None, groups.reshape(-1)
