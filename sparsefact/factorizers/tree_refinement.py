"""Better cluster trees by exchanging rows: the whole tree judges what a single level cannot see.

A level pairs rows by its own cost. Under noise a wrong partner may fit slightly better there, at the price of a class
of four, eight, ... that is not nearly of rank one. So after the trees are built, two rows (or two merged rows, with all
that hangs below them) exchange places whenever that lowers the error of the whole factorization.

Which exchanges are worth trying is predicted for all of them at once. At every split, a row in a class explains its
class mates by their leading right singular vectors, one for each part of the columns; leaving out the row at a place,
the others at that place say how much of any row they would explain. The gain of an exchange is the difference of what
two rows have explained at each other's places and at their own, summed over the splits. The most promising exchanges
are then tried for real.

    x: a stack (k, R, w) in canonical order: at split s the classes of rows are the residues mod R / 2^s, the parts of
    the columns 2^s equal intervals of each matrix
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from sparsefact.factorizers.pair_blocks import best_row

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

__all__ = ["bit_reversal", "missed", "refine_trees"]

_ROUNDS = 10
_PATIENCE = 16
_POWER_STEPS = 4
_TINY = np.finfo(np.float64).tiny


def bit_reversal(n: int) -> NDArray[np.intp]:
    """Return the numbers below n, a power of two, in the order of their reversed binary digits.

    It turns residue classes into intervals and back, so it takes the canonical order of a transposed butterfly to
    that of a butterfly.
    """
    order = np.zeros(1, dtype=np.intp)
    while len(order) < n:
        order = np.concatenate([2 * order, 2 * order + 1])
    return order


def missed(x: NDArray[Any]) -> float:
    """Return the squared norm of what rank-one blocks leave out, split after split from left to right.

    Parameters
    ----------
    x : (k, R, w) stack of matrices in canonical order

    Returns
    -------
    float
        Exactly the squared error of the hierarchical factorization in this direction, summed over the stack.
    """
    total = 0.0
    while x.shape[1] > 2:
        x, level = _merge(x)
        total += level
    return total


def _merge(x: NDArray[Any]) -> tuple[NDArray[Any], float]:
    """Return the stack after split 1, and the squared norm that it leaves out."""
    k, rows, width = x.shape
    blocks = x.reshape(k, 2, rows // 2, 2, width // 2).transpose(0, 1, 3, 2, 4)
    merged, left_out = best_row(blocks[:, 0], blocks[:, 1])
    return merged.reshape(2 * k, rows // 2, width // 2), left_out


def refine_trees(
    matrix: NDArray[Any], rows: NDArray[np.intp], cols: NDArray[np.intp], late: Callable[[], bool]
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Exchange rows, then columns, as long as the error of the whole factorization falls.

    Parameters
    ----------
    matrix : float64 or complex128 array of shape (n, n)
    rows, cols : int arrays of shape (n,)
        ``matrix[rows][:, cols]`` is nearly a butterfly.
    late : callable
        Asked between rounds; True ends the refinement.

    Returns
    -------
    rows, cols : int arrays
        Orders whose error is not larger (columns are judged by the error from right to left, rows by that from left to
        right).
    """
    mirror = bit_reversal(len(matrix))
    for _ in range(_ROUNDS):
        better_rows = _refine_rows(matrix[np.ix_(rows, cols)], rows)
        turned = np.ix_(better_rows[mirror], cols[mirror])
        better_cols = _refine_rows(matrix[turned].T, cols[mirror])[mirror]
        if late() or (np.array_equal(rows, better_rows) and np.array_equal(cols, better_cols)):
            return better_rows, better_cols
        rows, cols = better_rows, better_cols
    return rows, cols


def _refine_rows(matrix: NDArray[Any], order: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return the order of the rows of a matrix in canonical order after exchanges at all levels, finest first."""
    x, n = matrix[None], len(order)
    while x.shape[1] > 2:
        places = _exchange(x)
        order = order.reshape(n // len(places), len(places))[:, places].ravel()
        x, _ = _merge(x[:, places])
    return order


def _exchange(x: NDArray[Any]) -> NDArray[np.intp]:
    """Return the order of the rows of a stack after exchanges of two rows that lower what is missed."""
    count = x.shape[1]
    order = np.arange(count)
    least = missed(x)
    for _ in range(_ROUNDS):
        promised = np.triu(_predicted(x[:, order]), 1).ravel()
        candidates = np.argsort(-promised, kind="stable")[:count]
        free, failures = np.ones(count, dtype=bool), 0
        for candidate in candidates[promised[candidates] > 1e-9 * least]:
            pair = np.array(divmod(int(candidate), count))
            if failures == _PATIENCE:
                break
            if not free[pair].all():
                continue
            tried = order.copy()
            tried[pair] = order[pair[::-1]]
            value = missed(x[:, tried])
            if value < least * (1 - 1e-9):
                order, least, free[pair], failures = tried, value, False, 0
            else:
                failures += 1
        if free.all():
            break
    return order


def _predicted(x: NDArray[Any]) -> NDArray[np.float64]:
    """Return the symmetric (R, R) array of what each exchange of two rows promises, positive when it is good."""
    k, count, width = x.shape
    gain = np.zeros((count, count))
    members = 2
    while members < count:
        classes, part = count // members, width // members
        axes = _left_out(x.reshape(k, members, classes, members, part).transpose(0, 2, 3, 1, 4))
        axes = axes.transpose(0, 2, 3, 1, 4).reshape(k * members, count, part)  # place = member * classes + class
        rows = x.reshape(k, count, members, part).swapaxes(1, 2).reshape(k * members, count, part)
        explained = np.zeros((count, count))  # of row i at place j
        for r, axis in zip(rows, axes, strict=True):
            inner = abs(r @ axis.conj().T)
            explained += inner * inner
        change = explained - explained.diagonal()[:, None]
        place = np.arange(count) % classes
        change[place[:, None] == place] = 0.0  # an exchange inside a class changes nothing
        gain += change + change.T
        members *= 2
    return gain


def _left_out(blocks: NDArray[Any]) -> NDArray[Any]:
    """Return, for each row of blocks (..., b, p), nearly the leading right singular vector of the other rows.

    A few power steps from that of all rows, less what the row itself contributes; only a prediction hangs on it.
    """
    members = np.arange(blocks.shape[-2])
    adjoint = blocks.conj().swapaxes(-1, -2)
    if blocks.shape[-2] <= blocks.shape[-1]:
        weights = np.linalg.eigh(blocks @ adjoint)[1][..., -1]
    else:
        right = np.linalg.eigh(adjoint @ blocks)[1][..., -1:]
        weights = (blocks @ right)[..., 0]
    mixed = np.repeat(weights.conj()[..., None, :], len(members), axis=-2)  # row j: the weights of the rows in axis j
    for step in range(_POWER_STEPS):
        mixed[..., members, members] = 0
        axes = mixed @ blocks
        axes = axes / np.maximum(np.sqrt((axes.real**2 + axes.imag**2).sum(axis=-1, keepdims=True)), _TINY)
        if step + 1 < _POWER_STEPS:
            mixed = axes @ adjoint
    result: NDArray[Any] = axes
    return result
