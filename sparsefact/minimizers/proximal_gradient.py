"""Proximal gradient descent for the penalty that deep weight factorization stands for.

    minimise f(W) + lambda sum_j ||W_j||^(2 / depth)   over entries, or blocks, W_j

    W_j <- prox(W_j - g_j / L),     the scalar problem of `sparsefact.minimizers.thresholds` on magnitudes

Its direct competitor: no factors, closed-form thresholds, exact zeros from the first step. For depth 2 (lasso, group
lasso) the steps are accelerated with a restart (A. Beck, M. Teboulle, "A fast iterative shrinkage-thresholding
algorithm", 2009; B. O'Donoghue, E. Candes, 2015).

Symbols: w unknown, g gradient, L Lipschitz constant, y extrapolated point.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsefact.constraints.base import Constraint
from sparsefact.constraints.dense import Dense
from sparsefact.minimizers.adapted import dot, measure, not_finite
from sparsefact.minimizers.block_norms import block_sums, check_blocks, fit_blocks, spread
from sparsefact.minimizers.parameters import check_count, check_depth, check_non_negative, check_penalty
from sparsefact.minimizers.protocol import MinimizeProblem, Outcome, Report
from sparsefact.minimizers.restricted import fit_on
from sparsefact.minimizers.smoothness import estimate
from sparsefact.minimizers.thresholds import shrink
from sparsefact.products.status import Status

__all__ = ["ProximalGradient"]


@dataclass(frozen=True)
class ProximalGradient:
    """Minimise ``f(W) + penalty * sum ||W_j||^(2 / depth)`` by gradient steps and closed-form thresholds.

    Parameters
    ----------
    depth : int
        2 is the lasso (group lasso with blocks); more is not convex.
    penalty : float
        Positive.
    blocks : (int, int), optional
        Rows and columns of the blocks; single entries unless given.
    steps : int
    tolerance : float
        Ends the run when a step moves by less than this, relatively.
    refit : bool
        End with the best values on the support, without the penalty.
    report_every : int
        Steps between two reports of the penalised objective.

    Raises
    ------
    ArgumentError, ShapeError
        If a parameter is outside its range, or the blocks do not divide the matrix.

    Examples
    --------
    >>> import numpy as np
    >>> import sparsefact as sf
    >>> f = sf.Quadratic(np.eye(2), np.array([[3.0, -0.5], [1.0, -2.0]]))
    >>> sf.minimize(f, sf.Dense(), sf.ProximalGradient(penalty=1.0)).value
    array([[ 2.,  0.],
           [ 0., -1.]])
    """

    depth: int = 2
    penalty: float = 1e-3
    blocks: tuple[int, int] | None = None
    steps: int = 5000
    tolerance: float = 1e-12
    refit: bool = False
    report_every: int = 10

    def __post_init__(self) -> None:
        check_depth(self.depth)
        check_penalty(self.penalty)
        object.__setattr__(self, "blocks", check_blocks(self.blocks))
        check_count("steps", self.steps)
        check_count("report_every", self.report_every)
        check_non_negative("tolerance", self.tolerance)

    @property
    def iterations(self) -> int:
        """Steps at most."""
        return self.steps

    def init(self, problem: MinimizeProblem, warm: _State | None = None) -> _State:
        """Take the first point and the step."""
        return _State(self, problem, warm)

    def step(self, problem: MinimizeProblem, state: _State) -> None:
        """Take a gradient step and shrink."""
        if not state.converged:
            state.advance()

    def report(self, problem: MinimizeProblem, state: _State) -> Report:
        """Return the penalised objective."""
        return Report(state.total, None, state.converged)

    def finish(self, problem: MinimizeProblem, state: _State) -> Outcome:
        """Return the point, projected where there is a constraint, and refitted on request."""
        backend, value = problem.backend, state.w
        if not isinstance(problem.constraint, Dense):
            value = value * backend.asarray(problem.constraint.mask(value))
        if self.refit:
            value = fit_on(problem.objective, value != 0, value, backend, where="in the refit at the end").w
        text = f"{state.iteration} proximal steps for the penalty {self.penalty:.4g} sum |W|^(2/{self.depth})."
        return Outcome(value, Status.STATIONARY if state.converged else Status.LIMIT, None, text)


class _State:
    """The point, the extrapolated one, and their values."""

    w: NDArray[Any]

    def __init__(self, solver: ProximalGradient, problem: MinimizeProblem, warm: _State | None) -> None:
        self.solver, self.objective, self.backend = solver, problem.objective, problem.backend
        self.block = fit_blocks(solver.blocks, problem.objective)
        start = problem.start if warm is None else warm.w
        if start is None and hasattr(self.objective, "initial"):
            start = self.objective.initial(problem.seed)
        xp = self.backend.xp
        self.w = (
            xp.zeros(self.objective.shape, dtype=self.objective.dtype)
            if start is None
            else start.astype(self.objective.dtype)
        )
        self.ahead, self.momentum, self.iteration, self.converged = self.w, 1.0, 0, False
        largest = self.objective.lipschitz()
        self.guaranteed = largest is not None
        if largest is None:
            constraint: Constraint = Dense()
            largest, _ = estimate(self.objective, "power", constraint, self.w, self.backend, problem.seed)
        self.length = 1.0 / largest if largest else 1.0
        value, self.slope = measure(self.objective, self.w, self.backend, "at the start")
        self.total = value + self._penalty(self.w)
        self.ahead_value = value

    def _norms(self, x: NDArray[Any]) -> NDArray[Any]:
        return abs(x) if self.block == (1, 1) else block_sums(abs(x) ** 2, self.block) ** 0.5

    def _penalty(self, x: NDArray[Any]) -> float:
        norms = self._norms(x)
        exponent = norms.dtype.type(2.0 / self.solver.depth)
        (total,) = self.backend.floats((norms**exponent).sum())
        return self.solver.penalty * total

    def _shrunk(self, x: NDArray[Any]) -> NDArray[Any]:
        xp, norms = self.backend.xp, self._norms(x)
        kept = shrink(norms, self.solver.penalty * self.length, self.solver.depth, xp)
        ratio = xp.where(norms > 0, kept / xp.where(norms > 0, norms, 1), 0)
        shrunk: NDArray[Any] = x * spread(ratio, self.block, xp) + 0
        return shrunk

    def advance(self) -> None:
        """Take one step from the extrapolated point; from the point itself where that does not lower the objective."""
        self.iteration += 1
        kind = self.w.real.dtype.type
        for _ in range(60):
            moved = self._shrunk(self.ahead - kind(self.length) * self.slope)
            change = moved - self.ahead
            where = f"at iteration {self.iteration}, after a step of length {self.length:.3g}"
            value, slope = measure(self.objective, moved, self.backend, where)
            linear, squared = self.backend.floats(dot(self.slope, change), dot(change, change))
            fits = value <= self.ahead_value + linear + squared / (2 * self.length) + 1e-12 * abs(value)
            if self.guaranteed or fits:
                break
            self.length *= 0.5
        if not math.isfinite(value):
            raise not_finite(self.objective, where)
        total = value + self._penalty(moved)
        if self.ahead is not self.w and not total <= self.total:
            self.ahead, self.momentum = self.w, 1.0
            self.ahead_value, self.slope = measure(self.objective, self.w, self.backend, "after a restart")
            return
        step = moved - self.w
        squared, size = self.backend.floats(dot(step, step), dot(moved, moved))
        still = max(self.solver.tolerance, 4 * float(np.finfo(moved.dtype).eps))
        self.converged = squared <= still**2 * size
        previous, self.w, self.total = self.w, moved, total
        following = 0.5 * (1 + math.sqrt(1 + 4 * self.momentum**2))
        weight = (self.momentum - 1) / following if self.solver.depth == 2 else 0.0
        self.momentum = following
        if weight:
            self.ahead = self.w + kind(weight) * (self.w - previous)
            where = f"at iteration {self.iteration}, extrapolated"
            self.ahead_value, self.slope = measure(self.objective, self.ahead, self.backend, where)
        else:
            self.ahead, self.ahead_value, self.slope = self.w, value, slope

    def value(self) -> NDArray[Any]:
        """Return the point, a new array."""
        return self.w.copy()
