"""One sparse matrix for a matrix, in a weighted norm: the bridge from `factorize` to the solvers of `minimize`.

    minimise 1/2 tr(L (A - W) G (A - W)^H)   subject to   W in E

In B = W^H it is the quadratic with the Gram matrices G and L and the cross term G A^H L over the transposed constraint;
with L alone it is that of W itself. Without either the nearest matrix of the set is the projection of A on it, whatever
the solver.

Symbols: A matrix (m, n), G gram (n, n), L left_gram (m, m), B unknown (n, m), or (m, n) with L alone.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from sparsefact.factorizers.grams import weighed
from sparsefact.factorizers.problem import FactorizationProblem
from sparsefact.minimizers.protocol import MinimizeProblem, Outcome, Report
from sparsefact.objectives.quadratic import Quadratic
from sparsefact.products.status import Status

__all__ = ["OneMatrix"]


@dataclass(frozen=True)
class OneMatrix:
    """A solver of `minimize`, as one for a product of a single factor."""

    solver: Any

    @property
    def iterations(self) -> int:
        """Steps at most."""
        return int(self.solver.iterations)

    @property
    def report_every(self) -> int:
        """Steps between two reports."""
        return int(self.solver.report_every)

    def init(self, problem: FactorizationProblem, warm: Any = None) -> _State:
        """Pose the quadratic, and start the solver."""
        state = _State(problem)
        if state.local is not None:
            state.inner = self.solver.init(state.local)
        return state

    def step(self, problem: FactorizationProblem, state: _State) -> None:
        """Let the solver do an iteration."""
        if state.local is not None:
            self.solver.step(state.local, state.inner)

    def report(self, problem: FactorizationProblem, state: _State) -> Report:
        """Return what the solver reports, with the relative error in the loss."""
        if state.local is None:
            return Report(0.0, None, converged=True)
        found: Report = self.solver.report(state.local, state.inner)
        return dataclasses.replace(found, error=state.relative(found.objective))

    def finish(self, problem: FactorizationProblem, state: _State) -> Outcome:
        """Return the matrix as the only factor."""
        if state.local is None:
            (constraint,) = state.constraints
            text = "Without a Gram matrix the nearest sparse matrix is the projection on the constraint."
            return Outcome((constraint.project(problem.matrix),), Status.OPTIMAL, None, text)
        outcome: Outcome = self.solver.finish(state.local, state.inner)
        text = f"{type(self.solver).__name__} chose the entries in the norm of the {state.norm}."
        text = f"{text} {outcome.explanation}".strip()
        value = outcome.value.conj().T if state.turned else outcome.value
        return dataclasses.replace(outcome, value=(value,), explanation=text)


class _State:
    """The problem of the solver, and where the solver stands."""

    inner: Any

    def __init__(self, problem: FactorizationProblem) -> None:
        assert isinstance(problem.constraints, tuple)
        self.constraints = problem.constraints
        self.local: MinimizeProblem | None = None
        # With a left_gram alone the columns of W itself are independent.
        self.turned = problem.gram is not None
        first, second = (problem.gram, problem.left_gram) if self.turned else (problem.left_gram, None)
        self.norm = "gram" if problem.left_gram is None else "left_gram"
        if first is None:
            return
        if second is not None:
            self.norm = "two Gram matrices"
        xp, turned = problem.backend.xp, self.turned
        target = xp.ascontiguousarray(problem.matrix.conj().T) if turned else problem.matrix
        cross = weighed(target, first, second)
        (self.energy,) = problem.backend.floats(xp.vdot(target, cross).real)
        objective = Quadratic(first, cross, second, 0.5 * self.energy)
        start = None if problem.start is None else problem.start[0]
        if start is not None and turned:
            start = start.conj().T
        constraint = problem.constraints[0].T if turned else problem.constraints[0]
        self.local = MinimizeProblem(objective, constraint, problem.backend, start, problem.seed)

    def relative(self, objective: float) -> float | None:
        """Return the relative error in the loss at a value of the objective."""
        return math.sqrt(max(2 * objective, 0.0) / self.energy) if self.energy > 0 else None
