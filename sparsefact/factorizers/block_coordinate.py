"""Block coordinate descent for any number of factors: one factor after another, each solved for by what suits its set.

With all factors but one fixed, and P = L F R the product seen from it, the loss is a quadratic of F,

    1/2 tr(F^H G F K) - Re tr(F^H C) + constant,      G = L^H L,  K = R H R^H,  C = L^H A H R^H

and F is found over its constraint

* on a fixed support by exact least squares (conjugate gradients where both G and K are there);
* without a constraint, or of low rank, in closed form;
* with a choice of entries by a few steps of the inner solver (ADMM), which goes on from where it stood.

The last of these may raise the loss for a while. So the best point is kept, and at the end all factors are refitted
from it on their supports in turn, which only lowers the loss. Where the constraints allow identities, the search starts
from the matrix projected on one constraint, beside identities: the result is never worse than that projection.

Block-diagonal, n of m, block-diagonal is the form that a matrix is pruned to, with the same floor, in "ARMOR:
high-performance semi-structured pruning via adaptive matrix factorization", arXiv:2510.05528.

Symbols: A matrix (m, n), F_j factors, L = F_1 .. F_{j-1}, R = F_{j+1} .. F_L, H gram (n, n),
G left_gram (m, m).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsefact.constraints.dense import Dense
from sparsefact.constraints.kronecker_support import KroneckerSupport
from sparsefact.constraints.low_rank import LowRank
from sparsefact.constraints.support import Support
from sparsefact.errors import ArgumentError
from sparsefact.factorizers.grams import weighed
from sparsefact.factorizers.identity_start import identity_start, product_of
from sparsefact.factorizers.problem import FactorizationProblem
from sparsefact.minimizers.admm import ADMM
from sparsefact.minimizers.parameters import check_count
from sparsefact.minimizers.protocol import MinimizeProblem, Outcome, Report
from sparsefact.minimizers.reduced_rank import reduced_rank
from sparsefact.minimizers.refit import refit
from sparsefact.objectives.quadratic import Quadratic
from sparsefact.products.status import Status

__all__ = ["BlockCoordinateDescent"]

# Rounds of refits that gain less than this, relatively, have stalled.
_STALLED = 1e-4
# A rank-one term between two factors this small, relative to the largest, is ended.
_VANISHED = 1e-10
# Scales this far apart, as a power of two, are levelled.
_DRIFTED = 12


@dataclass(frozen=True)
class BlockCoordinateDescent:
    """Each factor in turn, by exact least squares on a fixed support and by the inner solver elsewhere.

    Parameters
    ----------
    inner : solver
        For factors whose constraint chooses entries; a solver for `minimize`, as in `Alternating`.
    iterations : int
        Sweeps over all factors at most.
    refits : int
        Rounds of refits of all factors on their supports at the end, at most.
    report_every : int
        Sweeps between two reports.

    Raises
    ------
    ArgumentError
        If a parameter is outside its range; by its methods, if the constraints are not one for each factor.

    Examples
    --------
    >>> import numpy as np
    >>> import sparsefact as sf
    >>> from sparsefact.constraints.presets import block_diagonal
    >>> from sparsefact.factorizers.block_coordinate import BlockCoordinateDescent
    >>> A = np.random.default_rng(0).standard_normal((32, 32))
    >>> blocks = block_diagonal((32, 32), 4)
    >>> F = sf.factorize(A, (blocks, sf.NOfM(2, 4), blocks), BlockCoordinateDescent())
    >>> pruned = sf.NOfM(2, 4).project(A)
    >>> bool(F.error < np.linalg.norm(A - pruned) / np.linalg.norm(A))
    True
    """

    inner: Any = field(default_factory=ADMM)
    iterations: int = 40
    refits: int = 10
    report_every: int = 5

    def __post_init__(self) -> None:
        check_count("iterations", self.iterations)
        check_count("refits", self.refits, 0)
        check_count("report_every", self.report_every)
        for name in ("init", "step", "finish", "iterations"):
            if isinstance(self.inner, type) or not hasattr(self.inner, name):
                raise ArgumentError(f"inner={self.inner!r} is not a solver; pass an instance such as sparsefact.ADMM()")

    def init(self, problem: FactorizationProblem, warm: Any = None) -> _State:
        """Take the given factors, or the identities beside the projected matrix, or seeded random ones."""
        return _State(problem)

    def step(self, problem: FactorizationProblem, state: _State) -> None:
        """Solve for each factor, left to right, and keep the best point."""
        fraction = state.iteration / max(1, self.iterations - 1)
        inner = self.inner.at(fraction) if hasattr(self.inner, "at") else self.inner
        for place in range(len(state.factors)):
            state.solve(place, inner)
        state.keep_best()
        state.level()
        state.iteration += 1

    def report(self, problem: FactorizationProblem, state: _State) -> Report:
        """Give the objective and the relative error of the best point so far."""
        return Report(state.lowest * state.unit**2, state.error, converged=state.norm == 0)

    def finish(self, problem: FactorizationProblem, state: _State) -> Outcome:
        """Refit all factors on their supports, from the best point, and level their scales."""
        before, settled = state.error, False
        state.factors = list(state.best)
        for _ in range(self.refits):
            first = state.error
            state.refit()
            settled = not state.error < first * (1 - _STALLED)
            if settled:
                break
        text = (
            f"{state.note} {state.iteration} sweeps over {len(state.factors)} factors reached a relative error of "
            f"{before:.5g}, and exact refits on the supports {state.error:.5g}."
        )
        return Outcome(state.result(), Status.STATIONARY if settled else Status.LIMIT, None, text)


class _State:
    """The factors of the search, the best ones so far, and the states of the inner solver."""

    def __init__(self, problem: FactorizationProblem) -> None:
        constraints = problem.constraints
        if not isinstance(constraints, tuple) or len(constraints) < 2:
            raise ArgumentError(
                f"constraints={constraints!r} is not a tuple of at least two constraints, which BlockCoordinateDescent "
                "needs; pass one for each factor, or use sparsefact.Alternating for a joint budget"
            )
        self.problem, self.backend = problem, problem.backend
        self.constraints = constraints
        largest = float(abs(problem.matrix).max())
        # Squares of what is larger or smaller than this could leave the range of float32.
        self.unit = 1.0 if 1e-6 < largest < 1e6 or largest == 0 else largest
        self.matrix = problem.matrix if self.unit == 1 else problem.matrix / problem.matrix.dtype.type(self.unit)
        self.gram, self.left_gram = problem.gram, problem.left_gram
        # One array for all solves: what is computed from it is kept as long as it is the same one.
        self.turned_gram = None if self.left_gram is None else self.backend.xp.ascontiguousarray(self.left_gram.T)
        self.supports = [
            self.backend.asarray(each.mask(None)) if isinstance(each, (Support, KroneckerSupport)) else None
            for each in constraints
        ]
        self.warm: list[Any] = [None] * len(constraints)
        self.iteration = 0
        self.norm = math.sqrt(2 * self._loss(self.matrix))
        self.factors, self.note = self._start()
        self.best, self.lowest = list(self.factors), math.inf
        self.keep_best()

    def _start(self) -> tuple[list[NDArray[Any]], str]:
        if self.problem.start is not None:
            root = self.matrix.dtype.type(self.unit ** (1 / len(self.constraints)))
            given = [each.project(f / root) for each, f in zip(self.constraints, self.problem.start, strict=True)]
            return given, "It started from the given factors."
        simple = identity_start(
            self.matrix, self.constraints, self.problem.shapes, self.backend, self.gram, self.left_gram
        )
        if simple is not None:
            return simple[0], f"It started from the matrix as factor {simple[1] + 1}, projected, beside identities."
        rng, factors = np.random.default_rng(self.problem.seed), []
        for each, shape in zip(self.constraints, self.problem.shapes, strict=True):
            draw = rng.standard_normal(shape)
            if self.matrix.dtype.kind == "c":
                draw = draw + 1j * rng.standard_normal(shape)
            near = np.eye(*shape) + draw / (2 * math.sqrt(max(shape)))
            factors.append(each.project(self.backend.asarray(near.astype(self.matrix.dtype))))
        return factors, "It started from random factors."

    def _loss(self, residual: NDArray[Any]) -> float:
        weighted = weighed(residual, self.left_gram, self.gram)
        return max(0.5 * float(np.vdot(residual, weighted).real), 0.0)

    @property
    def error(self) -> float:
        """The relative error in the loss of the best point."""
        return math.sqrt(2 * self.lowest) / self.norm if self.norm else 0.0

    def keep_best(self) -> None:
        """Remember the factors if there are none with a lower loss."""
        loss = self._loss(self.matrix - product_of(self.factors))
        if loss < self.lowest:
            self.best, self.lowest = list(self.factors), loss

    def _objective(self, place: int) -> Quadratic:
        """Return the quadratic of one factor; of the transposed one for the first, whose rows are independent."""
        before, after = product_of(self.factors[:place]), product_of(self.factors[place + 1 :])
        target = weighed(self.matrix, self.left_gram, self.gram)
        if before is None:
            assert after is not None
            curved = after.conj() @ weighed(after.T, None if self.gram is None else self.gram.T, None)
            return Quadratic(curved, after.conj() @ target.T, self.turned_gram)
        cross, right = before.conj().T @ target, self.gram
        if after is not None:
            cross = cross @ after.conj().T
            right = weighed(after, None, self.gram) @ after.conj().T
        return Quadratic(before.conj().T @ weighed(before, self.left_gram, None), cross, right)

    def solve(self, place: int, inner: Any) -> None:
        """Solve for one factor over its constraint, the others fixed."""
        constraint, support = self.constraints[place], self.supports[place]
        turned = place == 0
        objective = self._objective(place)
        start = self.factors[place].T if turned else self.factors[place]
        if support is not None:
            found = refit(objective, support.T if turned else support, start, self.backend)
        elif isinstance(constraint, (Dense, LowRank)):
            rank = constraint.r if isinstance(constraint, LowRank) else min(objective.shape)
            found = reduced_rank(objective, rank, self.backend)
        else:
            begin = start if self.warm[place] is None else None
            sub = MinimizeProblem(
                objective, constraint.T if turned else constraint, self.backend, begin, self.problem.seed
            )
            state = inner.init(sub, self.warm[place])
            for _ in range(inner.iterations):
                inner.step(sub, state)
            found = inner.finish(sub, state).value
            self.warm[place] = state
        self.factors[place] = found.T if turned else found

    def level(self) -> None:
        """Level columns and the rows they meet where their scales have drifted far apart, and end what has vanished.

        The inner solver's state of such factors is in other variables, and is dropped.
        """
        xp = self.backend.xp
        for place in range(len(self.factors) - 1):
            left = np.linalg.norm(self.factors[place], axis=0)
            right = np.linalg.norm(self.factors[place + 1], axis=1)
            size = left * right
            alive = size > _VANISHED * size.max()
            power = xp.round(0.5 * xp.log2(xp.where(alive, right, 1) / xp.where(alive, left, 1)))
            power = xp.where(abs(power) < _DRIFTED, 0, power)
            ended = ~alive & ((left > 0) | (right > 0))
            if not bool((ended | (power != 0)).any()):
                continue
            scale = xp.exp2(power).astype(left.dtype)
            self.factors[place] = self.factors[place] * (scale * alive)
            self.factors[place + 1] = self.factors[place + 1] * (alive / scale)[:, None]
            self.warm[place] = self.warm[place + 1] = None

    def refit(self) -> None:
        """Refit every factor on the support that it has, and keep each one that lowers the loss."""
        for place, constraint in enumerate(self.constraints):
            value, turned = self.factors[place], place == 0
            objective = self._objective(place)
            if isinstance(constraint, (Dense, LowRank)):
                rank = constraint.r if isinstance(constraint, LowRank) else min(objective.shape)
                found = reduced_rank(objective, rank, self.backend)
            else:
                support = self.supports[place]
                mask = value != 0 if support is None else support
                found = refit(objective, mask.T if turned else mask, value.T if turned else value, self.backend)
            self.factors[place] = found.T if turned else found
            self.keep_best()
            # what rounding, or conjugate gradients cut short, made worse is taken back
            self.factors = list(self.best)

    def result(self) -> tuple[NDArray[Any], ...]:
        """Return the best factors in the scale of the problem, their sizes levelled by powers of two."""
        factors = [factor * 1 for factor in self.best]
        sizes = self.backend.floats(*(np.linalg.norm(factor) for factor in factors))
        if all(size > 0 for size in sizes):
            sizes[0] *= self.unit
            factors[0] = factors[0] * factors[0].dtype.type(self.unit)
            level = sum(math.log2(size) for size in sizes) / len(sizes)
            powers = [round(level - math.log2(size)) for size in sizes]
            powers[-1] -= sum(powers)
            factors = [f * f.real.dtype.type(2.0**power) for f, power in zip(factors, powers, strict=True)]
        return tuple(factors)
