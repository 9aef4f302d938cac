"""Telling an infimum that is not attained from slow convergence, by how factors grow while the error creeps.

Where a set of products is not closed, descent can follow a sequence that has no limit in it: the objective falls like a
power of the number of sweeps, and the norms of the balanced factors grow like one. A convergent run has norms that
settle. Over the last two doublings of the sweeps, with sizes S = sum_k ||x_k|| ||y_k|| and objectives f, the run is
called diverging when

    S has grown by at least 10 % in either doubling, and in the second at 0.85 times the rate of the first or more,
    f still falls, in the second doubling by at least a twentieth of what it fell in the first,
    S is at least twice the norm of the product: the terms cancel.

This is evidence, not proof; a closedness certificate is the proof.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from sparsefact.analysis.closedness import Closedness, closedness

__all__ = ["describe", "existence", "is_diverging"]

_SHORTEST = 40
# A power law grows by one factor per doubling; what settles slows down long before it stands still.
_STEADY = 0.85


def is_diverging(objectives: Sequence[float], sizes: Sequence[float], product_norm: float) -> bool:
    """Return whether a run looks like one whose infimum is not attained.

    Parameters
    ----------
    objectives : sequence of float
        After each sweep, not increasing.
    sizes : sequence of float
        Sums of the norms of the rank-one terms after each sweep.
    product_norm : float
        Of the last product.

    Examples
    --------
    >>> sweeps = range(1, 101)
    >>> is_diverging([1 / t for t in sweeps], [t**0.5 for t in sweeps], 1.0)
    True
    >>> is_diverging([1 + 0.5**t for t in sweeps], [3 - 1 / t for t in sweeps], 1.0)
    False
    """
    last = len(objectives) - 1
    if last < _SHORTEST:
        return False
    half, quarter = last // 2, last // 4
    if min(sizes[quarter], sizes[half], sizes[last]) <= 0:
        return False
    earlier, later = math.log(sizes[half] / sizes[quarter]), math.log(sizes[last] / sizes[half])
    grows = later >= math.log(1.1) and earlier >= math.log(1.1) and later >= _STEADY * earlier
    fell, falls = objectives[quarter] - objectives[half], objectives[half] - objectives[last]
    return grows and falls > 0 and falls >= 0.05 * fell and sizes[last] >= 2 * product_norm


def existence(constraints: Any) -> Closedness:
    """Return what is proven about a pair of supports: whether there is an optimum for every matrix.

    However slowly an optimum is approached, for closed supports it is there.
    """
    left, right = constraints
    return closedness(left, right)


def describe(answer: Closedness, size: float, product_norm: float, error: float) -> str:
    """Return the sentence that tells the user of a diverging run what was seen and what is proven."""
    text = (
        f" The infimum looks not attained: the norms of the rank-one terms grew to {size / product_norm:.3g} times the "
        f"norm of their sum while the relative error crept to {error:.3g}, so the factors have no limit; "
    )
    if answer.verdict == "not closed":
        return text + "the certificate proves that these supports have no optimum for some matrices."
    return text + "this is numerical evidence, since sparsefact.closedness does not decide these supports."
