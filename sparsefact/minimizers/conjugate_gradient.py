"""Conjugate gradients for a quadratic on a fixed support.

    P(G B H) = P(C),   B = P(B),     P the projection on the support

preconditioned by the diagonals. Without H the columns are independent systems with one matrix: they are iterated
together, each with lengths of its own, so that one product with G serves all of them.

Symbols: G gram, H right_gram, C cross, B unknown, R residual, D direction, w inverse curvatures of the entries.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsefact.constraints.dense import Dense
from sparsefact.constraints.support import Support
from sparsefact.errors import ArgumentError
from sparsefact.minimizers.parameters import check_count, check_non_negative
from sparsefact.minimizers.protocol import MinimizeProblem, Outcome, Report
from sparsefact.minimizers.refit import quadratic_of
from sparsefact.minimizers.stability import stability
from sparsefact.objectives.quadratic import Quadratic
from sparsefact.products.status import Status

__all__ = ["ConjugateGradient"]


@dataclass(frozen=True)
class ConjugateGradient:
    """Preconditioned conjugate gradients, for a quadratic on a fixed support (or none).

    Parameters
    ----------
    steps : int
        Iterations at most.
    tolerance : float
        Ends the iteration when the preconditioned residual of every column (of the whole, with a `right_gram`) has
        shrunk to this fraction of its first size.
    report_every : int
        Iterations between two reports of the objective, which also look whether it has converged.

    Raises
    ------
    ArgumentError
        If a parameter is outside its range; by `minimize`, if the objective is no quadratic or the support is not
        fixed.

    Examples
    --------
    >>> import numpy as np
    >>> import sparsefact as sf
    >>> f = sf.Quadratic(np.array([[2.0, 1.0], [1.0, 3.0]]), np.array([[1.0], [2.0]]))
    >>> sf.minimize(f, sf.Dense(), sf.ConjugateGradient()).value.round(6)
    array([[0.2],
           [0.6]])
    """

    steps: int = 500
    tolerance: float = 1e-10
    report_every: int = 10

    def __post_init__(self) -> None:
        check_count("steps", self.steps)
        check_count("report_every", self.report_every)
        check_non_negative("tolerance", self.tolerance)

    @property
    def iterations(self) -> int:
        """Iterations at most."""
        return self.steps

    def init(self, problem: MinimizeProblem, warm: _State | None = None) -> _State:
        """Form the first residual."""
        objective = quadratic_of(problem, "ConjugateGradient")
        constraint = problem.constraint
        if not isinstance(constraint, (Support, Dense)) and not hasattr(constraint, "a"):
            raise ArgumentError(
                f"constraint is a {type(constraint).__name__}, but ConjugateGradient keeps a fixed support; pass a "
                "sparsefact.Support, KroneckerSupport or Dense, or a solver that chooses, such as sparsefact.IHT()"
            )
        return _State(objective, problem, warm)

    def step(self, problem: MinimizeProblem, state: _State) -> None:
        """Do one iteration."""
        state.advance()

    def report(self, problem: MinimizeProblem, state: _State) -> Report:
        """Measure the objective, and whether the residual is small enough."""
        return Report(float(state.objective.value(state.b)), None, state.converged(self.tolerance))

    def finish(self, problem: MinimizeProblem, state: _State) -> Outcome:
        """Return the point, with a certificate of its residual."""
        gradient = state.objective.gradient(state.b)
        certificate = stability(
            state.objective, state.b, gradient, state.mask, problem.constraint, problem.backend, 0.0, None
        )
        done = state.converged(self.tolerance)
        text = f"{state.iteration} iterations; the largest gradient on the support is {certificate.residual:.3g}."
        return Outcome(state.b, Status.STATIONARY if done else Status.LIMIT, certificate, text)


class _State:
    """The point, its residual on the support and the direction."""

    b: NDArray[Any]

    def __init__(self, objective: Quadratic, problem: MinimizeProblem, warm: _State | None) -> None:
        xp = problem.backend.xp
        self.objective, self.backend, self.iteration = objective, problem.backend, 0
        self.axis = 0 if objective.right_gram is None else None
        start = problem.start if warm is None else warm.b
        self.b = xp.zeros(objective.shape, dtype=objective.dtype) if start is None else start.astype(objective.dtype)
        self.mask = self.backend.asarray(problem.constraint.mask(self.b))
        self.b = self.b * self.mask
        curvature = objective.gram.diagonal().real[:, None]
        if objective.right_gram is not None:
            curvature = curvature * objective.right_gram.diagonal().real[None, :]
        # entries without curvature do not change the objective: they keep their start
        useful = self.mask & (curvature > 0)
        self.weight = xp.where(useful, 1 / xp.where(curvature > 0, curvature, 1), 0).astype(self.b.real.dtype)
        self.residual = -objective.gradient(self.b) * self.mask
        self.direction = self.weight * self.residual
        self.size = self._inner(self.residual, self.direction)
        # below this share of its first size a residual is rounding
        self.floor = (4 * float(np.finfo(self.b.dtype).eps)) ** 2
        self.first = self._inner(objective.cross * self.mask, self.weight * objective.cross)

    def _inner(self, a: NDArray[Any], b: NDArray[Any]) -> Any:
        return (a.conj() * b).real.sum(axis=self.axis, keepdims=True)

    def advance(self) -> None:
        """Do one iteration for every column, without waiting for its result."""
        xp = self.backend.xp
        image = self.objective.gram @ self.direction
        if self.objective.right_gram is not None:
            image = image @ self.objective.right_gram
        image *= self.mask
        curved = self._inner(self.direction, image)
        # a column that has converged has no direction any more: it stays
        moving = (curved > 0) & (self.size > self.floor * self.first)
        length = xp.where(moving, self.size / xp.where(moving, curved, 1), 0)
        self.b = self.b + length * self.direction
        self.residual = self.residual - length * image
        scaled = self.weight * self.residual
        size = self._inner(self.residual, scaled)
        ratio = xp.where(moving, size / xp.where(moving, self.size, 1), 0)
        self.direction = xp.where(moving, scaled + ratio * self.direction, 0)
        self.size = size
        self.iteration += 1

    def converged(self, tolerance: float) -> bool:
        """Tell whether the residual is small in every column; the host waits."""
        return bool((self.size <= max(tolerance**2, self.floor) * self.first).all())

    def value(self) -> NDArray[Any]:
        """Return the point, a new array."""
        return self.b.copy()
