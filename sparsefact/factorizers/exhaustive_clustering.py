"""The last levels of a shuffled butterfly by trying everything: stacks of 4 x 4 and 8 x 8 matrices.

Four rows have 3 matchings and four columns 3 halvings; eight rows have 105 matchings, each followed by 3, that is 315
trees, and eight columns 35 halvings into two fours, each followed by 3 halvings. All of it is a few tables, since given
the tree of the rows the columns of different matrices, and of different halves, do not influence each other.
"""

from __future__ import annotations

import itertools
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from sparsefact.factorizers.balanced_clustering import Clustering, measured
from sparsefact.factorizers.pair_blocks import best_row, sphere_points
from sparsefact.factorizers.row_pairs import all_matchings

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["cluster_exhaustively"]

_CHUNK = 16  # matrices at a time: the tables of one take about 3 MB


def cluster_exhaustively(x: NDArray[Any]) -> Clustering:
    """Return the pairs and halves from which the remaining levels miss least in all.

    Parameters
    ----------
    x : float64 or complex128 array of shape (k, 4, 4) or (k, 8, 8)

    Returns
    -------
    Clustering
        Its cost is that of this level. The sum of this cost and of the best one at the next level (if there is one) is
        the least possible for rows merged pair by pair, up to rounding.
    """
    rows = x.shape[1]
    subsets = _subsets(rows)
    trees = _trees(rows)
    half = len(subsets) // 2  # in lexicographic order a subset and its complement mirror each other
    totals, chosen = np.zeros(len(trees)), []
    for at in range(0, len(x), _CHUNK):
        left = _tree_costs(x[at : at + _CHUNK])  # (chunk, trees, subsets)
        both = left[:, :, :half] + left[:, :, : half - 1 : -1]
        chosen.append(both.argmin(axis=2))
        totals += both.min(axis=2).sum(axis=0)
    best = int(totals.argmin())
    halves = subsets[np.concatenate(chosen)[:, best]]
    return measured(x, np.array(trees[best][0]), halves)


@cache
def _subsets(count: int) -> NDArray[np.bool_]:
    """Return every subset of half of the columns, in lexicographic order, as a boolean array (subsets, columns)."""
    chosen = list(itertools.combinations(range(count), count // 2))
    subsets = np.zeros((len(chosen), count), dtype=bool)
    for subset, columns in zip(subsets, chosen, strict=True):
        subset[list(columns)] = True
    return subsets


@cache
def _trees(rows: int) -> list[tuple[list[tuple[int, int]], list[tuple[int, int]]]]:
    """Return every matching of the rows with every matching of its pairs (none, when there are two pairs)."""
    upper = all_matchings(rows // 2) if rows == 8 else [[]]
    return [(lower, above) for lower in all_matchings(rows) for above in upper]


def _block_costs(lengths: NDArray[np.float64], points: NDArray[np.float64], subsets: NDArray[np.bool_]) -> Any:
    """Return the squared distances to rank one of the blocks of two rows on subsets of the columns."""
    masks = subsets.T.astype(np.float64)
    sums = points @ masks
    return (lengths @ masks - np.sqrt((sums * sums).sum(axis=-2))) / 2


def _tree_costs(x: NDArray[Any]) -> NDArray[np.float64]:
    """Return what is missed on each subset of the columns under each row tree: (k, trees, subsets)."""
    rows = x.shape[1]
    subsets, trees = _subsets(rows), _trees(rows)
    pairs = list(itertools.combinations(range(rows), 2))
    place = {pair: i for i, pair in enumerate(pairs)}
    first, second = np.array(pairs).T
    costs = _block_costs(*sphere_points(x[:, first], x[:, second]), subsets)  # (k, pairs, subsets)
    lower = np.array([[place[pair] for pair in tree] for tree, _ in trees])
    total: NDArray[np.float64] = costs[:, lower].sum(axis=2)
    if rows == 4:
        return total
    columns = np.array([np.flatnonzero(subset) for subset in subsets])
    merged, _ = best_row(x[:, first][..., columns], x[:, second][..., columns])  # (k, pairs, subsets, 4)
    quads = [(i, j) for i, j in itertools.combinations(range(len(pairs)), 2) if not {*pairs[i]} & {*pairs[j]}]
    where = {quad: i for i, quad in enumerate(quads)}
    one, two = np.array(quads).T
    table = _block_costs(*sphere_points(merged[:, one], merged[:, two]), _subsets(4))  # (k, quads, subsets, 6)
    table = table[..., :3] + table[..., :2:-1]
    # The pairs of a matching are listed in ascending order, and so are those of a quad.
    upper = np.array([[where[place[tree[i]], place[tree[j]]] for i, j in above] for tree, above in trees])
    total += table[:, upper].sum(axis=2).min(axis=-1)
    return total
