"""One solver at many penalties, each run from where the one before ended."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from sparsefact.constraints.dense import Dense
from sparsefact.errors import ArgumentError
from sparsefact.minimizers.deep_weight_factorization import DeepWeightFactorization
from sparsefact.minimizers.minimize import Solution, minimize

__all__ = ["regularization_path"]


def regularization_path(
    objective: Any,
    penalties: Iterable[float],
    solver: Any = None,
    *,
    constraint: Any = None,
    init: Any = None,
    seed: int = 0,
    device: str | None = None,
) -> tuple[Solution, ...]:
    """Minimise with each of the penalties, from the smallest to the largest, every run from the last one's end.

    Parameters
    ----------
    objective : objective of `minimize`
    penalties : iterable of float
        Positive, in any order.
    solver : solver with a `penalty`, optional
        `DeepWeightFactorization` or `ProximalGradient`; its own penalty is not used.
    constraint : Constraint, optional
        `Dense` unless given.
    init : array or dict, optional
        Where the first run starts.
    seed, device
        As in `minimize`.

    Returns
    -------
    tuple of Solution
        In the order of `penalties`.

    Raises
    ------
    ArgumentError
        If there are no penalties, one is not positive, or the solver has none.

    Examples
    --------
    >>> import numpy as np
    >>> import sparsefact as sf
    >>> f = sf.Quadratic(np.eye(3), np.array([[3.0], [-2.0], [1.0]]))
    >>> path = sf.regularization_path(f, [0.5, 1.5, 2.5])
    >>> [int(np.count_nonzero(solution.value)) for solution in path]
    [3, 2, 1]
    """
    solver = DeepWeightFactorization() if solver is None else solver
    if not hasattr(solver, "penalty"):
        raise ArgumentError(f"solver is {solver!r}, which has no penalty; pass sparsefact.DeepWeightFactorization()")
    given = list(penalties)
    if not given:
        raise ArgumentError("penalties is empty; pass at least one positive number")
    solvers = [dataclasses.replace(solver, penalty=penalty) for penalty in given]
    constraint = Dense() if constraint is None else constraint
    found: dict[int, Solution] = {}
    for at in sorted(range(len(given)), key=lambda i: given[i]):
        found[at] = minimize(objective, constraint, solvers[at], init=init, seed=seed, device=device)
        init = found[at].value
    return tuple(found[at] for at in range(len(given)))
