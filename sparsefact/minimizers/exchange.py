"""Exchange of entries: a polish of the support of one matrix that only ever lowers the objective.

For a point that is fitted on its support, with g the gradient and h the curvature G_ii H_jj of an entry: dropping a
kept entry w raises the objective by h w^2 / 2 while the others stay, taking in one that is left out lowers it by
g^2 / (2 h). The constraint chooses among these gains, so every pattern can be exchanged in. The fit that follows counts
the interactions, and what did not lower the objective is undone; then what is left out must beat what is kept by a
larger factor.
"""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from sparsefact.backends.protocol import Backend
from sparsefact.constraints.base import Constraint
from sparsefact.minimizers.refit import conjugate_gradients
from sparsefact.objectives.quadratic import Quadratic

__all__ = ["HANDICAP", "exchange"]

# Exchanges that promise less than this share of what the entries explain are not tried.
_WORTHLESS = 1e-9
# An exchange that lowered the objective by less than this share is the last.
_SLOW = 1e-5
HANDICAP = 0.6
"""After an exchange that was refused, what is left out counts less by this factor."""


def exchange(
    objective: Quadratic,
    constraint: Constraint,
    value: NDArray[Any],
    mask: NDArray[Any],
    backend: Backend,
    *,
    rounds: int,
    iterations: int = 6,
) -> tuple[NDArray[Any], NDArray[Any], int]:
    """Exchange kept entries for better ones while the objective falls.

    Parameters
    ----------
    objective : Quadratic
    constraint : Constraint
        What the new support must obey.
    value, mask : (p, n) arrays
        The point, fitted on its support, and the support; not modified.
    backend : Backend
    rounds : int
        Exchanges that are tried.
    iterations : int
        Conjugate gradients of the fit after each.

    Returns
    -------
    value, mask : arrays
        With an objective that is at most that of the given point.
    count : int
        How many entries were exchanged.
    """
    xp = backend.xp
    right = 1 if objective.right_gram is None else objective.right_gram.diagonal().real[None, :]
    curvature = objective.gram.diagonal().real[:, None] * right
    root = xp.sqrt(curvature * (curvature > 0))
    inverse = xp.where(root > 0, 1 / xp.where(root > 0, root, 1), 0)
    exchanged, handicap = 0, 1.0
    (reached,) = backend.floats(objective.value(value))
    for _ in range(rounds):
        factor = root.dtype.type(handicap)
        scores = xp.where(mask, abs(value) * root, factor * abs(objective.gradient(value)) * inverse)
        fresh = backend.asarray(constraint.mask(scores))
        squares = scores * scores
        kept = (squares * mask).sum()
        taken, gain, explained = backend.floats((fresh & ~mask).sum(), (squares * fresh).sum() - kept, kept)
        if not gain > _WORTHLESS * explained:
            break
        trial = conjugate_gradients(objective, fresh, value * fresh, iterations=iterations, tolerance=1e-6)
        (lower,) = backend.floats(objective.value(trial))
        if lower < reached:
            fall, value, mask, reached = reached - lower, trial, fresh, lower
            exchanged += int(taken)
            if fall < _SLOW * explained:
                break
        else:
            handicap *= HANDICAP
    return value, mask, exchanged
