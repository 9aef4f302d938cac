"""One budget for many matrices: nonzeros go where the measured error curves say that they gain most.

Every matrix has a curve of squared relative errors over nonzeros. Minimising the sum of the squared errors over the
lower convex hulls of the curves is a linear program whose solution is greedy: always the segment of the steepest fall.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from sparsefact.errors import BudgetError

__all__ = ["Curve", "allocate", "hull", "probe_densities"]

_FRACTIONS = (0.4, 0.7, 1.0, 1.4, 2.0)


@dataclass(frozen=True, slots=True)
class Curve:
    """What was measured of one matrix.

    Attributes
    ----------
    entries : int
        Of the matrix.
    points : sequence of (int, float)
        Nonzeros of both factors together, and the relative error reached with them.
    """

    entries: int
    points: Sequence[tuple[int, float]]


def probe_densities(total: float) -> tuple[float, ...]:
    """Return the densities at which errors are measured for a budget: around that of the budget itself.

    Parameters
    ----------
    total : float
        The budget, as a density.

    Returns
    -------
    tuple of float
        Ascending, at most 1.

    Examples
    --------
    >>> probe_densities(0.4)
    (0.16, 0.28, 0.4, 0.56, 0.8)
    """
    return tuple(dict.fromkeys(round(min(1.0, total * fraction), 12) for fraction in _FRACTIONS))


def hull(curve: Curve) -> list[tuple[int, float]]:
    """Return the lower convex hull of a curve of squared errors; at as many nonzeros as entries the error is zero.

    Parameters
    ----------
    curve : Curve
        At least one point.

    Returns
    -------
    list of (int, float)
        Nonzeros and squared errors, falling ever less steeply.

    Examples
    --------
    >>> hull(Curve(100, [(10, 0.8), (20, 0.8), (40, 0.2)]))
    [(10, 0.6400000000000001), (40, 0.04000000000000001), (100, 0.0)]
    """
    points = sorted({(min(nnz, curve.entries), error * error) for nnz, error in curve.points} | {(curve.entries, 0.0)})
    kept: list[tuple[int, float]] = []
    for nnz, square in points:
        if kept and nnz == kept[-1][0]:
            continue
        while len(kept) > 1 and (kept[-1][1] - kept[-2][1]) * (nnz - kept[-2][0]) >= (square - kept[-2][1]) * (
            kept[-1][0] - kept[-2][0]
        ):
            kept.pop()
        kept.append((nnz, square))
    return kept


def allocate(curves: Mapping[str, Curve], count: int) -> dict[str, int]:
    """Share a count of nonzeros out, to the last one.

    Parameters
    ----------
    curves : mapping of str to Curve
        For each matrix.
    count : int
        The sum of what they get.

    Returns
    -------
    dict of str to int
        Adds up to `count` exactly; each gets at least the nonzeros of its first measured point.

    Raises
    ------
    BudgetError
        If the count is smaller than the first points together, or larger than all entries.

    Examples
    --------
    >>> steep, flat = Curve(100, [(10, 0.9), (50, 0.1)]), Curve(100, [(10, 0.5), (50, 0.45)])
    >>> allocate({"steep": steep, "flat": flat}, 80)
    {'steep': 50, 'flat': 30}
    """
    hulls = {name: hull(curve) for name, curve in curves.items()}
    given = {name: points[0][0] for name, points in hulls.items()}
    left = count - sum(given.values())
    most = sum(curve.entries for curve in curves.values())
    if left < 0 or count > most:
        raise BudgetError(
            f"the budget of {count} nonzeros is outside what {len(curves)} matrices can have together, from "
            f"{count - left} to {most}; change the total"
        )
    segments = [
        ((a[1] - b[1]) / (b[0] - a[0]), order, b[0] - a[0], name)
        for order, (name, points) in enumerate(hulls.items())
        for a, b in pairwise(points)
    ]
    # The segments of one matrix come in their order, since a hull falls ever less steeply and the sort is stable.
    for _, _, length, name in sorted(segments, key=lambda segment: (-segment[0], segment[1])):
        step = min(length, left)
        given[name] += step
        left -= step
    return given
