"""Alternating minimisation of ||A - F1 F2|| over two factors with any constraints, by any inner solver.

With one factor fixed, the other minimises a quadratic over its constraint: a half-step, for which the inner solver
(ADMM by default) takes a few iterations from where it stood. The half-steps take turns; at the end both factors are
refitted on the supports that were found, one after the other and together, and entries are exchanged while that lowers
the loss (`joint_polish`).

Both half-steps are written as one: with X the unknown and Y the fixed factor as matrices of `inner` rows (X = F1^T and
Y = F2, or the reverse), and V the matrix with rows along Y's columns,

    minimise 1/2 || V - Y^T X ||^2 :     gram = conj(Y) Y^T,   cross = conj(Y) V        V = A^T or A

A joint budget (`DoubleSparse`) is split by marginal gain: in the unit-diagonal variables of a half-step the square of
an entry is, to first order, what the loss rises by when it is dropped, for either factor. So the split moves to where
the smallest kept entries of the two factors are equal, which is the joint selection of the largest entries of both.

The result is never worse than the simple products of the same budget (`simple_products`): a matrix that is sparse or of
low rank already comes out exactly.

A `gram` H first weights the search by its diagonal, which costs nothing; for the last part of the search it enters in
full. The half-step of the left factor then has the Gram matrix Y H Y^H, and that of the right one Gram matrices on both
sides, which ADMM solves exactly in the eigenvectors of both. A `left_gram` does the same from the other side: with both
weights G and H, the half-steps have Gram matrices conj(Y) H^T Y^T beside G^T, and conj(X) G X^T beside H.

References: V. Boza, V. Macko, "Two sparse matrices are better than one: sparsifying neural networks with double sparse
factorization", ICLR 2025 (the alternation, the warm-started ADMM half-step and its growing first penalty). Ours are the
penalty that grows and the ridge that falls over the run, the gram inside the search, the split by marginal gain, the
joint fit and the exchange.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from sparsefact.errors import ArgumentError
from sparsefact.factorizers.alternating_polish import AlternatingState
from sparsefact.factorizers.problem import FactorizationProblem
from sparsefact.minimizers.admm import ADMM
from sparsefact.minimizers.parameters import check_count, check_non_negative
from sparsefact.minimizers.protocol import Outcome, Report
from sparsefact.products.status import Status

__all__ = ["Alternating"]


class _Effort(NamedTuple):
    """Outer iterations; steps of the joint fit and exchanges under a gram; exchanges without one; turns.

    Turns are those of each iteration on average, where one side of the matrix is much longer than the other.
    """

    outer: int
    fits: int
    exchanges: int
    plain_exchanges: int
    turns: float


_EFFORTS = {
    "fast": _Effort(20, 1, 1, 1, 1.6),
    "balanced": _Effort(44, 3, 2, 4, 1.75),
    "high": _Effort(210, 10, 6, 10, 2.0),
}


class _Far(NamedTuple):
    """What differs where a Gram matrix weighs the longer side, whose products cost more than all else together.

    Turns of each iteration on average, and the fraction after which the Gram matrix enters in full; refits, steps of
    the joint fit, exchanges; conjugate gradients in a refit and in a joint fit.
    """

    turns: float
    gram_from: float
    refits: int
    fits: int
    exchanges: int
    refit_iterations: int
    fit_iterations: int


_FAR = _Far(1.25, 0.85, 1, 1, 0, 6, 12)
_GRAM_FROM, _REFITS, _REFIT_ITERATIONS, _FIT_ITERATIONS = 0.7, 2, 12, 30


@dataclass(frozen=True)
class Alternating:
    """Alternating minimisation over two factors.

    Parameters
    ----------
    inner : solver
        Takes the half-steps, a solver for `minimize`: as its ``at(fraction)`` says if it has that (`ADMM` does), else
        as it is, with all its `iterations` in each of them.
    effort : {"fast", "balanced", "high"}
        How long to search and polish: 20, 44 or 210 outer iterations (with more and shorter half-steps while no Gram
        matrix enters in full, where one side is at least twice the inner dimension), then at most 1, 4 or 10 exchanges
        of entries; under a Gram matrix 1, 3 or 10 steps of the joint fit and 1, 2 or 6 exchanges.
    outer : int, optional
        The number of outer iterations itself.
    gram_from : float, optional
        The fraction of the search after which `gram` and `left_gram` enter in full; before, their diagonals do. 1
        leaves them to the polish. By default .7, or .85 where one of them weighs a side at least twice as long as the
        inner dimension (and the effort is not high), since its products cost most there.
    damping : float
        Added to the diagonal of either Gram matrix, as a multiple of its mean, while minimising; errors are measured
        without it. For one of too few samples.
    refits : int, optional
        Exact least-squares refits of each factor at the end, at most; they stop when they gain less than 0.1 %. By
        default two, or one where `gram_from` is .85; there the polish is shorter too.
    fits, exchanges : int, optional
        The number of steps of the joint fit, and of exchanges of entries, themselves. Without joint fits, each exchange
        is followed by a refit of both factors in turn, which does as well where there is no `gram`, in half the memory.
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
    gram_from: float | None = None
    damping: float = 0.0
    refits: int | None = None
    fits: int | None = None
    exchanges: int | None = None
    report_every: int = 5

    def __post_init__(self) -> None:
        if self.effort not in _EFFORTS:
            raise ArgumentError(f"effort={self.effort!r} is not known; pass 'fast', 'balanced' or 'high'")
        check_count("outer", self.iterations)
        for name in ("refits", "fits", "exchanges"):
            if getattr(self, name) is not None:
                check_count(name, getattr(self, name), 0)
        check_non_negative("damping", self.damping)
        if self.gram_from is not None and not 0 <= self.gram_from <= 1:
            raise ArgumentError(f"gram_from={self.gram_from!r} is not a fraction of the search; pass one from 0 to 1")
        check_count("report_every", self.report_every)
        for name in ("init", "step", "finish", "iterations"):
            if isinstance(self.inner, type) or not hasattr(self.inner, name):
                raise ArgumentError(f"inner={self.inner!r} is not a solver; pass an instance such as sparsefact.ADMM()")

    @property
    def iterations(self) -> int:
        """Outer iterations at most."""
        return _EFFORTS[self.effort].outer if self.outer is None else self.outer

    def _far(self, state: AlternatingState) -> _Far | None:
        return _FAR if state.far and self.effort != "high" else None

    def init(self, problem: FactorizationProblem, warm: Any = None) -> AlternatingState:
        """Choose the starting point and the first split of the budget."""
        return AlternatingState(problem, self.damping)

    def step(self, problem: FactorizationProblem, state: AlternatingState) -> None:
        """Do a half-step for each factor, the smaller one first, and move the split."""
        fraction = state.iteration / max(1, self.iterations - 1)
        far = self._far(state)
        usual = _GRAM_FROM if far is None else far.gram_from
        gram_from = usual if self.gram_from is None else self.gram_from
        if fraction >= gram_from and gram_from < 1:
            state.take_gram()
        inner, turns = self.inner, 1
        if hasattr(inner, "paced"):
            if state.brisk:
                mean = _EFFORTS[self.effort].turns if far is None else far.turns
                turns = int((state.iteration + 1) * mean) - int(state.iteration * mean)
            inner = inner.paced(self.iterations, brisk=state.brisk, far=far is not None)
        inner = inner.at(fraction) if hasattr(inner, "at") else inner
        for _ in range(turns):
            for side in state.order:
                state.half_step(side, inner)
        alive = state.share_scale()
        if fraction <= 0.5:
            state.revive(alive)
        if 0.03 <= fraction <= 0.8:
            state.move_split()
        state.iteration += 1

    def report(self, problem: FactorizationProblem, state: AlternatingState) -> Report:
        """Measure the relative error of the search (weighted by the diagonal of the gram until it enters in full)."""
        error = state.error()
        return Report(0.5 * (error * state.norm) ** 2, error)

    def finish(self, problem: FactorizationProblem, state: AlternatingState) -> Outcome:
        """Refit both factors on their supports, exchange entries, and share the scale evenly between the factors."""
        far, effort = self._far(state), _EFFORTS[self.effort]
        state.leave_search()
        errors = [state.error()]
        plain = problem.gram is None and problem.left_gram is None
        usual = (_REFITS, 0, effort.plain_exchanges) if plain else (_REFITS, effort.fits, effort.exchanges)
        iterations = (_REFIT_ITERATIONS, _FIT_ITERATIONS)
        if far is not None:
            usual = (far.refits, far.fits, far.exchanges)
            iterations = (far.refit_iterations, far.fit_iterations)
        asked = (self.refits, self.fits, self.exchanges)
        refits, fits, exchanges = (u if a is None else a for u, a in zip(usual, asked, strict=True))
        state.refit_iterations = iterations[0]
        refitted, settled = state.refit_until_stalled(refits, errors[0], brief=plain and exchanges > 0)
        errors.append(refitted)
        text = (
            f" Exact refits of both factors on their supports took the relative error of the loss from "
            f"{errors[0]:.5g} to {errors[1]:.5g}"
        )
        count = 0
        if fits:
            fitted, reached, count, settled = state.polish(fits, exchanges, iterations[1])
            errors.append(reached)
            text += f", a joint fit to {fitted:.5g}"
        elif exchanges:
            count, reached = state.exchange_in_turn(exchanges)
            errors.append(reached)
        if count:
            text += f", and exchanging {count} entries to {errors[-1]:.5g}"
        explanation = state.explain() + text + "."
        simpler = state.try_simple(errors[-1])
        explanation += simpler
        state.balance()
        status = Status.STATIONARY if settled or simpler else Status.LIMIT
        return Outcome((state.values[0].T, state.values[1]), status, None, explanation)
