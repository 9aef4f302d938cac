"""One sparse matrix for a matrix, in a weighted norm: the bridge from `factorize` to the solvers of `minimize`.

    minimise 1/2 tr((A - W) G (A - W)^H)   subject to   W in E

In B = W^H it is the quadratic with Gram matrix G and cross term G A^H over the transposed constraint. Without a gram
the nearest matrix of the set is the projection of A on it, whatever the solver.

Symbols: A matrix (m, n), G gram (n, n), B unknown (n, m).
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sparsefact.errors import ArgumentError
from sparsefact.factorizers.problem import FactorizationProblem
from sparsefact.minimizers.admm import ADMM
from sparsefact.minimizers.protocol import MinimizeProblem, Outcome, Report, Solver
from sparsefact.objectives.quadratic import Quadratic
from sparsefact.products.status import Status

__all__ = ["Single"]


@dataclass(frozen=True)
class Single:
    """One factor: the matrix itself made sparse, by any solver of `minimize`.

    Parameters
    ----------
    inner : solver
        Such as ``sf.ADMM()``, ``sf.IHT(variant="htp", polish="swap")``, ``sf.MatchingPursuit()`` or
        ``sf.SequentialAttention()``.

    Raises
    ------
    ArgumentError
        If `inner` is not a solver.

    Examples
    --------
    >>> import numpy as np
    >>> import sparsefact as sf
    >>> rng = np.random.default_rng(0)
    >>> A, inputs = rng.standard_normal((32, 48)), rng.standard_normal((100, 48)) @ rng.standard_normal((48, 48))
    >>> constraint, gram = sf.BlockTopK((4, 4), density=0.5), inputs.T @ inputs
    >>> pruned = sf.factorize(A, (constraint,), sf.Single(sf.MatchingPursuit()), gram=gram)
    >>> E = A - constraint.project(A)
    >>> bool(pruned.error < 0.8 * np.sqrt(np.trace(E @ gram @ E.T) / np.trace(A @ gram @ A.T)))
    True
    """

    inner: Any = field(default_factory=ADMM)

    def __post_init__(self) -> None:
        if isinstance(self.inner, type) or not isinstance(self.inner, Solver):
            raise ArgumentError(f"inner={self.inner!r} is not a solver; pass an instance such as sparsefact.ADMM()")

    @property
    def iterations(self) -> int:
        """Steps of the solver at most."""
        return int(self.inner.iterations)

    @property
    def report_every(self) -> int:
        """Steps between two reports."""
        return int(self.inner.report_every)

    def init(self, problem: FactorizationProblem, warm: Any = None) -> _State:
        """Pose the quadratic and start the solver."""
        state = _State(problem)
        if state.local is not None:
            state.inner = self.inner.init(state.local)
        return state

    def step(self, problem: FactorizationProblem, state: _State) -> None:
        """Do a step of the solver."""
        if state.local is not None:
            self.inner.step(state.local, state.inner)

    def report(self, problem: FactorizationProblem, state: _State) -> Report:
        """Return the report of the solver, with the relative error in the loss."""
        if state.local is None:
            return Report(0.0, None, converged=True)
        found: Report = self.inner.report(state.local, state.inner)
        return dataclasses.replace(found, error=state.relative(found.objective))

    def finish(self, problem: FactorizationProblem, state: _State) -> Outcome:
        """Return the matrix as the only factor."""
        if state.local is None:
            (constraint,) = state.constraints
            text = "Without a gram the nearest sparse matrix is the projection on the constraint."
            return Outcome((constraint.project(problem.matrix),), Status.OPTIMAL, None, text)
        outcome: Outcome = self.inner.finish(state.local, state.inner)
        text = f"{type(self.inner).__name__} chose the entries in the norm of the gram. {outcome.explanation}".strip()
        return dataclasses.replace(outcome, value=(outcome.value.conj().T,), explanation=text)


class _State:
    """The problem of the solver, and where the solver stands."""

    inner: Any

    def __init__(self, problem: FactorizationProblem) -> None:
        if not isinstance(problem.constraints, tuple) or len(problem.constraints) != 1:
            raise ArgumentError("Single finds one matrix; pass one constraint, as (sparsefact.TopK(density=0.1),)")
        self.constraints = problem.constraints
        self.local: MinimizeProblem | None = None
        if problem.gram is None:
            return
        cross = problem.gram @ problem.matrix.conj().T
        self.energy = float((cross * problem.matrix.T).sum(dtype=_wide(problem.matrix)).real)
        objective = Quadratic(problem.gram, cross, None, 0.5 * self.energy)
        start = None if problem.start is None else problem.start[0].conj().T
        self.local = MinimizeProblem(objective, problem.constraints[0].T, problem.backend, start, problem.seed)

    def relative(self, objective: float) -> float | None:
        """Return the relative error in the loss at a value of the objective."""
        return math.sqrt(max(2 * objective, 0.0) / self.energy) if self.energy > 0 else None


def _wide(matrix: Any) -> Any:
    return np.complex128 if matrix.dtype.kind == "c" else np.float64
