"""Supports with a structure that has a name: of one factor, of two, and the sets of three.

The functions for two return (left, right), supports of shapes m x r and r x n for `factorize`, `tractability` and
`closedness`, so that the products ``L @ R`` are the matrices of that structure. Indices are 0-based.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from sparsefact.constraints.base import Shape, check_density, check_int, check_shape, density_of
from sparsefact.constraints.n_of_m import NOfM
from sparsefact.constraints.support import Support
from sparsefact.errors import ArgumentError, BudgetError, ShapeError

__all__ = [
    "arrow",
    "banded",
    "block_diagonal",
    "block_low_rank",
    "blocks_around_n_of_m",
    "hodlr",
    "low_rank",
    "low_rank_plus_mask",
    "lu",
    "random_support",
]

Pair = tuple[Support, Support]
Rectangle = tuple[range, range, int]


def random_support(shape: Shape, density: float, *, seed: int = 0) -> Support:
    """Return a random support with a full diagonal: one that many factors of a shape can share.

    Parameters
    ----------
    shape : (int, int)
    density : float
        The support has ``floor(density * m * n)`` positions: the min(m, n) of the diagonal, and others drawn uniformly.
    seed : int
        The same seed gives the same support, which then need not be stored.

    Returns
    -------
    Support

    Raises
    ------
    BudgetError
        If the density leaves no room for the diagonal.

    Examples
    --------
    >>> from sparsefact.constraints.presets import random_support
    >>> support = random_support((6, 6), 0.5, seed=1)
    >>> support.nnz, bool(support.mask().diagonal().all())
    (18, True)
    """
    m, n = _shape(shape)
    density = check_density("density", density)
    count, least = math.floor(density * (m * n)), min(m, n)
    if count < least:
        raise BudgetError(
            f"density={density} of shape {(m, n)} is {count} positions, fewer than the {least} of the diagonal, "
            f"which is always kept; pass at least {density_of(least, m * n)}"
        )
    rng = np.random.default_rng(check_int("seed", seed, 0))
    # places off the diagonal, numbered without it: k-th of them lies after every diagonal place d with d's number <= k
    drawn = rng.choice(m * n - least, size=count - least, replace=False)
    before = np.arange(least) * (n + 1) - np.arange(least)
    flat = drawn + np.searchsorted(before, drawn, side="right")
    rows, cols = np.concatenate([np.divmod(flat, n), np.tile(np.arange(least), (2, 1))], axis=1)
    return Support(sparse.csr_array((np.ones(count, bool), (rows, cols)), shape=(m, n)))


def block_diagonal(shape: Shape, blocks: int) -> Support:
    """Return the support of the block-diagonal matrices with this many blocks of one size.

    Parameters
    ----------
    shape : (int, int)
        Each side a multiple of `blocks`.
    blocks : int

    Returns
    -------
    Support
        Of density ``1 / blocks``.

    Raises
    ------
    ShapeError
        If a side is not a multiple of `blocks`.

    Examples
    --------
    >>> from sparsefact.constraints.presets import block_diagonal
    >>> block_diagonal((2, 4), 2).mask().astype(int)
    array([[1, 1, 0, 0],
           [0, 0, 1, 1]])
    """
    m, n = _shape(shape)
    blocks = check_int("blocks", blocks)
    if m % blocks or n % blocks:
        raise ShapeError(
            f"shape={(m, n)} cannot be cut into {blocks} diagonal blocks of one size; pass a divisor of both"
        )
    pattern = sparse.kron(sparse.eye_array(blocks, dtype=bool), np.ones((m // blocks, n // blocks), bool))
    return Support(sparse.csr_array(pattern))


def blocks_around_n_of_m(shape: Shape, block: int, n: int, m: int) -> tuple[Support, NOfM, Support]:
    """Return block-diagonal, n of every m, block-diagonal: a matrix for sparse units between two small dense mixings.

    Identities fit the outer factors, so the best product is at least as near to a matrix as its projection on `NOfM`.

    Parameters
    ----------
    shape : (int, int)
        Each side a multiple of `block`, the columns of `m` as well.
    block : int
        Rows and columns of each block of the outer factors.
    n, m : int
        At most n nonzeros in every m consecutive entries of a row of the core.

    Returns
    -------
    (Support, NOfM, Support)
        For `factorize`, of shapes (rows, rows), (rows, columns) and (columns, columns).

    Raises
    ------
    ShapeError
        If a side is not a multiple of `block`, or the columns are not one of `m`.

    Examples
    --------
    >>> from sparsefact.constraints.presets import blocks_around_n_of_m
    >>> blocks_around_n_of_m((4, 8), 2, 2, 4)
    (Support(<4 x 4, 8 nonzeros>), NOfM(n=2, m=4, axis=1), Support(<8 x 8, 16 nonzeros>))
    """
    rows, cols = _shape(shape)
    block, core = check_int("block", block), NOfM(n, m)
    if rows % block or cols % block:
        raise ShapeError(f"shape={(rows, cols)} cannot be cut into blocks of {block}; pass a divisor of both sides")
    core.count((rows, cols))
    return block_diagonal((rows, rows), rows // block), core, block_diagonal((cols, cols), cols // block)


def low_rank(shape: Shape, rank: int) -> Pair:
    """Return the supports of the matrices of rank at most `rank`: everything is free.

    Tractable (one truncated SVD), closed, and without spurious local minima.

    Parameters
    ----------
    shape : (int, int)
    rank : int

    Returns
    -------
    (Support, Support)
        Of shapes (m, rank) and (rank, n).

    Examples
    --------
    >>> from sparsefact.constraints.presets import low_rank
    >>> low_rank((4, 5), 2)
    (Support(<4 x 2, 8 nonzeros>), Support(<2 x 5, 10 nonzeros>))
    """
    m, n = _shape(shape)
    return _pair((m, n), [(range(m), range(n), check_int("rank", rank))])


def block_low_rank(row_sizes: Sequence[int], col_sizes: Sequence[int], rank: int | Sequence[Sequence[int]]) -> Pair:
    """Return the supports of a block matrix whose blocks have given ranks (BLR).

    Tractable (one truncated SVD for each block), closed, and without spurious local minima: the blocks do not overlap.

    Parameters
    ----------
    row_sizes, col_sizes : sequence of int
        Heights of the block rows and widths of the block columns.
    rank : int or nested sequence of int
        Of every block, or one for each: ``rank[i][j]`` of block (i, j). A rank of 0 is a block of zeros; a rank of at
        least the smaller side of the block leaves it free.

    Returns
    -------
    (Support, Support)

    Examples
    --------
    >>> from sparsefact.constraints.presets import block_low_rank
    >>> left, right = block_low_rank([2, 2], [3, 3], [[2, 1], [1, 2]])
    >>> left.shape, right.shape
    ((4, 6), (6, 6))
    """
    rows, cols = _blocks("row_sizes", row_sizes), _blocks("col_sizes", col_sizes)
    ranks = np.broadcast_to(np.asarray(rank), (len(rows), len(cols))) if np.ndim(rank) in (0, 2) else None
    if ranks is None or ranks.dtype.kind not in "iu" or (ranks < 0).any() or not ranks.any():
        raise ArgumentError(
            f"rank={rank!r} is not allowed; pass an integer, or one >= 0 for each of the "
            f"{len(rows)} x {len(cols)} blocks"
        )
    rectangles = [(rows[i], cols[j], int(ranks[i, j])) for i in range(len(rows)) for j in range(len(cols))]
    return _pair((rows[-1].stop, cols[-1].stop), rectangles)


def hodlr(n: int, levels: int, rank: int) -> Pair:
    """Return the supports of a hierarchical off-diagonal low-rank matrix.

    The matrix is halved `levels` times along its diagonal; the two off-diagonal blocks of every halving have rank at
    most `rank`, and the diagonal blocks that remain are free. Tractable and closed, since the blocks do not overlap.

    Parameters
    ----------
    n : int
        The size of the (square) matrix.
    levels : int
        At least 0, and such that every half has a row.
    rank : int

    Returns
    -------
    (Support, Support)

    Examples
    --------
    >>> from sparsefact.constraints.presets import hodlr
    >>> left, right = hodlr(8, levels=2, rank=1)
    >>> left.shape
    (8, 14)
    """
    n, levels, rank = check_int("n", n), check_int("levels", levels, 0), check_int("rank", rank)
    if n < 2**levels:
        raise ArgumentError(
            f"levels={levels} halves {n} rows more often than they last; pass at most {n.bit_length() - 1}"
        )
    diagonal, rectangles = [range(n)], []
    for _ in range(levels):
        halves = []
        for block in diagonal:
            middle = (block.start + block.stop) // 2
            first, second = range(block.start, middle), range(middle, block.stop)
            rectangles += [(first, second, rank), (second, first, rank)]
            halves += [first, second]
        diagonal = halves
    return _pair((n, n), [*rectangles, *((block, block, len(block)) for block in diagonal)])


def low_rank_plus_mask(mask: NDArray[np.bool_], rank: int) -> Pair:
    """Return the supports of a matrix of rank at most `rank` plus anything on a mask.

    The free cells are one complete rank-one support for each row that has some. Tractable when the other cells form
    rectangles with pairwise disjoint rows and pairwise disjoint columns; in general this is low-rank matrix completion,
    which is NP-hard.

    Parameters
    ----------
    mask : (m, n) bool array or scipy.sparse matrix
        The free cells.
    rank : int

    Returns
    -------
    (Support, Support)

    Examples
    --------
    >>> import numpy as np
    >>> from sparsefact.constraints.presets import low_rank_plus_mask
    >>> left, right = low_rank_plus_mask(np.eye(4, dtype=bool), rank=1)
    >>> left.shape, right.nnz
    ((4, 5), 8)
    """
    free = Support(mask).tocsr()
    m, n = (int(length) for length in free.shape)
    rank = check_int("rank", rank)
    rows = np.flatnonzero(np.diff(free.indptr))
    left = sparse.hstack(
        [
            sparse.csr_array(np.ones((m, rank), bool)),
            sparse.csr_array((np.ones(rows.size, bool), (rows, range(rows.size))), shape=(m, rows.size)),
        ]
    )
    right = sparse.vstack([sparse.csr_array(np.ones((rank, n), bool)), sparse.csr_array(free)[rows]])
    return Support(left), Support(right)


def lu(n: int) -> Pair:
    """Return the supports of an LU factorization: lower triangular times upper triangular.

    Not tractable for n >= 2 by any known rule, and not closed: the infimum is 0 for every matrix and not always
    attained, for example not for ``[[0, 1], [1, 0]]``.

    Parameters
    ----------
    n : int

    Returns
    -------
    (Support, Support)

    Examples
    --------
    >>> from sparsefact.constraints.presets import lu
    >>> lu(2)[1].mask()
    array([[ True,  True],
           [False,  True]])
    """
    return banded(n, n - 1, n - 1) if check_int("n", n) > 1 else low_rank((1, 1), 1)


def banded(n: int, lower: int, upper: int) -> Pair:
    """Return the supports of the LU factors of a banded matrix.

    Parameters
    ----------
    n : int
    lower, upper : int
        How many diagonals below (above) the main one the left (right) factor has; 0 leaves a diagonal matrix.

    Returns
    -------
    (Support, Support)

    Examples
    --------
    >>> from sparsefact.constraints.presets import banded
    >>> banded(4, 1, 0)[0].nnz
    7
    """
    n = check_int("n", n)
    lower, upper = check_int("lower", lower, 0), check_int("upper", upper, 0)
    if max(lower, upper) >= n:
        raise ArgumentError(f"lower={lower} and upper={upper} must be below n={n}, since there are no more diagonals")
    row, col = np.indices((n, n), sparse=True)
    return Support((col <= row) & (row - col <= lower)), Support((row <= col) & (col - row <= upper))


def arrow(n: int) -> Pair:
    """Return the supports of the LU factors of an arrow matrix: a diagonal, the last row and the last column.

    Parameters
    ----------
    n : int
        At least 2.

    Returns
    -------
    (Support, Support)

    Examples
    --------
    >>> from sparsefact.constraints.presets import arrow
    >>> arrow(3)[0].mask().astype(int)
    array([[1, 0, 0],
           [0, 1, 0],
           [1, 1, 1]])
    """
    mask = np.eye(check_int("n", n, 2), dtype=bool)
    mask[-1] = True
    return Support(mask), Support(mask.T)


def _shape(shape: Any) -> Shape:
    m, n = check_shape(shape)
    if 0 in (m, n):
        raise ShapeError(f"shape={(m, n)} is empty; pass at least one row and one column")
    return m, n


def _blocks(name: str, sizes: Sequence[int]) -> list[range]:
    ends = list(accumulate((check_int(name, size) for size in sizes), initial=0))
    if len(ends) < 2:
        raise ArgumentError(f"{name} is empty; pass at least one positive integer")
    return [range(start, stop) for start, stop in pairwise(ends)]


def _pair(shape: Shape, rectangles: Sequence[Rectangle]) -> Pair:
    """Return supports whose inner indices cover each rectangle as often as its rank says, never more than it needs."""
    rows: list[tuple[range, int]] = []
    cols: list[tuple[range, int]] = []
    inner = 0
    for row, col, rank in rectangles:
        for _ in range(min(rank, len(row), len(col))):
            rows.append((row, inner))
            cols.append((col, inner))
            inner += 1

    def pattern(spans: list[tuple[range, int]], length: int) -> sparse.csr_array:
        index = np.concatenate([np.arange(span.start, span.stop) for span, _ in spans])
        which = np.repeat([k for _, k in spans], [len(span) for span, _ in spans])
        return sparse.csr_array((np.ones(index.size, bool), (index, which)), shape=(length, inner))

    return Support(pattern(rows, shape[0])), Support(pattern(cols, shape[1]).T)
