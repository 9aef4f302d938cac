"""A perfect matching of small weight: every row gets one partner, and the sum of the pairs' costs is small.

Rows that are each other's cheapest partner are paired, round after round; then any two pairs exchange partners as long
as that lowers the sum. The result is optimal against exchanges between two pairs, and found in a few dozen
operations on whole matrices; an exact matching (blossoms) would cost more than it could gain inside an alternation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["match_rows"]


def match_rows(cost: NDArray[np.float64]) -> NDArray[np.intp]:
    """Return R / 2 pairs of R rows with a small sum of costs.

    Parameters
    ----------
    cost : float64 array of shape (R, R)
        Symmetric, R even; the diagonal is ignored.

    Returns
    -------
    int array of shape (R / 2, 2)
        Every row occurs once; no exchange of partners between two pairs lowers the sum (up to rounding).

    Examples
    --------
    >>> import numpy as np
    >>> from sparsefact.factorizers.row_pairs import match_rows
    >>> place = np.array([0.0, 5.0, 0.1, 5.2])
    >>> match_rows(abs(place[:, None] - place)).tolist()
    [[0, 2], [1, 3]]
    """
    cost = cost.copy()
    np.fill_diagonal(cost, np.inf)
    return _exchange(cost, _mutual(cost))


def _mutual(cost: NDArray[np.float64]) -> NDArray[np.intp]:
    """Pair what is each other's cheapest partner among the rows that are left, until none is left."""
    left, pairs = np.arange(len(cost)), []
    while len(left):
        here = cost[np.ix_(left, left)]
        rows, partner = np.arange(len(left)), here.argmin(axis=1)
        found = rows[(partner[partner] == rows) & (rows < partner)]
        if not len(found):  # equal costs can form a ring of preferences; the cheapest pair of all is always right
            first, second = divmod(int(here.argmin()), len(left))
            found, partner[first] = np.array([first]), second
        pairs.append(np.stack([left[found], left[partner[found]]], axis=1))
        left = np.delete(left, np.concatenate([found, partner[found]]))
    return np.concatenate(pairs)


def _exchange(cost: NDArray[np.float64], pairs: NDArray[np.intp]) -> NDArray[np.intp]:
    """Exchange partners between two pairs wherever that lowers the sum; every round does all that do not interfere."""
    slack = 1e-13 * abs(cost[pairs[:, 0], pairs[:, 1]]).sum()
    while True:
        a, b = pairs.T
        now = cost[a, b]
        straight = cost[np.ix_(a, a)] + cost[np.ix_(b, b)]
        crossed = cost[np.ix_(a, b)] + cost[np.ix_(b, a)]
        gain = now[:, None] + now - np.minimum(straight, crossed)
        np.fill_diagonal(gain, 0)
        best = gain.argmax(axis=1)
        top = gain[np.arange(len(pairs)), best]
        order = np.argsort(-top, kind="stable")
        order = order[top[order] > slack]
        if not len(order):
            return pairs
        free, pairs = np.ones(len(pairs), dtype=bool), pairs.copy()
        for i in order:
            j = best[i]
            if free[i] and free[j]:
                free[i] = free[j] = False
                other = [a[j], b[j]] if straight[i, j] <= crossed[i, j] else [b[j], a[j]]
                pairs[i], pairs[j] = [a[i], other[0]], [b[i], other[1]]


def all_matchings(rows: int) -> list[list[tuple[int, int]]]:
    """Return every perfect matching of an even number of rows: 1, 3, 15, 105 for 2, 4, 6, 8."""
    return list(_matchings(tuple(range(rows))))


def _matchings(rows: tuple[int, ...]) -> Any:
    if not rows:
        yield []
        return
    for i in range(1, len(rows)):
        for rest in _matchings(rows[1:i] + rows[i + 1 :]):
            yield [(rows[0], rows[i]), *rest]
