"""One sparse matrix near a given one, ``A ~ F_1``: a solver of `minimize` on the transposed problem.

To minimise tr((A - F) H (A - F)^H) over F in E, the unknown is B = F^T in E^T, with gram H^T and cross H^T A^T.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np

from sparsefact.factorizers.problem import FactorizationProblem
from sparsefact.minimizers.protocol import MinimizeProblem, Outcome, Report
from sparsefact.objectives.quadratic import Quadratic

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

    def init(self, problem: FactorizationProblem, warm: Any = None) -> tuple[MinimizeProblem, Any]:
        """Write the problem as a quadratic, and start the solver."""
        xp, matrix = problem.backend.xp, problem.matrix
        target = xp.ascontiguousarray(matrix.T)
        if problem.gram is None:
            gram, cross = xp.eye(target.shape[0], dtype=matrix.dtype), target
        else:
            gram = xp.ascontiguousarray(problem.gram.T)
            cross = gram @ target
        (energy,) = problem.backend.floats(xp.vdot(target, cross).real)
        start = None if problem.start is None else xp.ascontiguousarray(problem.start[0].T)
        assert isinstance(problem.constraints, tuple)
        quadratic = Quadratic(gram, cross, None, 0.5 * energy)
        local = MinimizeProblem(quadratic, problem.constraints[0].T, problem.backend, start, problem.seed)
        return local, self.solver.init(local)

    def step(self, problem: FactorizationProblem, state: tuple[MinimizeProblem, Any]) -> None:
        """Let the solver do an iteration."""
        self.solver.step(*state)

    def report(self, problem: FactorizationProblem, state: tuple[MinimizeProblem, Any]) -> Report:
        """Add the relative error to what the solver says."""
        report: Report = self.solver.report(*state)
        energy = 2 * state[0].objective.constant
        error = float(np.sqrt(max(2 * report.objective, 0.0) / energy)) if energy > 0 else 0.0
        return dataclasses.replace(report, error=error)

    def finish(self, problem: FactorizationProblem, state: tuple[MinimizeProblem, Any]) -> Outcome:
        """Return the matrix as the only factor."""
        outcome: Outcome = self.solver.finish(*state)
        return dataclasses.replace(outcome, value=(outcome.value.T,))
