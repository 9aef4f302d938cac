"""Hierarchical factorization into any number of factors with any constraints: split one off, refine, go on.

    A ~ F_1 R_1,   R_1 ~ F_2 R_2,   ...,   R_{L-2} ~ F_{L-1} F_L

Each split is a product of two factors, which is easier than one of L: F_l in its set, and the residual R_l in a set
that holds the products of the constraints still to come. After each split all factors so far are refined together, by
PALM on the matrix itself. From the right it is the same with the last factors first.

PALM alone, from the same start, comes before it: its factors are what an early end returns, and the result is the
better of both, so it is never worse than PALM alone.

Reference: L. Le Magoarou, R. Gribonval, "Flexible multilayer sparse approximations of matrices and applications", IEEE
J. Sel. Top. Signal Process. 10 (2016). There a split is two-factor PALM; ours is alternating minimisation by ADMM.

Symbols: A matrix (m, n), F_l factors, E_l their constraints, R_l residuals, L factors.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sparsefact.constraints.base import Constraint, Shape
from sparsefact.constraints.dense import Dense
from sparsefact.constraints.kronecker_support import KroneckerSupport
from sparsefact.constraints.low_rank import LowRank
from sparsefact.constraints.support import Support
from sparsefact.constraints.top_k import TopK
from sparsefact.errors import ArgumentError
from sparsefact.factorizers.als import AlternatingLeastSquares
from sparsefact.factorizers.alternating import Alternating
from sparsefact.factorizers.palm import PALM
from sparsefact.factorizers.problem import FactorizationProblem
from sparsefact.minimizers.protocol import Outcome, Report

__all__ = ["HierarchicalPALM", "residual_constraints"]

_FIXED = (Support, KroneckerSupport)


@dataclass(frozen=True)
class HierarchicalPALM:
    """Split off one factor after another, and refine all of them by PALM after each split.

    Parameters
    ----------
    palm : PALM
        For PALM alone, and for the last refinement.
    refine : PALM
        For the refinements before.
    split : solver, optional
        For products of two factors. Unless given: `AlternatingLeastSquares` for two fixed supports, `PALM` where one is
        of low rank, `Alternating` for others.
    side : "left" or "right"
        Whether the first factors are split off, or the last ones.
    residuals : sequence of constraints, optional
        Of the residuals, in the order of the splits: one for each but the last, L - 2 of them. Unless given they are
        what `residual_constraints` says.

    Raises
    ------
    ArgumentError
        If a parameter is not one of these; by its methods, if the constraints are not one for each factor, or there are
        not as many residuals as they need.

    Examples
    --------
    >>> import numpy as np
    >>> import sparsefact as sf
    >>> from sparsefact.factorizers.hierarchical_palm import HierarchicalPALM
    >>> rng = np.random.default_rng(0)
    >>> sets = (sf.TopK(nnz=2, per="row"), sf.TopK(nnz=2, per="row"), sf.TopK(nnz=2, per="row"))
    >>> A = np.linalg.multi_dot([each.project(rng.standard_normal((8, 8))) for each in sets])
    >>> palm = sf.PALM(iterations=50)
    >>> sf.factorize(A, sets, HierarchicalPALM(palm=palm)).error <= sf.factorize(A, sets, palm).error
    True
    """

    palm: PALM = field(default_factory=PALM)
    refine: PALM = field(default_factory=lambda: PALM(iterations=100))
    split: Any = None
    side: Literal["left", "right"] = "left"
    residuals: tuple[Constraint, ...] | None = None

    def __post_init__(self) -> None:
        for name in ("palm", "refine"):
            if not isinstance(getattr(self, name), PALM):
                raise ArgumentError(f"{name}={getattr(self, name)!r} is not allowed; pass a sparsefact.PALM()")
        for name in ("init", "step", "finish", "iterations"):
            if self.split is not None and (isinstance(self.split, type) or not hasattr(self.split, name)):
                raise ArgumentError(
                    f"split={self.split!r} is not a solver; pass an instance such as sparsefact.Alternating(), or None"
                )
        if self.side not in ("left", "right"):
            raise ArgumentError(f"side={self.side!r} is not allowed; pass 'left' or 'right'")
        if self.residuals is not None:
            residuals = tuple(self.residuals) if isinstance(self.residuals, (tuple, list)) else (self.residuals,)
            for each in residuals:
                if isinstance(each, type) or not isinstance(each, Constraint):
                    raise ArgumentError(f"residuals holds {each!r}, which is not a constraint; pass a tuple of them")
            object.__setattr__(self, "residuals", residuals)

    @property
    def iterations(self) -> int:
        """PALM alone in one step, then a step for each split and its refinement, up to the largest number of them."""
        return 1 << 10

    @property
    def report_every(self) -> int:
        """One."""
        return 1

    def init(self, problem: FactorizationProblem, warm: Any = None) -> _State:
        """Check the constraints, and prepare the residuals."""
        return _State(self, problem)

    def step(self, problem: FactorizationProblem, state: _State) -> None:
        """Run PALM alone; later, split once and refine."""
        state.done = next(state.stages, None) is None

    def report(self, problem: FactorizationProblem, state: _State) -> Report:
        """Give the objective and the relative error of the best product so far."""
        error = state.error
        return Report(0.5 * (error * state.norm) ** 2, error, state.done)

    def finish(self, problem: FactorizationProblem, state: _State) -> Outcome:
        """Return the better of PALM alone and the hierarchy."""
        assert state.outcome is not None
        return Outcome(state.outcome.value, state.outcome.status, state.outcome.certificate, state.explain())


class _State:
    """The best complete product, and the stages that are left."""

    def __init__(self, solver: HierarchicalPALM, problem: FactorizationProblem) -> None:
        constraints = problem.constraints
        if not isinstance(constraints, tuple) or len(constraints) < 2:
            raise ArgumentError(
                f"constraints={constraints!r} is not a tuple of at least two constraints, which HierarchicalPALM "
                "needs; pass one for each factor, or use sparsefact.Alternating for a joint budget"
            )
        self.solver, self.problem, self.constraints = solver, problem, constraints
        residuals = solver.residuals
        if residuals is None:
            residuals = residual_constraints(constraints, problem.shapes, solver.side)
        elif len(residuals) != len(constraints) - 2:
            raise ArgumentError(
                f"residuals holds {len(residuals)} constraints, but {len(constraints)} factors have "
                f"{len(constraints) - 2} residuals between the first and the last split; pass as many, or None"
            )
        self.residuals = (*residuals, constraints[-1] if solver.side == "left" else constraints[0])
        self.outcome: Outcome | None = None
        self.errors: list[float] = []
        self.error, self.norm, self.done = math.inf, 0.0, False
        self.stages = self._stages()

    def _stages(self) -> Iterator[bool]:
        """Do one stage after another, and pause after each of them that has another one after it."""
        problem, solver = self.problem, self.solver
        self._take(solver.palm, problem)
        if self.error <= 8 * float(np.finfo(problem.matrix.dtype).eps):
            return
        yield True
        left, last = solver.side == "left", len(self.constraints) - 2
        rest: NDArray[Any] = problem.matrix
        found: tuple[NDArray[Any], ...] = ()
        for level, residual in enumerate(self.residuals):
            near, pair = self._pair(rest, level, residual)
            split = _split_solver(pair) if solver.split is None else solver.split
            first, second = _drive(split, pair)[0].value
            taken, rest = (first, second) if left else (second, first)
            found = (*found, taken) if left else (taken, *found)
            start = (*found, rest) if left else (rest, *found)
            sets = (*near, residual) if left else (residual, *near)
            shapes = tuple(f.shape for f in start)
            whole = dataclasses.replace(problem, constraints=sets, shapes=shapes, start=start)
            if level == last:
                self._take(solver.palm, whole)
                return
            refined = _drive(solver.refine, whole)[0].value
            rest, found = (refined[-1], refined[:-1]) if left else (refined[0], refined[1:])
            yield True

    def _pair(
        self, rest: NDArray[Any], level: int, residual: Constraint
    ) -> tuple[tuple[Constraint, ...], FactorizationProblem]:
        """Return the constraints of the factors up to this level, and the problem of two factors that is its split."""
        problem, left = self.problem, self.solver.side == "left"
        place = level if left else len(self.constraints) - 1 - level
        near = self.constraints[: place + 1] if left else self.constraints[place:]
        k = problem.shapes[place][1 if left else 0]
        shapes = ((rest.shape[0], k), (k, rest.shape[1]))
        pair = (near[-1], residual) if left else (residual, near[0])
        # what is left on the right has the columns of A, which are weighted as they are, and none of its rows
        gram = problem.gram if left or level == 0 else None
        left_gram = problem.left_gram if not left or level == 0 else None
        return near, FactorizationProblem(
            rest, pair, shapes, gram, problem.backend, seed=problem.seed, left_gram=left_gram
        )

    def _take(self, palm: PALM, problem: FactorizationProblem) -> None:
        """Run PALM over all factors, and keep what it finds if it is better."""
        outcome, state = _drive(palm, problem)
        self.norm = state.norm * state.unit
        self.errors.append(state.error)
        if self.outcome is None or state.error < self.error:
            self.outcome, self.error = outcome, state.error

    def explain(self) -> str:
        """Say what each way reached."""
        text = f"PALM alone reached a relative error of {self.errors[0]:.5g}."
        if len(self.errors) == 2:
            assert self.outcome is not None
            text += (
                f" Splitting off one factor after another from the {self.solver.side} reached {self.errors[1]:.5g}. "
                f"The better: {self.outcome.explanation}"
            )
        return text


def _drive(solver: Any, problem: FactorizationProblem) -> tuple[Outcome, Any]:
    """Run a solver to its end, and return its outcome and its state."""
    state = solver.init(problem)
    for iteration in range(1, solver.iterations + 1):
        solver.step(problem, state)
        if iteration % solver.report_every == 0 and solver.report(problem, state).converged:
            break
    return solver.finish(problem, state), state


def _split_solver(problem: FactorizationProblem) -> Any:
    assert isinstance(problem.constraints, tuple)
    pair = problem.constraints
    if problem.left_gram is None and all(isinstance(each, _FIXED) for each in pair):
        return AlternatingLeastSquares()
    return PALM() if any(isinstance(each, LowRank) for each in pair) else Alternating()


def residual_constraints(
    constraints: tuple[Constraint, ...], shapes: tuple[Shape, ...], side: str = "left"
) -> tuple[Constraint, ...]:
    """Return sets for the products of what each split but the last leaves.

    Fixed supports: the support of the products. `TopK` per row (or all per column): the product of the counts.
    Otherwise `TopK` of the product of the average counts per row; or, where that is fewer, of a density that falls
    geometrically from a full matrix to the last constraint.

    Parameters
    ----------
    constraints : tuple of Constraint
    shapes : tuple of (int, int)
        Of the factors.
    side : "left" or "right"
        Where factors are split off.

    Returns
    -------
    tuple of Constraint
        Of length ``len(constraints) - 2``, in the order of the splits.

    Examples
    --------
    >>> import sparsefact as sf
    >>> from sparsefact.factorizers.hierarchical_palm import residual_constraints
    >>> residual_constraints((sf.TopK(nnz=2, per="row"),) * 4, ((16, 16),) * 4)
    (TopK(density=None, nnz=8, per='row'), TopK(density=None, nnz=4, per='row'))
    """
    count, found = len(constraints), []
    for level in range(count - 2):
        part = slice(level + 1, count) if side == "left" else slice(0, count - 1 - level)
        last = count - 1 if side == "left" else 0
        found.append(
            _product_set(constraints[part], shapes[part], constraints[last], shapes[last], (level + 1) / (count - 1))
        )
    return tuple(found)


def _product_set(
    parts: tuple[Constraint, ...], shapes: tuple[Shape, ...], last: Constraint, last_shape: Shape, fraction: float
) -> Constraint:
    shape = shapes[0][0], shapes[-1][1]
    if all(isinstance(each, _FIXED) for each in parts):
        reached = np.eye(shape[0], dtype=bool)
        for each in parts:
            # counts in float32, which has a fast product
            reached = (reached.astype(np.float32) @ each.mask(None).astype(np.float32)) > 0  # type: ignore[arg-type]
        return Dense() if reached.all() or not reached.any() else Support(reached)
    for per, axis in (("row", 0), ("column", 1)):
        if all(isinstance(each, TopK) and each.per == per for each in parts):
            each_count = [each.count(size) // size[axis] for each, size in zip(parts, shapes, strict=True)]
            length, entries = shape[1 - axis], math.prod(each_count)
            return Dense() if entries >= length else TopK(nnz=entries, per=per)  # type: ignore[arg-type]
    density = (last.count(last_shape) / math.prod(last_shape)) ** fraction
    averages = math.prod(each.count(size) / size[0] for each, size in zip(parts, shapes, strict=True))
    entries = math.floor(min(density * math.prod(shape), averages * shape[0]))
    return Dense() if entries >= math.prod(shape) else TopK(nnz=max(1, entries))
