"""``minimize``: the best matrix in a constraint set, under a smooth objective."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from sparsefact.backends.protocol import Backend
from sparsefact.backends.registry import get_backend, rounds_to_tf32
from sparsefact.constraints.base import check_dtype, check_finite, check_int, is_constraint
from sparsefact.constraints.low_rank import LowRank
from sparsefact.errors import ArgumentError
from sparsefact.minimizers.adapted import Adapted, as_constraint
from sparsefact.minimizers.admm import ADMM
from sparsefact.minimizers.iht import IHT
from sparsefact.minimizers.loop import run
from sparsefact.minimizers.matching_pursuit import MatchingPursuit
from sparsefact.minimizers.protocol import Callback, MinimizeProblem, Progress, Solver
from sparsefact.minimizers.pursuit_column import is_column
from sparsefact.minimizers.reduced_rank import ReducedRank
from sparsefact.objectives.least_squares import LeastSquares
from sparsefact.objectives.quadratic import Quadratic
from sparsefact.products.status import Status

__all__ = ["Solution", "minimize"]

# Entries up to which they are found one after the other, each with an exact fit.
_PURSUED = 128
# What every solver has. (To ask whether it is a `Solver` says the same, in the time of a small solve.)
_SOLVER = ("iterations", "report_every", "init", "step", "report", "finish")
# Features for each entry, from which a few columns of the Gram matrix cost less than all.
_FEW = 8


@dataclass(frozen=True, eq=False)
class Solution:
    """The result of `minimize`.

    Attributes
    ----------
    value : array, or dict of str to array
        The matrix, inside the constraint; the named matrices, for an objective of several.
    objective : float
        The objective there.
    status : Status
        How the solver ended.
    history : tuple of Progress
    certificate : object or None
        What proves a claim about the value.
    seconds : float
        How long the solver ran.

    Examples
    --------
    >>> import numpy as np
    >>> import sparsefact as sf
    >>> found = sf.minimize(sf.Quadratic(np.eye(2), np.diag([3.0, 1.0])), sf.TopK(nnz=1))
    >>> found.value.tolist(), found.objective, found.status.success
    ([[3.0, 0.0], [0.0, 0.0]], -4.5, True)
    """

    value: Any
    objective: float
    status: Status
    history: tuple[Progress, ...]
    certificate: Any
    seconds: float
    explanation: str = ""

    def explain(self) -> str:
        """Say in sentences which solver ran, what it did, and how it ended."""
        return f"{self.explanation} {self.status.value}".strip()


def minimize(
    objective: Any,
    constraint: Any,
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
    objective : Quadratic, LeastSquares, LogisticRegression, Perceptron or Objective
        What is minimised; its arrays are not modified. A least-squares problem of few features is solved as the
        `Quadratic` that it is.
    constraint : Constraint, or dict of str to Constraint
        Which entries may be nonzero. For an objective of several matrices a dict names those that have a constraint,
        and one `TopK` is a budget of all of them together.
    solver : Solver, optional
        Unless given, ``ADMM()`` for a quadratic (``ReducedRank()`` under `LowRank`), and
        ``IHT(variant="htp", polish="swap")`` for every other objective; ``MatchingPursuit()`` for least squares, or a
        quadratic, of one column of which `TopK` leaves few entries (at most a quarter, and 128): sparse regression.
    init : (p, n) array, or dict of arrays, optional
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
        If an array holds NaN or infinity, or the objective returns one; the sentence names the iteration.
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
    if isinstance(objective, type) or not (hasattr(objective, "value_and_gradient") and _has_shape(objective)):
        raise ArgumentError(
            f"objective is {'the class' if isinstance(objective, type) else 'a'} {_type_name(objective)}; pass a "
            "sparsefact.Quadratic, LeastSquares, LogisticRegression or Perceptron, or an object with a shape and a "
            "method value_and_gradient"
        )
    if not (is_constraint(constraint) or isinstance(constraint, Mapping)):
        raise ArgumentError(
            f"constraint is a {type(constraint).__name__}; pass one such as sparsefact.TopK(density=0.1) or "
            "sparsefact.Support(mask)"
        )
    check_int("seed", seed, 0)
    if hasattr(objective, "validate"):
        objective.validate()
    arrays = tuple(getattr(objective, "arrays", ()))
    given = list(init.values()) if isinstance(init, Mapping) else [init]
    backend = get_backend(*arrays, *given, device=device)
    with backend.active():
        local = objective.on(backend) if hasattr(objective, "on") else objective
        if solver is None:
            solver = _default(local, constraint)
        check_solver(solver)
        quadratic = None if _by_columns(local, constraint, solver) else _as_quadratic(local)
        adapted = Adapted(local, backend, _dtype_of(objective, given))
        constraint = as_constraint(constraint, adapted.shapes)
        if not is_constraint(constraint):
            raise ArgumentError("constraint is a dict, but the objective has one matrix only; pass its constraint")
        constraint.count(adapted.shape)
        start = None if init is None else adapted.taken(_checked(init), "init")
        problem = MinimizeProblem(adapted if quadratic is None else quadratic, constraint, backend, start, seed)
        finished = run(solver, problem, callback=callback, time_limit=time_limit)
        outcome = finished.outcome
        reached = float(adapted.value(outcome.value))
        value = adapted.given(outcome.value)
    # NumPy arrays that were moved come back
    if not any(_on_device(array) for array in (*arrays, *given)):
        value = _to_host(value, backend)
    return Solution(
        value,
        reached,
        outcome.status,
        finished.history,
        outcome.certificate,
        finished.seconds,
        (f"{type(solver).__name__}: {outcome.explanation}" if outcome.explanation else f"{type(solver).__name__}.")
        + precision_of(backend, adapted.dtype),
    )


def _default(objective: Any, constraint: Any) -> Solver:
    """Return the solver unless one is given; exchanges cost many fits without second derivatives."""
    if is_column(objective, constraint):
        if constraint.count(objective.shape) <= min(objective.shape[0] // 4, _PURSUED):
            return MatchingPursuit()
    if isinstance(objective, Quadratic) or (isinstance(objective, LeastSquares) and objective.prefers_quadratic):
        return ReducedRank() if isinstance(constraint, LowRank) else ADMM()
    if hasattr(objective, "hessian"):
        return IHT(variant="htp", polish="swap")
    return IHT(variant="htp", polish="swap", steps=100, swaps=10, candidates=10)


def _by_columns(objective: Any, constraint: Any, solver: Solver) -> bool:
    """Return whether the solver forms a few columns of the Gram matrix itself, which costs less than all of them."""
    if not (isinstance(solver, MatchingPursuit) and is_column(objective, constraint)):
        return False
    if not isinstance(objective, LeastSquares) or isinstance(objective.X, np.memmap):
        return False
    return bool(_FEW * constraint.count(objective.shape) <= objective.shape[0])


def _type_name(x: Any) -> str:
    return x.__name__ if isinstance(x, type) else type(x).__name__


def _has_shape(objective: Any) -> bool:
    return getattr(objective, "shape", None) is not None or getattr(objective, "shapes", None) is not None


def _as_quadratic(objective: Any) -> Quadratic | None:
    """Return the quadratic that an objective is, where it is best treated as one."""
    if isinstance(objective, LeastSquares) and objective.prefers_quadratic:
        return objective.quadratic()
    return objective if isinstance(objective, Quadratic) else None


def _dtype_of(objective: Any, given: list[Any]) -> np.dtype[Any]:
    """Return the type of the unknown: the objective's, else that of the start, else float64."""
    if hasattr(objective, "dtype"):
        own: np.dtype[Any] = np.dtype(objective.dtype)
        return own
    for array in given:
        dtype = getattr(array, "dtype", None)
        if dtype is not None and dtype.kind in "fc" and dtype.itemsize >= 4:
            found: np.dtype[Any] = np.dtype(dtype)
            return found
    return np.dtype(np.float64)


def _checked(init: Any) -> Any:
    """Refuse a start that is not of floating arrays, or not finite."""
    named = init.items() if isinstance(init, Mapping) else [("", init)]
    for key, each in named:
        name = f"init[{key!r}]" if key else "init"
        array = each if hasattr(each, "dtype") and hasattr(each, "ndim") else np.asarray(each)
        check_dtype(name, array.dtype)
        check_finite(name, array)
    return init


def _on_device(array: Any) -> bool:
    return hasattr(array, "device") and not isinstance(array, np.ndarray)


def _to_host(value: Any, backend: Backend) -> Any:
    if isinstance(value, dict):
        return {name: backend.to_host(each) for name, each in value.items()}
    return backend.to_host(value)


def precision_of(backend: Backend, dtype: Any) -> str:
    """Return a sentence where products are not computed in the precision of their operands."""
    if not rounds_to_tf32(backend.name, dtype):
        return ""
    return " cuBLAS rounded the operands of its products to TF32, since CUPY_TF32 is set."


def check_solver(solver: Any) -> None:
    """Refuse what is not a solver, a class given instead of an instance among them."""
    if isinstance(solver, type) or not all(hasattr(solver, name) for name in _SOLVER):
        name = solver.__name__ if isinstance(solver, type) else type(solver).__name__
        hint = f"{name}()" if isinstance(solver, type) else "sparsefact.ADMM() or sparsefact.IHT()"
        raise ArgumentError(f"solver is {solver!r}, which is not a solver; pass an instance such as {hint}")
