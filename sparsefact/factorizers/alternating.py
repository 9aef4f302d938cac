"""Alternating minimisation of ||A - F1 F2|| over two factors with any constraints, by any inner solver.

With one factor fixed, the other minimises a quadratic over its constraint: a half-step, for which the inner solver
(ADMM by default) takes a few iterations from where it stood. The half-steps take turns; at the end both factors are
refitted on the supports that were found, by exact least squares, until that stalls.

Both half-steps are written as one: with X the unknown and Y the fixed factor as matrices of `inner` rows (X = F1^T and
Y = F2, or the reverse), and V the matrix with rows along Y's columns,

    minimise 1/2 || V - Y^T X ||^2 :     gram = conj(Y) Y^T,   cross = conj(Y) V        V = A^T or A

A joint budget (`DoubleSparse`) is split by marginal gain: in the unit-diagonal variables of a half-step the square of
an entry is, to first order, what the loss rises by when it is dropped, for either factor. So the split moves to where
the smallest kept entries of the two factors are equal, which is the joint selection of the largest entries of both.

The result is never worse than the simple products of the same budget (`simple_products`): a matrix that is sparse or of
low rank already comes out exactly.

A `gram` weights the search by its diagonal and the refit in full.

References: V. Boza, V. Macko, "Two sparse matrices are better than one: sparsifying neural networks with double sparse
factorization", ICLR 2025 (the alternation, the warm-started ADMM half-step and its growing first penalty). Ours are the
penalty that grows over the run, the split by marginal gain and the exact refit of both factors.

Symbols: A matrix (m, n), k inner, X_i state of factor i as (k, m) or (k, n), K budget, K_1 left_nnz.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sparsefact.backends.protocol import Backend
from sparsefact.constraints.base import Constraint
from sparsefact.constraints.double_sparse import DoubleSparse
from sparsefact.errors import ArgumentError
from sparsefact.factorizers.problem import FactorizationProblem
from sparsefact.factorizers.simple_products import SIMPLE_PRODUCTS
from sparsefact.minimizers.admm import ADMM
from sparsefact.minimizers.parameters import check_count
from sparsefact.minimizers.protocol import MinimizeProblem, Outcome, Report
from sparsefact.minimizers.refit import refit
from sparsefact.objectives.quadratic import Quadratic
from sparsefact.products.status import Status

__all__ = ["Alternating"]

_OUTER = {"fast": 16, "balanced": 44, "high": 250}
# A refit that gains less than this, relatively, has stalled.
_STALLED = 1e-3
# A rank-one term this small, relative to the largest, is ended.
_VANISHED = 1e-10
# Entries of both factors that the split looks at.
_SAMPLE = 1 << 17


@dataclass(frozen=True)
class Alternating:
    """Alternating minimisation over two factors.

    Parameters
    ----------
    inner : solver
        Takes the half-steps, a solver for `minimize`: as its ``at(fraction)`` says if it has that (`ADMM` does), else
        as it is, with all its `iterations` in each of them.
    effort : {"fast", "balanced", "high"}
        How many outer iterations: 16, 44 or 250.
    outer : int, optional
        The number of outer iterations itself.
    refits : int
        Exact least-squares refits of each factor at the end, at most; they stop when they gain less than 0.1 %.
    report_every : int
        Outer iterations between two measurements of the error.

    Raises
    ------
    ArgumentError
        If a parameter is outside its range.

    Examples
    --------
    >>> import numpy as np
    >>> import sparsefact as sf
    >>> A = np.random.default_rng(0).standard_normal((32, 48))
    >>> F = sf.factorize(A, sf.double_sparse(A.shape, 0.5), sf.Alternating(effort="fast"))
    >>> F.nnz <= 0.5 * A.size and F.error < 0.3
    True
    """

    inner: Any = field(default_factory=ADMM)
    effort: Literal["fast", "balanced", "high"] = "balanced"
    outer: int | None = None
    refits: int = 2
    report_every: int = 5

    def __post_init__(self) -> None:
        if self.effort not in _OUTER:
            raise ArgumentError(f"effort={self.effort!r} is not known; pass 'fast', 'balanced' or 'high'")
        check_count("outer", self.iterations)
        check_count("refits", self.refits, 0)
        check_count("report_every", self.report_every)
        for name in ("init", "step", "finish", "iterations"):
            if isinstance(self.inner, type) or not hasattr(self.inner, name):
                raise ArgumentError(f"inner={self.inner!r} is not a solver; pass an instance such as sparsefact.ADMM()")

    @property
    def iterations(self) -> int:
        """Outer iterations at most."""
        return _OUTER[self.effort] if self.outer is None else self.outer

    def init(self, problem: FactorizationProblem, warm: Any = None) -> _State:
        """Choose the starting point and the first split of the budget."""
        return _State(problem)

    def step(self, problem: FactorizationProblem, state: _State) -> None:
        """Do a half-step for each factor, the smaller one first, and move the split."""
        fraction = state.iteration / max(1, self.iterations - 1)
        inner = self.inner.at(fraction) if hasattr(self.inner, "at") else self.inner
        for side in state.order:
            state.half_step(side, inner)
        alive = state.share_scale()
        if fraction <= 0.5:
            state.revive(alive)
        if 0.03 <= fraction <= 0.8:
            state.move_split()
        state.iteration += 1

    def report(self, problem: FactorizationProblem, state: _State) -> Report:
        """Measure the relative error of the search (weighted by the diagonal of the gram)."""
        error = state.error()
        return Report(0.5 * (error * state.norm) ** 2, error)

    def finish(self, problem: FactorizationProblem, state: _State) -> Outcome:
        """Refit both factors on their supports, and share the scale evenly between them."""
        explanation = state.explain()
        state.leave_search()
        errors = [state.error()]
        best = list(state.values)
        settled = False
        for _ in range(self.refits):
            state.refit()
            errors.append(state.error())
            # Rounding can undo an exact step that has nothing left to gain: the better point is kept.
            if not errors[-1] <= errors[-2]:
                state.values = best
                settled = True
                break
            best = list(state.values)
            if errors[-1] >= errors[-2] * (1 - _STALLED):
                settled = True
                break
        explanation += (
            f" Exact refits of both factors on their supports took the relative error of the loss from "
            f"{errors[0]:.5g} to {min(errors):.5g}."
        )
        simpler = state.try_simple(min(errors))
        explanation += simpler
        settled = settled or bool(simpler)
        state.balance()
        status = Status.STATIONARY if settled else Status.LIMIT
        return Outcome((state.values[0].T, state.values[1]), status, None, explanation)


class _State:
    """Two factors as (inner, m) and (inner, n), the inner solver's state of each, and the split between them."""

    def __init__(self, problem: FactorizationProblem) -> None:
        self.problem, self.backend, self.iteration = problem, problem.backend, 0
        (m, k), (_, n) = problem.shapes
        self.sizes = (m * k, k * n)
        self.weight = None if problem.gram is None else _weights(problem.gram)
        # Squares of what is larger or smaller than this could leave the range of float32.
        largest = float(abs(problem.matrix).max())
        self.unit = 1.0 if 1e-6 < largest < 1e6 or largest == 0 else 4.0 ** round(math.log(largest, 4))
        self.whole = problem.matrix if self.unit == 1 else problem.matrix / problem.matrix.dtype.type(self.unit)
        # The matrix of the search: columns scaled by the root of the gram's diagonal.
        self.matrix = self.whole if self.weight is None else self.whole * self.weight
        self.gram: NDArray[Any] | None = None
        self.norm = self._norm(self.matrix)
        self.order = (0, 1) if m * k <= k * n else (1, 0)
        self.left_nnz = self._first_split()
        self.constraints = self._constraints()
        self.warm: list[Any] = [None, None]
        self.values: list[Any] = self._start()
        self.masks: list[NDArray[np.bool_]] = []

    def _first_split(self) -> int:
        joint = self.problem.constraints
        if not isinstance(joint, DoubleSparse):
            return 0
        if joint.left_nnz is not None:
            return joint.left_nnz
        return self._allowed(round(joint.budget * self.sizes[0] / sum(self.sizes)))

    def _allowed(self, left_nnz: int) -> int:
        """Return the nearest split that leaves each row of a factor an entry, and no factor more than it holds."""
        assert isinstance(self.problem.constraints, DoubleSparse)
        budget = self.problem.constraints.budget
        (m, k), _ = self.problem.shapes
        low, high = max(m, budget - self.sizes[1]), min(budget - k, self.sizes[0])
        return max(low, min(left_nnz, high))

    def _constraints(self) -> tuple[Constraint, Constraint]:
        joint = self.problem.constraints
        left, right = joint.split(self.left_nnz) if isinstance(joint, DoubleSparse) else joint
        return left.T, right

    def _start(self) -> list[NDArray[Any]]:
        """Return the factors to start from: the given ones, or the larger one pruned from A.

        The first half-step forgets the smaller factor, so only the larger one is chosen: half its budget of the largest
        entries of A's rows (columns), and where `inner` is larger than there are rows, random mixtures of them.
        """
        problem, xp = self.problem, self.backend.xp
        (_, k), (_, n) = problem.shapes
        if problem.start is not None:
            left, right = problem.start
            right = right / right.dtype.type(self.unit)
            right = right if self.weight is None else right * self.weight
            return [xp.ascontiguousarray(left.T), xp.ascontiguousarray(right)]
        small, large = self.order
        rows = self.matrix if large == 1 else self.matrix.T
        value = _spread(rows, k, problem.seed, self.backend)
        constraint = self.constraints[large]
        sparse = value * self.backend.asarray(constraint.mask(value))
        kept = constraint.count(value.shape)
        if kept > 1 and isinstance(problem.constraints, DoubleSparse):
            # Half of the budget: the dense phase of the search fills in the rest.
            sparse *= self.backend.topk_mask(sparse, max(1, kept // 2), "matrix")
        values: list[Any] = [None, None]
        values[large] = sparse
        values[small] = xp.zeros((k, problem.shapes[0][0] if small == 0 else n), dtype=sparse.dtype)
        values[small][:, : values[small].shape[1]] = xp.eye(k, values[small].shape[1], dtype=sparse.dtype)
        return values

    def half_step(self, side: int, inner: Any) -> None:
        """Improve one factor with the other one fixed."""
        start = self.values[side] if self.warm[side] is None else None
        problem = MinimizeProblem(
            self._objective(side), self.constraints[side], self.backend, start, self.problem.seed, expendable=True
        )
        if hasattr(self.warm[1 - side], "value"):
            # The half-step has no use for the fixed factor, a whole matrix, and its state can give it again.
            self.values[1 - side] = None
        self.values[side] = None
        state = inner.init(problem, self.warm[side])
        for _ in range(inner.iterations):
            inner.step(problem, state)
        if hasattr(state, "release"):
            state.release()
        else:
            self.values[side] = inner.finish(problem, state).value
        self.warm[side] = state

    def factor(self, side: int) -> NDArray[Any]:
        """Return the present factor as a matrix of `inner` rows."""
        if self.values[side] is None:
            self.values[side] = self.warm[side].value()
        value: NDArray[Any] = self.values[side]
        return value

    def _objective(self, side: int) -> Quadratic:
        fixed = self.factor(1 - side)
        target = self.matrix if side == 1 else self.matrix.T
        weighted = fixed.conj()
        right_gram = None
        if self.gram is not None:
            if side == 0:
                weighted = weighted @ self.gram.T
            else:
                right_gram, target = self.gram, target @ self.gram
        return Quadratic(weighted @ fixed.T, weighted @ target, right_gram)

    def share_scale(self) -> NDArray[np.bool_] | None:
        """Give the two sides of every rank-one term the same norm, and end the terms that have vanished.

        The product does not change; without this the norms of a dying term drift apart until they overflow.
        """
        if not all(hasattr(state, "rescale") for state in self.warm):
            return None
        norms = [np.linalg.norm(self.warm[side].value(), axis=1) for side in (0, 1)]
        size = norms[0] * norms[1]
        alive: NDArray[np.bool_] = size > _VANISHED * size.max()
        for side, (own, other) in enumerate((norms, norms[::-1])):
            factor = np.where(alive, np.sqrt(np.where(alive, other, 1) / np.where(alive, own, 1)), 0)
            self.warm[side].rescale(factor.astype(own.dtype)[:, None])
            self.values[side] = None
        return alive

    def revive(self, alive: NDArray[np.bool_] | None) -> None:
        """Start every vanished rank-one term again, from a row (or column) of the residual: the largest first.

        The terms start as they do at the very beginning, with one entry in the smaller factor.
        """
        if alive is None or alive.all():
            return
        small, large = self.order
        residual = self.factor(0).T @ self.factor(1)
        np.subtract(self.matrix, residual, out=residual)
        residual = residual if large == 1 else residual.T
        norms = np.linalg.norm(residual, axis=1)
        dead = np.flatnonzero(~alive)[: norms.size]
        chosen = np.argsort(-norms, kind="stable")[: dead.size]
        chosen = chosen[norms[chosen] > _VANISHED * self.norm]
        dead = dead[: chosen.size]
        roots = np.sqrt(norms[chosen])
        self.warm[small].restart(dead, chosen, roots)
        self.warm[large].restart(dead, None, residual[chosen] / roots[:, None])
        self.values = [None, None]

    def move_split(self) -> None:
        """Move budget to the factor whose smallest kept entries contribute more."""
        joint = self.problem.constraints
        if not isinstance(joint, DoubleSparse) or joint.left_nnz is not None:
            return
        if not all(hasattr(state, "t") for state in self.warm):
            return
        # One stride for both, so that every sampled entry stands for as many.
        stride = -(-sum(self.sizes) // _SAMPLE)
        left, right = (abs(state.t.reshape(-1)[::stride]) for state in self.warm)
        both = np.concatenate([left, right])
        count = min(both.size, max(1, round(joint.budget / stride)))
        threshold, ties = self.backend.kth_largest_abs(both[None], count)
        ties, above, equal, other = self.backend.floats(
            ties, (left > threshold).sum(), (left == threshold).sum(), (right == threshold).sum()
        )
        # Entries equal to the threshold are shared in proportion.
        chosen = above + ties * equal / max(1, equal + other)
        wanted = chosen / count * joint.budget
        allowed = self._allowed(round(wanted))
        if allowed != self.left_nnz:
            self.left_nnz = allowed
            self.constraints = self._constraints()

    def error(self) -> float:
        """Return the relative error of the present factors in the loss that is being minimised."""
        residual = self.factor(0).T @ self.factor(1)
        np.subtract(self.matrix, residual, out=residual)
        return self._norm(residual) / self.norm if self.norm else self._norm(residual)

    def _norm(self, x: NDArray[Any]) -> float:
        if self.gram is None:
            return float(self.backend.xp.linalg.norm(x))
        squared = float(self.backend.xp.vdot(x, x @ self.gram).real)
        return math.sqrt(max(squared, 0.0))

    def leave_search(self) -> None:
        """Go from the search to the refit: keep the supports, and take the gram in full."""
        self.values = [self.factor(side) for side in (0, 1)]
        for side, (constraint, state) in enumerate(zip(self.constraints, self.warm, strict=True)):
            value = self.values[side]
            mask = state.mask if hasattr(state, "mask") else value != 0
            if int(mask.sum()) > constraint.count(value.shape):
                # Ended early, just after the split moved or a term was started again.
                mask = self.backend.asarray(constraint.mask(state.t * mask if hasattr(state, "t") else value))
                self.values[side] = value * mask
            self.masks.append(mask)
        self.warm = [None, None]
        if self.weight is not None:
            self.values[1] = self.values[1] / self.weight
            self.matrix, self.gram = self.whole, self.problem.gram
            self.norm = self._norm(self.matrix)

    def refit(self) -> None:
        """Refit both factors on their supports, the smaller one first."""
        for side in self.order:
            self.values[side] = refit(self._objective(side), self.masks[side], self.values[side], self.backend)

    def try_simple(self, error: float) -> str:
        """Take a simpler product if it is better than `error`, and say in a sentence that it was."""
        taken, found = "", self.values
        if isinstance(self.problem.constraints, DoubleSparse):
            for sentence, make in SIMPLE_PRODUCTS:
                candidate = make(self.whole, self.problem.constraints, self.backend, self.weight, self.problem.seed)
                if candidate is None:
                    continue
                self.values = candidate
                reached = self.error()
                if reached < error:
                    taken, found, error = sentence, candidate, reached
        self.values = found
        return taken

    def balance(self) -> None:
        """Share the scale of every rank-one term, and the unit of the matrix, about evenly between the two factors.

        Scales are powers of two, which change no digit.
        """
        left, right = (np.linalg.norm(value, axis=1) for value in self.values)
        both = (left > 0) & (right > 0)
        ratio = np.exp2(np.rint(np.log2(np.where(both, right, 1) / np.where(both, left, 1)) / 2)).astype(left.dtype)
        unit = left.dtype.type(math.sqrt(self.unit))
        self.values[0] *= ratio[:, None] * unit
        self.values[1] *= unit / ratio[:, None]

    def explain(self) -> str:
        """Say what the search did."""
        text = f"Alternated {self.iteration} times between the two factors."
        joint = self.problem.constraints
        if isinstance(joint, DoubleSparse):
            how = "as asked" if joint.left_nnz is not None else "by marginal gain"
            text += (
                f" The budget of {joint.budget} nonzeros was split {how}: {self.left_nnz} to the left factor, "
                f"{joint.budget - self.left_nnz} to the right one."
            )
        return text


def _spread(rows: NDArray[Any], k: int, seed: int, backend: Backend) -> NDArray[Any]:
    """Return k rows from the given ones: the largest of them, or all and random mixtures of them."""
    count = rows.shape[0]
    if k == count:
        return rows
    if k < count:
        norms = (abs(rows) ** 2).sum(axis=1)
        largest = np.sort(np.argsort(-norms, kind="stable")[:k])
        chosen: NDArray[Any] = rows[largest]
        return chosen
    mixing = np.random.default_rng(seed).standard_normal((k - count, count)) / math.sqrt(count)
    mixed = backend.asarray(mixing.astype(rows.real.dtype)) @ rows
    spread: NDArray[Any] = backend.xp.concatenate([rows, mixed])
    return spread


def _weights(gram: NDArray[Any]) -> NDArray[Any]:
    """Return the root of the gram's diagonal, kept away from zero so that it can be divided by."""
    diagonal = gram.diagonal().real
    floor = 1e-8 * float(diagonal.mean()) if diagonal.size else 0.0
    weights: NDArray[Any] = np.sqrt(np.maximum(diagonal, floor if floor > 0 else 1.0))
    return weights
