"""``minimize``: the best matrix in a constraint set, under a smooth objective."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from sparsefact.backends.protocol import Backend
from sparsefact.backends.registry import get_backend
from sparsefact.constraints.base import Constraint, check_dtype, check_finite, check_int
from sparsefact.errors import ArgumentError, ShapeError
from sparsefact.minimizers.admm import ADMM
from sparsefact.minimizers.loop import run
from sparsefact.minimizers.protocol import Callback, MinimizeProblem, Progress, Solver
from sparsefact.objectives.quadratic import Quadratic
from sparsefact.products.status import Status

__all__ = ["Solution", "minimize"]


@dataclass(frozen=True, eq=False)
class Solution:
    """The result of `minimize`.

    Attributes
    ----------
    value : array
        The matrix, inside the constraint.
    objective : float
        The objective there.
    status : Status
        How the solver ended.
    history : tuple of Progress
    certificate : object or None
        What proves a claim about the value.
    seconds : float
    """

    value: Any
    objective: float
    status: Status
    history: tuple[Progress, ...]
    certificate: Any
    seconds: float


def minimize(
    objective: Quadratic,
    constraint: Constraint,
    solver: Solver | None = None,
    *,
    init: Any = None,
    device: str | None = None,
    seed: int = 0,
    callback: Callback | None = None,
    time_limit: float | None = None,
) -> Solution:
    """Minimise an objective over the matrices of a constraint.

    Parameters
    ----------
    objective : Quadratic
        What is minimised; its arrays are not modified.
    constraint : Constraint
        Which entries may be nonzero.
    solver : Solver, optional
        ``ADMM()`` unless given.
    init : (p, n) array, optional
        Where to start.
    device : str, optional
        Where to compute; None follows the arrays. NumPy arrays are moved there, and the value comes back as one.
    seed : int
        For solvers that draw random numbers.
    callback : callable, optional
        Receives a `Progress` every few iterations; returning True stops.
    time_limit : float, optional
        In seconds; the solver stops after the iteration that exceeds it.

    Returns
    -------
    Solution

    Raises
    ------
    NonFiniteError
        If an array holds NaN or infinity.
    DeviceError
        If the device is not there or too small, or the arrays are not all in one place.
    ArgumentError, ShapeError, DtypeError
        If something does not fit.

    Examples
    --------
    >>> import numpy as np
    >>> import sparsefact as sf
    >>> f = sf.Quadratic(np.eye(2), np.array([[3.0, 1.0], [-4.0, 0.5]]))
    >>> sf.minimize(f, sf.TopK(nnz=2)).value
    array([[ 3.,  0.],
           [-4.,  0.]])
    """
    if not isinstance(objective, Quadratic):
        raise ArgumentError(f"objective is a {type(objective).__name__}; pass a sparsefact.Quadratic")
    if not isinstance(constraint, Constraint):
        raise ArgumentError(
            f"constraint is a {type(constraint).__name__}; pass one such as sparsefact.TopK(density=0.1) or "
            "sparsefact.Support(mask)"
        )
    solver = ADMM() if solver is None else solver
    check_solver(solver)
    check_int("seed", seed, 0)
    objective.validate()
    constraint.count(objective.shape)
    backend = get_backend(objective.gram, objective.cross, objective.right_gram, init, device=device)
    with backend.active():
        local = _moved(objective, backend)
        if init is not None:
            init = backend.asarray(init)
            check_dtype("init", init.dtype)
            if init.shape != objective.shape:
                raise ShapeError(
                    f"init has shape {init.shape}, but the unknown has shape {objective.shape}; they must agree"
                )
            check_finite("init", init)
        problem = MinimizeProblem(local, constraint, backend, init, seed)
        finished = run(solver, problem, callback=callback, time_limit=time_limit)
        outcome = finished.outcome
        reached = float(local.value(outcome.value))
    # NumPy arrays that were moved come back
    value = backend.to_host(outcome.value) if isinstance(objective.cross, np.ndarray) else outcome.value
    return Solution(value, reached, outcome.status, finished.history, outcome.certificate, finished.seconds)


def _moved(objective: Quadratic, backend: Backend) -> Quadratic:
    """Return the objective with its arrays on the device of a backend."""
    right_gram = None if objective.right_gram is None else backend.asarray(objective.right_gram)
    return Quadratic(backend.asarray(objective.gram), backend.asarray(objective.cross), right_gram, objective.constant)


def check_solver(solver: Any) -> None:
    """Refuse what is not a solver, a class given instead of an instance among them."""
    if isinstance(solver, type) or not isinstance(solver, Solver):
        name = solver.__name__ if isinstance(solver, type) else type(solver).__name__
        hint = f"{name}()" if isinstance(solver, type) else "sparsefact.ADMM() or sparsefact.Alternating()"
        raise ArgumentError(f"solver is {solver!r}, which is not a solver; pass an instance such as {hint}")
