"""Alternating least squares for two fixed supports: exact half-steps, the best local method where no exact one exists.

With one factor fixed, every row (column) of the other is a small least-squares problem on its own support:

    minimise 1/2 || V - Y^T X ||^2 over X on its support:   gram = conj(Y) Y^T,   cross = conj(Y) V       V = A^T or A

Both half-steps are this one: X = L^T with V = A^T, or the roles exchanged. The Gram matrix is formed once, by a matrix
product; each column gathers its own part of it, and columns with equal supports are put side by side, where they share
one factorization.

The objective never rises: a sweep that raises it, as rounding can for terms that nearly cancel, is tried again in
proximal form and is not taken when that rises too. At a stationary point, terms are exchanged for larger singular
triplets of the residual where that descends (the saddles whose descent direction is known). With

    1/2 ||A - L R||^2 + lambda/2 (||L||^2 + ||R||^2)

a minimiser exists for every pair of supports, since the sum is coercive; lambda then shrinks to zero.

References: Q.-T. Le, E. Riccietti, R. Gribonval, "Spurious valleys, NP-hardness, and tractability of sparse matrix
factorization with fixed support", arXiv 2112.00386 (the problem, its hardness, and what its landscape hides);
Q.-T. Le, E. Riccietti, R. Gribonval, "Does a sparse ReLU network training problem always admit an optimum?",
arXiv 2306.02666 (infima that are not attained).

Symbols: A matrix (m, n), k inner, X = L^T (k, m), Y = R (k, n), E = A - X^T Y, H gram (n, n), lambda tikhonov.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sparsefact.errors import ArgumentError
from sparsefact.factorizers import starts
from sparsefact.factorizers.als_search import Search
from sparsefact.factorizers.divergence import describe, existence
from sparsefact.factorizers.problem import FactorizationProblem
from sparsefact.minimizers.parameters import check_count, check_non_negative
from sparsefact.minimizers.protocol import Outcome, Report
from sparsefact.products.status import Status

__all__ = ["AlternatingLeastSquares"]


@dataclass(frozen=True)
class AlternatingLeastSquares:
    """Alternating least squares on a pair of fixed supports, from several starts.

    Parameters
    ----------
    iterations : int
        Sweeps (one half-step for each factor) at most.
    tolerance : float
        It ends when two sweeps in turn lower the objective by less than this, relatively, and the factors no longer
        grow.
    tikhonov : float
        Lambda at the start, relative to the root mean square of the singular values of A; 0 for none.
    continuation : float
        Lambda is multiplied by this after every sweep, and dropped after nine orders of magnitude; 1 keeps it.
    restarts : int
        Random starts that compete with the two that are built from singular vectors of the blocks of A.
    trial_sweeps : int
        Sweeps after which the best of the starts is kept. A start that is given has no competitors.
    escapes : int
        How often a saddle with a known descent direction is left, at most.
    report_every : int
        Sweeps between two reports.

    Raises
    ------
    ArgumentError
        If a parameter is outside its range.

    Notes
    -----
    With a full `gram` H the right half-step is a few dozen conjugate gradient steps from where it stood, saddles are
    not left, and Tikhonov's term weighs the right factor as the loss does, ``tr(R H R^H)``. A diagonal one is exact.

    Examples
    --------
    >>> import numpy as np
    >>> import sparsefact as sf
    >>> from sparsefact.factorizers.als import AlternatingLeastSquares
    >>> from sparsefact.factorizers.problem import FactorizationProblem
    >>> from sparsefact.backends.registry import get_backend
    >>> from sparsefact.minimizers.loop import run
    >>> left = sf.Support(np.array([[1, 0], [1, 1], [0, 1]], dtype=bool))
    >>> right = sf.Support(np.array([[1, 1, 0], [0, 1, 1]], dtype=bool))
    >>> A = np.array([[1.0, 2.0, 0.0], [2.0, 3.0, 1.0], [0.0, -1.0, 1.0]])
    >>> problem = FactorizationProblem(A, (left, right), ((3, 2), (2, 3)), None, get_backend(A))
    >>> finished = run(AlternatingLeastSquares(), problem)
    >>> L, R = finished.outcome.value
    >>> bool(np.allclose(L @ R, A)), finished.outcome.status.name
    (True, 'STATIONARY')
    """

    iterations: int = 500
    tolerance: float = 1e-8
    tikhonov: float = 0.0
    continuation: float = 0.9
    restarts: int = 2
    trial_sweeps: int = 5
    escapes: int = 10
    report_every: int = 5

    def __post_init__(self) -> None:
        for name, least in (
            ("iterations", 1),
            ("restarts", 0),
            ("trial_sweeps", 1),
            ("escapes", 0),
            ("report_every", 1),
        ):
            check_count(name, getattr(self, name), least)
        for name in ("tolerance", "tikhonov"):
            check_non_negative(name, getattr(self, name))
        if not 0 < self.continuation <= 1:
            raise ArgumentError(f"continuation={self.continuation!r} is not allowed; pass a number in (0, 1]")

    def init(self, problem: FactorizationProblem, warm: Search | None = None) -> Search:
        """Check the constraints, and choose where to start: what is given, or the best of several after some sweeps."""
        state = Search(problem, self.tikhonov)
        given = warm.factors() if warm is not None else problem.start
        if state.trivial:
            # Without classes, deflation places nothing.
            state.take(starts.deflation(state.backend.to_host(state.matrix), [], state.inner))
        elif given is not None:
            state.take_factors(given)
            state.note = "It started from the given factors."
        else:
            self._compete(state)
        state.trace = [(state.value, state.point.size)]
        return state

    def _compete(self, state: Search) -> None:
        seed, matrix = state.problem.seed, state.backend.to_host(state.matrix)
        ends: list[tuple[float, str, starts.Pair]] = []
        for name in ("surrogate", "deflation", *(f"random start {i + 1}" for i in range(self.restarts))):
            if name == "surrogate":
                pair = starts.surrogate(matrix, state.groups, state.inner)
            elif name == "deflation":
                pair = starts.deflation(matrix, state.groups, state.inner)
            else:
                pair = starts.gaussian(matrix, *state.supports, [seed, len(ends)])
            state.take(pair)
            for _ in range(self.trial_sweeps):
                if not state.sweep():
                    break
            ends.append((state.value, name, state.pair))
        best = min(range(len(ends)), key=lambda i: ends[i][0])
        state.take(ends[best][2])
        state.note = f"Of {len(ends)} starts, the best after {self.trial_sweeps} sweeps was the {ends[best][1]}."

    def step(self, problem: FactorizationProblem, state: Search) -> None:
        """Do a half-step for each factor; at a stationary point, look for a saddle to leave."""
        if state.converged:
            return
        before = state.value
        taken = state.sweep()
        state.iteration += 1
        state.trace.append((state.value, state.point.size))
        settled = state.settle_penalty(self.continuation)
        if state.exact:
            state.converged = True
            return
        tolerance = max(self.tolerance, 4 * float(np.finfo(state.matrix.dtype).eps))
        state.stalled = state.stalled + 1 if not taken or before - state.value <= tolerance * before else 0
        if settled and (not taken or state.stalled >= 2):
            state.stalled = 0
            escaped = state.escaped < self.escapes and state.escape(tolerance)
            # Creeping is not converging while the factors still grow.
            state.converged = not escaped and not (taken and state.diverging())

    def report(self, problem: FactorizationProblem, state: Search) -> Report:
        """Give the objective, Tikhonov's term included, and the relative error in the loss."""
        state.refresh()
        return Report(state.value * state.unit**2, state.error, state.converged)

    def finish(self, problem: FactorizationProblem, state: Search) -> Outcome:
        """Share the scale of every term evenly, and say how the run ended."""
        state.refresh()
        status = Status.STATIONARY if state.converged else Status.LIMIT
        explanation, certificate = state.explain(), None
        if state.diverging() and (answer := existence(problem.constraints)).verdict != "closed":
            status = Status.INFIMUM_NOT_ATTAINED
            certificate = answer if answer.verdict == "not closed" else None
            explanation += describe(answer, state.point.size, state.product_norm(), state.error)
            explanation += " Bounded factors come from tikhonov=1e-3 with continuation=1."
        return Outcome(state.factors(), status, certificate, explanation)
