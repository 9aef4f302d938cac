"""Iterative hard thresholding: projected gradient descent on a sparse set, and its refinements.

    w <- P(w - c grad f(w)),     P the projection on the constraint

* plain: c = 1/L. T. Blumensath, M. Davies, "Iterative hard thresholding for compressed sensing", 2009.
* normalized: c is the best step along the gradient on the support, shortened while the decrease is not certain. T.
  Blumensath, M. Davies, "Normalized iterative hard thresholding", 2010.
* htp: after each projection the best values on the new support. S. Foucart, "Hard thresholding pursuit", 2011. A step
  is taken only when it lowers the objective, so the pursuit ends: with a support that repeats.
* accelerated: a step from a point extrapolated along the last move, which is given up for a plain step whenever it does
  not lower the objective.

A step to w' is taken, in all variants, only when it keeps the promise of a step c <= 1/L: along d = w' - w the slope
changes by at most ||d||^2 / c and the objective does not rise. For a quadratic this is the published condition of the
normalized variant, ``c <= ||d||^2 / <d, H d>``.

A quadratic is scaled to a unit diagonal, so that a diagonal one is solved in one step.

Symbols: w unknown, g gradient, c step, t = w - c g, M mask of the support, L Lipschitz constant of the gradient.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

from sparsefact.errors import ArgumentError
from sparsefact.minimizers.iht_state import IHTState
from sparsefact.minimizers.parameters import check_count, check_non_negative
from sparsefact.minimizers.protocol import MinimizeProblem, Outcome, Report
from sparsefact.minimizers.smoothness import Rule
from sparsefact.minimizers.stability import stability
from sparsefact.products.status import Status

__all__ = ["IHT"]

_VARIANTS = ("normalized", "plain", "htp", "accelerated")
_RULES = ("bound", "power", "backtracking", "montecarlo")


@dataclass(frozen=True)
class IHT:
    """Iterative hard thresholding, ending with the best values on the support and, on request, exchanges of entries.

    Parameters
    ----------
    variant : {"normalized", "plain", "htp", "accelerated"}
        How a step is taken. "htp" needs the fewest steps and the most work in each; "plain" is the weakest.
    polish : {None, "swap"}
        "swap" then exchanges a kept entry for a dropped one while that lowers the objective, with all values refitted:
        by exact formulas for a quadratic, by trying the most promising pairs otherwise.
    lipschitz : {"bound", "power", "backtracking", "montecarlo"}
        What gives the steps of "plain" and "accelerated", and the step of the certificate: the bound that the objective
        guarantees (backtracking where it has none), a power iteration, no constant at all but trial, or the published
        Monte-Carlo estimate. The last is a lower bound of the constant: a step that is too long is shortened.
    steps : int
        Thresholding steps at most; they end when the relative change is below `tolerance`.
    swaps : int
        Rounds of exchanges at most; a round of a quadratic goes over all columns.
    tolerance : float
        Ends the steps when ``||w' - w|| <= tolerance * ||w'||`` and the support is the same.
    scaling : {"diagonal", "none"}
        For a quadratic, the variables in which magnitudes are compared: scaled to a unit diagonal, or its own.
    refit : bool
        End with the best values on the support.
    candidates : int
        Pairs that a round of exchanges tries for an objective that is no quadratic, at most.
    half_steps : int
        `steps` as the inner solver of `Alternating`, in each half-step.
    report_every : int
        Steps between two reports of the objective.

    Raises
    ------
    ArgumentError
        If a parameter is not known or outside its range.

    Examples
    --------
    >>> import numpy as np
    >>> import sparsefact as sf
    >>> rng = np.random.default_rng(0)
    >>> X, truth = rng.standard_normal((60, 20)), sf.TopK(nnz=12).project(rng.standard_normal((20, 5)))
    >>> solution = sf.minimize(sf.LeastSquares(X, X @ truth), sf.TopK(nnz=12), sf.IHT())
    >>> bool(np.allclose(solution.value, truth)), solution.certificate.stable
    (True, True)
    """

    variant: Literal["normalized", "plain", "htp", "accelerated"] = "normalized"
    polish: Literal["swap"] | None = None
    lipschitz: Rule = "bound"
    steps: int = 1000
    swaps: int = 200
    tolerance: float = 1e-10
    scaling: Literal["diagonal", "none"] = "diagonal"
    refit: bool = True
    candidates: int = 100
    half_steps: int = 5
    report_every: int = 5

    def __post_init__(self) -> None:
        for name, allowed in (("variant", _VARIANTS), ("lipschitz", _RULES), ("scaling", ("diagonal", "none"))):
            if getattr(self, name) not in allowed:
                choices = ", ".join(repr(each) for each in allowed)
                raise ArgumentError(f"{name}={getattr(self, name)!r} is not known; pass one of {choices}")
        if self.polish not in (None, "swap"):
            raise ArgumentError(f"polish={self.polish!r} is not known; pass 'swap', or None for no exchanges")
        for name in ("steps", "swaps", "candidates", "half_steps", "report_every"):
            check_count(name, getattr(self, name))
        check_non_negative("tolerance", self.tolerance)

    @property
    def iterations(self) -> int:
        """Steps and rounds of exchanges at most."""
        return self.steps + (self.swaps if self.polish else 0)

    def at(self, fraction: float) -> IHT:
        """Return the configuration for a half-step of an alternating run: few steps, without an end of its own."""
        return dataclasses.replace(self, steps=self.half_steps, polish=None, refit=False, scaling="diagonal")

    def init(self, problem: MinimizeProblem, warm: IHTState | None = None) -> IHTState:
        """Scale a quadratic, take the first point, and learn the step length."""
        state = IHTState(self, problem)
        state.place(problem, warm)
        return state

    def step(self, problem: MinimizeProblem, state: IHTState) -> None:
        """Take a thresholding step; once these have ended, exchange entries."""
        if state.done:
            return
        state.iteration += 1
        if not state.searched:
            if self.variant == "htp":
                state.pursue()
            else:
                state.threshold()
            state.searched = state.searched or state.iteration >= self.steps
            if state.searched and self.polish is None:
                state.done = True
            return
        state.exchange(self.candidates)

    def report(self, problem: MinimizeProblem, state: IHTState) -> Report:
        """Return the objective, which every step knows."""
        return Report(state.value_here, None, state.done)

    def finish(self, problem: MinimizeProblem, state: IHTState) -> Outcome:
        """Refit on the support, and certify the point."""
        state.leave_loose()
        if self.refit and not state.fitted:
            state.fit()
        value = state.value()
        problem_gradient = state.gradient if state.scale is None else state.gradient * state.scale
        certificate = stability(
            problem.objective,
            value,
            problem_gradient,
            state.mask,
            problem.constraint,
            problem.backend,
            state.claimed_step(),
            state.scale,
            lipschitz=state.constant,
            bound=state.bound,
        )
        ended = Status.STATIONARY if state.done and state.settled and certificate.stable else Status.LIMIT
        return Outcome(value, ended, certificate, state.explain(certificate))
