"""The trees of the rows and columns of a shuffled butterfly, level by level.

A butterfly of size n = 2^L has L - 1 splits; at split s the rows form n / 2^s classes of 2^s, the columns 2^s classes
of n / 2^s, and every block of a row class and a column class has rank one. Classes are nested: two binary trees. With
the pairs of rows and the halves of columns of split 1 known, each pair is one row on each half (its rank-one block),
and what is left is a stack of two butterflies of half the size, whose rows share one tree. So the trees are found level
by level, from n rows of n columns to stacks of 8 rows of 8 columns, where every possibility is tried.

Starting with the halves of the rows and the pairs of columns is the same search on the transposed matrix, and as good:
restarts take turns. What the levels leave out is, in sum, exactly the squared error of the factorization that projects
in the same order.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from sparsefact.factorizers.balanced_clustering import cluster_level, merge_pairs
from sparsefact.factorizers.exhaustive_clustering import cluster_exhaustively
from sparsefact.factorizers.tree_refinement import bit_reversal, missed, refine_trees
from sparsefact.minimizers.protocol import Progress
from sparsefact.products.status import Status

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from sparsefact.minimizers.protocol import Callback

__all__ = ["ClusterTrees", "find_cluster_trees"]

Side: TypeAlias = Literal["left-to-right", "right-to-left"]
_SIDES: tuple[Side, Side] = ("left-to-right", "right-to-left")


@dataclass(frozen=True)
class ClusterTrees:
    """Orders of rows and columns under which a matrix is nearly a butterfly, and how they were found.

    Attributes
    ----------
    rows, cols : int array of shape (n,)
        ``A[rows][:, cols]`` is the nearly butterfly matrix.
    error : float
        The relative Frobenius error of its hierarchical factorization in the direction `order`.
    order : str
        "left-to-right" or "right-to-left".
    status : Status
    history : tuple of Progress
        One entry for every restart, with the least error so far.
    again : int
        In how many of the other restarts an error within 1 % of the least came out.
    """

    rows: NDArray[np.intp]
    cols: NDArray[np.intp]
    error: float
    order: Side
    status: Status
    history: tuple[Progress, ...]
    again: int


def find_cluster_trees(
    matrix: NDArray[Any],
    *,
    restarts: int = 6,
    seed: int = 0,
    callback: Callback | None = None,
    time_limit: float | None = None,
) -> ClusterTrees:
    """Find the orders of rows and columns under which a matrix is nearest to a butterfly.

    Parameters
    ----------
    matrix : float64 or complex128 array of shape (n, n)
        n a power of two, at least 2; finite.
    restarts : int
        Searches at most; they end sooner when one is exact, or finds the trees that another found.
    seed : int
        For what is drawn at random.
    callback : callable, optional
        Receives a `Progress` after every restart; returning True ends the search.
    time_limit : float, optional
        In seconds; the first search shortens itself to it, and no other starts after it.

    Returns
    -------
    ClusterTrees
    """
    started = time.perf_counter()

    def late() -> bool:
        return time_limit is not None and time.perf_counter() - started > time_limit

    n = len(matrix)
    scaled = matrix / (max(abs(matrix.real).max(), abs(matrix.imag).max()) or 1.0)  # squares stay in range
    scaled = scaled / (np.linalg.norm(scaled) or 1.0)
    rounding = 64 * np.finfo(np.float64).eps * max(n.bit_length(), 1)
    total = min(restarts, 2) if n <= 8 else restarts
    rows = cols = np.arange(n)
    least, side = np.inf, _SIDES[0]
    errors: list[float] = []
    history: list[Progress] = []
    status, misled = Status.STATIONARY, False
    for restart in range(total):
        rng = np.random.default_rng((seed, restart))
        shaken = scaled + 1e-6 / n * rng.standard_normal(scaled.shape) if misled else scaled
        new_rows, new_cols, dead_end = _search(shaken, rng, late, flipped=restart % 2 == 1)
        # Where many clusterings of a level are exact, not all of them lead on; a little noise makes the search go on
        # among them, instead of ending with the first.
        misled = misled or dead_end
        error, order = _error(scaled, new_rows, new_cols)
        if error > rounding and n > 8:
            new_rows, new_cols = refine_trees(scaled, new_rows, new_cols, late)
            error, order = _error(scaled, new_rows, new_cols)
        errors.append(error)
        if error < least:
            rows, cols, least, side = new_rows, new_cols, error, order
        history.append(Progress(restart + 1, total, 0.5 * least**2, least, time.perf_counter() - started))
        if callback is not None and callback(history[-1]):
            status = Status.STOPPED
            break
        if least <= rounding or sum(abs(other - least) <= 1e-9 * least for other in errors) > 1:
            break
        if late():
            status = Status.LIMIT
            break
    again = int(np.count_nonzero(np.array(errors) <= 1.01 * least + rounding)) - 1
    return ClusterTrees(rows, cols, least, side, status, tuple(history), again)


def _search(
    matrix: NDArray[Any], rng: np.random.Generator, late: Callable[[], bool], *, flipped: bool
) -> tuple[NDArray[np.intp], NDArray[np.intp], bool]:
    """Return orders of rows and columns, and whether exact levels were followed by one that is not."""
    n = len(matrix)
    x = np.ascontiguousarray(matrix.T if flipped else matrix)[None]
    columns, levels, exact = np.arange(n)[None], [], []
    while x.shape[1] > 2:
        found = cluster_level(x, rng, late) if x.shape[1] > 8 else cluster_exhaustively(x)
        k, _, width = x.shape
        columns = np.stack([columns[h].reshape(k, width // 2) for h in (found.halves, ~found.halves)], axis=1)
        columns = columns.reshape(2 * k, width // 2)
        x, _ = merge_pairs(x, found)
        levels.append(found.pairs)
        exact.append(found.exact)
    rows = np.arange(2)
    for pairs in reversed(levels):
        rows = np.concatenate([pairs[rows, 0], pairs[rows, 1]])
    cols = columns.ravel()
    if flipped:
        mirror = bit_reversal(n)
        rows, cols = cols[mirror], rows[mirror]
    return rows, cols, bool(exact) and exact[0] and not all(exact)


def _error(matrix: NDArray[Any], rows: NDArray[np.intp], cols: NDArray[np.intp]) -> tuple[float, Side]:
    """Return the smaller error of both directions of projecting, relative to a matrix of norm one."""
    ordered = matrix[np.ix_(rows, cols)]
    mirror = bit_reversal(len(matrix))
    forward, backward = missed(ordered[None]), missed(ordered.T[np.ix_(mirror, mirror)][None])
    return float(np.sqrt(min(forward, backward))), _SIDES[int(backward < forward)]
